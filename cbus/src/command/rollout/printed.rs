//! What `cbus rollout` prints as JSON.

use controllerbus::Schema;
use controllerbus_api::fleet::rollout::Rollout;
use serde::Serialize;

/// The rollouts of a store, as far as a daemon sees them.
#[derive(Serialize, Schema)]
pub struct Rollouts {
    /// The store; none if the daemon does not say.
    pub store: Option<String>,
    /// Whether the daemon is in a fleet: otherwise it sees its own host only, and agents find new steps by themselves.
    pub fleet: bool,
    /// What could not be known, and why.
    pub notes: Vec<String>,
    /// The rollouts, by plugin.
    pub rollouts: Vec<Rollout>,
}

/// A change of a rollout.
#[derive(Serialize, Schema)]
pub struct Changed {
    /// The plugin's id.
    pub plugin: String,
    /// The version that is rolled out.
    pub release: String,
    /// The number of its release.
    pub sequence: u64,
    /// The number of the change among the plugin's.
    pub number: u64,
    /// The number of the change with which its rollout began.
    pub rollout: u64,
    /// Where it is since then: `pending`, `rolling`, `baking`, `done`, `rolling_back`, `rolled_back`, `paused` or `aborted`.
    pub stage: String,
    /// The step that it is in, from 1.
    pub step: usize,
    /// How many hosts may have the release.
    pub turn: usize,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who has done it.
    pub by: String,
    /// Why.
    pub why: String,
}

/// A step, and who would get the release in it.
#[derive(Serialize, Schema)]
pub struct Planned {
    /// Its number, from 1.
    pub step: usize,
    /// The hosts, in groups of those that get it at the same time.
    pub groups: Vec<Vec<String>>,
    /// For how long they are watched, in milliseconds.
    pub bake_ms: u64,
}
