//! States that outlast their process: written at intervals and at the end, and given to the next controller of the same key.
//!
//! A state is that of a plugin and a config key. A controller *owns* it from when it serves until another one does: nobody else
//! writes it. So what was replaced does not write over what its successor has written.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use semver::Version;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::Instrument;

use super::Bus;
use super::engine::Engine;
use super::entry::ControllerEntry;
use super::factories::KnownFactory;
use super::instance::ConstructFailure;
use super::life::save;
use crate::controller::State;
use crate::controller::state::ENDED;
use crate::error::ErrorKind;
use crate::listen::Service;
use crate::{Error, Result};

/// The largest state that is kept, in bytes.
const MOST: usize = 16 << 20;

/// How long the store may take.
pub(super) const STORING: Duration = Duration::from_secs(10);

/// How long others that use the store are waited for.
const QUEUEING: Duration = Duration::from_secs(30);

/// Whose state it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct StateName {
    /// The plugin id of the controller.
    pub plugin: String,
    /// The key of its config.
    pub key: String,
}

impl StateName {
    /// The state of a plugin's controller for a key.
    pub fn new(plugin: impl Into<String>, key: impl Into<String>) -> Self {
        Self { plugin: plugin.into(), key: key.into() }
    }
}

/// Where the states of controllers with `persist` are kept beyond the process: see [`Bus::keep_states_in`].
///
/// Its methods may block. A bus calls one of them at a time.
pub trait StateStore: Send + Sync + 'static {
    /// The state that was stored last.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if what is there cannot be used: then the bus has it [set aside](StateStore::set_aside). With any
    /// other kind it stays untouched: the controller starts without it, and its state is not kept.
    fn load(&self, name: &StateName) -> Result<Option<State>>;

    /// Stores a state in place of the one before; `version` is that of the controller.
    ///
    /// # Errors
    /// Why it was not stored. The one before must be there then.
    fn store(&self, name: &StateName, version: &Version, state: &State) -> Result<()>;

    /// Puts what is there where it is not loaded and not stored over, and says where that is.
    ///
    /// # Errors
    /// Why not.
    fn set_aside(&self, name: &StateName) -> Result<String>;

    /// Removes the states of a key, of whichever plugins: its config was removed.
    ///
    /// # Errors
    /// Why they are still there.
    fn forget(&self, key: &str) -> Result<()>;
}

impl Bus {
    /// Keeps the states of controllers with `#[hot_plugin(.., persist = "1s")]` in a store, and starts them with what is there; false
    /// if the bus has one already. `hot-runtime` does it with its work directory.
    ///
    /// It counts for controllers that are made from now on. A state is written when it has changed, at most once in the interval, and
    /// when its controller ends. A config that is removed on purpose forgets its state: by
    /// [`Bus::remove_config`], by a set that replaces it ([`Bus::apply_only`], [`super::ConfigOwner::apply`]), or by
    /// [`super::ConfigOwner::withdraw`]. One whose owner is dropped, whose plugin is unloaded or whose bus is closed keeps it.
    pub fn keep_states_in(&self, store: Arc<dyn StateStore>) -> bool {
        let mut own = self.0.states.store();
        let is_first = own.is_none();
        let unused = if is_first { own.replace(store) } else { Some(store) };
        drop(own);
        drop(unused);
        is_first
    }
}

/// The states of a bus's controllers.
#[derive(Default)]
pub(super) struct States {
    store: Mutex<Option<Arc<dyn StateStore>>>,
    table: Mutex<Table>,
    /// Held while the store works, on a thread that may block. Whoever waits for it has no thread yet, and they come in turn.
    files: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Table {
    /// Which controller writes it.
    owners: HashMap<StateName, u64>,
    /// Keys whose states are to be removed before anything else happens to them.
    forgotten: HashSet<String>,
    /// What must not be written over.
    untouchable: HashSet<StateName>,
    /// How many processes in a row have ended while they restored it.
    ended: HashMap<StateName, u32>,
}

impl States {
    fn store(&self) -> MutexGuard<'_, Option<Arc<dyn StateStore>>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_store(&self) -> bool {
        self.store().is_some()
    }

    /// Lets go of the store.
    pub(super) fn close(&self) {
        let store = self.store().take();
        drop(store);
    }

    /// Makes a controller the one that writes these, unless nobody may. Whether one of them is new to it.
    fn own(&self, names: Vec<StateName>, controller: u64, from_others: bool) -> bool {
        let mut table = self.table();
        let Table { owners, untouchable, .. } = &mut *table;
        let mut is_more = false;
        for name in names.into_iter().filter(|name| !untouchable.contains(name)) {
            if from_others || !owners.contains_key(&name) {
                is_more |= owners.insert(name, controller) != Some(controller);
            }
        }
        is_more
    }

