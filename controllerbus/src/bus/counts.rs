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
    waited: AtomicU64,
    waited_ns: AtomicU64,
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
    }

    /// A run that did not answer at once has answered.
    pub(super) fn answered(&self, after: Duration) {
        self.waited.fetch_add(1, Ordering::Relaxed);
        self.waited_ns.fetch_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, all: &mut ResolverCounts) {
        all.runs += self.runs.load(Ordering::Relaxed);
        all.failures += self.failures.load(Ordering::Relaxed);
        all.panics += self.panics.load(Ordering::Relaxed);
        all.waited += self.waited.load(Ordering::Relaxed);
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
}

impl ResolverCounts {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            failures: self.failures + other.failures,
            panics: self.panics + other.panics,
            waited: self.waited + other.waited,
            waited_for: self.waited_for + other.waited_for,
        }
    }
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
