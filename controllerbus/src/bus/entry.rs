//! One controller on the bus: who it is, where it stands in a swap, and which directives it answers.

use std::future::Future;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::handover::Handover;
use super::lane::{Apart, LANES, Lanes, lane};
use super::standing::Standing;
use super::{BusHandle, Source};
use crate::controller::{AnyController, Context, Info};
use crate::{Backoff, Error, Result};

const STAGED: u8 = 0;
const LIVE: u8 = 1;
const REMOVED: u8 = 2;

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
    pub(super) handover: Handover,
    phase: AtomicU8,
    /// What it answers, by the lane in which it was offered that.
    answers: [Apart<Mutex<Answers>>; LANES],
}

/// The directives that a controller answers, in places that are used again: adding and forgetting look for nothing.
#[derive(Default)]
struct Answers {
    places: Vec<Option<Arc<Standing>>>,
    free: Vec<usize>,
}

/// A controller as the threads of one lane see it.
pub(super) struct Seat {
    entry: Arc<ControllerEntry>,
    /// The controller by a reference of its own.
    pub(super) controller: Arc<dyn AnyController>,
    lane: usize,
}

impl Deref for Seat {
    type Target = ControllerEntry;
    fn deref(&self) -> &ControllerEntry {
        &self.entry
    }
}

impl Seat {
    pub(super) fn new(entry: Arc<ControllerEntry>) -> Self {
        let controller = entry.controller.apart().unwrap_or_else(|| Arc::clone(&entry.controller));
        Self { entry, controller, lane: lane() }
    }

    /// Remembers that it answers a directive, and says in which place; `None` once it is removed.
    pub(super) fn remember(&self, standing: &Arc<Standing>) -> Option<usize> {
        let mut answers = self.entry.lane(self.lane);
        if self.is_removed() {
            return None;
        }
        let place = answers.free.pop().unwrap_or_else(|| {
            answers.places.push(None);
            answers.places.len() - 1
        });
        answers.places[place] = Some(Arc::clone(standing));
        Some(place)
    }

    /// Forgets what it has remembered in a place.
    pub(super) fn forget(&self, place: usize) {
        let forgotten = {
            let mut answers = self.entry.lane(self.lane);
            answers.free.push(place);
            answers.places[place].take()
        };
        drop(forgotten);
        self.handover.stir();
    }
}

/// A controller's seats, as the routes hold them.
pub(super) struct Seats {
    pub(super) entry: Arc<ControllerEntry>,
    lanes: Lanes<Arc<Seat>>,
}

impl Seats {
    pub(super) fn new(entry: Arc<ControllerEntry>) -> Self {
        Self { entry, lanes: Lanes::new() }
    }

    /// The seat of this thread's lane.
    pub(super) fn get(&self) -> &Arc<Seat> {
        self.lanes.get(|_| Arc::new(Seat::new(Arc::clone(&self.entry))))
    }
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
            handover: Handover::default(),
            phase: AtomicU8::new(if staged { STAGED } else { LIVE }),
            answers: std::array::from_fn(|_| Apart::default()),
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

    fn lane(&self, lane: usize) -> MutexGuard<'_, Answers> {
        self.answers[lane].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directives that it answers now.
    pub(super) fn answers(&self) -> Vec<Arc<Standing>> {
        (0..LANES).flat_map(|lane| self.lane(lane).places.iter().flatten().cloned().collect::<Vec<_>>()).collect()
    }

    /// How many those are.
    pub(super) fn answer_count(&self) -> usize {
        (0..LANES).map(|lane| self.lane(lane).places.iter().flatten().count()).sum()
    }

    /// Takes its answers off the bus: proportional to how many there are.
    pub(super) fn withdraw(&self) {
        self.phase.store(REMOVED, Ordering::Release);
        for standing in self.answers() {
            standing.change(|state, effects| state.remove_resolver(self.id, effects));
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
            let this = Arc::clone(&self);
            let began = Box::new(move || this.handover.begin());
            let ended = contained(async { work.execute_told(context.clone(), began).await }).await;
            let Err(error) = ended else {
                self.executes(Execution::Ended, &changed);
                break;
            };
            if self.cancel.is_cancelled() {
                break;
            }
            tracing::warn!(controller = self.info.id, %error, "execute failed; it is tried again");
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
            self.handover.stir();
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
pub(crate) async fn contained<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(move |cx| {
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)))
            .unwrap_or_else(|payload| std::task::Poll::Ready(Err(Error::from_panic(payload))))
    })
    .await
}

/// A controller's close, in the shape that [`contained`] takes.
pub(super) async fn closing(controller: Arc<dyn AnyController>) -> Result<()> {
    controller.close().await;
    Ok(())
}
