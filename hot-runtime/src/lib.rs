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
//!
//! # Features
//!
//! All of them are on by default.
//!
//! * `process`: plugins in a process of their own. Without it, a plugin that asks for one is refused.
//! * `sign`: making keys and signing artifacts. Signatures are verified without it too.
//! * `yaml`: config sets in YAML. Without it, they are in JSON.

#![warn(missing_debug_implementations)]
// Some functions are only for what a feature, or another system, has.
#![cfg_attr(not(all(unix, feature = "process", feature = "sign")), allow(dead_code, unused_variables))]

/// The README's program is compiled as a test.
#[cfg(all(doctest, feature = "yaml"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod artifact;
pub mod compile;
pub mod doctor;
pub mod error;
mod event;
mod generation;
mod host;
mod message;
mod output;
mod phase;
mod runtime;
mod source;
mod sys;
pub mod text;
pub mod timings;
#[cfg(test)]
mod tiny;
mod util;

pub use artifact::{Trust, sign};
pub use error::{Error, Result};
pub use event::{RollBackCause, RuntimeEvent, ShutdownReport, StillLoaded, SwapReport, Timeline, UnloadReport};
pub use generation::probation::Probation;
pub use generation::registry::{AskableDirective, GenerationInfo, GenerationState, Registry};
pub use host::capability::Capabilities;
pub use host::config::PluginConfig;
pub use host::moment::Moment;
#[cfg(not(all(unix, feature = "process")))]
pub use host::plugin_host;
#[cfg(all(unix, feature = "process"))]
pub use host::process::{ending, plugin_host};
pub use host::{Isolation, Limits, ProcessOptions, Sandbox};
pub use runtime::{Builder, CrateConfig, FolderConfig, HotRuntime};
pub use source::spec::PluginSpec;
pub use source::{overlay, watch, workspace};
