//! How long to wait before a retry, and how often to try.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often something that has failed is tried again, and how long to wait before each try: a controller that cannot be
/// constructed, an execution or a resolver that fails.
///
/// Each wait is between half and all of what is said here, so that what failed together is not tried again together. After
/// 10 s without a failure it begins with the shortest wait again.
///
/// ```
/// # use controllerbus::prelude::*;
/// let set = ConfigSet::from_yaml(
///     "mail: { id: example/mail, retry: { start_ms: 500, factor: 1.5, most_ms: 60000, stop_after: 10 } }",
/// )?;
/// assert_eq!(set.get("mail").and_then(|entry| entry.retry).and_then(|retry| retry.stop_after), Some(10));
/// # Ok::<(), BusError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Retry {
    /// The first wait. The default is 100 ms.
    #[serde(rename = "start_ms", with = "millis")]
    pub start: Duration,
    /// How much longer each wait is than the one before; at least 1. The default is 2.
    pub factor: f64,
    /// The longest wait. The default is 30 s.
    #[serde(rename = "most_ms", with = "millis")]
    pub most: Duration,
    /// The number of failures in a row after which it is not tried again until its config, its code or its directive is
    /// another; there is no such number by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<u32>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { start: Duration::from_millis(100), factor: 2.0, most: Duration::from_secs(30), stop_after: None }
    }
}

impl Eq for Retry {}

impl Hash for Retry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.start, self.factor.to_bits(), self.most, self.stop_after).hash(state);
    }
}

impl Retry {
    /// No retry: the first failure is the last one.
    pub fn never() -> Self {
        Self { stop_after: Some(1), ..Self::default() }
    }

    /// With another first wait.
    #[must_use]
    pub fn with_start(self, start: Duration) -> Self {
        Self { start, ..self }
    }

    /// With waits that grow by another factor.
    #[must_use]
    pub fn with_factor(self, factor: f64) -> Self {
        Self { factor, ..self }
    }

    /// With another longest wait.
    #[must_use]
    pub fn with_most(self, most: Duration) -> Self {
        Self { most, ..self }
    }

    /// With a number of failures in a row after which it is given up.
    #[must_use]
    pub fn with_stop_after(self, failures: u32) -> Self {
        Self { stop_after: Some(failures), ..self }
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_millis() as u64)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// How long something has lasted without a failure when it begins with the shortest wait again.
pub(crate) const HEALTHY: Duration = Duration::from_secs(10);

/// Counts failures in a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    retry: Retry,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(retry: Retry) -> Self {
        Self { retry, failures: 0 }
    }

    /// How long to wait after another failure; `None` if that was the last try.
    pub(crate) fn next(&mut self) -> Option<Duration> {
        let Retry { start, factor, most, stop_after } = self.retry;
        let exponent = i32::try_from(self.failures).unwrap_or(i32::MAX);
        self.failures = self.failures.saturating_add(1);
        if stop_after.is_some_and(|last| self.failures >= last) {
            return None;
        }
        let grown = start.as_secs_f64() * factor.max(1.0).powi(exponent);
        // Never without a pause.
        let full = Duration::from_secs_f64(grown.min(most.as_secs_f64())).max(Duration::from_millis(1));
        let micros = full.as_micros() as u64;
        let jitter = RandomState::new().hash_one(self.failures) % (micros / 2 + 1);
        Some(Duration::from_micros(micros / 2 + jitter))
    }

    /// Starts over with the shortest time, after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(backoff: &mut Backoff, least: u128, most: u128) {
        let wait = backoff.next().expect("another try");
        assert!((least..=most).contains(&wait.as_millis()), "{wait:?}");
    }

    #[test]
    fn each_wait_is_about_twice_the_one_before_until_a_success() {
        let mut backoff = Backoff::default();
        within(&mut backoff, 50, 100);
        within(&mut backoff, 100, 200);
        backoff.reset();
        within(&mut backoff, 50, 100);
        for _ in 0..2_000 {
            backoff.next();
        }
        within(&mut backoff, 15_000, 30_000);
    }

    #[test]
    fn waits_grow_as_it_was_said_and_end_after_so_many_failures() {
        let retry =
            Retry::default().with_start(Duration::from_secs(1)).with_factor(3.0).with_most(Duration::from_secs(5));
        let mut backoff = Backoff::new(retry.with_stop_after(5));
        within(&mut backoff, 500, 1_000);
        within(&mut backoff, 1_500, 3_000);
        within(&mut backoff, 2_500, 5_000);
        within(&mut backoff, 2_500, 5_000);
        assert_eq!(backoff.next(), None);
        assert_eq!(Backoff::new(Retry::never()).next(), None);
        // Whatever it says, there is a pause.
        let none = Retry::default().with_start(Duration::ZERO).with_factor(f64::NAN);
        within(&mut Backoff::new(none), 0, 1);
    }
}
