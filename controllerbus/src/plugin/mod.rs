//! The plugin boundary: stable types both ways, the guest's side and the host's side of it.
//!
//! Everything a controller crate emits is plain Rust against [`crate::controller`]; the types that
//! cross the boundary are compiled once, here.
#![allow(unsafe_code)]

// What is laid out for the boundary has no more than it needs there.
#[allow(missing_debug_implementations)]
#[doc(hidden)]
pub mod abi;
mod bundle;
mod contained;
mod crosses;
mod entry;
#[allow(missing_debug_implementations)]
#[doc(hidden)]
pub mod fallible;
#[doc(hidden)]
pub mod guest;
#[doc(hidden)]
pub mod host;
pub mod interface;
pub mod lease;
#[doc(hidden)]
pub mod level;
#[doc(hidden)]
pub mod manifest;
mod shape;
#[doc(hidden)]
pub mod traces;

pub use host::{Connection, HostOptions};
pub use interface::Interface;
pub use lease::{Holders, Lease, Leases};