    /// What a controller writes.
    fn owned_by(&self, controller: u64) -> Vec<StateName> {
        let table = self.table();
        table.owners.iter().filter(|(_, owner)| **owner == controller).map(|(name, _)| name.clone()).collect()
    }

    /// Notes that a process has ended while it restored a state. True if that counts as a refusal, because it was not the first.
    fn ended_a_process(&self, name: &StateName) -> bool {
        let mut table = self.table();
        let ended = table.ended.entry(name.clone()).or_default();
        *ended += 1;
        *ended >= ENDED
    }

    /// Removes what is to be forgotten.
    fn purge(&self, store: &dyn StateStore) {
        let forgotten = std::mem::take(&mut self.table().forgotten);
        for key in forgotten {
            if let Err(error) = store.forget(&key) {
                tracing::warn!(config_key = key, %error, "the state of a config that was removed could not be removed");
                // Tried again before anything else happens to it.
                self.table().forgotten.insert(key);
            }
        }
    }

    /// Reads a state. What cannot be used is set aside.
    fn load(&self, store: &dyn StateStore, name: &StateName) -> Option<State> {
        match store.load(name) {
            Ok(state) => {
                self.table().untouchable.remove(name);
                state
            }
            Err(error) if error.kind() == ErrorKind::Invalid => {
                self.set_aside(store, name, &error);
                None
            }
            Err(error) => {
                self.table().untouchable.insert(name.clone());
                let StateName { plugin, key } = name;
                tracing::warn!(
                    controller = plugin,
                    config_key = key,
                    %error,
                    "its state cannot be read: it starts without one, and none is kept"
                );
                None
            }
        }
    }

    /// Sets aside what was refused, which may not be what is there.
    fn set_aside_refused(
        &self,
        store: &dyn StateStore,
        name: &StateName,
        (version, refused): (&Version, Option<&State>),
        why: &Error,
    ) {
        if let Some(Err(error)) = refused.map(|refused| store.store(name, version, refused)) {
            tracing::warn!(controller = name.plugin, config_key = name.key, %error, "a refused state is not kept");
        }
        self.set_aside(store, name, why);
    }

    fn set_aside(&self, store: &dyn StateStore, name: &StateName, why: &Error) {
        let StateName { plugin, key } = name;
        match store.set_aside(name) {
            Ok(place) => tracing::warn!(
                controller = plugin,
                config_key = key,
                error = %why,
                place,
                "the state that was kept is refused: it starts without one, and that one is set aside"
            ),
            Err(other) => {
                self.table().untouchable.insert(name.clone());
                tracing::warn!(
                    controller = plugin,
                    config_key = key,
                    error = %why,
                    why = %other,
                    "the state that was kept is refused, and cannot be set aside: it starts without one, and none is kept"
                );
            }
        }
    }
}

