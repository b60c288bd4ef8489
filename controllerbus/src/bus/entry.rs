//! One controller on the bus: its identity, its phase, how far its life has got, and the directives that it answers.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::Source;
use super::answering::Answering;
use super::contain::contain;
use super::counts::{Counts, ResolverCounts};
use super::handover::Handover;
use super::lane::{Lanes, lane};
use super::origin::{HostNumber, Origin, Sides};
use super::resolver::start_run;
use super::standing::Standing;
use crate::controller::{AnyController, Info, LastState, State, SwapMode};
use crate::listen::Service;
use crate::{Error, Result, Retry};

pub(super) struct ControllerEntry {
    pub(super) id: u64,
    pub(super) info: Arc<Info>,
    pub(super) source: Source,
    /// Whose code it is: see [`KnownFactory`](super::factories::KnownFactory).
    pub(super) library: Source,
    pub(super) swap: SwapMode,
    /// The side that its answers are of.
    pub(super) side: Sides,
    /// The host of a fleet that it answers for, if it is one.
    pub(super) host: HostNumber,
    /// How often its execution and its resolvers are tried again.
    pub(super) retry: Retry,
    /// How often its state is kept, at most.
    pub(super) persist: Option<Duration>,
    /// What it has saved last, if its state is kept.
    pub(super) last_state: Option<Arc<LastState>>,
    /// How its execution has ended, for good.
    pub(super) exit: watch::Sender<Option<Result<()>>>,
    pub(super) controller: ContainedController,
    /// The ids of the directives that it resolves.
    pub(super) resolves: Vec<String>,
    /// Its instance, and the config in the boundary's encoding, if a config asked for it.
    pub(super) configured: Option<(u64, Vec<u8>)>,
    pub(super) cancel: CancellationToken,
    /// Whether it serves, for its contexts.
    pub(super) service: Arc<watch::Sender<Service>>,
    /// Where its code runs.
    pub(super) span: Span,
    /// How far its end has got.
    pub(super) end: watch::Sender<End>,
    /// Whether its state is saved once it has been closed.
    pub(super) is_inherited: AtomicBool,
    /// Whether anybody waits for its destructor.
    pub(super) is_waited_for: AtomicBool,
    /// Cancelled when its life is over: `close` has returned, and the controller was dropped if anybody waits for that.
    pub(super) closed: CancellationToken,
    /// The same under the lock of `Life`: it was removed from `leaving`.
    pub(super) is_over: AtomicBool,
    /// Whether new directives are offered to it.
    pub(super) is_routed: AtomicBool,
    /// The first error of `execute`; fails the swap if the controller is staged.
    failed: Mutex<Option<Error>>,
    /// How often `execute` has failed.
    pub(super) failures: AtomicU64,
    /// Whether one of its resolvers has failed.
    pub(super) resolver_failed: AtomicBool,
    /// Whether it was not offered calls, or what is pinned, because it was staged.
    pub(super) missed_offers: AtomicBool,
    execution: Mutex<(Execution, SystemTime)>,
    /// When it stopped serving.
    replaced: OnceLock<SystemTime>,
    pub(super) handover: Handover,
    answering: Answering<Arc<Standing>>,
}

/// What a controller's contexts share with the bus. It exists before the controller is constructed.
#[derive(Clone)]
pub(super) struct Ties {
    pub(super) id: u64,
    pub(super) cancel: CancellationToken,
    pub(super) service: Arc<watch::Sender<Service>>,
    pub(super) span: Span,
    pub(super) last_state: Option<Arc<LastState>>,
}

impl Ties {
    pub(super) fn new(id: u64) -> Self {
        let service = Arc::new(watch::Sender::new(Service::Waiting));
        Self { id, cancel: CancellationToken::new(), service, span: Span::none(), last_state: None }
    }

    /// What it logs says whose it is. Not under a lock: it tells the subscriber.
    pub(super) fn named(self, controller: &str, keys: &[String]) -> Self {
        Self { span: crate::spans::controller(controller, &keys.join(", ")), ..self }
    }
}

/// How far the end of a controller has got.
#[derive(Clone, Default)]
pub(super) struct End {
    /// The state that it had when it was closed, if that was asked for; or why that could not be saved.
    pub(super) left: Option<Result<Option<State>>>,
    /// Why it does not end: what is blocking a thread, or still using it.
    pub(super) held: Option<Error>,
    /// It has ended, and has released what only one controller can own.
    pub(super) over: bool,
}

