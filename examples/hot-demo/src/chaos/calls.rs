//! Calls of the API, each with the time in which it must return.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A request that is given up after a quarter of a second: to begin it and to give it up wait for nobody.
pub const ASK: Duration = Duration::from_millis(1250);
/// A swap: the old one's `save` and the new one's `construct`, `restore` and first answer, some of it once more for the last state,
/// and loading, reading and hashing on a machine that is busy.
pub const SWAP: Duration = Duration::from_secs(8);
/// An end: `execute` and `close` within their limits, and the drain.
pub const UNLOAD: Duration = Duration::from_secs(5);
/// An apply: an end of what is replaced, and what comes then.
pub const APPLY: Duration = Duration::from_secs(5);
/// A look at what there is.
pub const LOOK: Duration = Duration::from_secs(1);

/// How much longer a call is waited for, to say by how much it was late.
const LATE: Duration = Duration::from_secs(30);

/// Counts calls, and those that took too long.
#[derive(Default)]
pub struct Calls {
    made: AtomicU64,
    over: Mutex<Vec<String>>,
}

impl Calls {
    /// Awaits a call; nothing if it does not return at all.
    pub async fn call<T>(&self, what: &str, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let begun = Instant::now();
        let answer = tokio::time::timeout(limit + LATE, work).await.ok();
        self.judge(what, limit, begun.elapsed());
        answer
    }

    /// The same for a call that is not awaited.
    pub fn look<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let answer = work();
        self.judge(what, LOOK, begun.elapsed());
        answer
    }

    fn judge(&self, what: &str, limit: Duration, took: Duration) {
        self.made.fetch_add(1, Ordering::Relaxed);
        if took > limit {
            let over = format!("{what} took {:.1} s of {:.1} s", took.as_secs_f64(), limit.as_secs_f64());
            self.over.lock().unwrap_or_else(PoisonError::into_inner).push(over);
        }
    }

    /// How many calls there were, and those that took too long.
    pub fn judged(&self) -> (u64, Vec<String>) {
        (self.made.load(Ordering::Relaxed), self.over.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