impl Engine {
    /// Has the store do something, on a thread that may block.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&States, &dyn StateStore) -> T + Send + 'static,
    ) -> Result<T> {
        let store = self.states.store().clone();
        let store = store.ok_or_else(|| Error::new(ErrorKind::Closed, "there is no place for states any more"))?;
        let states = Arc::clone(&self.states);
        let slow =
            |limit| Error::new(ErrorKind::TimedOut, format!("the place for states has not answered within {limit:?}"));
        let turn = timeout(QUEUEING, Arc::clone(&states.files).lock_owned()).await.map_err(|_| slow(QUEUEING))?;
        let working = self.runtime()?.spawn_blocking(move || {
            let _turn = turn;
            states.purge(&*store);
            work(&states, &*store)
        });
        match timeout(STORING, working).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) if error.is_panic() => Err(Error::from_panic(error.into_panic())),
            Ok(Err(error)) => Err(Error::msg(error)),
            Err(_) => Err(slow(STORING)),
        }
    }

    /// Constructs a controller that is given no state, with the one that was kept for it, if any. If it refuses that, it starts
    /// without.
    pub(super) async fn make_with_kept(
        self: &Arc<Self>,
        known: &KnownFactory,
        instance: u64,
        config: Vec<u8>,
        is_alone: bool,
    ) -> Result<ControllerEntry, ConstructFailure> {
        let Some((name, state, is_stored)) = self.kept_for(known, instance).await else {
            return self.make(known, instance, config, None, is_alone).await;
        };
        let refused = (!is_stored).then(|| state.clone());
        match self.make(known, instance, config.clone(), Some(state), is_alone).await {
            Ok(made) => {
                made.last_state.iter().filter(|_| is_stored).for_each(|last| last.is_kept());
                self.states.table().ended.remove(&name);
                Ok(made)
            }
            Err(failure) if failure.error.is_of_construction() => Err(failure),
            // Nobody has looked at the state.
            Err(failure) if failure.error.kind() == ErrorKind::Closed => Err(failure),
            // Perhaps for another reason.
            Err(failure) if failure.error.kind() == ErrorKind::Crashed && !self.states.ended_a_process(&name) => {
                Err(failure)
            }
            Err(failure) => {
                self.states.table().ended.remove(&name);
                let (why, version) = (failure.error.clone(), known.info.version.clone());
                let aside = self.with_store(move |states, store| {
                    states.set_aside_refused(store, &name, (&version, refused.as_ref()), &why);
                });
                let aside = aside.await;
                // One that is not over is waited for before it is tried again.
                match aside {
                    Ok(()) if failure.after.is_none() => self.make(known, instance, config, None, is_alone).await,
                    _ => Err(failure),
                }
            }
        }
    }

    /// The state that was kept for an instance's controller, and whether it is what is stored.
    async fn kept_for(self: &Arc<Self>, known: &KnownFactory, instance: u64) -> Option<(StateName, State, bool)> {
        known.persist.filter(|_| self.states.has_store())?;
        for name in self.names_of(&known.info.id, instance) {
            let owner = self.states.table().owners.get(&name).copied();
            let (serving, leaving) = match owner {
                Some(owner) => {
                    let life = self.life();
                    (life.controllers.get(&owner).cloned(), life.leaving.get(&owner).cloned())
                }
                None => (None, None),
            };
            // Of the config before: it serves until this one does.
            if let Some(serving) = serving
                && let Ok(Some(state)) = save(self, &serving).await
            {
                return Some((name, state, false));
            }
            if let Some(leaving) = leaving {
                let _ = timeout(self.limits.end(), leaving.closed.cancelled()).await;
            }
            let of = name.clone();
            match self.with_store(move |states, store| states.load(store, &of)).await {
                Ok(Some(state)) => return Some((name, state, true)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(controller = name.plugin, config_key = name.key, %error, "its state cannot be read");
                    self.states.table().untouchable.insert(name);
                }
            }
        }
        None
    }

    fn names_of(&self, plugin: &str, instance: u64) -> Vec<StateName> {
        let keys = self.life().configs.keys_of(instance);
        keys.into_iter().map(|key| StateName::new(plugin, key)).collect()
    }

    /// Makes a controller the one that writes the states of the keys that it has now, if nobody else does or `from_others`.
    /// Whether one of them is new to it.
    fn own_current(&self, entry: &ControllerEntry, from_others: bool) -> bool {
        let Some(instance) = entry.instance() else { return false };
        // In one step with looking: a key that is removed meanwhile must not come back.
        let life = self.life();
        let names = life.configs.keys_of(instance).into_iter().map(|key| StateName::new(&*entry.info.id, key));
        self.states.own(names.collect(), entry.id, from_others)
    }

    /// Forgets the states of keys that were removed on purpose.
    pub(super) fn forget_states(self: &Arc<Self>, keys: &[String]) {
        if keys.is_empty() || !self.states.has_store() {
            return;
        }
        {
            let mut table = self.states.table();
            table.owners.retain(|name, _| !keys.contains(&name.key));
            table.untouchable.retain(|name| !keys.contains(&name.key));
            table.ended.retain(|name, _| !keys.contains(&name.key));
            table.forgotten.extend(keys.iter().cloned());
        }
        let engine = Arc::clone(self);
        self.spawn(async move {
            // Whoever needs the store before this removes them as well.
            let _ = engine.with_store(|_, _| ()).await;
        });
    }

    /// Waits for what was begun with the store, and has it forget what is to be forgotten.
    pub(super) async fn flush_states(&self) {
        if self.states.has_store()
            && let Err(error) = self.with_store(|_, _| ()).await
        {
            tracing::warn!(%error, "states of configs that were removed may still be there");
        }
    }

    /// Makes a controller that serves from now on the one that writes its state.
    pub(super) fn own_state(self: &Arc<Self>, entry: &ControllerEntry) {
        let Some(instance) = entry.instance().filter(|_| entry.persist.is_some()) else { return };
        if self.states.has_store() {
            self.own_current(entry, true);
            return;
        }
        let keys = self.life().configs.keys_of(instance).join(", ");
        tracing::warn!(
            controller = entry.info.id,
            config_key = keys,
            "its state is not kept: the bus had no place for states when it was made (start the runtime first)"
        );
    }

    /// Keeps a controller's state at intervals while it serves, if it is one with `persist`.
    pub(super) fn keep_state(self: &Arc<Self>, entry: &Arc<ControllerEntry>) -> Option<Keeping> {
        let every = entry.persist.filter(|_| self.states.has_store())?;
        let keeping = Writer::of(entry).keep(Arc::clone(self), Arc::clone(entry), every);
        Some(Keeping(self.runtime().ok()?.spawn(keeping.instrument(entry.span.clone()))))
    }

    /// Keeps the last state of a controller that has ended: this one, or what it saves now. Not if it has never served, or another one
    /// does.
    pub(super) async fn keep_last(
        self: &Arc<Self>,
        entry: &Arc<ControllerEntry>,
        keeping: Option<Keeping>,
        left: Option<State>,
    ) {
        if entry.persist.is_none() {
            return;
        }
        let writer = match keeping {
            Some(Keeping(writing)) => timeout(self.limits.save + STORING, writing).await.ok().and_then(Result::ok),
            // It was ended before it was executed, but may have answered.
            None => Some(Writer::of(entry)),
        };
        match writer {
            Some(mut writer) => {
                // A key that has come since the last look.
                if self.own_current(entry, false) {
                    writer.written = None;
                }
                writer.write(self, entry, left).await;
            }
            None => tracing::warn!(
                controller = entry.info.id,
                "its last state is not kept: the one before is still being written"
            ),
        }
        self.states.table().owners.retain(|_, owner| *owner != entry.id);
    }
}