/// A reference to a controller. If it is the last one, a panic of the controller's destructor goes no further than here.
pub(super) struct ContainedController(Option<Arc<dyn AnyController>>);

impl Deref for ContainedController {
    type Target = Arc<dyn AnyController>;
    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("taken only when dropped")
    }
}

impl Drop for ContainedController {
    fn drop(&mut self) {
        let controller = self.0.take();
        contain("a controller's destructor", || drop(controller));
    }
}

/// A reference to a controller for the threads of one lane.
pub(super) struct LaneRef {
    entry: Arc<ControllerEntry>,
    /// The controller, through an `Arc` of this lane's own.
    pub(super) controller: ContainedController,
    /// What the controller did for the directives that it was offered through this reference.
    pub(super) counts: Counts,
    /// Where its resolver of these directives runs.
    pub(super) span: Span,
    lane: usize,
}

impl Deref for LaneRef {
    type Target = ControllerEntry;
    fn deref(&self) -> &ControllerEntry {
        &self.entry
    }
}

impl LaneRef {
    pub(super) fn new(entry: Arc<ControllerEntry>, directive: Option<&str>) -> Self {
        let controller = entry.controller.clone_for_lane().unwrap_or_else(|| Arc::clone(&entry.controller));
        let controller = ContainedController(Some(controller));
        let span = match directive {
            Some(id) => crate::spans::resolver(&entry.span, id),
            None => entry.span.clone(),
        };
        Self { entry, controller, counts: Counts::default(), span, lane: lane() }
    }

    /// Remembers that the controller answers a directive, and returns the slot; `None` once it is removed.
    pub(super) fn remember(&self, standing: &Arc<Standing>) -> Option<usize> {
        self.entry.answering.remember(self.lane, standing)
    }

    /// Frees a slot.
    pub(super) fn forget(&self, slot: usize) {
        drop(self.entry.answering.forget(self.lane, slot));
        self.handover.notify();
    }
}

/// A controller on the list of those that a directive id is routed to; one for all ids, if it resolves every directive.
pub(super) struct Route {
    pub(super) entry: Arc<ControllerEntry>,
    /// The directive id, if it is one.
    directive: Option<String>,
    lanes: Lanes<Arc<LaneRef>>,
}

impl Route {
    pub(super) fn new(entry: Arc<ControllerEntry>, directive: Option<&str>) -> Self {
        Self { entry, directive: directive.map(str::to_owned), lanes: Lanes::new() }
    }

    /// The reference of this thread's lane.
    pub(super) fn get(&self) -> &Arc<LaneRef> {
        self.lanes.get(|_| Arc::new(LaneRef::new(Arc::clone(&self.entry), self.directive.as_deref())))
    }

    /// What the controller did for directives that it was offered through here.
    pub(super) fn counts(&self) -> ResolverCounts {
        let mut counts = ResolverCounts::default();
        self.lanes.made().for_each(|lane_ref| lane_ref.counts.add_to(&mut counts));
        counts
    }

    /// What it failed with last, on one of the threads.
    pub(super) fn failure(&self) -> Option<Error> {
        self.lanes.made().find_map(|lane_ref| lane_ref.counts.failure())
    }
}

/// What a controller's execution is doing.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Execution {
    /// It is executing.
    Running,
    /// It failed, and will be executed again.
    Failed {
        /// Why.
        error: Error,
        /// When, counted from the failure.
        #[serde(
            rename = "retry_in_ms",
            serialize_with = "super::config_state::millis",
            deserialize_with = "super::config_state::from_millis"
        )]
        retry_in: Duration,
    },
    /// It failed as often as its [`Retry`] allows, or with a permanent error, and is not executed again; the controller keeps
    /// answering directives.
    Stopped {
        /// Why it failed the last time.
        error: Error,
    },
    /// It ended without an error; the controller keeps answering directives.
    Ended,
    /// It was replaced or removed, and finishes the calls that it had begun, whose callers decide how long they wait, and what is
    /// pinned to it. It is told to end after the last one.
    Finishing {
        /// The ids of the directives by which it was called, one for each call.
        calls: Vec<String>,
        /// The ids of the directives that stand and are pinned to it, one for each.
        #[serde(default)]
        pins: Vec<String>,
    },
    /// It was told to end, and is being closed.
    Closing,
    /// It was told to end, but blocks its thread or is used by something that does, so that it cannot be dropped.
    Stuck {
        /// `execute`, `close`, `save` or `drop`.
        #[serde(deserialize_with = "step")]
        what: Step,
    },
}

