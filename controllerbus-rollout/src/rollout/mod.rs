//! What is rolled out where, in which steps, and by what it is judged.

mod text;
mod units;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;

pub use units::Amount;

/// A rollout, as an operator asks for it. [`Rollout::parse`] reads one from YAML, with defaults.
///
/// ```
/// use controllerbus_rollout::Rollout;
///
/// let rollout = Rollout::parse("rollout.yaml", "
/// plugin: greeter
/// release: 1.4.0
/// on: { role: edge }
/// steps:
///   - { hosts: 1, bake: 2m }
///   - { percent: 100, at_a_time: 10% }
/// ")?;
/// assert_eq!(rollout.steps.len(), 2);
/// assert_eq!(rollout.deadline.as_secs(), 30 * 60);
/// # Ok::<(), controllerbus_rollout::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rollout {
    /// The plugin's id.
    pub plugin: String,
    /// The version that is rolled out.
    pub release: semver::Version,
    /// The labels that a host must have; every host, if there are none.
    #[serde(default)]
    pub on: Selector,
    /// The steps. The last one is all hosts.
    pub steps: Vec<Step>,
    /// By what the hosts of a step are judged.
    pub gates: Gates,
    /// How long a step may take to get to all its hosts; then it has failed.
    #[serde(with = "units::millis", rename = "deadline_ms")]
    pub deadline: Duration,
    /// What happens when a gate or a deadline fails.
    pub on_failure: OnFailure,
    /// The work that a host lets end where it was begun, before it goes to the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
    /// Whether a release that failed before may be tried again.
    #[serde(default)]
    pub despite: bool,
}

impl Rollout {
    /// A rollout with the usual steps: one host for two minutes, 10 % for ten, and then all, a tenth at a time.
    pub fn new(plugin: impl Into<String>, release: semver::Version) -> Self {
        let step = |hosts, bake, at_a_time| Step { hosts, bake: Duration::from_secs(bake), at_a_time };
        Self {
            plugin: plugin.into(),
            release,
            on: Selector::default(),
            steps: vec![
                step(Amount::Hosts(1), 120, None),
                step(Amount::Percent(10.0), 600, None),
                step(Amount::Percent(100.0), 0, Some(Amount::Percent(10.0))),
            ],
            gates: Gates::default(),
            deadline: Duration::from_secs(30 * 60),
            on_failure: OnFailure::RollBack,
            pin: None,
            despite: false,
        }
    }

    /// Reads a rollout from YAML. `name` is the file's, for messages.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] with the place and what is wrong there.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        text::parse(name, text)
    }

    /// With other steps.
    #[must_use]
    pub fn with_steps(mut self, steps: Vec<Step>) -> Self {
        self.steps = steps;
        self
    }
}

/// Which hosts: for each label, the values that it may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub BTreeMap<String, Values>);

/// The values that a label may have: one, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Values {
    /// This one.
    One(String),
    /// Any of these.
    Any(Vec<String>),
}

impl Selector {
    /// Whether a host with these labels is meant.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(label, values)| {
            labels.get(label).is_some_and(|has| match values {
                Values::One(value) => has == value,
                Values::Any(values) => values.contains(has),
            })
        })
    }
}

/// A step: up to how many hosts, and how long they are watched before the next one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Step {
    /// How many hosts have it at the end of the step, those of the steps before included.
    pub hosts: Amount,
    /// How long all of these must be well before the next step.
    #[serde(with = "units::millis", rename = "bake_ms")]
    pub bake: Duration,
    /// How many get it at the same time; all, unless set.
    #[serde(default)]
    pub at_a_time: Option<Amount>,
}

impl Step {
    /// A step to so many hosts.
    pub fn new(hosts: Amount, bake: Duration) -> Self {
        Self { hosts, bake, at_a_time: None }
    }

    /// With so many at the same time.
    #[must_use]
    pub fn at_a_time(mut self, hosts: Amount) -> Self {
        self.at_a_time = Some(hosts);
        self
    }
}

/// Work that stays with the release that has begun it: as long as directives of this id stand that the plugin answers on a host, the
/// host runs the release that it has; up to a limit, after which they go over to the new one as ever. Going back waits for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Pin {
    /// The directive's id.
    pub of: String,
    /// How long a host waits at most. It counts towards the step's deadline, for each group of [`Step::at_a_time`] again.
    #[serde(with = "units::millis", rename = "at_most_ms")]
    pub at_most: Duration,
}

impl Pin {
    /// Work of directives of this id, for at most this time.
    pub fn new(of: impl Into<String>, at_most: Duration) -> Self {
        Self { of: of.into(), at_most }
    }
}

/// What happens when a step fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The hosts that have it go back.
    #[default]
    RollBack,
    /// Nothing, until somebody decides.
    Pause,
}

/// By what the hosts of a step are judged, since each has run the release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Gates {
    /// On how many hosts it may fail to be fetched, verified or swapped in, or be taken back by the host itself.
    pub swaps_failed: u64,
    /// How often its processes may crash.
    pub crashes: u64,
    /// How many configs may fail.
    pub configs_failed: u64,
    /// How many percent of the hosts have to be within reach.
    pub reachable_percent: f64,
    /// How many of the requests may fail.
    pub errors: Option<Errors>,
    /// How many of the requests may take longer than a time.
    pub slow: Option<Slow>,
    /// A directive that each host is asked.
    pub health: Option<HealthDirective>,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            swaps_failed: 0,
            crashes: 0,
            configs_failed: 0,
            reachable_percent: 90.0,
            errors: None,
            slow: None,
            health: None,
        }
    }
}

/// How many of the requests of a directive may fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Errors {
    /// The directive's id.
    pub of: String,
    /// How many percent.
    pub most_percent: f64,
    /// Fewer requests than these are not judged.
    pub of_at_least: u64,
}

/// How many of the requests of a directive may take longer than a time, those that have no answer yet included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Slow {
    /// The directive's id.
    pub of: String,
    /// The time. The bus counts up to 100 and 300 us, 1, 3, 10, 30, 100 and 300 ms, 1, 3 and 10 s.
    #[serde(with = "units::micros", rename = "above_us")]
    pub above: Duration,
    /// How many percent.
    pub most_percent: f64,
    /// Fewer requests than these are not judged.
    pub of_at_least: u64,
}

/// A directive that each host's plugin is asked again and again. A value with `ok: false`, or none, is a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HealthDirective {
    /// The directive's id.
    pub directive: String,
}
