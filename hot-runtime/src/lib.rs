//! Hot-swaps controllers in a running process: builds controller crates, verifies and loads them, swaps the new code in
//! without losing a request, and unloads the old.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use controllerbus::Bus;
//! use hot_runtime::{HotRuntime, Trust};
//!
//! let bus = Bus::new();
//! let runtime = HotRuntime::builder(&bus).watch("../greeter")
//!     .plugins_dir("plugins")
//!     .trust(Trust::anyone())
//!     .start()
//!     .await?;
//! # runtime.shutdown().await;
//! # Ok(())
//! # }
//! ```

#![warn(missing_debug_implementations)]

/// The README's program is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod artifact;
pub mod compile;
pub mod error;
mod event;
mod generation;
mod host;
mod message;
mod phase;
mod runtime;
mod source;
mod sys;
pub mod text;
#[cfg(test)]
mod tiny;
mod util;

pub use artifact::{Trust, sign};
pub use error::{Error, Result};
pub use event::{RuntimeEvent, ShutdownReport, StillLoaded, SwapReport, Timeline, UnloadReport};
pub use generation::probation::Probation;
pub use generation::registry::{GenerationInfo, GenerationState, Registry};
pub use host::capability::Capabilities;
pub use host::config::PluginConfig;
#[cfg(not(unix))]
pub use host::plugin_host;
#[cfg(unix)]
pub use host::process::{ending, plugin_host};
pub use host::{Isolation, Limits, ProcessOptions, Sandbox};
pub use runtime::{Builder, CrateConfig, FolderConfig, HotRuntime};
pub use source::spec::PluginSpec;
pub use source::{overlay, watch, workspace};