impl Execution {
    /// What it finishes, in words that go on after the controller's name; `None` if it does not.
    pub fn finishing(&self) -> Option<String> {
        let Self::Finishing { calls, pins } = self else { return None };
        let calls = (!calls.is_empty()).then(|| format!("finishes calls of {}", calls.join(", ")));
        let pins = (!pins.is_empty()).then(|| format!("goes on with what is pinned to it: {}", pins.join(", ")));
        Some([calls, pins].into_iter().flatten().collect::<Vec<_>>().join(", and "))
    }
}

/// The name of a step of a controller's end. Behind this name serde does not take it for something to borrow.
type Step = &'static str;

/// One of the steps, by its name.
fn step<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    let name: String = serde::Deserialize::deserialize(deserializer)?;
    Ok(["execute", "close", "save", "drop"].into_iter().find(|step| *step == name).unwrap_or("another step"))
}

impl ControllerEntry {
    /// A controller that is live as soon as it is on the bus, unless it is [`ControllerEntry::staged`].
    pub(super) fn new(ties: Ties, info: Info, source: Source, controller: Arc<dyn AnyController>) -> Self {
        Self {
            id: ties.id,
            info: Arc::new(info),
            source,
            library: source.library(),
            swap: SwapMode::Beside,
            side: Sides::HERE,
            host: HostNumber::default(),
            retry: Retry::default(),
            persist: None,
            last_state: ties.last_state,
            exit: watch::Sender::new(None),
            resolves: controller.resolves(),
            controller: ContainedController(Some(controller)),
            configured: None,
            cancel: ties.cancel,
            service: ties.service,
            span: ties.span,
            end: watch::Sender::new(End::default()),
            is_inherited: AtomicBool::new(false),
            is_waited_for: AtomicBool::new(false),
            closed: CancellationToken::new(),
            is_over: AtomicBool::new(false),
            is_routed: AtomicBool::new(false),
            failed: Mutex::default(),
            failures: AtomicU64::new(0),
            resolver_failed: AtomicBool::new(false),
            missed_offers: AtomicBool::new(false),
            execution: Mutex::new((Execution::Running, SystemTime::now())),
            replaced: OnceLock::new(),
            handover: Handover::default(),
            answering: Answering::live(),
        }
    }

    /// Constructed from a config, by a factory with this swap mode.
    pub(super) fn configured(self, instance: u64, config: Vec<u8>, swap: SwapMode) -> Self {
        Self { configured: Some((instance, config)), swap, ..self }
    }

    /// Answering for this origin.
    pub(super) fn of_origin(self, origin: Origin) -> Self {
        Self { side: origin.side(), host: origin.number(), ..self }
    }

    /// Of a library's code.
    pub(super) fn of_library(self, library: Source) -> Self {
        Self { library, ..self }
    }

    /// Whether it ends with a source.
    pub(super) fn is_of(&self, source: Source) -> bool {
        self.source.ends_with(self.library, source)
    }

