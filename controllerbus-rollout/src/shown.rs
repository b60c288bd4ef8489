//! A rollout as it is shown to people: directives that an agent answers on its own host, for pages and command lines.

use std::collections::BTreeMap;

use controllerbus::prelude::*;

use crate::health::HostHealth;
use crate::link::Link;
use crate::release::{ReleaseName, millis};
use crate::rollouts::{HostStatus, Status};

/// Asks a host for the rollouts that its agent follows: one value for each plugin, which is replaced when something changes.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "controllerbus/fleet/rollouts", value = ShownRollout)]
pub struct ShowRollouts {}

/// Asks a host for its store.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "controllerbus/fleet/store", value = ShownStore)]
pub struct ShowStore {}

/// The store of a host.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Debug)]
#[non_exhaustive]
pub struct ShownStore {
    /// Its URL.
    pub store: String,
    /// The host's name, as its agent or orchestrator has it.
    pub host: String,
}

impl ShownStore {
    pub(crate) fn new(store: impl Into<String>, host: impl Into<String>) -> Self {
        Self { store: store.into(), host: host.into() }
    }
}

/// The newest step of a plugin's rollouts, with its hosts and gates.
#[derive(Serialize, Deserialize, PartialEq, Clone, Debug, Default)]
#[serde(default)]
#[non_exhaustive]
pub struct ShownRollout {
    /// The plugin's id.
    pub plugin: String,
    /// The version that is rolled out.
    pub release: String,
    /// The number of its release.
    pub sequence: u64,
    /// The version that was done before; none if this is the plugin's first.
    pub before: Option<String>,
    /// Where it is: `pending`, `rolling`, `baking`, `done`, `rolling_back`, `rolled_back`, `paused` or `aborted`.
    pub stage: String,
    /// Whether nothing more will happen.
    pub is_over: bool,
    /// The number of this document among the plugin's.
    pub number: u64,
    /// The step that it is in, from 1.
    pub step: usize,
    /// The steps.
    pub steps: Vec<ShownStep>,
    /// How many hosts may have the release.
    pub turn: usize,
    /// How many hosts it is for.
    pub of: usize,
    /// When the stage began, in milliseconds since 1970.
    pub began_ms: u64,
    /// When the document was written.
    pub at_ms: u64,
    /// Who has written it.
    pub by: String,
    /// Why it is where it is.
    pub why: String,
    /// Whether every host that it concerns is there, and runs what it is to run.
    pub is_as_wanted: bool,
    /// What the gates say now.
    pub gates: Vec<ShownGate>,
    /// The hosts, in the order in which they get it; then those that it does not name.
    pub hosts: Vec<ShownHost>,
    /// What is in the way on the host that shows this, such as a store that is out of reach.
    pub problem: Option<String>,
}

/// A step.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Debug, Default)]
#[serde(default)]
#[non_exhaustive]
pub struct ShownStep {
    /// How many hosts have the release at its end, such as `1` or `10 %`.
    pub hosts: String,
    /// For how long they are watched, in milliseconds.
    pub bake_ms: u64,
}

/// A gate.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Debug, Default)]
#[serde(default)]
#[non_exhaustive]
pub struct ShownGate {
    /// Its name.
    pub gate: String,
    /// Whether it lets the rollout go on.
    pub passes: bool,
    /// Its numbers.
    pub says: String,
}

