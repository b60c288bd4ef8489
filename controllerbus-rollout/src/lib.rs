//! Rolls signed plugins out to many machines through an object store, step by step, and back when they are not well.
//!
//! There is no server and no database: the store is a folder, S3 or its kind, GCS or Azure, and a rollout is a row of numbered
//! objects in it, of which each is written once. An [agent](run_agent) on every host does what the newest one says. An
//! [orchestrator](orchestrate), which may run on every host and leads on one, looks at how the hosts are and writes the next.
//!
//! | what | where |
//! |---|---|
//! | publish a version, signed | [`Publisher`] |
//! | start a rollout, look at it, pause it, take it back | [`Rollouts`], [`Rollout`], [`Status`] |
//! | have a host follow | [`run_agent`], [`RuntimePlugins`] |
//! | have rollouts go on | [`orchestrate`] |
//! | what only one host may do | [`lease`] |
//! | which host runs which controller | [`placement`] |

#![forbid(unsafe_code)]
#![warn(missing_debug_implementations)]

/// The README's program is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod agent;
mod bad;
mod cache;
mod chain;
mod clock;
mod config;
mod elapsed;
mod error;
mod gates;
mod health;
pub mod lease;
mod link;
mod orchestrator;
pub mod placement;
mod plan;
mod publish;
mod release;
mod rollout;
mod rollouts;
mod seen;
mod shown;
mod state;
pub mod store;

#[cfg(test)]
mod model;
#[cfg(test)]
mod sim;

pub use agent::{AgentOptions, ArtifactTurn, Load, Look, PluginEvent, Plugins, RuntimePlugins, Turn, run_agent};
pub use bad::BadMark;
pub use clock::Clock;
pub use config::{AgentConfig, PlacementConfig, RolloutConfig, factories};
pub use error::{Error, Result};
pub use gates::Verdict;
pub use health::{Check, Counts, FailedRelease, HostHealth, PluginHealth, RolloutStep};
pub use link::{Link, Stage, Wanted};
pub use orchestrator::{OrchestratorOptions, orchestrate};
pub use plan::PlannedStep;
pub use publish::Publisher;
pub use release::{Artifact, Release, ReleaseName, Signed, Trusted};
pub use rollout::{Amount, Errors, Gates, HealthDirective, OnFailure, Pin, Rollout, Selector, Slow, Step, Values};
pub use rollouts::{HostStatus, Rollouts, Status, ask_hosts, tell_hosts};
pub use shown::{ShowRollouts, ShowStore, ShownGate, ShownHost, ShownRollout, ShownStep, ShownStore};
pub use store::Store;

/// Runs what blocks where that is allowed.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::NotNow(format!("this host is ending, or its code panicked: {error}"))),
    }
}
