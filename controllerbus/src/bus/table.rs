//! All standing directives of one id, in shards by key, and the controllers that resolve them.

use std::cell::Cell;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashTable;
use smallvec::SmallVec;
use tokio::runtime::{EnterGuard, Handle};
use tokio::sync::watch;

use super::entry::Route;
use super::kept::KeptDirectives;
use super::lane::{Lanes, PerLane};
use super::shards::{Shard, Shards};
use super::standing::{Effects, Standing};
use crate::directive::AnyDirective;
use crate::sync::MutexGuard;

thread_local! {
    /// The last task on this thread that was found to run in a bus's runtime, with the id of that runtime.
    static HOME: Cell<Option<(tokio::task::Id, tokio::runtime::Id)>> = const { Cell::new(None) };
}

/// A directive with its hash, so that neither a search nor a resize touches other directives.
pub(super) struct Hashed {
    hash: u64,
    standing: Arc<Standing>,
}

impl Hashed {
    fn is(&self, standing: &Standing) -> bool {
        std::ptr::eq(&raw const *self.standing, standing)
    }
}

/// The directives of a shard. Most of them go soon, and so the newest are beside the shard's lock: a thread that takes it after
/// another one gets them in the same cache line, instead of fetching each part of a hash table as well.
#[derive(Default)]
pub(super) struct Directives {
    newest: SmallVec<[Hashed; 4]>,
    older: HashTable<Hashed>,
}

impl Directives {
    fn is_empty(&self) -> bool {
        self.newest.is_empty() && self.older.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Standing>> {
        self.newest.iter().chain(&self.older).map(|found| &found.standing)
    }

    fn find_by(&self, hash: u64, is: impl Fn(&Standing) -> bool) -> Option<&Arc<Standing>> {
        let is = |found: &Hashed| found.hash == hash && is(&found.standing);
        let found = self.newest.iter().find(|found| is(found));
        found.or_else(|| self.older.find(hash, is)).map(|found| &found.standing)
    }

    /// The directive that is equivalent to this one, which has this hash.
    pub(super) fn find(&self, hash: u64, directive: &dyn AnyDirective) -> Option<&Arc<Standing>> {
        self.find_by(hash, |standing| standing.directive.same_key(directive))
    }

    /// What all references to a directive share, unless it has ended.
    fn shared(&self, standing: &Standing) -> Option<&Arc<Standing>> {
        self.find_by(standing.hash, |found| std::ptr::eq(found, standing))
    }

    pub(super) fn insert(&mut self, standing: &Arc<Standing>) {
        if self.newest.len() == self.newest.inline_size() {
            for found in self.newest.drain(..) {
                self.older.insert_unique(found.hash, found, |found| found.hash);
            }
        }
        self.newest.push(Hashed { hash: standing.hash, standing: Arc::clone(standing) });
    }

    pub(super) fn remove(&mut self, standing: &Standing) {
        if let Some(at) = self.newest.iter().position(|found| found.is(standing)) {
            self.newest.swap_remove(at);
        } else if let Ok(found) = self.older.find_entry(standing.hash, |found| found.is(standing)) {
            found.remove();
        }
    }

    fn drain(&mut self) -> impl Iterator<Item = Arc<Standing>> {
        self.newest.drain(..).chain(self.older.drain()).map(|found| found.standing)
    }
}

pub(super) struct TypeTable {
    pub(super) routes: ArcSwap<Vec<Arc<Route>>>,
    shards: Shards<Directives>,
    /// The runtime that the bus was created in.
    pub(super) runtime: Option<Handle>,
    /// Notified of changes of directives, if anybody listens.
    changed: watch::Sender<u64>,
    /// The directives of this bus that are kept without references.
    kept: Arc<KeptDirectives>,
}

/// A table, with a reference for each lane.
pub(super) struct TypeLanes {
    pub(super) id: String,
    pub(super) table: Arc<TypeTable>,
    lanes: Lanes<Arc<PerLane<TypeTable>>>,
}

impl TypeLanes {
    pub(super) fn new(id: String, table: Arc<TypeTable>) -> Self {
        Self { id, table, lanes: Lanes::new() }
    }

    /// The reference of this thread's lane.
    pub(super) fn get(&self) -> Arc<PerLane<TypeTable>> {
        Arc::clone(self.lanes.get(|_| PerLane::new(&self.table)))
    }
}

/// Why a directive may have to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    /// The reference with this number is dropped.
    Reference(u64),
    /// Its keep time, which began in this epoch, is over.
    KeepTimeOver(u64),
    /// It has no references, and has lost its last value.
    Empty,
    /// A resolver ends it.
    Closed,
    /// A resolver ends it if it has no references.
    Unreferred,
}

