//! One standing directive: its references, resolvers, values, and the events that each reference has not read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Instant;

use smallvec::SmallVec;
use tokio::task::AbortHandle;

use super::ControllerId;
use super::entry::LaneRef;
use super::handover::Gate;
use super::introspect::{DirectiveSnapshot, ResolverSnapshot, ResolverState, ValueSnapshot};
use super::kept::KeepGuard;
use super::lane::PerLane;
use super::resolver::restart;
use super::table::{Release, TypeTable};
use super::unread::Unread;
use crate::Error;
use crate::directive::{AnyDirective, AnyValue, Callback, Options, RawEvent, ValueId};

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
    pub(super) offers: usize,
    /// Raised whenever a strong reference comes, so that a keep timer of before does not end it.
    pub(super) epoch: u64,
    pub(super) ended: bool,
    /// While nobody refers to it and its time runs.
    pub(super) kept: Option<KeepGuard>,
    /// In the order of their ids.
    pub(super) values: SmallVec<[StandingValue; 1]>,
    pub(super) resolvers: SmallVec<[Resolver; 1]>,
    subscribers: SmallVec<[Subscriber; 1]>,
    next: u64,
    idle: bool,
    /// Whether a resolver waits for its successor.
    retiring: bool,
}

pub(super) struct StandingValue {
    id: ValueId,
    pub(super) resolver: u64,
    value: AnyValue,
    /// Told when it is gone.
    removed: Option<Callback>,
    staged: bool,
}

/// One controller's answer to this directive.
pub(super) struct Resolver {
    pub(super) lane_ref: Arc<LaneRef>,
    /// Where its controller remembers the directive.
    slot: usize,
    /// Which run of its function it is; handles of an earlier one, which failed, say nothing any more.
    run: u32,
    idle: bool,
    /// Its function has returned.
    done: bool,
    /// There are values enough without it: it does not run, and begins again when there is room.
    parked: bool,
    error: Option<Error>,
    /// Its controller has ended, and its values stand on: whatever is left of it takes none back.
    suspended: bool,
    task: Option<Arc<ResolverTask>>,
    /// Since when it has been at work without an answer, where it did not answer at once.
    works_since: Option<Instant>,
    /// Told when its values are gone: it failed, or it is taken away.
    pub(super) gone: Vec<Callback>,
    /// Set when its generation was replaced before its successor had anything: it goes when that has.
    pub(super) successor: Option<u64>,
}

impl Resolver {
    /// Makes it one that is about to run again, and says which run that is.
    fn run_again(&mut self, effects: &mut Effects) -> u32 {
        self.stop(effects);
        self.parked = false;
        self.done = false;
        self.idle = false;
        self.error = None;
        self.run
    }

    /// Counts how long it took to answer, where it did not do so at once.
    fn answered(&mut self) {
        if let Some(since) = self.works_since.take() {
            self.lane_ref.counts.answered(since.elapsed());
        }
    }

    /// Ends its run; what handles of it say from now on is not heard.
    fn stop(&mut self, effects: &mut Effects) {
        self.run += 1;
        self.works_since = None;
        effects.callbacks.append(&mut self.gone);
        effects.tasks.extend(self.task.take());
    }
}

/// The task that a resolver goes on in. It is noted before there is one, so that nobody has to look for it afterwards.
#[derive(Default)]
pub(super) struct ResolverTask {
    task: OnceLock<AbortHandle>,
    ended: AtomicBool,
}

impl ResolverTask {
    /// Notes the task, which ends at once if the run is over already.
    pub(super) fn began(&self, task: AbortHandle) {
        let _ = self.task.set(task);
        if self.ended.load(Ordering::SeqCst) {
            self.end();
        }
    }

    fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

struct Subscriber {
    id: u64,
    strong: bool,
    unread: Unread,
    waker: Option<Waker>,
}

/// What is to be done once the lock is given back: user code (wakers, destructors) never runs under it.
#[derive(Default)]
#[must_use]
pub(super) struct Effects {
    wakers: SmallVec<[Waker; 2]>,
    values: SmallVec<[StandingValue; 1]>,
    resolvers: SmallVec<[Resolver; 1]>,
    subscribers: SmallVec<[Subscriber; 1]>,
    callbacks: Vec<Callback>,
    /// Callbacks that are dropped without being called.
    refused: Option<Callback>,
    /// Resolvers that have room for their values again.
    again: Vec<(Arc<LaneRef>, u32)>,
    /// Runs that are over.
    tasks: Vec<Arc<ResolverTask>>,
    /// The last value of a directive that nobody refers to is gone.
    empty: bool,
}

impl Effects {
    /// Wakes, aborts, calls and drops what was collected; tells each resolver's controller that it is done with. What
    /// panics there costs nothing else.
    pub(super) fn apply(&mut self, standing: &Arc<Standing>) {
        // Taken from their ends: so the first comes first.
        if self.values.len() > 1 {
            self.values.reverse();
        }
        if self.resolvers.len() > 1 {
            self.resolvers.reverse();
        }
        self.callbacks.reverse();
        self.again.reverse();
        while let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.apply_rest(standing))) {
            let error = Error::from_panic(payload);
            tracing::error!(%error, "a removal callback, or a destructor, panicked");
        }
    }

    /// Does what is left to do, one after the other.
    fn apply_rest(&mut self, standing: &Arc<Standing>) {
        while let Some(waker) = self.wakers.pop() {
            waker.wake();
        }
        while let Some(value) = self.values.last_mut() {
            if let Some(removed) = value.removed.take() {
                removed();
            }
            self.values.truncate(self.values.len() - 1);
        }
        while let Some(resolver) = self.resolvers.last_mut() {
            if let Some(task) = resolver.task.take() {
                task.end();
            }
            resolver.lane_ref.forget(resolver.slot);
            self.callbacks.extend(resolver.gone.drain(..).rev());
            self.resolvers.truncate(self.resolvers.len() - 1);
        }
        while let Some(task) = self.tasks.pop() {
            task.end();
        }
        while let Some(callback) = self.callbacks.pop() {
            callback();
        }
        drop(self.refused.take());
        while let Some(subscriber) = self.subscribers.last_mut() {
            // One by one: a destructor that panics while another one's panic unwinds ends the process.
            subscriber.unread.clear();
            self.subscribers.truncate(self.subscribers.len() - 1);
        }
        while let Some((lane_ref, run)) = self.again.pop() {
            restart(standing, &lane_ref, run);
        }
        if std::mem::take(&mut self.empty) {
            standing.table.release(standing, Release::Empty);
        }
    }
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

    /// The directive as tools see it.
    pub(super) fn snapshot(self: &Arc<Self>) -> DirectiveSnapshot {
        // User code (names, encoders) runs without the lock.
        let (mut snapshot, values) = {
            let state = self.lock();
            let visible = state.values.iter().filter(|value| !value.staged);
            let values: Vec<_> = visible.map(|found| (found.id, found.resolver, found.value.clone())).collect();
            let resolver = |resolver: &Resolver| ResolverSnapshot {
                controller: ControllerId(resolver.lane_ref.id),
                state: match &resolver.error {
                    _ if resolver.lane_ref.is_staged() || resolver.successor.is_some() => ResolverState::Held,
                    Some(error) => ResolverState::Failed { error: error.clone() },
                    None if resolver.idle => ResolverState::Idle,
                    None => ResolverState::Working,
                },
            };
            let snapshot = DirectiveSnapshot {
                id: String::new(),
                name: String::new(),
                debug: Vec::new(),
                options: self.options.clone(),
                references: state.references,
                weak_references: state.subscribers.len() - state.references,
                idle: state.idle,
                values: Vec::new(),
                resolvers: state.resolvers.iter().map(resolver).collect(),
            };
            (snapshot, values)
        };
        let shown = |text: &dyn Fn() -> String| {
            catch_unwind(AssertUnwindSafe(text)).unwrap_or_else(|payload| Error::from_panic(payload).to_string())
        };
        snapshot.id = self.directive.id().to_owned();
        snapshot.name = shown(&|| self.directive.name());
        let debug = catch_unwind(AssertUnwindSafe(|| self.directive.debug_values()));
        snapshot.debug = debug.map_err(Error::from_panic).unwrap_or_default();
        let value = |(id, controller, value): (ValueId, u64, AnyValue)| ValueSnapshot {
            id,
            controller: ControllerId(controller),
            value: catch_unwind(AssertUnwindSafe(move || value.to_json()))
                .unwrap_or_else(|payload| Error::from_panic(payload).to_string().into()),
        };
        snapshot.values = values.into_iter().map(value).collect();
        snapshot
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
    /// A new reference's subscription: it is told of what stands.
    pub(super) fn subscribe(&mut self, strong: bool) -> u64 {
        if strong {
            self.references += 1;
            self.epoch += 1;
            drop(self.kept.take());
        }
        let id = self.next;
        self.next += 1;
        let mut unread = Unread::default();
        for value in self.values.iter().filter(|value| !value.staged) {
            unread.push(RawEvent::Added(value.id, value.value.clone()));
        }
        for resolver in self.resolvers.iter().filter(|resolver| !resolver.lane_ref.is_staged()) {
            if let Some(error) = &resolver.error {
                unread.push(RawEvent::Failed(error.clone()));
            }
        }
        if self.idle {
            unread.push(RawEvent::Idle);
        }
        self.subscribers.push(Subscriber { id, strong, unread, waker: None });
        id
    }

    /// Ends a subscription; returns whether it was a strong one.
    pub(super) fn unsubscribe(&mut self, id: u64, effects: &mut Effects) -> bool {
        let Some(at) = self.subscribers.iter().position(|subscriber| subscriber.id == id) else { return false };
        let subscriber = self.subscribers.swap_remove(at);
        let strong = subscriber.strong;
        self.references -= usize::from(strong);
        effects.subscribers.push(subscriber);
        strong
    }

    /// The next event of a subscriber; `Err` keeps the waker for when there is one.
    pub(super) fn next_event(&mut self, id: u64, waker: &Waker) -> Result<Option<RawEvent>, Option<Waker>> {
        let ended = self.ended;
        let Some(subscriber) = self.subscribers.iter_mut().find(|subscriber| subscriber.id == id) else {
            return Ok(None);
        };
        match subscriber.unread.pop() {
            Some(event) => Ok(Some(event)),
            None if ended => Ok(None),
            None => Err(subscriber.waker.replace(waker.clone())),
        }
    }

    fn emit(&mut self, event: &RawEvent, effects: &mut Effects) {
        for subscriber in &mut self.subscribers {
            subscriber.unread.push(event.clone());
            effects.wakers.extend(subscriber.waker.take());
        }
    }

    pub(super) fn resolver(&mut self, controller: u64) -> Option<&mut Resolver> {
        self.resolvers.iter_mut().find(|resolver| resolver.lane_ref.id == controller)
    }

    pub(super) fn resolver_of(&self, controller: u64) -> Option<&Resolver> {
        self.resolvers.iter().find(|resolver| resolver.lane_ref.id == controller)
    }

    /// The controller that has a resolver here, too, and is to replace this one.
    fn successor_of(&self, controller: u64) -> Option<u64> {
        let mut lane_refs = self.resolvers.iter().map(|resolver| &resolver.lane_ref);
        lane_refs.find(|lane_ref| lane_ref.handover.replaces() == Some(controller)).map(|lane_ref| lane_ref.id)
    }

    /// A controller's resolver, if it is still in this run.
    pub(super) fn resolver_in(&mut self, controller: u64, run: u32) -> Option<&mut Resolver> {
        self.resolver(controller).filter(|resolver| resolver.run == run)
    }

    /// Adds a resolver that is at work, and says whether it may start; [`Gate::Shut`] if there is one of this
    /// controller, or none may come any more.
    pub(super) fn begin(
        &mut self,
        standing: &Arc<Standing>,
        lane_ref: &Arc<LaneRef>,
        slot: usize,
        effects: &mut Effects,
    ) -> Gate {
        if self.ended || lane_ref.is_removed() || self.resolver(lane_ref.id).is_some() {
            return Gate::Shut;
        }
        let parked = self.is_full(lane_ref, &standing.options);
        let gate = if parked { Gate::Holding } else { self.pass(standing, lane_ref, 0, effects) };
        if gate == Gate::Shut {
            return gate;
        }
        self.resolvers.push(Resolver {
            lane_ref: Arc::clone(lane_ref),
            slot,
            run: 0,
            idle: parked,
            done: false,
            parked,
            error: None,
            suspended: false,
            task: None,
            works_since: None,
            gone: Vec::new(),
            successor: None,
        });
        gate
    }

    /// Notes the task in which a run of a resolver goes on; false if it is over already.
    pub(super) fn set_task(&mut self, controller: u64, run: u32, task: &Arc<ResolverTask>) -> bool {
        let has_values = self.has_values(controller);
        let Some(resolver) = self.resolver_in(controller, run) else { return false };
        resolver.task = Some(Arc::clone(task));
        resolver.works_since = (!resolver.idle && !has_values).then(Instant::now);
        true
    }

    /// Whether a run of a resolver may start. Where it is held because its controller's state is being handed over,
    /// the controller that is given the state has to do it after that, too; one that has the state already does it once.
    pub(super) fn pass(
        &mut self,
        standing: &Arc<Standing>,
        lane_ref: &Arc<LaneRef>,
        run: u32,
        effects: &mut Effects,
    ) -> Gate {
        let gate = lane_ref.handover.pass(standing, lane_ref, run);
        if gate == Gate::Holding
            && let Some(successor) = self.successor_of(lane_ref.id)
        {
            self.do_again(standing, successor, effects);
        }
        gate
    }

    /// Has a controller whose runs are held now do again what it has done already.
    pub(super) fn do_again(&mut self, standing: &Arc<Standing>, controller: u64, effects: &mut Effects) {
        let Some(resolver) = self.resolver(controller) else { return };
        if resolver.lane_ref.handover.is_held(standing) || !resolver.lane_ref.handover.is_holding() {
            return;
        }
        let run = resolver.run_again(effects);
        resolver.lane_ref.handover.pass(standing, &resolver.lane_ref, run);
        self.remove_values_of(controller, effects);
    }

    /// Ends the run of a resolver whose controller goes before the next one is made. Its values stand on until that one has
    /// some; if it has not answered, it is at work until then.
    pub(super) fn suspend(&mut self, standing: &Standing, controller: u64, effects: &mut Effects) {
        let Some(resolver) = self.resolver(controller) else { return };
        if resolver.parked || resolver.lane_ref.handover.is_held(standing) {
            return;
        }
        resolver.stop(effects);
        resolver.suspended = true;
        // What was to be told of their end belongs to the controller.
        let values = self.values.iter_mut().filter(|value| value.resolver == controller);
        effects.callbacks.extend(values.filter_map(|value| value.removed.take()));
    }

    /// Whether a controller's resolver should stop: it is gone, or there are values enough.
    pub(super) fn is_cancelled(&self, controller: u64, run: u32, options: &Options) -> bool {
        let resolver = self.resolver_of(controller).filter(|resolver| resolver.run == run && !self.ended);
        let Some(resolver) = resolver else { return true };
        self.is_full(&resolver.lane_ref, options)
    }

    /// Whether there are values enough, for a controller.
    fn is_full(&self, lane_ref: &LaneRef, options: &Options) -> bool {
        options.max_values.is_some_and(|max| self.count_beside(lane_ref) >= max)
    }

    /// The values beside which those of a controller count towards the cap. Those of the controller that it replaces
    /// do not: they go when it has one, so that there is always one.
    fn count_beside(&self, lane_ref: &LaneRef) -> usize {
        let staged = lane_ref.is_staged();
        let replaced = lane_ref.handover.replaces();
        self.values.iter().filter(|value| value.staged == staged && Some(value.resolver) != replaced).count()
    }

    fn count(&self, staged: bool) -> usize {
        self.values.iter().filter(|value| value.staged == staged).count()
    }

    pub(super) fn add_value(
        &mut self,
        (lane_ref, run): (&LaneRef, u32),
        value: AnyValue,
        removed: Option<Callback>,
        options: &Options,
        effects: &mut Effects,
    ) -> Option<ValueId> {
        // Read under the lock: the commit of a swap flips the phase first and then takes this lock.
        let staged = lane_ref.is_staged();
        let full = options.hard_cap && self.is_full(lane_ref, options);
        let ended = self.ended;
        let resolver = self.resolver_in(lane_ref.id, run).filter(|_| !ended && !full);
        let wanted = resolver.is_some();
        resolver.into_iter().for_each(Resolver::answered);
        if !wanted {
            effects.values.push(StandingValue { id: ValueId(0), resolver: lane_ref.id, value, removed: None, staged });
            effects.refused = removed;
            return None;
        }
        let id = ValueId(self.next);
        self.next += 1;
        if !staged {
            self.emit(&RawEvent::Added(id, value.clone()), effects);
        }
        self.values.push(StandingValue { id, resolver: lane_ref.id, value, removed, staged });
        self.finish_retired(effects);
        Some(id)
    }

    /// Puts a value in the place of another one of the same run, for which there is always room: it is added, then the
    /// other one removed. Where that is gone already, it is just added.
    pub(super) fn replace_value(
        &mut self,
        (lane_ref, run): (&LaneRef, u32),
        old: ValueId,
        value: AnyValue,
        options: &Options,
        effects: &mut Effects,
    ) -> Option<ValueId> {
        let own = self.values.iter().any(|known| known.id == old && known.resolver == lane_ref.id);
        let has_room = own && self.resolver_in(lane_ref.id, run).is_some();
        let free =
            Options { hard_cap: options.hard_cap && !has_room, max_values: options.max_values, ..Options::default() };
        let id = self.add_value((lane_ref, run), value, None, &free, effects);
        if own {
            self.remove_value(lane_ref.id, old, effects);
        }
        id
    }

    pub(super) fn remove_value(&mut self, controller: u64, id: ValueId, effects: &mut Effects) -> bool {
        let Ok(at) = self.values.binary_search_by_key(&id, |value| value.id) else { return false };
        let is_suspended = self.resolver_of(controller).is_some_and(|resolver| resolver.suspended);
        if self.values[at].resolver != controller || is_suspended {
            return false;
        }
        let value = self.values.remove(at);
        if !value.staged {
            self.emit(&RawEvent::Removed(id), effects);
            self.notice_empty(effects);
        }
        effects.values.push(value);
        true
    }

    fn remove_values_of(&mut self, controller: u64, effects: &mut Effects) {
        if !self.has_values(controller) {
            return;
        }
        let (gone, stay) = self.values.drain(..).partition::<Vec<_>, _>(|value| value.resolver == controller);
        self.values.extend(stay);
        for value in &gone {
            if !value.staged {
                self.emit(&RawEvent::Removed(value.id), effects);
            }
        }
        effects.values.extend(gone);
        self.notice_empty(effects);
    }

    fn notice_empty(&self, effects: &mut Effects) {
        effects.empty |= self.references == 0 && !self.ended && self.visible_values() == 0;
    }

    pub(super) fn set_idle(&mut self, controller: u64, run: u32, idle: bool, effects: &mut Effects) {
        if let Some(resolver) = self.resolver_in(controller, run) {
            // A handle that outlives its resolver's function says nothing any more.
            if resolver.done && !idle {
                return;
            }
            resolver.idle = idle;
            if idle {
                resolver.answered();
            }
        }
        self.finish_retired(effects);
    }

    /// A resolver's function has returned: its values stay.
    pub(super) fn finish(&mut self, controller: u64, run: u32, effects: &mut Effects) {
        if let Some(resolver) = self.resolver_in(controller, run) {
            resolver.answered();
            resolver.idle = true;
            resolver.done = true;
        }
        self.finish_retired(effects);
    }

    /// A resolver failed: its values go, its error is told, and until it is tried again it counts as idle.
    pub(super) fn fail(&mut self, lane_ref: &LaneRef, run: u32, error: Error, effects: &mut Effects) {
        let Some(resolver) = self.resolver_in(lane_ref.id, run) else { return };
        resolver.idle = true;
        resolver.run += 1;
        resolver.error = Some(error.clone());
        resolver.works_since = None;
        effects.callbacks.append(&mut resolver.gone);
        lane_ref.counts.failed(&error);
        lane_ref.resolver_failed.store(true, Ordering::Release);
        self.remove_values_of(lane_ref.id, effects);
        if !lane_ref.is_staged() {
            self.emit(&RawEvent::Failed(error), effects);
        }
        self.finish_retired(effects);
    }

    /// Begins another run after a failure, and says which; `None` if there is nothing to run for.
    pub(super) fn retry(
        &mut self,
        standing: &Arc<Standing>,
        lane_ref: &Arc<LaneRef>,
        failed: u32,
        effects: &mut Effects,
    ) -> Option<u32> {
        let run = failed + 1;
        let resolver = self.resolver_in(lane_ref.id, run).filter(|resolver| resolver.successor.is_none())?;
        resolver.idle = false;
        resolver.error = None;
        resolver.works_since = Some(Instant::now());
        (self.pass(standing, lane_ref, run, effects) == Gate::Open).then_some(run)
    }

    /// Takes a resolver away with its values.
    pub(super) fn remove_resolver(&mut self, controller: u64, effects: &mut Effects) {
        let Some(at) = self.resolvers.iter().position(|resolver| resolver.lane_ref.id == controller) else { return };
        effects.resolvers.push(self.resolvers.remove(at));
        self.remove_values_of(controller, effects);
        self.finish_retired(effects);
    }

    /// Stops resolvers that have no value while there are values enough without theirs, and starts them again once there
    /// is room.
    fn balance(&mut self, options: &Options, effects: &mut Effects) {
        if options.max_values.is_none() || self.ended {
            return;
        }
        for at in 0..self.resolvers.len() {
            let resolver = &self.resolvers[at];
            if resolver.successor.is_some() {
                continue;
            }
            let full = self.is_full(&resolver.lane_ref, options);
            let has_values = full && self.has_values(resolver.lane_ref.id);
            let resolver = &mut self.resolvers[at];
            if full && !resolver.parked && !resolver.done && !has_values {
                resolver.stop(effects);
                resolver.parked = true;
                resolver.idle = true;
                resolver.error = None;
            } else if !full && resolver.parked {
                let run = resolver.run_again(effects);
                effects.again.push((Arc::clone(&resolver.lane_ref), run));
            }
        }
    }

    /// Whether the controller's answer is ready to replace another's: a value, or nothing more to come.
    pub(super) fn is_ready(&self, entry: u64) -> bool {
        // While offers are being made, the one to this controller may be among them.
        self.resolver_of(entry).map_or(self.offers == 0, |resolver| resolver.idle) || self.has_values(entry)
    }

    /// Whether the controller has a resolver that has neither answered nor nothing to do.
    pub(super) fn is_at_work(&self, entry: u64) -> bool {
        self.resolver_of(entry).is_some_and(|resolver| !resolver.idle) && !self.has_values(entry)
    }

    pub(super) fn has_values(&self, entry: u64) -> bool {
        self.values.iter().any(|value| value.resolver == entry)
    }

    pub(super) fn error_of(&self, entry: u64) -> Option<&Error> {
        self.resolver_of(entry).and_then(|resolver| resolver.error.as_ref())
    }

    /// The one step of a swap on this directive: the new values become visible, then the old ones go,
    /// unless the new controller has nothing yet; then the old answer stays until it has.
    pub(super) fn replace(&mut self, old: u64, new: u64, effects: &mut Effects) {
        let mut shown: SmallVec<[RawEvent; 1]> = SmallVec::new();
        for value in self.values.iter_mut().filter(|value| value.resolver == new && value.staged) {
            value.staged = false;
            shown.push(RawEvent::Added(value.id, value.value.clone()));
        }
        for event in &shown {
            self.emit(event, effects);
        }
        if let Some(resolver) = self.resolver(old) {
            resolver.successor = Some(new);
            self.retiring = true;
        }
        self.finish_retired(effects);
    }

    /// One who made offers has made them.
    pub(super) fn offered(&mut self, effects: &mut Effects) {
        self.offers -= 1;
        self.finish_retired(effects);
    }

    fn finish_retired(&mut self, effects: &mut Effects) {
        while self.retiring {
            let done = self.resolvers.iter().find_map(|resolver| {
                let successor = resolver.successor?;
                self.is_ready(successor).then_some(resolver.lane_ref.id)
            });
            let Some(old) = done else { break };
            let Some(at) = self.resolvers.iter().position(|resolver| resolver.lane_ref.id == old) else { return };
            effects.resolvers.push(self.resolvers.remove(at));
            self.remove_values_of(old, effects);
        }
        self.retiring = self.resolvers.iter().any(|resolver| resolver.successor.is_some());
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

    pub(super) fn visible_values(&self) -> usize {
        self.count(false)
    }
}
