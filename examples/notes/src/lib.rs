//! What the demo and the tests of the notes share: writers, and a copy of the controller's crate to edit.

mod book;
mod writers;

pub use book::Book;
pub use writers::{Counts, Note, Noted, Writers, check};
