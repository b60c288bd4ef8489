//! How long to wait before something is tried again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Exponential backoff with jitter: 100 ms doubling to 30 s, each time between half and all of it.
///
/// ```
/// let mut backoff = controllerbus::Backoff::default();
/// let (first, second) = (backoff.next(), backoff.next());
/// assert!(first.as_millis() >= 50 && first.as_millis() <= 100);
/// assert!(second.as_millis() >= 100 && second.as_millis() <= 200);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The time to wait now; longer the next time.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Duration {
        let full = 100u64.saturating_mul(1 << self.tries.min(9)).min(30_000);
        self.tries = self.tries.saturating_add(1);
        let jitter = RandomState::new().hash_one(self.tries) % (full / 2 + 1);
        Duration::from_millis(full / 2 + jitter)
    }

    /// Begins with the shortest time again, after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}
