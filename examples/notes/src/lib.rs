//! Shared by the demo and the tests: writers of notes, and a copy of the controller's crate to edit.

mod book;
mod writers;

pub use book::Book;
pub use writers::{Counts, Note, Noted, Writers, check};