/// A host.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Debug, Default)]
#[serde(default)]
#[non_exhaustive]
pub struct ShownHost {
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

impl ShownRollout {
    /// A rollout's newest step, with what its hosts answer.
    pub fn of(link: &Link, hosts: &[HostHealth]) -> Self {
        let status = Status::of(link, hosts);
        let gates = status.gates.iter();
        let places: BTreeMap<&str, usize> = link.order.iter().map(String::as_str).zip(0..).collect();
        let mut hosts: Vec<_> = status.hosts.iter().map(|host| shown_host(link, host)).collect();
        hosts.sort_by_key(|host| places.get(host.host.as_str()).copied().unwrap_or(usize::MAX));
        let stage = serde_json::to_value(link.stage).ok().and_then(|stage| stage.as_str().map(str::to_owned));
        let step =
            |step: &crate::rollout::Step| ShownStep { hosts: step.hosts.to_string(), bake_ms: millis(step.bake) };
        Self {
            plugin: link.wanted.plugin.clone(),
            release: link.release.version.to_string(),
            sequence: link.release.sequence,
            before: link.before.as_ref().map(version),
            stage: stage.unwrap_or_default(),
            is_over: link.stage.is_over(),
            number: link.number,
            step: link.step + 1,
            steps: link.wanted.steps.iter().map(step).collect(),
            turn: link.turn,
            of: link.order.len(),
            began_ms: link.began_ms,
            at_ms: link.at_ms,
            by: link.by.clone(),
            why: link.why.clone(),
            is_as_wanted: status.is_as_wanted,
            gates: gates
                .map(|gate| ShownGate { gate: gate.gate.to_owned(), passes: gate.passes, says: gate.says.clone() })
                .collect(),
            hosts,
            problem: None,
        }
    }
}

impl ShownRollout {
    /// What is known of a plugin's hosts where the store cannot be read.
    pub(crate) fn unknown(plugin: &str, hosts: &[HostHealth], problem: String) -> Self {
        let mut shown: Vec<_> = hosts
            .iter()
            .map(|host| ShownHost {
                host: host.host.clone(),
                state: if host.runs.is_some() { "other" } else { "none" }.to_owned(),
                runs: host.runs.as_ref().map(version),
                problem: host.problem.clone(),
                ..ShownHost::default()
            })
            .collect();
        shown.sort_by(|a, b| a.host.cmp(&b.host));
        Self { plugin: plugin.to_owned(), hosts: shown, problem: Some(problem), ..Self::default() }
    }
}

fn version(release: &ReleaseName) -> String {
    release.version.to_string()
}

fn shown_host(link: &Link, host: &HostStatus) -> ShownHost {
    let runs = |release: Option<&ReleaseName>| release.is_some() && host.runs.as_ref() == release;
    let state = if !host.is_there {
        "away"
    } else if host.has_failed {
        "failed"
    } else if host.runs != host.wanted {
        "rolling"
    } else if runs(Some(&link.release)) {
        "new"
    } else if runs(link.before.as_ref()) {
        "before"
    } else if host.runs.is_some() {
        "other"
    } else {
        "none"
    };
    ShownHost {
        host: host.host.clone(),
        state: state.to_owned(),
        wanted: host.wanted.as_ref().map(version),
        runs: host.runs.as_ref().map(version),
        in_turn: host.in_turn,
        problem: host.problem.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::FailedRelease;
    use crate::link::{Stage, Writer};
    use crate::rollout::Rollout;

    fn host(name: &str, runs: Option<u64>) -> HostHealth {
        let runs = runs.map(|sequence| ReleaseName::new(sequence, semver::Version::new(1, sequence, 0)));
        HostHealth { runs, ..HostHealth::of(name, "greeter") }
    }

    #[test]
    fn each_host_is_in_the_state_in_which_it_is() {
        let release = |sequence| ReleaseName::new(sequence, semver::Version::new(1, sequence, 0));
        let writer = || Writer { by: "a".to_owned(), lease: None, at_ms: 1 };
        let wanted = Rollout::new("greeter", semver::Version::new(1, 7, 0));
        let first = Link::first(1, wanted, release(7), Some(release(6)), writer());
        let order: Vec<String> = ["new", "failed", "late", "gone", "old"].map(str::to_owned).into();
        let change = crate::link::Change { turn: 4, order: Some(order), ..first.change(Stage::Rolling, "step 1") };
        let link = first.followed_by(change, writer());
        let failed = HostHealth { failed: Some(FailedRelease::new(7, "no", false)), ..host("failed", Some(6)) };
        let hosts = [host("old", Some(6)), host("late", Some(6)), host("new", Some(7)), failed];
        let shown = ShownRollout::of(&link, &hosts);
        let states: Vec<_> = shown.hosts.iter().map(|host| (host.host.as_str(), host.state.as_str())).collect();
        let expected = [("new", "new"), ("failed", "failed"), ("late", "rolling"), ("gone", "away"), ("old", "before")];
        assert_eq!(states, expected);
        assert_eq!((shown.stage.as_str(), shown.step, shown.turn, shown.of), ("rolling", 1, 4, 5));
        assert!(!shown.is_as_wanted && shown.gates.iter().any(|gate| gate.gate == "swaps" && !gate.passes));
        let json = serde_json::to_string(&shown).expect("JSON");
        assert_eq!(serde_json::from_str::<ShownRollout>(&json).expect("the same"), shown);
    }
}
