//! Calls of the API, each with a time limit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A request that is abandoned after a quarter of a second. Neither starting nor abandoning it may block.
pub const ASK: Duration = Duration::from_millis(1250);
/// A swap: the old generation's `save`, the new one's `construct`, `restore` and first answer, some of these again for
/// the last state, and reading, hashing and loading on a busy machine.
pub const SWAP: Duration = Duration::from_secs(8);
/// An unload: `execute` and `close` within their limits, and the drain.
pub const UNLOAD: Duration = Duration::from_secs(5);
/// An apply: the end of the old controller, and the start of the new one.
pub const APPLY: Duration = Duration::from_secs(5);
/// A query.
pub const LOOK: Duration = Duration::from_secs(1);

/// How much longer to wait for a call, to be able to say how late it was.
const LATE: Duration = Duration::from_secs(30);

/// Counts calls, and records those that took too long.
#[derive(Default)]
pub struct Calls {
    made: AtomicU64,
    over: Mutex<Vec<String>>,
}

impl Calls {
    /// Awaits a call; `None` if it does not return at all.
    pub async fn call<T>(&self, what: &str, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let begun = Instant::now();
        let answer = tokio::time::timeout(limit + LATE, work).await.ok();
        self.record(what, limit, begun.elapsed());
        answer
    }

    /// The same for a synchronous call.
    pub fn look<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let answer = work();
        self.record(what, LOOK, begun.elapsed());
        answer
    }

    fn record(&self, what: &str, limit: Duration, took: Duration) {
        self.made.fetch_add(1, Ordering::Relaxed);
        if took > limit {
            let over = format!("{what} took {:.1} s; the limit is {:.1} s", took.as_secs_f64(), limit.as_secs_f64());
            self.over.lock().unwrap_or_else(PoisonError::into_inner).push(over);
        }
    }

    /// The number of calls, and those that took too long.
    pub fn result(&self) -> (u64, Vec<String>) {
        (self.made.load(Ordering::Relaxed), self.over.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
