//! Whether a new generation is healthy enough to stay, judged against the previous one.

use std::time::Duration;

use controllerbus::Bus;
use controllerbus::bus::{CountsSnapshot, ResolverCounts, Source};

/// For how long, and by which limits, a new generation is judged after it has taken over from another one.
///
/// An unhealthy generation is rolled back: the previous one serves again, by an ordinary swap that hands its state over.
/// A generation whose process crashes is rolled back at once.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Probation {
    /// How long it lasts; zero for no probation.
    pub time: Duration,
    /// The share of failed resolver runs, from 0 to 1, above which a generation is unhealthy if the previous one did
    /// better.
    pub failure_share: f64,
    /// How many runs must have failed before their share counts.
    pub least_failures: u64,
    /// How often `execute` may fail for each controller.
    pub executions: u64,
}

impl Default for Probation {
    fn default() -> Self {
        Self { time: Duration::from_secs(10), failure_share: 0.5, least_failures: 5, executions: 2 }
    }
}

impl Probation {
    /// A probation of this length with the default limits; zero for none.
    #[must_use]
    pub fn lasting(time: Duration) -> Self {
        Self { time, ..Self::default() }
    }

    /// Sets the share of failed resolver runs, from 0 to 1, above which a generation is rolled back.
    #[must_use]
    pub fn failure_share(mut self, share: f64) -> Self {
        self.failure_share = share;
        self
    }

    /// Sets how many runs must have failed before their share counts.
    #[must_use]
    pub fn least_failures(mut self, failures: u64) -> Self {
        self.least_failures = failures;
        self
    }

    /// Sets how often `execute` may fail for each controller.
    #[must_use]
    pub fn executions(mut self, failures: u64) -> Self {
        self.executions = failures;
        self
    }

    /// Why a generation is unhealthy, if it is; `before` is what the previous one did.
    pub(crate) fn judge(&self, bus: &Bus, generation: u64, before: ResolverCounts) -> Option<String> {
        let source = Source(generation);
        let own: Vec<_> = bus.controllers().into_iter().filter(|found| found.source == source).collect();
        if let Some(found) = own.iter().find(|found| found.failures > self.executions) {
            let why = match &found.execution {
                controllerbus::bus::Execution::Failed { error, .. } => format!(": {error}"),
                _ => String::new(),
            };
            return Some(format!("`execute` of {} failed {} times{why}", found.info.id, found.failures));
        }
        let counts = counts_of(bus, generation);
        let share = |counts: &ResolverCounts| counts.failures as f64 / (counts.runs.max(1)) as f64;
        let is_bad = counts.failures >= self.least_failures && share(&counts) > self.failure_share;
        (is_bad && share(&counts) > share(&before)).then(|| {
            let panics = match counts.panics {
                0 => String::new(),
                panics => format!(", {panics} of them with a panic"),
            };
            let last = last_failure_of(bus, generation).unwrap_or_default();
            format!("{} of {} runs of its resolvers failed{panics}{last}", counts.failures, counts.runs)
        })
    }
}

/// What the directive that failed most failed with.
fn last_failure_of(bus: &Bus, generation: u64) -> Option<String> {
    let worst = each_of(bus, generation).max_by_key(|of| of.counts.failures)?;
    Some(format!(", the last one of {} with: {}", worst.directive, worst.failure?))
}

/// The counts of a generation's controllers.
fn each_of(bus: &Bus, generation: u64) -> impl Iterator<Item = CountsSnapshot> {
    let source = Source(generation);
    let own: Vec<_> =
        bus.controllers().into_iter().filter(|found| found.source == source).map(|found| found.id).collect();
    bus.counts().into_iter().filter(move |of| own.contains(&of.controller))
}

/// The sum of the counts of a generation's controllers.
pub(crate) fn counts_of(bus: &Bus, generation: u64) -> ResolverCounts {
    each_of(bus, generation).fold(ResolverCounts::default(), |sum, of| sum.plus(of.counts))
}
