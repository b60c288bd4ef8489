//! The directives between agents and whoever looks at a rollout. A fleet carries them, if each host offers and asks them.

use std::collections::BTreeMap;

use controllerbus::prelude::*;

use crate::release::ReleaseName;

/// Asks each host how a plugin is there. Each answers with one value, which is replaced when something changes, and which goes
/// when the host does.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "fleet/plugin-health", value = HostHealth)]
pub struct PluginHealth {
    /// The plugin's id.
    pub plugin: String,
    /// So that it is asked anew, although it is asked already: whoever answers lives. 0 where that does not matter.
    #[serde(default)]
    pub call: u64,
}

impl PluginHealth {
    /// Asks how a plugin is.
    pub fn of(plugin: impl Into<String>) -> Self {
        Self { plugin: plugin.into(), call: 0 }
    }
}

/// Tells each host that there is a new step of a rollout, so that it need not wait until it looks by itself. Whoever has heard
/// it answers with its name.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "fleet/rollout-step", value = String)]
pub struct RolloutStep {
    /// The plugin's id.
    pub plugin: String,
    /// The step's number.
    pub number: u64,
}

/// How a plugin is on a host.
#[derive(Serialize, Deserialize, PartialEq, Clone, Debug, Default)]
#[serde(default)]
#[non_exhaustive]
pub struct HostHealth {
    /// The host.
    pub host: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The plugin's id.
    pub plugin: String,
    /// The newest step of its rollouts that the host knows.
    pub step: u64,
    /// The release that runs there.
    pub runs: Option<ReleaseName>,
    /// The generation that serves there.
    pub generation: Option<u64>,
    /// The last release that failed there, and why.
    pub failed: Option<FailedRelease>,
    /// How often its process has crashed, since that release runs there.
    pub crashes: u64,
    /// The configs that are not running and whose controllers the plugin makes, with the reasons.
    pub configs: Vec<String>,
    /// What its controllers did since that release runs there, by the directives that the rollout's gates name.
    pub counts: BTreeMap<String, Counts>,
    /// What the directive that the rollout's gates name was answered.
    pub check: Option<Check>,
    /// What is in the way, such as a store that is out of reach, or a release that is refused because it is too old.
    pub problem: Option<String>,
}

impl HostHealth {
    /// Of a plugin on a host, of which nothing else is known.
    pub fn of(host: impl Into<String>, plugin: impl Into<String>) -> Self {
        Self { host: host.into(), plugin: plugin.into(), ..Self::default() }
    }

    /// Whether a release runs there, and did not fail.
    pub(crate) fn is_ready(&self, sequence: u64) -> bool {
        self.runs_release(sequence) && !self.has_failed(sequence)
    }

    pub(crate) fn runs_release(&self, sequence: u64) -> bool {
        self.runs.as_ref().is_some_and(|runs| runs.sequence == sequence)
    }

    pub(crate) fn has_failed(&self, sequence: u64) -> bool {
        self.failed.as_ref().is_some_and(|failed| failed.sequence == sequence)
    }
}

/// A release that failed on a host: it could not be fetched, verified or swapped in, or was taken back there.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Debug)]
#[non_exhaustive]
pub struct FailedRelease {
    /// Its number.
    pub sequence: u64,
    /// Why.
    pub why: String,
    /// Whether it had run, and crashed.
    pub crashed: bool,
}

impl FailedRelease {
    /// A release that failed.
    pub fn new(sequence: u64, why: impl Into<String>, crashed: bool) -> Self {
        Self { sequence, why: why.into(), crashed }
    }
}

/// What a plugin's controllers did for the directives of one id.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Counts {
    /// How many requests they got.
    pub requests: u64,
    /// How many of these failed.
    pub failures: u64,
    /// How many took longer than the rollout allows, those that have no answer yet included.
    pub slow: u64,
    /// How long those took in sum that were not answered at once, in milliseconds.
    pub waited_ms: u64,
}

impl Counts {
    /// What was counted.
    pub fn new(requests: u64, failures: u64, slow: u64) -> Self {
        Self { requests, failures, slow, waited_ms: 0 }
    }
}

/// What a health directive was answered.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Debug)]
#[non_exhaustive]
pub struct Check {
    /// Whether there was a value, and none with `ok: false`.
    pub ok: bool,
    /// What it said.
    pub says: String,
}

impl Check {
    /// An answer.
    pub fn new(ok: bool, says: impl Into<String>) -> Self {
        Self { ok, says: says.into() }
    }
}
