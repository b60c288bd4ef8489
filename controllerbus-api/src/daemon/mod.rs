//! What the API shows: a bus, a runtime and a journal.

mod applied;
mod host;
pub mod journal;
pub mod logs;
pub mod metrics;
mod ready;
pub mod secrets;
mod snapshot;

pub use applied::Applied;
pub(crate) use host::begun;
pub use host::{Host, memory_bytes};
pub use journal::{Journal, PluginNotes, Problem};
pub use snapshot::{Shown, ShownDirective};
