//! Requests without pause, counted, during everything else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use controllerbus::Bus;
use tokio::task::JoinHandle;

use crate::api::{Boilerplate, Greet};

/// A request that takes longer than this counts as failed.
const LIMIT: Duration = Duration::from_secs(5);

/// The results of the requests.
#[derive(Default)]
pub struct Counts {
    stop: AtomicBool,
    /// Requests that were answered.
    pub served: AtomicU64,
    /// Requests that failed.
    pub failed: AtomicU64,
    slowest: Mutex<Duration>,
    why: Mutex<Option<String>>,
}

impl Counts {
    /// The longest time that a request took.
    pub fn slowest(&self) -> Duration {
        *self.slowest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the first failed request failed.
    pub fn first_failure(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, begun: Instant, failure: Option<String>) {
        let Some(failure) = failure else {
            self.served.fetch_add(1, Ordering::Relaxed);
            let mut slowest = self.slowest.lock().unwrap_or_else(PoisonError::into_inner);
            *slowest = begun.elapsed().max(*slowest);
            return;
        };
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }
}

/// A task that sends one request after another until it is stopped.
pub struct Load {
    /// The results so far.
    pub counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl Load {
    /// Starts sending requests to both controllers in turn.
    pub fn start(bus: &Bus) -> Self {
        let counts = Arc::new(Counts::default());
        let (bus, shared) = (bus.clone(), Arc::clone(&counts));
        let task = tokio::spawn(async move {
            for number in 0_u64.. {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let begun = Instant::now();
                let asked = async {
                    if number % 2 == 0 {
                        bus.resolve(Greet { name: format!("guest {number}") }).within(LIMIT).await.map(drop)
                    } else {
                        let boilerplate_id = format!("work {number}");
                        bus.resolve(Boilerplate { boilerplate_id }).within(LIMIT).await.map(drop)
                    }
                };
                let failure = asked.await.err();
                shared.count(begun, failure.map(|error| error.to_string()));
            }
        });
        Self { counts, task }
    }

    /// Stops it and waits for the last answer.
    pub async fn stop(self) -> Arc<Counts> {
        self.counts.stop.store(true, Ordering::Relaxed);
        let _ = self.task.await;
        self.counts
    }
}
