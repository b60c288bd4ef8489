//! The engine: standing directives by type and key, and the controllers that each type is routed to.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::bridge::Way;
use super::configs::Configs;
use super::entry::{ControllerEntry, Seat, Seats};
use super::factories::Factories;
use super::handle::{Backend, BusHandle};
use super::lane::Common;
use super::limits::Limits;
use super::reference::Reference;
use super::resolver::offer;
use super::standing::{Effects, Standing, State};
use super::table::{Shard, TypeLanes, TypeTable};
use super::{Source, loading};
use crate::controller::Info;
use crate::directive::{ANY_DIRECTIVE, AnyDirective, RawRequest};
use crate::error::ErrorKind;
use crate::{Error, Result};

/// Which controllers there are, and which there are to be. Under one lock, so that electing, installing and switching see
/// each other's results; under it nothing waits, and nothing of a user's runs, is called or is dropped.
#[derive(Default)]
pub(super) struct Life {
    pub(super) controllers: BTreeMap<u64, Arc<ControllerEntry>>,
    /// Told to end, and not closed yet.
    pub(super) leaving: BTreeMap<u64, Arc<ControllerEntry>>,
    pub(super) factories: Factories,
    pub(super) configs: Configs,
}

pub(super) struct Engine {
    types: ArcSwap<HashMap<String, Arc<TypeLanes>>>,
    /// Held by whoever changes `types` or routes; with it, the controllers that every type is routed to.
    types_turn: Mutex<Vec<Arc<Seats>>>,
    hasher: RandomState,
    pub(super) runtime: Option<Handle>,
    life: Mutex<Life>,
    pub(super) limits: Limits,
    pub(super) changed: watch::Sender<u64>,
    pub(super) directives_changed: watch::Sender<u64>,
    /// The bus as the controller of the directives that it resolves itself.
    loading: Arc<Seats>,
    pub(super) bridges: Mutex<Vec<Way>>,
    next: AtomicU64,
    closed: AtomicBool,
}

