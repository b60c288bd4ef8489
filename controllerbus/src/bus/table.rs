//! All standing directives of one type, in shards by key, and the controllers that resolve them.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use hashbrown::HashTable;
use tokio::runtime::{EnterGuard, Handle};
use tokio::sync::watch;

use super::entry::Route;
use super::kept::KeptDirectives;
use super::lane::{CachePadded, Lanes, PerLane};
use super::standing::{Effects, Standing};
use crate::directive::AnyDirective;

const SHARDS: usize = 32;

thread_local! {
    /// The last task on this thread that was found to run in a bus's runtime, and which that is.
    static HOME: Cell<Option<(tokio::task::Id, tokio::runtime::Id)>> = const { Cell::new(None) };
}

/// The standing directives of some keys.
#[derive(Default)]
pub(super) struct Shard {
    all: HashTable<Hashed>,
    /// The table was taken out: look for the one that is there now.
    pub(super) ended: bool,
}

/// With its hash, so that looking for one and making room touch no other directive.
struct Hashed {
    hash: u64,
    standing: Arc<Standing>,
}

impl Shard {
    /// The directive equivalent to one with this hash.
    pub(super) fn find(&self, hash: u64, directive: &dyn AnyDirective) -> Option<&Arc<Standing>> {
        let same = |found: &Hashed| found.hash == hash && found.standing.directive.same_key(directive);
        self.all.find(hash, same).map(|found| &found.standing)
    }

    pub(super) fn insert(&mut self, standing: &Arc<Standing>) {
        let found = Hashed { hash: standing.hash, standing: Arc::clone(standing) };
        self.all.insert_unique(found.hash, found, |found| found.hash);
    }

    pub(super) fn remove(&mut self, standing: &Arc<Standing>) {
        if let Ok(found) = self.all.find_entry(standing.hash, |found| Arc::ptr_eq(&found.standing, standing)) {
            found.remove();
        }
    }
}

pub(super) struct TypeTable {
    pub(super) routes: ArcSwap<Vec<Arc<Route>>>,
    shards: [CachePadded<Mutex<Shard>>; SHARDS],
    /// The runtime that the bus was made in.
    pub(super) runtime: Option<Handle>,
    /// Told of changes of directives, if anybody listens.
    changed: watch::Sender<u64>,
    /// What is kept on this bus without references.
    kept: Arc<KeptDirectives>,
}

/// A table, with a reference of its own for each lane.
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

/// Why a directive may have to go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    /// A reference of this number is given back.
    Reference(u64),
    /// It was kept for its time, counted from this epoch on.
    KeepTimeOver(u64),
    /// It is kept without references and has lost its last value.
    Empty,
}

impl TypeTable {
    pub(super) fn new(
        runtime: Option<Handle>,
        changed: watch::Sender<u64>,
        kept: Arc<KeptDirectives>,
        routes: Vec<Arc<Route>>,
    ) -> Self {
        let shards = std::array::from_fn(|_| CachePadded::default());
        Self { routes: ArcSwap::from_pointee(routes), shards, runtime, changed, kept }
    }

    fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(|shard| shard.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the table, if nothing stands in it; whoever comes with a directive then looks for another one.
    pub(super) fn end_if_empty(&self) -> bool {
        if self.shards().any(|shard| !shard.all.is_empty()) {
            return false;
        }
        let is_empty = self.shards().all(|mut shard| {
            shard.ended = shard.all.is_empty();
            shard.ended
        });
        if !is_empty {
            self.shards().for_each(|mut shard| shard.ended = false);
        }
        is_empty
    }

    pub(super) fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        self.shards[(hash >> 32) as usize % SHARDS].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<Arc<Standing>> {
        let mut all = Vec::new();
        for shard in self.shards() {
            all.extend(shard.all.iter().map(|found| Arc::clone(&found.standing)));
        }
        all
    }

    /// Takes every directive out.
    pub(super) fn drain(&self) -> Vec<Arc<Standing>> {
        let mut all = Vec::new();
        for mut shard in self.shards() {
            all.extend(shard.all.drain().map(|found| found.standing));
        }
        all
    }

    pub(super) fn notify_changed(&self) {
        if self.changed.receiver_count() > 0 {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// Where tasks of the bus run: in the runtime that it was made in, or else that of the caller.
    pub(super) fn runtime(&self) -> Option<Handle> {
        self.runtime.clone().or_else(|| Handle::try_current().ok())
    }

    /// Puts the calling thread into that runtime, if it is not in it already.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        let own = self.runtime.as_ref()?;
        // To ask for the current runtime counts a reference that all threads share. A task never changes its runtime.
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

    /// Ends a directive if nothing keeps it any more.
    pub(super) fn release(self: &Arc<Self>, standing: &Arc<Standing>, release: Release) {
        let mut effects = Effects::default();
        let mut keep = None;
        {
            let mut shard = self.shard(standing.hash);
            let mut state = standing.lock();
            let strong = match release {
                Release::Reference(subscriber) => state.unsubscribe(subscriber, &mut effects),
                _ => false,
            };
            if state.references == 0 && !state.ended {
                let options = &standing.options;
                let ends = match release {
                    Release::KeepTimeOver(epoch) => epoch == state.epoch,
                    Release::Empty => options.drop_if_empty && state.visible_values() == 0,
                    Release::Reference(_) => {
                        options.keep_for.is_zero() || (options.drop_if_empty && state.visible_values() == 0)
                    }
                };
                if ends {
                    state.end(&mut effects);
                    shard.remove(standing);
                } else if strong {
                    // A weak reference that goes while the time runs changes nothing of it.
                    keep = Some(state.epoch);
                    state.kept = Some(self.kept.count());
                }
            }
        }
        effects.apply(standing);
        self.notify_changed();
        if let Some(epoch) = keep {
            self.keep(standing, epoch);
        }
    }

    /// Has a directive that nobody refers to end when its time is over, or when there are too many of them.
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
