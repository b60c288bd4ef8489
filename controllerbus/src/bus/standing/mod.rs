//! One standing directive: its references, resolvers, values, and the events that each reference has not read.

mod effects;
mod resolvers;
mod snapshot;
mod subscribers;
mod takeover;
mod unread;
mod values;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

pub(super) use effects::Effects;
use resolvers::Resolver;
pub(super) use resolvers::ResolverTask;
use subscribers::Subscriber;
use values::StandingValue;

use super::kept::KeepGuard;
use super::lane::PerLane;
use super::table::TypeTable;
use crate::directive::{AnyDirective, Options, RawEvent};

/// A directive that at least one reference, or its keep time, keeps standing.
pub(super) struct Standing {
    pub(super) directive: Arc<dyn AnyDirective>,
    pub(super) hash: u64,
    pub(super) options: Options,
    /// Through an `Arc` of the lane in which it was added.
    pub(super) table: Arc<PerLane<TypeTable>>,
    state: Mutex<StandingState>,
}

pub(super) struct StandingState {
    /// Strong ones.
    pub(super) references: usize,
    /// Offers that are being made; the directive is not idle before they are.
    offers: usize,
    /// Raised whenever a strong reference comes, so that a keep timer of before does not end it.
    pub(super) epoch: u64,
    pub(super) ended: bool,
    /// While nobody refers to it and its time runs.
    pub(super) kept: Option<KeepGuard>,
    /// In the order of their ids.
    values: SmallVec<[StandingValue; 1]>,
    resolvers: SmallVec<[Resolver; 1]>,
    subscribers: SmallVec<[Subscriber; 1]>,
    next: u64,
    idle: bool,
    /// Whether a resolver waits for its successor.
    retiring: bool,
}

impl Standing {
    pub(super) fn new(
        directive: Arc<dyn AnyDirective>,
        hash: u64,
        options: Options,
        table: Arc<PerLane<TypeTable>>,
    ) -> Arc<Self> {
        let state = StandingState {
            references: 0,
            offers: 1,
            epoch: 0,
            ended: false,
            kept: None,
            values: SmallVec::new(),
            resolvers: SmallVec::new(),
            subscribers: SmallVec::new(),
            next: 0,
            idle: false,
            retiring: false,
        };
        Arc::new(Self { directive, hash, options, table, state: Mutex::new(state) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, StandingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and then, without the lock, does what that entails.
    pub(super) fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut StandingState, &mut Effects) -> T) -> T {
        let mut effects = Effects::default();
        let result = {
            let mut state = self.lock();
            let result = change(&mut state, &mut effects);
            state.balance(&self.options, &mut effects);
            state.update_idle(&self.options, &mut effects);
            result
        };
        effects.apply(self);
        self.notify_changed();
        result
    }

    /// Tells those who watch the bus's directives that something changed.
    pub(super) fn notify_changed(&self) {
        self.table.notify_changed();
    }
}

impl StandingState {
    /// One who made offers has made them.
    pub(super) fn offered(&mut self, effects: &mut Effects) {
        self.offers -= 1;
        self.finish_retired(effects);
    }

    /// Tells references when the directive became idle or busy.
    fn update_idle(&mut self, options: &Options, effects: &mut Effects) {
        let has_enough = options.max_values.is_some_and(|max| self.visible_values() >= max);
        let is_idle = |resolver: &Resolver| resolver.idle || has_enough || resolver.lane_ref.is_staged();
        let idle = self.offers == 0 && self.resolvers.iter().all(is_idle);
        if idle != self.idle {
            self.idle = idle;
            self.emit(if idle { &RawEvent::Idle } else { &RawEvent::Busy }, effects);
        }
    }

    /// Ends the directive: its resolvers and values are handed out, its references read an end.
    pub(super) fn end(&mut self, effects: &mut Effects) {
        self.ended = true;
        self.kept = None;
        effects.resolvers.append(&mut self.resolvers);
        effects.values.append(&mut self.values);
        for subscriber in &mut self.subscribers {
            effects.wakers.extend(subscriber.waker.take());
        }
    }

    /// Whether it is kept without references since an epoch.
    pub(super) fn is_kept_since(&self, epoch: u64) -> bool {
        self.kept.is_some() && self.epoch == epoch
    }
}
