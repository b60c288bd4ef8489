//! The daemon: a bus, a runtime, a journal, and a config file that is followed.

mod config_file;
#[cfg(unix)]
mod given;
mod host;
pub mod journal;
mod logs;
pub mod metrics;
pub mod secrets;
pub mod service;
mod snapshot;

pub use config_file::{ConfigFile, parse as parse_config};
pub use host::{Host, Options, memory_bytes};
pub use journal::{Journal, now_ms};
pub use logs::{Filter, Format, render as render_line, set_up as set_up_logs};
