//! What differs between systems.

pub(crate) mod maps;
pub(crate) mod scratch;