impl TypeTable {
    pub(super) fn new(
        runtime: Option<Handle>,
        changed: watch::Sender<u64>,
        kept: Arc<KeptDirectives>,
        routes: Vec<Arc<Route>>,
    ) -> Self {
        Self { routes: ArcSwap::from_pointee(routes), shards: Shards::new(), runtime, changed, kept }
    }

    /// Ends the table if it has no directives. Whoever is about to insert one looks for another table then.
    pub(super) fn end_if_empty(&self) -> bool {
        self.shards.end_if_empty(Directives::is_empty)
    }

    pub(super) fn shard(&self, hash: u64) -> MutexGuard<'_, Shard<Directives>> {
        self.shards.of(hash)
    }

    /// What all references to a directive share, unless it has ended.
    pub(super) fn find(&self, standing: &Standing) -> Option<Arc<Standing>> {
        self.shard(standing.hash).all.shared(standing).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Standing>> {
        let mut all = Vec::new();
        for shard in self.shards.each() {
            all.extend(shard.all.iter().cloned());
        }
        all
    }

    /// Removes every directive.
    pub(super) fn drain(&self) -> Vec<Arc<Standing>> {
        let mut all = Vec::new();
        for mut shard in self.shards.each() {
            all.extend(shard.all.drain());
        }
        all
    }

    pub(super) fn notify_changed(&self) {
        if self.changed.receiver_count() > 0 {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// Where the bus's tasks run: the runtime that it was created in, or else that of the caller.
    pub(super) fn runtime(&self) -> Option<Handle> {
        self.runtime.clone().or_else(|| Handle::try_current().ok())
    }

    /// Enters that runtime, unless the calling thread is in it already.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        let own = self.runtime.as_ref()?;
        // Asking for the current runtime counts a reference that all threads share. A task never changes its runtime.
        let task = tokio::task::try_id();
        if task.is_some() && HOME.get() == task.map(|task| (task, own.id())) {
            return None;
        }
        if Handle::try_current().is_ok_and(|current| current.id() == own.id()) {
            HOME.set(task.map(|task| (task, own.id())));
            return None;
        }
        Some(own.enter())
    }

    /// Ends a directive if nothing keeps it any more; whether it has ended by this.
    pub(super) fn release(self: &Arc<Self>, standing: &Standing, release: Release) -> bool {
        let mut effects = Effects::default();
        let mut keep = None;
        let mut ended = false;
        {
            let mut shard = self.shard(standing.hash);
            let mut state = standing.lock();
            let strong = match release {
                Release::Reference(subscriber) => state.unsubscribe(subscriber, &standing.options, &mut effects),
                _ => false,
            };
            if (state.references == 0 || release == Release::Closed) && !state.ended {
                let options = &standing.options;
                let ends = match release {
                    Release::KeepTimeOver(epoch) => epoch == state.epoch,
                    Release::Empty => options.drop_if_empty && state.visible_values() == 0,
                    Release::Closed | Release::Unreferred => true,
                    Release::Reference(_) => {
                        options.keep_for.is_zero() || (options.drop_if_empty && state.visible_values() == 0)
                    }
                };
                if ends {
                    state.end(&mut effects);
                    shard.all.remove(standing);
                    ended = true;
                } else if strong {
                    // Dropping a weak reference does not restart the keep time.
                    keep = Some(state.epoch);
                    state.kept = Some(self.kept.count());
                }
            }
        }
        effects.apply(standing);
        if ended {
            standing.log("directive removed");
        }
        self.notify_changed();
        if let Some((epoch, standing)) = keep.and_then(|epoch| Some((epoch, self.find(standing)?))) {
            self.keep(&standing, epoch);
        }
        ended
    }

    /// Ends a directive without references when its keep time is over, or when there are too many of these.
    fn keep(self: &Arc<Self>, standing: &Arc<Standing>, epoch: u64) {
        let Some(runtime) = self.runtime() else { return };
        let table = Arc::clone(self);
        let kept = Arc::clone(standing);
        let keep_for = standing.options.keep_for;
        let timer = runtime.spawn(async move {
            tokio::time::sleep(keep_for).await;
            table.release(&kept, Release::KeepTimeOver(epoch));
        });
        let timer = timer.abort_handle();
        let mut state = standing.lock();
        let is_kept = state.is_kept_since(epoch);
        match state.kept.as_mut().filter(|_| is_kept) {
            Some(keeping) => keeping.timer = Some(timer),
            None => timer.abort(),
        }
        drop(state);
        self.kept.note(standing, epoch);
        while let Some((oldest, epoch)) = self.kept.excess() {
            if let Some(oldest) = oldest.upgrade() {
                oldest.table.release(&oldest, Release::KeepTimeOver(epoch));
            }
        }
    }
}
