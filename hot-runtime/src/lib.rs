//! Source to artifact to generation: builds controller crates, checks, loads and hot-swaps them, and unloads the old code.
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

/// The README's program is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod artifact;
pub mod build;
mod capability;
pub mod error;
mod event;
mod folder;
mod history;
mod hosted;
mod load;
pub mod overlay;
mod own_folder;
mod placing;
mod probation;
mod process;
mod registry;
mod runtime;
mod serving;
mod settings;
pub mod sign;
mod swap;
mod task;
pub mod text;
#[cfg(test)]
mod tiny;
pub mod watch;
pub mod workspace;

pub use artifact::Trust;
pub use capability::Capabilities;
pub use error::{Error, Result};
pub use event::{RuntimeEvent, ShutdownReport, StillLoaded, SwapReport, Timeline, UnloadReport};
pub use overlay::PluginSpec;
pub use probation::Probation;
#[cfg(unix)]
pub use process::ending;
pub use process::{Isolation, Limits, ProcessOptions, Sandbox, plugin_host};
pub use registry::{GenerationInfo, GenerationState, Registry};
pub use runtime::{Builder, HotRuntime};
pub use settings::PluginConfig;
