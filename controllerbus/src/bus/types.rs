//! The table of each directive id, and which controllers each is routed to.
//!
//! Finding a table takes no lock. A table of an id that no controller resolves lives as long as its directives: when there
//! are twice as many tables as after the last look, those that nobody needs are taken out, so that short-lived ids cost
//! nothing that stays.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use hashbrown::HashTable;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::counts::ResolverCounts;
use super::entry::{ControllerEntry, Seat, Seats};
use super::kept::Kept;
use super::lane::Common;
use super::standing::Standing;
use super::table::{TypeLanes, TypeTable};
use crate::directive::{ANY_DIRECTIVE, AnyDirective};

/// A new id copies one of these.
const SHARDS: usize = 64;

/// How many tables there are at least before those that nobody needs are looked for.
const FEW: usize = 64;

pub(super) struct Types {
    hasher: RandomState,
    shards: [ArcSwap<HashTable<Arc<TypeLanes>>>; SHARDS],
    turn: Mutex<Turn>,
    /// The runtime that the bus was made in.
    runtime: Option<Handle>,
    changed: watch::Sender<u64>,
    kept: Arc<Kept>,
}

/// Held by whoever makes or takes out tables, or changes routes.
struct Turn {
    /// The controllers that every id is routed to.
    everywhere: Vec<Arc<Seats>>,
    /// The bus as the controller of the directives that it resolves itself.
    own: Arc<Seats>,
    tables: usize,
    look_at: usize,
}

