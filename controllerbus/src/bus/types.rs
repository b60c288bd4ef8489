//! The table of each directive id, and the controllers that it is routed to.
//!
//! Finding a table takes no lock. The table of an id that no controller resolves is needed only as long as it has directives:
//! whenever there are twice as many tables as after the last clean-up, the unneeded ones are removed, so that short-lived
//! ids leave nothing behind.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use hashbrown::HashTable;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::ControllerId;
use super::counts::{CountsSnapshot, DirectiveCounts};
use super::entry::{ControllerEntry, LaneRef, Route};
use super::kept::KeptDirectives;
use super::lane::PerLane;
use super::origin::Sides;
use super::standing::Standing;
use super::table::{TypeLanes, TypeTable};
use crate::directive::{ANY_DIRECTIVE, AnyDirective};

/// Adding an id copies one of these.
const SHARDS: usize = 64;

/// The number of tables below which there is no clean-up.
const FEW: usize = 64;

pub(super) struct Types {
    hasher: RandomState,
    shards: [ArcSwap<HashTable<Arc<TypeLanes>>>; SHARDS],
    routing: Mutex<Routing>,
    /// The runtime that the bus was created in.
    runtime: Option<Handle>,
    changed: watch::Sender<u64>,
    kept: Arc<KeptDirectives>,
}

/// Locked to add or remove tables, and to change routes.
struct Routing {
    /// The controllers that resolve every directive.
    everywhere: Vec<Arc<Route>>,
    /// The bus as the controller of the directives that it resolves itself.
    own: Arc<Route>,
    tables: usize,
    look_at: usize,
}

