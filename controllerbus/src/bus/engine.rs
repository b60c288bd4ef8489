//! The engine: standing directives by type and key, and the controllers that each type is routed to.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use hashbrown::HashTable;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::configs::Configs;
use super::entry::ControllerEntry;
use super::factories::Factories;
use super::handle::Backend;
use super::resolver::offer;
use super::standing::Standing;
use crate::directive::{AnyDirective, RawEvent, RawRequest};
use crate::error::ErrorKind;
use crate::{Error, Result};

const SHARDS: usize = 32;

pub(super) struct Engine {
    types: ArcSwap<HashMap<String, Arc<TypeTable>>>,
    types_turn: Mutex<()>,
    hasher: RandomState,
    pub(super) runtime: Option<Handle>,
    pub(super) controllers: Mutex<BTreeMap<u64, Arc<ControllerEntry>>>,
    pub(super) factories: Mutex<Factories>,
    pub(super) configs: Mutex<Configs>,
    /// Whoever changes configs, factories or generations takes it, so that they see each other's results.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) directives_changed: watch::Sender<u64>,
    next: AtomicU64,
    closed: AtomicBool,
}

/// All standing directives of one id, and the controllers that resolve them.
struct TypeTable {
    routes: ArcSwap<Vec<Arc<ControllerEntry>>>,
    shards: [Mutex<HashTable<Arc<Standing>>>; SHARDS],
}

impl TypeTable {
    fn shard(&self, hash: u64) -> MutexGuard<'_, HashTable<Arc<Standing>>> {
        self.shards[(hash >> 32) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Standing>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        }
        all
    }
}

impl Engine {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            types: ArcSwap::default(),
            types_turn: Mutex::default(),
            hasher: RandomState::new(),
            runtime: Handle::try_current().ok(),
            controllers: Mutex::default(),
            factories: Mutex::default(),
            configs: Mutex::default(),
            turn: Arc::default(),
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

    pub(super) fn controllers(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ControllerEntry>>> {
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self, id: &str) -> Arc<TypeTable> {
        if let Some(table) = self.types.load().get(id) {
            return Arc::clone(table);
        }
        let _turn = self.types_turn.lock().unwrap_or_else(PoisonError::into_inner);
        let types = self.types.load_full();
        if let Some(table) = types.get(id) {
            return Arc::clone(table);
        }
        let table =
            Arc::new(TypeTable { routes: ArcSwap::default(), shards: std::array::from_fn(|_| Mutex::default()) });
        let mut types = HashMap::clone(&types);
        types.insert(id.to_owned(), Arc::clone(&table));
        self.types.store(Arc::new(types));
        table
    }

    /// Changes the routes of every type that these controllers resolve.
    pub(super) fn route(&self, added: &[Arc<ControllerEntry>], removed: &[u64]) {
        let _turn = self.types_turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_type: HashMap<String, Vec<Arc<ControllerEntry>>> = HashMap::new();
        for entry in added {
            for id in entry.controller.resolves() {
                by_type.entry(id).or_default().push(Arc::clone(entry));
            }
        }
        let mut types = HashMap::clone(&self.types.load());
        for id in by_type.keys() {
            types.entry(id.clone()).or_insert_with(|| {
                Arc::new(TypeTable { routes: ArcSwap::default(), shards: std::array::from_fn(|_| Mutex::default()) })
            });
        }
        let types = Arc::new(types);
        self.types.store(Arc::clone(&types));
        for (id, table) in types.iter() {
            let mut routes = Vec::clone(&table.routes.load());
            let before = routes.len();
            routes.retain(|entry| !removed.contains(&entry.id));
            let changed = routes.len() != before;
            let new = by_type.remove(id).unwrap_or_default();
            if changed || !new.is_empty() {
                routes.extend(new);
                table.routes.store(Arc::new(routes));
            }
        }
    }

    /// Offers what stands to a controller whose routes are published.
    pub(super) fn offer_standing(&self, entry: &Arc<ControllerEntry>) {
        for id in entry.controller.resolves() {
            for standing in self.table(&id).all() {
                offer(&standing, entry, self.runtime.as_ref());
            }
        }
    }

    pub(super) fn standing(&self) -> Vec<Arc<Standing>> {
        self.types.load().values().flat_map(|table| table.all()).collect()
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let types = self.types.load_full();
        for table in types.values() {
            for shard in &table.shards {
                let standing: Vec<_> = shard.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
                for standing in standing {
                    standing.change(super::standing::State::end);
                }
            }
        }
    }

    fn add_reference(self: &Arc<Self>, directive: Arc<dyn AnyDirective>) -> Result<Reference> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, format!("the bus is closed; {} was not added", directive.id())));
        }
        directive.validate().map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("directive {} is not valid: {error}", directive.id()))
        })?;
        let table = self.table(directive.id());
        let hash = {
            let mut hasher = self.hasher.build_hasher();
            directive.hash_key(&mut hasher);
            hasher.finish()
        };
        let (standing, subscriber, new) = {
            let mut shard = table.shard(hash);
            let found = shard.find(hash, |standing| standing.directive.same_key(&*directive)).cloned();
            let (standing, new) = match found {
                Some(standing) => (standing, false),
                None => {
                    let standing = Standing::new(directive, hash, self.directives_changed.clone());
                    shard.insert_unique(hash, Arc::clone(&standing), |standing| standing.hash);
                    (standing, true)
                }
            };
            let subscriber = standing.lock().subscribe();
            (standing, subscriber, new)
        };
        standing.touch();
        let reference = Reference { engine: Arc::clone(self), table, standing, subscriber };
        if new {
            let routes = reference.table.routes.load_full();
            for entry in routes.iter() {
                offer(&reference.standing, entry, self.runtime.as_ref());
            }
            reference.standing.change(|state, _| state.offers -= 1);
        }
        Ok(reference)
    }
}

