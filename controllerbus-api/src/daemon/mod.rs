//! What the API shows: a bus, a runtime and a journal.

mod host;
pub mod journal;
pub mod logs;
mod metrics;
pub mod secrets;
mod snapshot;

pub use host::{Host, memory_bytes};
pub use journal::{Journal, PluginNotes, Problem};
pub use snapshot::{Shown, ShownDirective};
