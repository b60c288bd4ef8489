//! How long to wait before a retry.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Exponential backoff with jitter: 100 ms doubling to 30 s, each time between half and all of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// How long to wait now; longer the next time.
    pub(crate) fn next(&mut self) -> Duration {
        let full = 100u64.saturating_mul(1 << self.tries.min(9)).min(30_000);
        self.tries = self.tries.saturating_add(1);
        let jitter = RandomState::new().hash_one(self.tries) % (full / 2 + 1);
        Duration::from_millis(full / 2 + jitter)
    }

    /// Starts over with the shortest time, after a success.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_about_twice_the_one_before_until_a_success() {
        let mut backoff = Backoff::default();
        assert!((50..=100).contains(&backoff.next().as_millis()));
        assert!((100..=200).contains(&backoff.next().as_millis()));
        backoff.reset();
        assert!((50..=100).contains(&backoff.next().as_millis()));
    }
}