impl Engine {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let loading = |engine: &Weak<Self>| {
            let info = Info {
                id: "controllerbus".to_owned(),
                version: semver::Version::new(0, 1, 0),
                description: "The bus itself".to_owned(),
                config_id: "controllerbus".to_owned(),
            };
            Arc::new(ControllerEntry::new(0, info, Source::STATIC, loading::controller(Weak::clone(engine))))
        };
        Arc::new_cyclic(|engine| Self {
            loading: Arc::new(Seats::new(loading(engine))),
            bridges: Mutex::default(),
            types: ArcSwap::default(),
            types_turn: Mutex::default(),
            hasher: RandomState::new(),
            runtime: Handle::try_current().ok(),
            life: Mutex::default(),
            limits,
            changed: watch::Sender::new(0),
            directives_changed: watch::Sender::new(0),
            next: AtomicU64::new(1),
            closed: AtomicBool::new(false),
        })
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells those who watch the bus that something changed.
    pub(super) fn touch(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the bus's work is done: the runtime that it was made in, or else that of the caller.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] outside both.
    pub(super) fn runtime(&self) -> Result<Handle> {
        self.runtime.clone().or_else(|| Handle::try_current().ok()).ok_or_else(|| {
            Error::new(ErrorKind::Closed, "the bus was made, and is used, outside a tokio runtime: make it inside one")
        })
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match self.runtime() {
            Ok(runtime) => drop(runtime.spawn(work)),
            Err(error) => tracing::error!(%error),
        }
    }

    pub(super) fn handle(self: &Arc<Self>) -> BusHandle {
        BusHandle::new(Arc::clone(self) as Arc<dyn Backend>)
    }

    fn turn(&self) -> MutexGuard<'_, Vec<Arc<Seats>>> {
        self.types_turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table of a type; made when it is first asked for.
    fn table(&self, id: &str) -> Arc<Common<TypeTable>> {
        if let Some(lanes) = self.types.load().get(id) {
            return lanes.get();
        }
        let everywhere = self.turn();
        let types = self.types.load_full();
        if let Some(lanes) = types.get(id) {
            return lanes.get();
        }
        let lanes = self.new_type(id, &everywhere);
        let table = lanes.get();
        let mut types = HashMap::clone(&types);
        types.insert(id.to_owned(), lanes);
        self.types.store(Arc::new(types));
        table
    }

    fn new_type(&self, id: &str, everywhere: &[Arc<Seats>]) -> Arc<TypeLanes> {
        let mut routes = everywhere.to_vec();
        if self.loading.entry.resolves.iter().any(|own| own == id) {
            routes.push(Arc::clone(&self.loading));
        }
        let table = TypeTable::new(self.runtime.clone(), self.directives_changed.clone(), routes);
        Arc::new(TypeLanes::new(Arc::new(table)))
    }

    /// Changes the routes of every type that these controllers resolve.
    pub(super) fn route(&self, added: &[Arc<ControllerEntry>], removed: &[u64]) {
        let mut everywhere = self.turn();
        let mut by_type: HashMap<String, Vec<Arc<Seats>>> = HashMap::new();
        let mut all = Vec::new();
        for entry in added {
            let seats = Arc::new(Seats::new(Arc::clone(entry)));
            if entry.resolves.iter().any(|id| id == ANY_DIRECTIVE) {
                all.push(seats);
                continue;
            }
            for id in &entry.resolves {
                by_type.entry(id.clone()).or_default().push(Arc::clone(&seats));
            }
        }
        everywhere.retain(|seats| !removed.contains(&seats.entry.id));
        let known = self.types.load_full();
        let new: Vec<_> = by_type.keys().filter(|id| !known.contains_key(*id)).cloned().collect();
        let types = if new.is_empty() {
            known
        } else {
            let mut types = HashMap::clone(&known);
            types.extend(new.into_iter().map(|id| (id.clone(), self.new_type(&id, &everywhere))));
            let types = Arc::new(types);
            self.types.store(Arc::clone(&types));
            types
        };
        everywhere.extend(all.iter().cloned());
        for (id, lanes) in types.iter() {
            let new = by_type.remove(id).unwrap_or_default();
            let routes = lanes.table.routes.load();
            let changed = routes.iter().any(|seats| removed.contains(&seats.entry.id));
            if !changed && new.is_empty() && all.is_empty() {
                continue;
            }
            let mut routes = Vec::clone(&routes);
            routes.retain(|seats| !removed.contains(&seats.entry.id));
            routes.extend(new);
            routes.extend(all.iter().cloned());
            lanes.table.routes.store(Arc::new(routes));
        }
    }

    /// Offers what stands to a controller whose routes are published.
    pub(super) fn offer_standing(&self, entry: &Arc<ControllerEntry>) {
        let seat = Arc::new(Seat::new(Arc::clone(entry)));
        if entry.resolves.iter().any(|id| id == ANY_DIRECTIVE) {
            for standing in self.standing() {
                offer(&standing, &seat);
            }
            return;
        }
        for id in &entry.resolves {
            let Some(lanes) = self.types.load().get(id).cloned() else { continue };
            for standing in lanes.table.all() {
                offer(&standing, &seat);
            }
        }
    }

    pub(super) fn standing(&self) -> Vec<Arc<Standing>> {
        self.types.load_full().values().flat_map(|lanes| lanes.table.all()).collect()
    }

    pub(super) fn close(&self) {
        let types = {
            // A table that is made later is made by somebody who sees that the bus is closed.
            let _turn = self.turn();
            self.closed.store(true, Ordering::Release);
            self.types.load_full()
        };
        for lanes in types.values() {
            for standing in lanes.table.drain() {
                standing.change(State::end);
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn add_reference(&self, directive: Arc<dyn AnyDirective>) -> Result<Reference> {
        let closed = |id: &str| Error::new(ErrorKind::Closed, format!("the bus is closed; {id} was not added"));
        directive.validate().map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("directive {} is not valid: {error}", directive.id()))
        })?;
        let options = directive.options();
        let table = self.table(directive.id());
        let hash = {
            let mut hasher = self.hasher.build_hasher();
            directive.hash_key(&mut hasher);
            hasher.finish()
        };
        let mut superseded = None;
        let mut effects = Effects::default();
        let (reference, new) = {
            let mut shard: MutexGuard<'_, Shard> = table.shard(hash);
            if self.is_closed() {
                drop(shard);
                return Err(closed(directive.id()));
            }
            let found = shard.find(hash, &*directive).cloned();
            let found = found.filter(|standing| {
                if options.supersede.replaces(&standing.options.supersede) {
                    standing.lock().end(&mut effects);
                    shard.remove(standing);
                    superseded = Some(Arc::clone(standing));
                }
                superseded.is_none()
            });
            let (standing, new) = match found {
                Some(standing) => (standing, false),
                None => {
                    let standing = Standing::new(directive, hash, options, Arc::clone(&table));
                    shard.insert(&standing);
                    (standing, true)
                }
            };
            let subscriber = standing.lock().subscribe(true);
            (Reference::new(standing, subscriber), new)
        };
        if let Some(superseded) = superseded {
            effects.apply(&superseded);
        }
        if new {
            let routes = table.routes.load();
            for seats in routes.iter() {
                offer(reference.standing(), seats.get());
            }
            drop(routes);
            reference.standing().change(State::offered);
        } else {
            reference.standing().touch();
        }
        Ok(reference)
    }
}

impl Backend for Engine {
    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>> {
        Ok(Box::new(self.add_reference(directive)?))
    }
}
