//! What differs between systems.

pub(crate) mod library;
pub(crate) mod maps;
pub(crate) mod scratch;