/// A controller's state is being kept.
pub(super) struct Keeping(JoinHandle<Writer>);

/// Writes the state of one controller.
struct Writer {
    written: Option<Arc<State>>,
    /// What is wrong, which is told once.
    complained: bool,
}

impl Writer {
    fn of(entry: &ControllerEntry) -> Self {
        Self { written: entry.last_state.as_ref().and_then(|last| last.kept()), complained: false }
    }

    /// Writes it at intervals until the controller is cancelled.
    async fn keep(mut self, engine: Arc<Engine>, entry: Arc<ControllerEntry>, every: Duration) -> Self {
        let mut service = entry.service.subscribe();
        let serves = service.wait_for(|service| *service != Service::Waiting);
        if !serves.await.is_ok_and(|service| *service == Service::Serving) {
            return self;
        }
        // What was kept for one key is not there for the others.
        if entry.instance().is_some_and(|instance| engine.names_of(&entry.info.id, instance).len() > 1) {
            self.written = None;
        }
        loop {
            self.write(&engine, &entry, None).await;
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = entry.cancel.cancelled() => return self,
            }
            // A key that has come since has nothing stored yet.
            if engine.own_current(&entry, false) {
                self.written = None;
            }
        }
    }

    /// Writes a state, or what the controller saves now, if that is not what was written last.
    async fn write(&mut self, engine: &Arc<Engine>, entry: &Arc<ControllerEntry>, left: Option<State>) {
        if !engine.states.table().owners.values().any(|owner| *owner == entry.id) {
            return;
        }
        let refused = entry.last_state.as_ref().and_then(|last| last.take_refused());
        if let Some(refused) = refused
            && let Err(error) = set_aside(engine, entry, refused).await
        {
            tracing::warn!(controller = entry.info.id, %error, "a refused state is not kept");
        }
        let saved = match left {
            Some(left) => Ok(Some(left)),
            None => save(engine, entry).await,
        };
        let written = match saved {
            Ok(None) => return,
            Ok(Some(state)) => {
                let state = Arc::new(state);
                if let Some(last) = &entry.last_state {
                    last.set(Arc::clone(&state));
                }
                if self.written.as_ref() == Some(&state) {
                    return;
                }
                store(engine, entry, Arc::clone(&state)).await.map(|()| state)
            }
            Err(error) => Err(error),
        };
        let controller = &entry.info.id;
        match written {
            Ok(state) => {
                self.written = Some(state);
                if std::mem::take(&mut self.complained) {
                    tracing::info!(controller, "its state is kept again");
                }
            }
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(controller, %error, "its state is not kept; this is told once, and tried again");
            }
            Err(_) => {}
        }
    }
}

/// Stores a controller's state, under each key that it owns.
async fn store(engine: &Arc<Engine>, entry: &ControllerEntry, state: Arc<State>) -> Result<()> {
    if state.bytes.len() > MOST {
        let what = format!("it has {} bytes, and {MOST} is the most that is kept", state.bytes.len());
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    let (id, version) = (entry.id, entry.info.version.clone());
    let stored = engine.with_store(move |states, store| {
        states.owned_by(id).iter().try_for_each(|name| store.store(name, &version, &state))
    });
    stored.await?
}

/// Sets a state aside that a controller has refused after a crash, under each key that it owns.
async fn set_aside(engine: &Arc<Engine>, entry: &ControllerEntry, (refused, why): (Arc<State>, Error)) -> Result<()> {
    let (id, version) = (entry.id, entry.info.version.clone());
    let set_aside = engine.with_store(move |states, store| {
        for name in states.owned_by(id) {
            states.set_aside_refused(store, &name, (&version, Some(&refused)), &why);
        }
    });
    set_aside.await
}