impl Types {
    pub(super) fn new(own: Arc<ControllerEntry>, runtime: Option<Handle>, changed: watch::Sender<u64>) -> Self {
        let own = Arc::new(Route::new(own, None));
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| ArcSwap::default()),
            routing: Mutex::new(Routing { everywhere: Vec::new(), own, tables: 0, look_at: FEW }),
            runtime,
            changed,
            kept: Arc::default(),
        }
    }

    fn routing(&self) -> MutexGuard<'_, Routing> {
        self.routing.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The table of an id, which is added if there is none.
    pub(super) fn table(&self, id: &str) -> Arc<PerLane<TypeTable>> {
        let hash = self.hasher.hash_one(id);
        if let Some(lanes) = self.shard(hash).load().find(hash, |lanes| lanes.id == id) {
            return lanes.get();
        }
        let mut routing = self.routing();
        self.find(id, hash).unwrap_or_else(|| self.make(id, hash, &mut routing)).get()
    }

    fn make(&self, id: &str, hash: u64, routing: &mut Routing) -> Arc<TypeLanes> {
        if routing.tables >= routing.look_at {
            self.take_out_unused(routing);
        }
        let mut routes = routing.everywhere.clone();
        if routing.own.entry.resolves.iter().any(|own| own == id) {
            routes.insert(0, Arc::clone(&routing.own));
        }
        let table = TypeTable::new(self.runtime.clone(), self.changed.clone(), Arc::clone(&self.kept), routes);
        let lanes = Arc::new(TypeLanes::new(id.to_owned(), Arc::new(table)));
        let shard = self.shard(hash);
        let mut tables = HashTable::clone(&shard.load());
        tables.insert_unique(hash, Arc::clone(&lanes), |lanes| self.hasher.hash_one(&lanes.id));
        shard.store(Arc::new(tables));
        routing.tables += 1;
        lanes
    }

    /// Removes the tables that have no directives and whose ids no controller has named.
    fn take_out_unused(&self, routing: &mut Routing) {
        for shard in &self.shards {
            let tables = shard.load();
            let is_unused = |lanes: &Arc<TypeLanes>| {
                let routes = lanes.table.routes.load();
                let everywhere = &routing.everywhere;
                let only_everywhere = routes.iter().all(|route| everywhere.iter().any(|all| Arc::ptr_eq(all, route)));
                only_everywhere && lanes.table.end_if_empty()
            };
            let unused: Vec<_> = tables.iter().filter(|lanes| is_unused(lanes)).cloned().collect();
            if unused.is_empty() {
                continue;
            }
            let mut left = HashTable::clone(&tables);
            left.retain(|lanes| !unused.iter().any(|unused| Arc::ptr_eq(unused, lanes)));
            shard.store(Arc::new(left));
            routing.tables -= unused.len();
        }
        routing.look_at = (routing.tables * 2).max(FEW);
    }

    fn all(&self) -> Vec<Arc<TypeLanes>> {
        self.shards.iter().flat_map(|shard| shard.load().iter().cloned().collect::<Vec<_>>()).collect()
    }

    /// Starts routing directives to some controllers, and stops routing them to others. The caller has a reference to these, so
    /// that no controller is dropped here.
    pub(super) fn route(&self, added: &[Arc<ControllerEntry>], removed: &[Arc<ControllerEntry>]) {
        let is_everywhere = |entry: &ControllerEntry| entry.resolves.iter().any(|id| id == ANY_DIRECTIVE);
        let is_removed = |route: &Arc<Route>| removed.iter().any(|entry| entry.id == route.entry.id);
        let everywhere: Vec<_> = added
            .iter()
            .filter(|entry| is_everywhere(entry))
            .map(|entry| Arc::new(Route::new(Arc::clone(entry), None)))
            .collect();
        // Dropped after the lock: with a route ends a span, of which a subscriber hears.
        let mut replaced = Vec::new();
        let mut routing = self.routing();
        let affected: Vec<Arc<TypeLanes>> = {
            let entries = added.iter();
            let ids = entries.clone().filter(|entry| !is_everywhere(entry)).flat_map(|entry| &entry.resolves);
            // These ids are named by a controller, and so their tables stay.
            let mut lanes: Vec<_> = ids
                .map(|id| {
                    let hash = self.hasher.hash_one(id);
                    self.find(id, hash).unwrap_or_else(|| self.make(id, hash, &mut routing))
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
        let (gone, mut stay): (Vec<_>, Vec<_>) = routing.everywhere.drain(..).partition(is_removed);
        stay.extend(everywhere.iter().cloned());
        // A new table takes over their order.
        stay.sort_by_key(|route| route.entry.side == Sides::FLEET);
        routing.everywhere = stay;
        for lanes in affected {
            let routes = lanes.table.routes.load();
            let mut changed: Vec<_> = routes.iter().filter(|route| !is_removed(route)).cloned().collect();
            let is_known = |changed: &[Arc<Route>], entry: &ControllerEntry| {
                changed.iter().any(|route| route.entry.id == entry.id)
            };
            for entry in added {
                let resolves = !is_everywhere(entry) && entry.resolves.contains(&lanes.id);
                if resolves && !is_known(&changed, entry) {
                    changed.push(Arc::new(Route::new(Arc::clone(entry), Some(&lanes.id))));
                }
            }
            for route in &everywhere {
                if !is_known(&changed, &route.entry) {
                    changed.push(Arc::clone(route));
                }
            }
            // Who names the id is asked before who resolves whatever there is, and of these who is here before another host: a
            // call has one answer.
            changed.sort_by_key(|route| (!route.entry.resolves.contains(&lanes.id), route.entry.side == Sides::FLEET));
            replaced.push(lanes.table.routes.swap(Arc::new(changed)));
        }
        added.iter().for_each(|entry| entry.is_routed.store(true, std::sync::atomic::Ordering::Release));
        drop(routing);
        drop((gone, replaced));
    }

    /// The standing directives of the ids that a controller resolves, with its reference on their routes.
    pub(super) fn standing_for(&self, entry: &ControllerEntry) -> Vec<(Arc<Standing>, Arc<LaneRef>)> {
        self.routes_of(entry)
            .into_iter()
            .flat_map(|(lanes, route)| {
                let lane_ref = Arc::clone(route.get());
                lanes.table.all().into_iter().map(move |standing| (standing, Arc::clone(&lane_ref)))
            })
            .collect()
    }

    /// The tables whose directives are routed to a controller, with its route there.
    fn routes_of(&self, entry: &ControllerEntry) -> Vec<(Arc<TypeLanes>, Arc<Route>)> {
        let lanes = if entry.resolves.iter().any(|id| id == ANY_DIRECTIVE) {
            self.all()
        } else {
            entry.resolves.iter().filter_map(|id| self.find(id, self.hasher.hash_one(id))).collect()
        };
        let route = |lanes: &TypeLanes| {
            let routes = lanes.table.routes.load();
            routes.iter().find(|route| route.entry.id == entry.id).cloned()
        };
        lanes.into_iter().filter_map(|lanes| route(&lanes).map(|route| (lanes, route))).collect()
    }

    /// What a controller did, by directive id.
    pub(super) fn counts_of(&self, entry: &ControllerEntry) -> Vec<CountsSnapshot> {
        let counts_of = |directive: &str, route: &Route| CountsSnapshot {
            controller: ControllerId(entry.id),
            directive: directive.to_owned(),
            counts: route.counts(),
            failure: route.failure(),
        };
        let mut routes = self.routes_of(entry);
        if entry.resolves.iter().any(|id| id == ANY_DIRECTIVE) {
            // It has one route for all of them.
            routes.truncate(1);
            return routes.iter().map(|(_, route)| counts_of(ANY_DIRECTIVE, route)).collect();
        }
        routes.iter().map(|(lanes, route)| counts_of(&lanes.id, route)).collect()
    }

    /// How many directives stand, by id.
    pub(super) fn directive_counts(&self) -> Vec<DirectiveCounts> {
        let counts = self.all().into_iter().map(|lanes| {
            let mut counts = DirectiveCounts { directive: lanes.id.clone(), ..DirectiveCounts::default() };
            lanes.table.all().iter().for_each(|standing| standing.add_to(&mut counts));
            counts
        });
        counts.filter(|counts| counts.active > 0).collect()
    }

    /// All standing directives.
    pub(super) fn standing(&self) -> Vec<Arc<Standing>> {
        self.all().iter().flat_map(|lanes| lanes.table.all()).collect()
    }

    /// Calls `close`, and then removes all standing directives. Whoever adds a table later sees what `close` has done.
    pub(super) fn drain(&self, close: impl FnOnce()) -> Vec<Arc<Standing>> {
        let all = {
            let _turn = self.routing();
            close();
            self.all()
        };
        all.iter().flat_map(|lanes| lanes.table.drain()).collect()
    }
}
