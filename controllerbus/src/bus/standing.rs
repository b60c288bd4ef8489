//! One standing directive: its references, resolvers, values, and the events that each reference has not read.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use smallvec::SmallVec;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::ControllerId;
use super::entry::ControllerEntry;
use super::introspect::{DirectiveSnapshot, ResolverSnapshot, ResolverState, ValueSnapshot};
use crate::Error;
use crate::directive::{AnyDirective, AnyValue, Options, RawEvent, ValueId};

/// A directive that at least one reference, or its keep time, keeps standing.
pub(super) struct Standing {
    pub(super) directive: Arc<dyn AnyDirective>,
    pub(super) hash: u64,
    pub(super) options: Options,
    /// Told of changes, if anybody listens.
    changed: watch::Sender<u64>,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) references: usize,
    /// Offers that are being made; the directive is not idle before they are.
    pub(super) offers: usize,
    /// Raised whenever a reference comes, so that a keep timer of before does not end it.
    pub(super) epoch: u64,
    pub(super) ended: bool,
    pub(super) values: SmallVec<[Value; 1]>,
    pub(super) resolvers: SmallVec<[Resolver; 1]>,
    subscribers: SmallVec<[Subscriber; 1]>,
    next: u64,
    idle: bool,
}

pub(super) struct Value {
    id: ValueId,
    pub(super) resolver: u64,
    value: AnyValue,
    staged: bool,
}

/// One controller's answer to this directive.
pub(super) struct Resolver {
    pub(super) entry: Arc<ControllerEntry>,
    idle: bool,
    error: Option<Error>,
    pub(super) task: Option<AbortHandle>,
    /// Set when its generation was replaced before its successor had anything: it goes when that has.
    pub(super) successor: Option<u64>,
}

struct Subscriber {
    id: u64,
    unread: VecDeque<RawEvent>,
    waker: Option<Waker>,
}

/// What is to be done once the lock is given back: user code (wakers, destructors) never runs under it.
#[derive(Default)]
#[must_use]
pub(super) struct Effects {
    wakers: SmallVec<[Waker; 2]>,
    values: SmallVec<[AnyValue; 2]>,
    resolvers: SmallVec<[Resolver; 1]>,
}

impl Effects {
    /// Wakes, aborts and drops what was collected; tells each resolver's controller that it is done with.
    pub(super) fn apply(self, standing: &Arc<Standing>) {
        for waker in self.wakers {
            waker.wake();
        }
        for resolver in self.resolvers {
            if let Some(task) = &resolver.task {
                task.abort();
            }
            resolver.entry.forget(standing);
        }
    }
}

impl Standing {
    pub(super) fn new(directive: Arc<dyn AnyDirective>, hash: u64, changed: watch::Sender<u64>) -> Arc<Self> {
        let options = directive.options();
        Arc::new(Self {
            directive,
            hash,
            options,
            changed,
            state: Mutex::new(State {
                references: 0,
                offers: 1,
                epoch: 0,
                ended: false,
                values: SmallVec::new(),
                resolvers: SmallVec::new(),
                subscribers: SmallVec::new(),
                next: 0,
                idle: false,
            }),
        })
    }