impl Types {
    pub(super) fn new(own: Arc<ControllerEntry>, runtime: Option<Handle>, changed: watch::Sender<u64>) -> Self {
        let own = Arc::new(Seats::new(own));
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| ArcSwap::default()),
            turn: Mutex::new(Turn { everywhere: Vec::new(), own, tables: 0, look_at: FEW }),
            runtime,
            changed,
            kept: Arc::default(),
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, hash: u64) -> &ArcSwap<HashTable<Arc<TypeLanes>>> {
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// The hash of a directive's key.
    pub(super) fn hash_key(&self, directive: &dyn AnyDirective) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        directive.hash_key(&mut hasher);
        hasher.finish()
    }

    fn find(&self, id: &str, hash: u64) -> Option<Arc<TypeLanes>> {
        self.shard(hash).load().find(hash, |lanes| lanes.id == id).cloned()
    }

    /// The table of an id; made when it is first asked for.
    pub(super) fn table(&self, id: &str) -> Arc<Common<TypeTable>> {
        let hash = self.hasher.hash_one(id);
        if let Some(lanes) = self.shard(hash).load().find(hash, |lanes| lanes.id == id) {
            return lanes.get();
        }
        let mut turn = self.turn();
        self.find(id, hash).unwrap_or_else(|| self.make(id, hash, &mut turn)).get()
    }

    fn make(&self, id: &str, hash: u64, turn: &mut Turn) -> Arc<TypeLanes> {
        if turn.tables >= turn.look_at {
            self.take_out_unused(turn);
        }
        let mut routes = turn.everywhere.clone();
        if turn.own.entry.resolves.iter().any(|own| own == id) {
            routes.push(Arc::clone(&turn.own));
        }
        let table = TypeTable::new(self.runtime.clone(), self.changed.clone(), Arc::clone(&self.kept), routes);
        let lanes = Arc::new(TypeLanes::new(id.to_owned(), Arc::new(table)));
        let shard = self.shard(hash);
        let mut tables = HashTable::clone(&shard.load());
        tables.insert_unique(hash, Arc::clone(&lanes), |lanes| self.hasher.hash_one(&lanes.id));
        shard.store(Arc::new(tables));
        turn.tables += 1;
        lanes
    }

    /// Takes out the tables in which nothing stands, of ids that no controller asked to be routed.
    fn take_out_unused(&self, turn: &mut Turn) {
        for shard in &self.shards {
            let tables = shard.load();
            let is_unused = |lanes: &Arc<TypeLanes>| {
                let routes = lanes.table.routes.load();
                let everywhere = &turn.everywhere;
                let only_everywhere = routes.iter().all(|seats| everywhere.iter().any(|all| Arc::ptr_eq(all, seats)));
                only_everywhere && lanes.table.end_if_empty()
            };
            let unused: Vec<_> = tables.iter().filter(|lanes| is_unused(lanes)).cloned().collect();
            if unused.is_empty() {
                continue;
            }
            let mut left = HashTable::clone(&tables);
            left.retain(|lanes| !unused.iter().any(|unused| Arc::ptr_eq(unused, lanes)));
            shard.store(Arc::new(left));
            turn.tables -= unused.len();
        }
        turn.look_at = (turn.tables * 2).max(FEW);
    }

    fn all(&self) -> Vec<Arc<TypeLanes>> {
        self.shards.iter().flat_map(|shard| shard.load().iter().cloned().collect::<Vec<_>>()).collect()
    }

    /// Routes directives to controllers, and no more to others. These are kept by whoever takes them off, so that nothing
    /// of a user's is dropped here.
    pub(super) fn route(&self, added: &[Arc<ControllerEntry>], removed: &[Arc<ControllerEntry>]) {
        let is_everywhere = |entry: &ControllerEntry| entry.resolves.iter().any(|id| id == ANY_DIRECTIVE);
        let is_removed = |seats: &Arc<Seats>| removed.iter().any(|entry| entry.id == seats.entry.id);
        let everywhere: Vec<_> = added
            .iter()
            .filter(|entry| is_everywhere(entry))
            .map(|entry| Arc::new(Seats::new(Arc::clone(entry))))
            .collect();
        let mut turn = self.turn();
        let affected: Vec<Arc<TypeLanes>> = {
            let entries = added.iter();
            let ids = entries.clone().filter(|entry| !is_everywhere(entry)).flat_map(|entry| &entry.resolves);
            // A table that is made here is one that a controller asks to be routed.
            let mut lanes: Vec<_> = ids
                .map(|id| {
                    let hash = self.hasher.hash_one(id);
                    self.find(id, hash).unwrap_or_else(|| self.make(id, hash, &mut turn))
                })
                .collect();
            if entries.chain(removed).any(|entry| is_everywhere(entry)) {
                lanes = self.all();
            } else {
                let ids = removed.iter().flat_map(|entry| &entry.resolves);
                lanes.extend(ids.filter_map(|id| self.find(id, self.hasher.hash_one(id))));
            }
            lanes
        };
        turn.everywhere.retain(|seats| !is_removed(seats));
        turn.everywhere.extend(everywhere.iter().cloned());
        for lanes in affected {
            let routes = lanes.table.routes.load();
            let mut changed: Vec<_> = routes.iter().filter(|seats| !is_removed(seats)).cloned().collect();
            let is_known = |changed: &[Arc<Seats>], entry: &ControllerEntry| {
                changed.iter().any(|seats| seats.entry.id == entry.id)
            };
            for entry in added {
                let resolves = !is_everywhere(entry) && entry.resolves.contains(&lanes.id);
                if resolves && !is_known(&changed, entry) {
                    changed.push(Arc::new(Seats::new(Arc::clone(entry))));
                }
            }
            for seats in &everywhere {
                if !is_known(&changed, &seats.entry) {
                    changed.push(Arc::clone(seats));
                }
            }
            lanes.table.routes.store(Arc::new(changed));
        }
        added.iter().for_each(|entry| entry.is_routed.store(true, std::sync::atomic::Ordering::Release));
    }

    /// What stands of the ids that a routed controller resolves, with the seat by which it is routed there.
    pub(super) fn standing_for(&self, entry: &ControllerEntry) -> Vec<(Arc<Standing>, Arc<Seat>)> {
        self.seats_of(entry)
            .into_iter()
            .flat_map(|(lanes, seats)| {
                let seat = Arc::clone(seats.get());
                lanes.table.all().into_iter().map(move |standing| (standing, Arc::clone(&seat)))
            })
            .collect()
    }

    /// The tables to which a controller is routed, and its seats there.
    fn seats_of(&self, entry: &ControllerEntry) -> Vec<(Arc<TypeLanes>, Arc<Seats>)> {
        let lanes = if entry.resolves.iter().any(|id| id == ANY_DIRECTIVE) {
            self.all()
        } else {
            entry.resolves.iter().filter_map(|id| self.find(id, self.hasher.hash_one(id))).collect()
        };
        let seats = |lanes: &TypeLanes| {
            let routes = lanes.table.routes.load();
            routes.iter().find(|seats| seats.entry.id == entry.id).cloned()
        };
        lanes.into_iter().filter_map(|lanes| seats(&lanes).map(|seats| (lanes, seats))).collect()
    }

    /// What a routed controller did, by directive id.
    pub(super) fn counts_of(&self, entry: &ControllerEntry) -> Vec<(String, ResolverCounts)> {
        let mut seats = self.seats_of(entry);
        if entry.resolves.iter().any(|id| id == ANY_DIRECTIVE) {
            // It has the same everywhere.
            seats.truncate(1);
            return seats.iter().map(|(_, seats)| (ANY_DIRECTIVE.to_owned(), seats.counts())).collect();
        }
        seats.iter().map(|(lanes, seats)| (lanes.id.clone(), seats.counts())).collect()
    }

    /// Everything that stands.
    pub(super) fn standing(&self) -> Vec<Arc<Standing>> {
        self.all().iter().flat_map(|lanes| lanes.table.all()).collect()
    }

    /// Takes everything out that stands, once `close` has been called: a table that is made later is made by somebody who
    /// sees that.
    pub(super) fn drain(&self, close: impl FnOnce()) -> Vec<Arc<Standing>> {
        let all = {
            let _turn = self.turn();
            close();
            self.all()
        };
        all.iter().flat_map(|lanes| lanes.table.drain()).collect()
    }
}
