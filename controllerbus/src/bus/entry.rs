//! One controller on the bus: who it is, where it stands in a swap, and which directives it answers.

use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::standing::Standing;
use super::{BusHandle, Source};
use crate::controller::{AnyController, Context, Info};
use crate::{Error, Result};

const STAGED: u8 = 0;
const LIVE: u8 = 1;
const REMOVED: u8 = 2;

/// Sharded, so that threads that resolve different directives of one controller do not meet.
const SHARDS: usize = 16;

pub(super) struct ControllerEntry {
    pub(super) id: u64,
    pub(super) info: Arc<Info>,
    pub(super) source: Source,
    pub(super) controller: Arc<dyn AnyController>,
    /// The config set's key, where it came from one.
    pub(super) key: Option<String>,
    /// The config in the boundary's encoding, where it was made from one.
    pub(super) config: Option<Vec<u8>>,
    pub(super) cancel: CancellationToken,
    /// Cancelled, that is, done, when `close` has returned.
    pub(super) closed: CancellationToken,
    /// The first error of `execute`, which ends the staging of a new generation.
    pub(super) failed: Mutex<Option<Error>>,
    execution: Mutex<(Execution, SystemTime)>,
    phase: AtomicU8,
    answers: [Mutex<HashMap<usize, Arc<Standing>>>; SHARDS],
}

/// What a controller's execution is doing.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Execution {
    /// It executes.
    Running,
    /// It failed, and is executed again after a time.
    Failed {
        /// Why.
        error: Error,
        /// When, from the failure on.
        #[serde(rename = "retry_in_ms", serialize_with = "super::configs::millis")]
        retry_in: Duration,
    },
    /// It ended without an error; the controller goes on answering directives.
    Ended,
    /// It was told to end, and is being closed.
    Closing,
}

impl ControllerEntry {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        id: u64,
        info: Info,
        source: Source,
        controller: Arc<dyn AnyController>,
        key: Option<String>,
        config: Option<Vec<u8>>,
        cancel: CancellationToken,
        staged: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            info: Arc::new(info),
            source,
            controller,
            key,
            config,
            cancel,
            closed: CancellationToken::new(),
            failed: Mutex::default(),
            execution: Mutex::new((Execution::Running, SystemTime::now())),
            phase: AtomicU8::new(if staged { STAGED } else { LIVE }),
            answers: std::array::from_fn(|_| Mutex::default()),
        })
    }

    pub(super) fn is_staged(&self) -> bool {
        self.phase.load(Ordering::Acquire) == STAGED
    }

    pub(super) fn is_removed(&self) -> bool {
        self.phase.load(Ordering::Acquire) == REMOVED
    }

    pub(super) fn go_live(&self) {
        self.phase.store(LIVE, Ordering::Release);
    }

    fn shard(&self, standing: &Arc<Standing>) -> std::sync::MutexGuard<'_, HashMap<usize, Arc<Standing>>> {
        self.answers[standing.hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that it answers a directive; false once it is removed.
    pub(super) fn remember(&self, standing: &Arc<Standing>) -> bool {
        let mut shard = self.shard(standing);
        if self.is_removed() {
            return false;
        }
        shard.insert(Arc::as_ptr(standing) as usize, Arc::clone(standing));
        true
    }

    pub(super) fn forget(&self, standing: &Arc<Standing>) {
        self.shard(standing).remove(&(Arc::as_ptr(standing) as usize));
    }

    /// The directives that it answers now.
    pub(super) fn answers(&self) -> Vec<Arc<Standing>> {
        let mut all = Vec::new();
        for shard in &self.answers {
            all.extend(shard.lock().unwrap_or_else(PoisonError::into_inner).values().cloned());
        }
        all
    }

    /// Takes its answers off the bus: proportional to how many there are.
    pub(super) fn withdraw(&self) {
        self.phase.store(REMOVED, Ordering::Release);
        for standing in self.answers() {
            standing.change(|state, effects| state.remove_resolver(self.id, effects));
            self.forget(&standing);
        }
    }

    /// What its execution is doing, and since when.
    pub(super) fn execution(&self) -> (Execution, SystemTime) {
        self.execution.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn executes(&self, execution: Execution, changed: &watch::Sender<u64>) {
        *self.execution.lock().unwrap_or_else(PoisonError::into_inner) = (execution, SystemTime::now());
        changed.send_modify(|version| *version += 1);
    }

    /// Executes the controller until it is cancelled, again with backoff after an error or a panic; then closes it.
    pub(super) async fn run(self: Arc<Self>, bus: BusHandle, changed: watch::Sender<u64>) {
        let mut backoff = Backoff::default();
        let context = Context::new(bus, self.cancel.clone(), Arc::clone(&self.info));
        while !self.cancel.is_cancelled() {
            let work = Arc::clone(&self.controller);
            let ended = contained(async { work.execute(context.clone()).await }).await;
            let Err(error) = ended else {
                self.executes(Execution::Ended, &changed);
                break;
            };
            if self.cancel.is_cancelled() {
                break;
            }
            tracing::warn!(controller = self.info.id, %error, "execute failed; it is tried again");
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
            let retry_in = backoff.next();
            self.executes(Execution::Failed { error, retry_in }, &changed);
            tokio::select! {
                () = tokio::time::sleep(retry_in) => self.executes(Execution::Running, &changed),
                () = self.cancel.cancelled() => {}
            }
        }
        self.cancel.cancelled().await;
        self.executes(Execution::Closing, &changed);
        let work = Arc::clone(&self.controller);
        if let Err(error) = contained(closing(work)).await {
            tracing::warn!(controller = self.info.id, %error, "close failed");
        }
        self.closed.cancel();
    }
}

/// Runs user code to its end; a panic of it becomes an error.
pub(super) async fn contained<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(move |cx| {
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)))
            .unwrap_or_else(|payload| std::task::Poll::Ready(Err(Error::from_panic(payload))))
    })
    .await
}

/// Exponential backoff with jitter: 100 ms doubling to 30 s, each time between half and all of it.
#[derive(Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        use std::hash::{BuildHasher, RandomState};
        let full = 100u64.saturating_mul(1 << self.tries.min(9)).min(30_000);
        self.tries += 1;
        let jitter = RandomState::new().hash_one(self.tries) % (full / 2 + 1);
        Duration::from_millis(full / 2 + jitter)
    }
}

/// A controller's close, in the shape that [`contained`] takes.
pub(super) async fn closing(controller: Arc<dyn AnyController>) -> Result<()> {
    controller.close().await;
    Ok(())
}
