//! What controllers did for directives, counted by lane.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::ControllerId;
use crate::Error;
use crate::error::ErrorKind;

/// The counts of one lane.
#[derive(Default)]
pub(super) struct Counts {
    runs: AtomicU64,
    failures: AtomicU64,
    panics: AtomicU64,
    /// By how long they took.
    waited: [AtomicU64; WAITS.len() + 1],
    waited_ns: AtomicU64,
}

/// The bounds of [`ResolverCounts::waits`].
const WAITS: [Duration; 11] = [
    Duration::from_micros(100),
    Duration::from_micros(300),
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

impl Counts {
    pub(super) fn began(&self) {
        self.runs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, error: &Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if error.kind() == ErrorKind::Panicked {
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A run that did not answer at once has answered.
    pub(super) fn answered(&self, after: Duration) {
        self.waited[WAITS.partition_point(|bound| *bound < after)].fetch_add(1, Ordering::Relaxed);
        self.waited_ns.fetch_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, all: &mut ResolverCounts) {
        all.runs += self.runs.load(Ordering::Relaxed);
        all.failures += self.failures.load(Ordering::Relaxed);
        all.panics += self.panics.load(Ordering::Relaxed);
        for (sum, own) in all.waits.iter_mut().zip(&self.waited) {
            let own = own.load(Ordering::Relaxed);
            *sum += own;
            all.waited += own;
        }
        all.waited_for += Duration::from_nanos(self.waited_ns.load(Ordering::Relaxed));
    }
}

/// What a controller did for the directives of one id since it was added to the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ResolverCounts {
    /// How often its resolver was run: once for each directive, and again after failures.
    pub runs: u64,
    /// How many of these runs ended with an error or a panic.
    pub failures: u64,
    /// How many of these failures were panics.
    pub panics: u64,
    /// How many runs answered, but not at once. A run has answered when it adds its first value or becomes idle.
    pub waited: u64,
    /// The total time that these took to answer.
    #[serde(rename = "waited_for_ms", serialize_with = "super::config_state::millis")]
    pub waited_for: Duration,
    /// How many of those that `waited` took no longer than each of [`ResolverCounts::WAITS`], but longer than the one before;
    /// the last number is of those that took longer than all.
    pub waits: [u64; WAITS.len() + 1],
}

impl ResolverCounts {
    /// The bounds of [`ResolverCounts::waits`], from 100 µs to 10 s.
    pub const WAITS: [Duration; WAITS.len()] = WAITS;

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            failures: self.failures + other.failures,
            panics: self.panics + other.panics,
            waited: self.waited + other.waited,
            waited_for: self.waited_for + other.waited_for,
            waits: std::array::from_fn(|at| self.waits[at] + other.waits[at]),
        }
    }
}

/// How many directives of one id are active.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DirectiveCounts {
    /// The directive id.
    pub directive: String,
    /// How many are active.
    pub active: usize,
    /// How many strong references they have: who asks.
    pub references: usize,
    /// How many values they have that requesters see.
    pub values: usize,
    /// How many are without a value, and no controller is looking for one.
    pub unanswered: usize,
}

/// The counts of one controller and directive id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CountsSnapshot {
    /// The controller.
    pub controller: ControllerId,
    /// The directive id; [`crate::directive::ANY_DIRECTIVE`] for a controller that resolves all.
    pub directive: String,
    /// What it did.
    pub counts: ResolverCounts,
}
