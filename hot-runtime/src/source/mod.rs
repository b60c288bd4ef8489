//! What a plugin is built from: its crates, the overlay that bundles them, the inputs of its builds, and their changes.

pub(crate) mod environment;
pub(crate) mod hash;
pub(crate) mod inputs;
pub mod overlay;
pub(crate) mod spec;
pub mod watch;
pub mod workspace;
