//! One standing directive: its references, its resolvers and its values.

mod effects;
mod pins;
mod resolvers;
mod sides;
mod snapshot;
mod subscribers;
mod takeover;
mod task;
mod unread;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

pub(super) use effects::Effects;
pub(super) use pins::Pin;
use resolvers::Resolver;
pub(super) use sides::Turn;
pub(super) use subscribers::Asker;
use subscribers::Subscriber;
pub(super) use task::ResolverTask;
use values::StandingValue;

use super::Source;
use super::entry::LaneRef;
use super::kept::KeepGuard;
use super::lane::PerLane;
use super::origin::{IdleFor, Sides};
use super::sink::FirstRun;
use super::table::TypeTable;
use crate::Error;
use crate::directive::{AnyDirective, Options, RawEvent};

/// A directive on the bus. It is kept by its references, and then by its keep time.
pub(super) struct Standing {
    pub(super) directive: Arc<dyn AnyDirective>,
    pub(super) hash: u64,
    pub(super) options: Options,
    /// The library whose controllers alone answer it, if it is local.
    pub(super) library: Option<Source>,
    /// Through the lane in which it was added.
    pub(super) table: Arc<PerLane<TypeTable>>,
    /// The run that speaks through this itself.
    pub(super) first: FirstRun,
    state: Mutex<StandingState>,
}

/// What changes of a directive, under its lock.
pub(super) struct StandingState {
    /// The number of strong references.
    pub(super) references: usize,
    /// 1 until the directive has been offered to the controllers; it is not idle before.
    offers: u32,
    /// How many of the strong references do not ask the fleet.
    narrow: u32,
    /// Incremented with each new strong reference, so that earlier keep timers do not end the directive.
    pub(super) epoch: u64,
    pub(super) ended: bool,
    /// Set while it has no references and its keep time is running.
    pub(super) kept: Option<KeepGuard>,
    /// Sorted by id.
    values: SmallVec<[StandingValue; 1]>,
    resolvers: SmallVec<[Resolver; 1]>,
    subscribers: SmallVec<[Subscriber; 1]>,
    next: u64,
    /// How often it is being offered to the controllers of the fleet's side, because somebody here asks for the first time.
    fleet_offers: u16,
    /// Whether the controllers of the fleet's side are asked.
    asks_fleet: bool,
    idle: IdleFor,
    /// Whether it is a call whose controller has gone.
    spent: bool,
    /// Whether a resolver waits for its successor's answer.
    retiring: bool,
    /// Whether it is local: those who ask and those who answer are of one generation, which nothing is held back from.
    is_local: bool,
    /// Why controllers were not asked, because the directive is local, and not of the same side of a boundary; each with what is
    /// cancelled when its controller goes.
    refused: Vec<(CancellationToken, Error)>,
}

impl Standing {
    /// A directive that whoever adds it asks of these sides.
    pub(super) fn new(
        directive: Arc<dyn AnyDirective>,
        hash: u64,
        options: Options,
        table: Arc<PerLane<TypeTable>>,
        told: Sides,
    ) -> Arc<Self> {
        let library = directive.confined_to();
        let state = StandingState {
            references: 0,
            offers: 1,
            narrow: 0,
            epoch: 0,
            ended: false,
            kept: None,
            values: SmallVec::new(),
            resolvers: SmallVec::new(),
            subscribers: SmallVec::new(),
            next: 0,
            fleet_offers: 0,
            asks_fleet: told.meets(Sides::FLEET),
            idle: IdleFor::NONE,
            spent: false,
            retiring: false,
            is_local: library.is_some(),
            refused: Vec::new(),
        };
        Arc::new(Self {
            directive,
            hash,
            options,
            library,
            table,
            first: FirstRun::default(),
            state: Mutex::new(state),
        })
    }

    /// Logs that it was added or removed. Not under a lock: it tells the subscriber.
    pub(super) fn log(&self, what: &'static str) {
        // All that this costs where nobody listens.
        if tracing::Level::DEBUG <= LevelFilter::current() {
            self.log_now(what);
        }
    }

    #[cold]
    #[inline(never)]
    fn log_now(&self, what: &'static str) {
        let said = catch_unwind(AssertUnwindSafe(|| self.directive.debug_values()));
        let said = said.map_err(Error::from_panic).unwrap_or_default();
        let about = said.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
        tracing::debug!(directive = self.directive.id(), about, "{what}");
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, StandingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and applies the effects after the lock has been released.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut StandingState, &mut Effects) -> T) -> T {
        let mut effects = Effects::default();
        let result = {
            let mut state = self.lock();
            let result = change(&mut state, &mut effects);
            state.settle(&self.options, &mut effects);
            result
        };
        if effects.are_none() {
            // Looking at each part again to drop it would take longer than the rest of most changes.
            std::mem::forget(effects);
        } else {
            effects.apply(self);
        }
        self.notify_changed();
        result
    }

    /// What all its references share, unless it has ended. Not under a lock.
    pub(super) fn shared(&self) -> Option<Arc<Self>> {
        self.table.find(self)
    }

    /// Notifies those who watch the bus's directives.
    pub(super) fn notify_changed(&self) {
        self.table.notify_changed();
    }
}

impl StandingState {
    /// Whether what a controller answers is held back, because its generation does not serve yet.
    fn holds_back(&self, lane_ref: &LaneRef) -> bool {
        lane_ref.is_staged() && !self.is_local
    }

    /// Tells references why a controller that resolves such directives is not asked.
    pub(super) fn refuse(&mut self, controller: &CancellationToken, error: Error, effects: &mut Effects) {
        self.refused.retain(|(controller, _)| !controller.is_cancelled());
        self.refused.push((controller.clone(), error.clone()));
        if self.refused.len() == 1 {
            self.emit(&RawEvent::Failed(error), Sides::BOTH, effects);
        }
    }

    /// Why a controller that is still there is not asked.
    fn refusal(&self) -> Option<&Error> {
        self.refused.iter().find(|(controller, _)| !controller.is_cancelled()).map(|(_, error)| error)
    }

    /// Notes that the directive has been offered to the controllers.
    pub(super) fn offered(&mut self, effects: &mut Effects) {
        self.offers -= 1;
        self.finish_retired(effects);
    }

    /// What every change ends with: resolvers are stopped and started as there are values, and references are told if the
    /// directive has become idle or busy for them.
    fn settle(&mut self, options: &Options, effects: &mut Effects) {
        self.balance(options, effects);
        let idle = self.idle_now(options);
        if idle != self.idle {
            self.tell_idle(idle, effects);
        }
    }

    /// Ends the directive: its resolvers and values go, and its references read an end.
    pub(super) fn end(&mut self, effects: &mut Effects) {
        self.ended = true;
        self.kept = None;
        effects.resolvers.append(&mut self.resolvers);
        effects.values.append(&mut self.values);
        for subscriber in &mut self.subscribers {
            effects.wakers.extend(subscriber.waker.take());
        }
    }

    /// Whether it has been kept without references since this epoch.
    pub(super) fn is_kept_since(&self, epoch: u64) -> bool {
        self.kept.is_some() && self.epoch == epoch
    }
}
