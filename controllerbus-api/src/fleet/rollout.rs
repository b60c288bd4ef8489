//! What a daemon tells of the rollouts that it follows: the directives that its controller `controllerbus/fleet/agent` answers.

use controllerbus::Schema;
use serde::{Deserialize, Serialize};

/// The config id with which a host runs what is rolled out to it.
pub const AGENT: &str = "controllerbus/fleet/agent";

/// The config id with which a host leads rollouts.
pub const ORCHESTRATOR: &str = "controllerbus/fleet/rollout";

/// The config id with which a host runs what a published config set says for it.
pub const PLACEMENT: &str = "controllerbus/fleet/placement";

/// The directive that asks for the rollouts that a host follows; each [`Rollout`] is a value.
pub const ROLLOUTS: &str = "controllerbus/fleet/rollouts";

/// The directive that asks for the store of a host; a [`StoreOf`] is a value.
pub const STORE: &str = "controllerbus/fleet/store";

/// The directive that asks all hosts of a fleet how a plugin is there.
pub const HEALTH: &str = "fleet/plugin-health";

/// The directive that tells all hosts of a fleet that a rollout has a new step.
pub const STEP: &str = "fleet/rollout-step";

/// The store of a host.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Debug)]
#[non_exhaustive]
pub struct StoreOf {
    /// Its URL.
    pub store: String,
    /// The host's name.
    pub host: String,
}

/// The newest step of a plugin's rollouts, with its hosts and gates.
#[derive(Serialize, Deserialize, Schema, PartialEq, Clone, Debug, Default)]
#[serde(default)]
#[non_exhaustive]
pub struct Rollout {
    /// The plugin's id.
    pub plugin: String,
    /// The version that is rolled out; empty where the store could not be read.
    pub release: String,
    /// The number of its release.
    pub sequence: u64,
    /// The version that was done before; none if this is the plugin's first.
    pub before: Option<String>,
    /// Where it is: `pending`, `rolling`, `baking`, `done`, `rolling_back`, `rolled_back`, `paused` or `aborted`.
    pub stage: String,
    /// Whether nothing more will happen.
    pub is_over: bool,
    /// The number of this change among the plugin's.
    pub number: u64,
    /// The step that it is in, from 1.
    pub step: u64,
    /// The steps.
    pub steps: Vec<RolloutStep>,
    /// How many hosts may have the release.
    pub turn: u64,
    /// How many hosts it is for.
    pub of: u64,
    /// When the stage began, in milliseconds since 1970.
    pub began_ms: u64,
    /// When it was changed last.
    pub at_ms: u64,
    /// Who has changed it last.
    pub by: String,
    /// Why it is where it is.
    pub why: String,
    /// Whether every host that it concerns is there, and runs what it is to run.
    pub is_as_wanted: bool,
    /// What the gates say now.
    pub gates: Vec<RolloutGate>,
    /// The hosts, in the order in which they get it; then those that it does not name.
    pub hosts: Vec<RolloutHost>,
    /// What is in the way on the host that was asked, such as a store that is out of reach.
    pub problem: Option<String>,
}

/// A step of a rollout.
#[derive(Serialize, Deserialize, Schema, PartialEq, Eq, Clone, Debug, Default)]
#[serde(default)]
#[non_exhaustive]
pub struct RolloutStep {
    /// How many hosts have the release at its end, such as `1 host` or `10 %`.
    pub hosts: String,
    /// For how long they are watched, in milliseconds.
    pub bake_ms: u64,
}

/// A gate of a rollout.
#[derive(Serialize, Deserialize, Schema, PartialEq, Eq, Clone, Debug, Default)]
#[serde(default)]
#[non_exhaustive]
pub struct RolloutGate {
    /// Its name.
    pub gate: String,
    /// Whether it lets the rollout go on.
    pub passes: bool,
    /// Its numbers.
    pub says: String,
}

/// A host of a rollout.
#[derive(Serialize, Deserialize, Schema, PartialEq, Eq, Clone, Debug, Default)]
#[serde(default)]
#[non_exhaustive]
pub struct RolloutHost {
    /// Its name.
    pub host: String,
    /// `new` if it runs the release that is rolled out, `before` if the one before that, `other` if another one, `none` if it
    /// runs none; `rolling` while it is not at what it is to run, `failed` if the release failed there, and `away` if it is out
    /// of reach.
    pub state: String,
    /// The version that it is to run.
    pub wanted: Option<String>,
    /// The version that it runs.
    pub runs: Option<String>,
    /// Whether it may have the release that is rolled out.
    pub in_turn: bool,
    /// What is wrong there.
    pub problem: Option<String>,
}
