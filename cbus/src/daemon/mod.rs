//! The daemon: a bus, a runtime, a journal, and a config file that is followed.

mod config_file;
pub mod fleet;
#[cfg(unix)]
mod given;
mod host;
mod logs;
pub mod service;

pub use config_file::{ConfigFile, parse as parse_config};
pub use host::{Options, end, new, start};
pub use logs::{Format, To, UNREAD, render as render_line, set_up as set_up_logs};
