//! Whether a new generation is well enough to stay: what it did since it took over, against the one before.

use std::time::Duration;

use controllerbus::Bus;
use controllerbus::bus::{ResolverCounts, Source};

/// For how long, and by what, a new generation is judged after it has taken over from another one.
///
/// One that is not well is taken back: the generation before serves again, by an ordinary swap, with the state handed over.
/// A process that crashes is taken back at once.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Probation {
    /// How long it lasts; zero is never.
    pub time: Duration,
    /// The share of failed runs of resolvers, from 0 to 1, above which it is not well, if the one before did better.
    pub failure_share: f64,
    /// How many runs have to fail before a share is one.
    pub least_failures: u64,
    /// How often `execute` of one controller may fail.
    pub executions: u64,
}

impl Default for Probation {
    fn default() -> Self {
        Self { time: Duration::from_secs(10), failure_share: 0.5, least_failures: 5, executions: 2 }
    }
}

impl Probation {
    /// Of a length; zero is none.
    #[must_use]
    pub fn lasting(time: Duration) -> Self {
        Self { time, ..Self::default() }
    }

    /// Sets the share of failed runs of resolvers, from 0 to 1, above which a generation is taken back.
    #[must_use]
    pub fn failure_share(mut self, share: f64) -> Self {
        self.failure_share = share;
        self
    }

    /// Sets how many runs have to fail before their share counts.
    #[must_use]
    pub fn least_failures(mut self, failures: u64) -> Self {
        self.least_failures = failures;
        self
    }

    /// Sets how often `execute` of one controller may fail.
    #[must_use]
    pub fn executions(mut self, failures: u64) -> Self {
        self.executions = failures;
        self
    }

    /// Why a generation is not well, if it is not; `before` is what the one before did.
    pub(crate) fn judge(&self, bus: &Bus, generation: u64, before: ResolverCounts) -> Option<String> {
        let source = Source(generation);
        let own: Vec<_> = bus.controllers().into_iter().filter(|found| found.source == source).collect();
        if let Some(found) = own.iter().find(|found| found.failures > self.executions) {
            let why = match &found.execution {
                controllerbus::bus::Execution::Failed { error, .. } => format!(": {error}"),
                _ => String::new(),
            };
            return Some(format!("execute of {} has failed {} times{why}", found.info.id, found.failures));
        }
        let counts = counts_of(bus, generation);
        let share = |counts: &ResolverCounts| counts.failures as f64 / (counts.runs.max(1)) as f64;
        let is_bad = counts.failures >= self.least_failures && share(&counts) > self.failure_share;
        (is_bad && share(&counts) > share(&before)).then(|| {
            let panics = match counts.panics {
                0 => String::new(),
                panics => format!(", {panics} of them by a panic"),
            };
            format!("{} of {} runs of its resolvers have failed{panics}", counts.failures, counts.runs)
        })
    }
}

/// What the controllers of a generation did.
pub(crate) fn counts_of(bus: &Bus, generation: u64) -> ResolverCounts {
    let source = Source(generation);
    let own: Vec<_> =
        bus.controllers().into_iter().filter(|found| found.source == source).map(|found| found.id).collect();
    let counts = bus.counts().into_iter().filter(|of| own.contains(&of.controller));
    counts.fold(ResolverCounts::default(), |sum, of| sum.plus(of.counts))
}