    /// The directive as tools see it.
    pub(super) fn snapshot(self: &Arc<Self>) -> DirectiveSnapshot {
        // User code (names, encoders) runs without the lock.
        let (mut snapshot, values) = {
            let state = self.lock();
            let visible = state.values.iter().filter(|value| !value.staged);
            let values: Vec<_> = visible.map(|found| (found.id, found.resolver, found.value.clone())).collect();
            let resolver = |resolver: &Resolver| ResolverSnapshot {
                controller: ControllerId(resolver.entry.id),
                state: match &resolver.error {
                    _ if resolver.entry.is_staged() || resolver.successor.is_some() => ResolverState::Held,
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
                weak_references: 0,
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
        snapshot.debug = catch_unwind(AssertUnwindSafe(|| self.directive.debug_values())).unwrap_or_default();
        let value = |(id, controller, value): (ValueId, u64, AnyValue)| ValueSnapshot {
            id,
            controller: ControllerId(controller),
            value: catch_unwind(AssertUnwindSafe(|| value.to_json()))
                .unwrap_or_else(|payload| Error::from_panic(payload).to_string().into()),
        };
        snapshot.values = values.into_iter().map(value).collect();
        snapshot
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and then, without the lock, does what that entails.
    pub(super) fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut State, &mut Effects) -> T) -> T {
        let mut effects = Effects::default();
        let result = {
            let mut state = self.lock();
            let result = change(&mut state, &mut effects);
            state.announce(&mut effects);
            result
        };
        effects.apply(self);
        self.touch();
        result
    }

    /// Tells those who watch the bus's directives that something changed.
    pub(super) fn touch(&self) {
        if self.changed.receiver_count() > 0 {
            self.changed.send_modify(|version| *version += 1);
        }
    }
}

impl State {
    /// A new reference's subscription: it is told of what stands.
    pub(super) fn subscribe(&mut self) -> u64 {
        self.references += 1;
        self.epoch += 1;
        let id = self.next;
        self.next += 1;
        let mut unread = VecDeque::new();
        for value in self.values.iter().filter(|value| !value.staged) {
            unread.push_back(RawEvent::Added(value.id, value.value.clone()));
        }
        for error in self.resolvers.iter().filter_map(|resolver| resolver.error.as_ref()) {
            unread.push_back(RawEvent::Failed(error.clone()));
        }
        if self.idle {
            unread.push_back(RawEvent::Idle);
        }
        self.subscribers.push(Subscriber { id, unread, waker: None });
        id
    }

    pub(super) fn unsubscribe(&mut self, id: u64) {
        self.references -= 1;
        self.subscribers.retain(|subscriber| subscriber.id != id);
    }

    /// The next event of a subscriber; `Err` keeps the waker for when there is one.
    pub(super) fn next_event(&mut self, id: u64, waker: &Waker) -> Result<Option<RawEvent>, Option<Waker>> {
        let ended = self.ended;
        let Some(subscriber) = self.subscribers.iter_mut().find(|subscriber| subscriber.id == id) else {
            return Ok(None);
        };
        match subscriber.unread.pop_front() {
            Some(event) => Ok(Some(event)),
            None if ended => Ok(None),
            None => Err(subscriber.waker.replace(waker.clone())),
        }
    }

    fn tell(&mut self, event: &RawEvent, effects: &mut Effects) {
        for subscriber in &mut self.subscribers {
            subscriber.push(event.clone());
            effects.wakers.extend(subscriber.waker.take());
        }
    }

    pub(super) fn resolver(&mut self, entry: u64) -> Option<&mut Resolver> {
        self.resolvers.iter_mut().find(|resolver| resolver.entry.id == entry)
    }

    /// Adds a resolver that is at work; false if the controller was offered this directive before.
    pub(super) fn begin(&mut self, entry: &Arc<ControllerEntry>) -> bool {
        if self.ended || self.resolver(entry.id).is_some() {
            return false;
        }
        let entry = Arc::clone(entry);
        self.resolvers.push(Resolver { entry, idle: false, error: None, task: None, successor: None });
        true
    }

    pub(super) fn add_value(
        &mut self,
        entry: &ControllerEntry,
        value: AnyValue,
        options: &Options,
        effects: &mut Effects,
    ) -> Option<ValueId> {
        if self.ended || self.resolver(entry.id).is_none() {
            return None;
        }
        // Read under the lock: the commit of a swap flips the phase first and then takes this lock.
        let staged = entry.is_staged();
        let visible = self.values.iter().filter(|value| value.staged == staged).count();
        if options.hard_cap && options.max_values.is_some_and(|max| visible >= max) {
            return None;
        }
        let id = ValueId(self.next);
        self.next += 1;
        if !staged {
            self.tell(&RawEvent::Added(id, value.clone()), effects);
        }
        self.values.push(Value { id, resolver: entry.id, value, staged });
        self.finish_retired(effects);
        Some(id)
    }

    pub(super) fn remove_value(&mut self, entry: u64, id: ValueId, effects: &mut Effects) -> bool {
        let Some(at) = self.values.iter().position(|value| value.id == id && value.resolver == entry) else {
            return false;
        };
        let value = self.values.remove(at);
        if !value.staged {
            self.tell(&RawEvent::Removed(id), effects);
        }
        effects.values.push(value.value);
        true
    }

    fn remove_values_of(&mut self, entry: u64, effects: &mut Effects) {
        while let Some(value) = self.values.iter().find(|value| value.resolver == entry) {
            let id = value.id;
            self.remove_value(entry, id, effects);
        }
    }

    pub(super) fn set_idle(&mut self, entry: u64, idle: bool, effects: &mut Effects) {
        if let Some(resolver) = self.resolver(entry) {
            resolver.idle = idle;
        }
        self.finish_retired(effects);
    }

    /// A resolver failed: its values go, its error is told, and until it is tried again it counts as idle.
    pub(super) fn fail(&mut self, entry: &ControllerEntry, error: Error, effects: &mut Effects) {
        self.remove_values_of(entry.id, effects);
        let Some(resolver) = self.resolver(entry.id) else { return };
        resolver.idle = true;
        resolver.error = Some(error.clone());
        if !entry.is_staged() {
            self.tell(&RawEvent::Failed(error), effects);
        }
        self.finish_retired(effects);
    }

    pub(super) fn retry(&mut self, entry: u64) -> bool {
        match self.resolver(entry) {
            Some(resolver) if resolver.successor.is_none() => {
                resolver.idle = false;
                resolver.error = None;
                true
            }
            _ => false,
        }
    }

    /// Takes a resolver away with its values.
    pub(super) fn remove_resolver(&mut self, entry: u64, effects: &mut Effects) {
        let Some(at) = self.resolvers.iter().position(|resolver| resolver.entry.id == entry) else { return };
        effects.resolvers.push(self.resolvers.remove(at));
        self.remove_values_of(entry, effects);
        self.finish_retired(effects);
    }

    /// Whether the controller's answer is ready to replace another's: a value, or nothing more to come.
    pub(super) fn is_ready(&self, entry: u64) -> bool {
        let resolver = self.resolvers.iter().find(|resolver| resolver.entry.id == entry);
        resolver.is_none_or(|resolver| resolver.idle) || self.values.iter().any(|value| value.resolver == entry)
    }

    pub(super) fn has_values(&self, entry: u64) -> bool {
        self.values.iter().any(|value| value.resolver == entry)
    }

    pub(super) fn error_of(&self, entry: u64) -> Option<&Error> {
        self.resolvers.iter().find(|resolver| resolver.entry.id == entry).and_then(|resolver| resolver.error.as_ref())
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
            self.tell(event, effects);
        }
        if let Some(resolver) = self.resolver(old) {
            resolver.successor = Some(new);
        }
        self.finish_retired(effects);
    }

    fn finish_retired(&mut self, effects: &mut Effects) {
        loop {
            let done = self.resolvers.iter().find_map(|resolver| {
                let successor = resolver.successor?;
                self.is_ready(successor).then_some(resolver.entry.id)
            });
            let Some(old) = done else { return };
            let Some(at) = self.resolvers.iter().position(|resolver| resolver.entry.id == old) else { return };
            effects.resolvers.push(self.resolvers.remove(at));
            self.remove_values_of(old, effects);
        }
    }

    /// Tells references when the directive became idle or busy.
    fn announce(&mut self, effects: &mut Effects) {
        let idle =
            self.offers == 0 && self.resolvers.iter().all(|resolver| resolver.idle || resolver.entry.is_staged());
        if idle != self.idle {
            self.idle = idle;
            self.tell(if idle { &RawEvent::Idle } else { &RawEvent::Busy }, effects);
        }
    }

    /// Ends the directive: its resolvers and values are handed out, its references read an end.
    pub(super) fn end(&mut self, effects: &mut Effects) {
        self.ended = true;
        effects.resolvers.extend(self.resolvers.drain(..));
        effects.values.extend(self.values.drain(..).map(|value| value.value));
        for subscriber in &mut self.subscribers {
            effects.wakers.extend(subscriber.waker.take());
        }
    }

    pub(super) fn visible_values(&self) -> usize {
        self.values.iter().filter(|value| !value.staged).count()
    }
}

/// How many unread failures a reference keeps.
const UNREAD_FAILURES: usize = 8;

impl Subscriber {
    /// Queues an event; what it takes back is dropped instead of queued, so that the queue stays bounded by what stands.
    fn push(&mut self, event: RawEvent) {
        match &event {
            RawEvent::Removed(id) => {
                let unread =
                    self.unread.iter().position(|queued| matches!(queued, RawEvent::Added(other, _) if other == id));
                if let Some(at) = unread {
                    self.unread.remove(at);
                    return;
                }
            }
            RawEvent::Busy if matches!(self.unread.back(), Some(RawEvent::Idle)) => {
                self.unread.pop_back();
                return;
            }
            RawEvent::Idle if matches!(self.unread.back(), Some(RawEvent::Busy)) => {
                self.unread.pop_back();
                return;
            }
            RawEvent::Failed(_) => {
                let failures = self.unread.iter().filter(|queued| matches!(queued, RawEvent::Failed(_))).count();
                if failures >= UNREAD_FAILURES {
                    let oldest = self.unread.iter().position(|queued| matches!(queued, RawEvent::Failed(_)));
                    oldest.map(|at| self.unread.remove(at));
                }
            }
            _ => {}
        }
        self.unread.push_back(event);
    }
}