/// The engine as a [`Backend`].
pub(super) struct EngineBackend(pub(super) Arc<Engine>);

impl Backend for EngineBackend {
    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>> {
        Ok(Box::new(self.0.add_reference(directive)?))
    }
}

/// One reference to a standing directive.
struct Reference {
    engine: Arc<Engine>,
    table: Arc<TypeTable>,
    standing: Arc<Standing>,
    subscriber: u64,
}

impl RawRequest for Reference {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RawEvent>> {
        let next = self.standing.lock().next_event(self.subscriber, cx.waker());
        match next {
            Ok(event) => Poll::Ready(event),
            Err(_replaced) => Poll::Pending,
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let standing = Arc::clone(&self.standing);
        let table = Arc::clone(&self.table);
        let keep = standing.options.keep_for;
        let waiting = standing_released(&table, &standing, Some(self.subscriber), None);
        let Some(epoch) = waiting else { return };
        let handle = Handle::try_current().ok().or_else(|| self.engine.runtime.clone());
        let Some(handle) = handle else { return };
        handle.spawn(async move {
            tokio::time::sleep(keep).await;
            standing_released(&table, &standing, None, Some(epoch));
        });
    }
}

/// Gives a reference back, or, with an epoch, ends a kept directive to which nobody came back.
///
/// Returns the epoch when the directive shall be kept for its keep time.
fn standing_released(
    table: &TypeTable,
    standing: &Arc<Standing>,
    subscriber: Option<u64>,
    epoch: Option<u64>,
) -> Option<u64> {
    let mut shard = table.shard(standing.hash);
    let mut keep = None;
    let mut ended = false;
    let mut effects = super::standing::Effects::default();
    {
        let mut state = standing.lock();
        if let Some(subscriber) = subscriber {
            state.unsubscribe(subscriber);
        }
        if state.references == 0 && !state.ended && epoch.is_none_or(|epoch| epoch == state.epoch) {
            let options = &standing.options;
            let at_once =
                options.keep_for.is_zero() || epoch.is_some() || (options.drop_if_empty && state.visible_values() == 0);
            if at_once {
                ended = true;
                state.end(&mut effects);
            } else {
                keep = Some(state.epoch);
            }
        }
    }
    if ended && let Ok(found) = shard.find_entry(standing.hash, |other| Arc::ptr_eq(other, standing)) {
        found.remove();
    }
    drop(shard);
    effects.apply(standing);
    standing.touch();
    keep
}