    /// Tried again as often as this says.
    pub(super) fn retried(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// With a state that is kept this often, if it is.
    pub(super) fn persisted(self, persist: Option<Duration>) -> Self {
        Self { persist, ..self }
    }

    /// Prepared beside the controller that it will replace.
    pub(super) fn staged(self) -> Self {
        Self { answering: Answering::staged(), ..self }
    }

    pub(super) fn is_staged(&self) -> bool {
        self.answering.is_staged()
    }

    pub(super) fn is_removed(&self) -> bool {
        self.answering.is_removed()
    }

    /// Whether it is not offered such a directive while it is staged, because the controller that it replaces may keep that.
    pub(super) fn is_left(&self, standing: &Standing) -> bool {
        let options = &standing.options;
        options.once || (options.pinned_for().is_some() && self.handover.leaves_pins())
    }

    pub(super) fn go_live(&self) {
        self.answering.go_live();
    }

    /// What its contexts share with the bus.
    pub(super) fn ties(&self) -> Ties {
        let (cancel, service) = (self.cancel.clone(), Arc::clone(&self.service));
        Ties { id: self.id, cancel, service, span: self.span.clone(), last_state: self.last_state.clone() }
    }

    /// Opens its gate and starts the runs that waited there and are still wanted; unless it is ending, in which case its successor
    /// gets them.
    pub(super) fn open_gate(&self) {
        if self.is_inherited.load(Ordering::Acquire) {
            return;
        }
        for (standing, lane_ref, run) in self.handover.release() {
            let is_wanted = standing.lock().resolver_in((lane_ref.id, run)).is_some();
            if is_wanted {
                start_run(&standing, &lane_ref, run);
            }
        }
    }

    /// The line of controllers that it is of, each of which has replaced the one before in a swap.
    pub(super) fn line(&self) -> u64 {
        self.handover.line().unwrap_or(self.id)
    }

    /// Its instance.
    pub(super) fn instance(&self) -> Option<u64> {
        self.configured.as_ref().map(|(instance, _)| *instance)
    }

    /// Tells its contexts whether it serves. Final once it has been replaced or removed. Not under a lock: it wakes tasks.
    pub(super) fn set_service(&self, service: Service) {
        self.service.send_if_modified(|now| {
            let changes = *now != service && !now.has_ended();
            if changes {
                if service.has_ended() {
                    self.replaced.get_or_init(SystemTime::now);
                }
                *now = service;
            }
            changes
        });
    }

    /// The directives that it answers now.
    pub(super) fn answers(&self) -> Vec<Arc<Standing>> {
        self.answering.all()
    }

    /// How many directives it answers now.
    pub(super) fn answer_count(&self) -> usize {
        self.answering.count()
    }

    /// Withdraws its answers; takes time in proportion to their number.
    pub(super) fn withdraw(&self) {
        for standing in self.answering.remove() {
            standing.change(|state, effects| state.withdraw(self.id, &standing.options, effects));
        }
    }

    /// The same, but for what outlasts a swap.
    pub(super) fn withdraw_what_goes(&self) {
        for standing in self.answers().iter().filter(|standing| self.goes(standing)) {
            standing.change(|state, effects| state.remove_resolver(self.id, effects));
        }
    }

    /// Whether it answers anything that does not outlast a swap.
    pub(super) fn answers_what_goes(&self) -> bool {
        self.answers().iter().any(|standing| self.goes(standing))
    }

    /// Neither calls nor what is pinned to it.
    fn goes(&self, standing: &Standing) -> bool {
        !standing.options.once && !self.has_pinned(standing)
    }

    /// Whether anything is pinned to it.
    pub(super) fn has_any_pinned(&self) -> bool {
        self.answers().iter().any(|standing| self.has_pinned(standing))
    }

    fn has_pinned(&self, standing: &Standing) -> bool {
        standing.options.pinned_for().is_some() && standing.lock().is_pinned_to(self.id)
    }

    /// What it finishes, if it is no longer routed to and not told to end yet.
    fn finishing(&self) -> Option<Execution> {
        if !self.service.borrow().has_ended() || self.cancel.is_cancelled() {
            return None;
        }
        let answers = self.answers();
        let ids = |is_one: &dyn Fn(&Standing) -> bool| {
            let all = answers.iter().filter(|standing| is_one(standing));
            let mut ids: Vec<_> = all.map(|standing| standing.directive.id().to_owned()).collect();
            ids.sort_unstable();
            ids
        };
        let (calls, pins) = (ids(&|standing| standing.options.once), ids(&|standing| self.has_pinned(standing)));
        (!calls.is_empty() || !pins.is_empty()).then_some(Execution::Finishing { calls, pins })
    }

    /// What its execution is doing, and since when.
    pub(super) fn execution(&self) -> (Execution, SystemTime) {
        if let Some(finishing) = self.finishing() {
            return (finishing, self.replaced.get().copied().unwrap_or_else(SystemTime::now));
        }
        self.own_execution()
    }

    /// The same without what it finishes: nothing of a user's is called or dropped.
    pub(super) fn own_execution(&self) -> (Execution, SystemTime) {
        self.execution.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_execution(&self, execution: Execution, changed: &watch::Sender<u64>) {
        *self.execution.lock().unwrap_or_else(PoisonError::into_inner) = (execution, SystemTime::now());
        changed.send_modify(|version| *version += 1);
    }

    /// Notes a failure of its execution.
    pub(super) fn note_failure(&self, error: &Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        self.handover.notify();
    }

    /// The first failure of its execution.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
