//! What controllers did for directives, counted by lane.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
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
    failure: Mutex<Option<Error>>,
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

/// The same in nanoseconds, and one that nothing passes.
const BOUNDS: [u64; WAITS.len() + 1] = {
    let mut bounds = [u64::MAX; WAITS.len() + 1];
    let mut at = 0;
    while at < WAITS.len() {
        bounds[at] = WAITS[at].as_nanos() as u64;
        at += 1;
    }
    bounds
};

/// How many bounds are below all numbers of so many bits.
const BELOW: [u8; 65] = {
    let mut below = [0; 65];
    let mut bits = 1;
    while bits <= 64 {
        let least = 1 << (bits - 1);
        while BOUNDS[below[bits] as usize] < least {
            below[bits] += 1;
        }
        bits += 1;
    }
    below
};

/// How many bounds a time is above. Of the numbers with as many bits, at most one bound parts them: each is thrice the one before.
fn bucket(nanos: u64) -> usize {
    let below = usize::from(BELOW[(u64::BITS - nanos.leading_zeros()) as usize]);
    below + usize::from(BOUNDS[below] < nanos)
}

impl Counts {
    pub(super) fn began(&self) {
        self.runs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, error: &Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if error.kind() == ErrorKind::Panicked {
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A run that did not answer at once has answered.
    pub(super) fn answered(&self, after: Duration) {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.waited[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.waited_ns.fetch_add(nanos, Ordering::Relaxed);
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
    /// What a run failed with last, on one of the threads that asked.
    pub failure: Option<Error>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_between_the_bounds_that_it_is_between() {
        let slow = |nanos: u64| WAITS.iter().filter(|bound| bound.as_nanos() < u128::from(nanos)).count();
        let edges = (0..64).map(|bits| 1 << bits).chain(BOUNDS).chain([0, u64::MAX]);
        for nanos in edges.flat_map(|edge| [edge.saturating_sub(1), edge, edge.saturating_add(1)]) {
            assert_eq!(bucket(nanos), slow(nanos), "{nanos} ns");
        }
    }
}
