//! Answers a heartbeat: only a runtime whose every worker still takes tasks is alive.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::plugin::abi::{GuestTaskPtr, HostDoneDyn, HostDonePtr};

/// How long a worker that has come waits for the others, so that it does not take their part too.
const WAIT: Duration = Duration::from_millis(20);

/// The workers that have run a task of one heartbeat.
struct Round {
    workers: usize,
    seen: Mutex<Vec<ThreadId>>,
    complete: Condvar,
    done: Mutex<Option<HostDonePtr>>,
}

/// Starts a task for each worker. `done` is dropped without a word if not all of them come.
pub(super) fn start(handle: &Handle, workers: usize, done: HostDonePtr) -> GuestTaskPtr {
    let round =
        Arc::new(Round { workers, seen: Mutex::default(), complete: Condvar::new(), done: Mutex::new(Some(done)) });
    for _ in 1..workers {
        let round = Arc::clone(&round);
        drop(handle.spawn(async move { round.check_in() }));
    }
    super::spawn(handle, CancellationToken::new(), async move { round.check_in() })
}

impl Round {
    fn check_in(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = std::thread::current().id();
        if !seen.contains(&thread) {
            seen.push(thread);
        }
        if seen.len() >= self.workers {
            self.complete.notify_all();
            drop(seen);
            let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(done) = done {
                done.done(Ok(()).into());
            }
            return;
        }
        let deadline = Instant::now() + WAIT;
        while seen.len() < self.workers {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            seen = self.complete.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
