//! All standing directives of one type, in shards by key, and the controllers that resolve them.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use hashbrown::HashTable;
use tokio::runtime::{EnterGuard, Handle};
use tokio::sync::watch;

use super::entry::Seats;
use super::lane::{Apart, Common, Lanes};
use super::standing::{Effects, Standing};
use crate::directive::AnyDirective;

const SHARDS: usize = 32;

thread_local! {
    /// The last task on this thread that was found to run in a bus's runtime, and which that is.
    static HOME: Cell<Option<(tokio::task::Id, tokio::runtime::Id)>> = const { Cell::new(None) };
}

/// The standing directives of some keys.
#[derive(Default)]
pub(super) struct Shard(HashTable<Kept>);

/// With its hash, so that looking for one and making room touch no other directive.
struct Kept {
    hash: u64,
    standing: Arc<Standing>,
}

impl Shard {
    /// The directive equivalent to one with this hash.
    pub(super) fn find(&self, hash: u64, directive: &dyn AnyDirective) -> Option<&Arc<Standing>> {
        let same = |kept: &Kept| kept.hash == hash && kept.standing.directive.same_key(directive);
        self.0.find(hash, same).map(|kept| &kept.standing)
    }

    pub(super) fn insert(&mut self, standing: &Arc<Standing>) {
        let kept = Kept { hash: standing.hash, standing: Arc::clone(standing) };
        self.0.insert_unique(kept.hash, kept, |kept| kept.hash);
    }

    pub(super) fn remove(&mut self, standing: &Arc<Standing>) {
        if let Ok(found) = self.0.find_entry(standing.hash, |kept| Arc::ptr_eq(&kept.standing, standing)) {
            found.remove();
        }
    }
}

pub(super) struct TypeTable {
    pub(super) routes: ArcSwap<Vec<Arc<Seats>>>,
    shards: [Apart<Mutex<Shard>>; SHARDS],
    /// The runtime that the bus was made in.
    pub(super) runtime: Option<Handle>,
    /// Told of changes of directives, if anybody listens.
    changed: watch::Sender<u64>,
}

/// A table, with a reference of its own for each lane.
pub(super) struct TypeLanes {
    pub(super) table: Arc<TypeTable>,
    lanes: Lanes<Arc<Common<TypeTable>>>,
}

impl TypeLanes {
    pub(super) fn new(table: Arc<TypeTable>) -> Self {
        Self { table, lanes: Lanes::new() }
    }

    /// The reference of this thread's lane.
    pub(super) fn get(&self) -> Arc<Common<TypeTable>> {
        Arc::clone(self.lanes.get(|_| Common::of(&self.table)))
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
    pub(super) fn new(runtime: Option<Handle>, changed: watch::Sender<u64>, routes: Vec<Arc<Seats>>) -> Self {
        let shards = std::array::from_fn(|_| Apart::default());
        Self { routes: ArcSwap::from_pointee(routes), shards, runtime, changed }
    }

    pub(super) fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        self.shards[(hash >> 32) as usize % SHARDS].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<Arc<Standing>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.0.iter().map(|kept| Arc::clone(&kept.standing)));
        }
        all
    }

    /// Takes every directive out.
    pub(super) fn drain(&self) -> Vec<Arc<Standing>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.0.drain().map(|kept| kept.standing));
        }
        all
    }

    pub(super) fn touch(&self) {
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
                }
            }
        }
        effects.apply(standing);
        self.touch();
        let Some(epoch) = keep else { return };
        let Some(runtime) = self.runtime() else { return };
        let (table, standing, keep_for) = (Arc::clone(self), Arc::clone(standing), standing.options.keep_for);
        runtime.spawn(async move {
            tokio::time::sleep(keep_for).await;
            table.release(&standing, Release::KeepTimeOver(epoch));
        });
    }
}
