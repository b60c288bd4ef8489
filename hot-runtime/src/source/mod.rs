//! What a plugin is made of: its crates, the overlay that bundles them, the inputs that its builds read, and their changes.

pub(crate) mod environment;
pub(crate) mod hash;
pub(crate) mod inputs;
pub mod overlay;
pub(crate) mod spec;
pub mod watch;
pub mod workspace;
