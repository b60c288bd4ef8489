//! Shared by the demo and the tests: a load of clients, and a copy of the controller's crate to edit.

pub mod client;
mod load;
mod site;

pub use load::{Counts, Load};
pub use site::Site;
