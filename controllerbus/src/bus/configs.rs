//! Runs config sets: one controller for each key, made as soon as there is a factory for it.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::entry::{ControllerEntry, Execution, contained};
use super::{Backend, BusHandle, ControllerId, Source};
use crate::config::origin::Place;
use crate::config::{ConfigSet, Entry, nearest};
use crate::controller::factory::Factory;
use crate::controller::{AnyController, BoxFuture, Context, Info};
use crate::directive::wire;
use crate::error::{ErrorKind, Location};
use crate::{Backoff, Error, Result};

/// How long a construction may take.
pub(super) const CONSTRUCT_LIMIT: Duration = Duration::from_secs(30);

/// What a config's controller is doing.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum RunState {
    /// No factory makes its config ID yet, or none of the versions that it asks for.
    Queued,
    /// It is being constructed.
    Constructing,
    /// It runs.
    Running(ControllerId),
    /// It could not be constructed, or its execution failed; it is tried again.
    Failed {
        /// Why.
        error: Error,
        /// When, from the failure on.
        #[serde(rename = "retry_in_ms", serialize_with = "millis")]
        retry_in: Duration,
    },
}

pub(super) fn millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis() as u64)
}

/// One key of the applied config sets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigState {
    /// The key.
    pub key: String,
    /// The config ID.
    pub config_id: String,
    /// The versions that it asks for.
    pub version: Option<semver::VersionReq>,
    /// The revision that runs.
    pub revision: u64,
    /// Lower revisions that would run if this one were withdrawn, the highest first.
    pub candidates: Vec<u64>,
    /// What its controller is doing.
    pub state: RunState,
    /// Since when.
    pub since: SystemTime,
    /// Where it stands, where it was read from a text.
    pub location: Option<Location>,
    /// What keeps it from running, with the place, and what to do about it.
    pub problem: Option<Error>,
}

/// The applied configs by key.
#[derive(Default)]
pub(super) struct Configs {
    pub(super) by_key: BTreeMap<String, Applied>,
    next: u64,
}

/// Who applied a config: whoever called [`super::Bus::apply`], or a standing directive.
pub(super) type Owner = u64;

/// How many lower revisions of a key are kept.
const CANDIDATES: usize = 16;

struct Candidate {
    owner: Owner,
    /// Of equal revisions the one that came last wins.
    order: u64,
    entry: Entry,
    place: Option<Place>,
}

pub(super) struct Applied {
    pub(super) entry: Entry,
    pub(super) state: RunState,
    place: Option<Place>,
    since: SystemTime,
    /// All that was applied for the key, the one that runs among them; the first wins.
    candidates: Vec<Candidate>,
    tries: Backoff,
    /// Raised with each change, so that a retry of before does nothing.
    epoch: u64,
}

impl Applied {
    fn to(&mut self, state: RunState) {
        self.state = state;
        self.since = SystemTime::now();
    }
}

/// What became of a key when its candidates changed.
enum Elected {
    /// Its controller is what it should be.
    Same,
    /// It must be made, after this one has gone.
    Other(Option<ControllerId>),
    /// Nobody wants it any more.
    Gone(Option<ControllerId>),
}

impl Configs {
    fn add(&mut self, owner: Owner, key: &str, entry: Entry, place: Option<Place>) -> Elected {
        self.next += 1;
        let candidate = Candidate { owner, order: self.next, entry: entry.clone(), place: place.clone() };
        let applied = self.by_key.entry(key.to_owned()).or_insert_with(|| Applied {
            entry,
            state: RunState::Queued,
            place,
            since: SystemTime::now(),
            candidates: Vec::new(),
            tries: Backoff::default(),
            epoch: 0,
        });
        let (new, revision) = (applied.candidates.is_empty(), candidate.entry.revision);
        applied.candidates.retain(|other| other.owner != owner || other.entry.revision != revision);
        applied.candidates.push(candidate);
        let elected = self.elect(key);
        if new { Elected::Other(None) } else { elected }
    }

    fn withdraw(&mut self, key: &str, gone: impl Fn(&Candidate) -> bool) -> Option<Elected> {
        let applied = self.by_key.get_mut(key)?;
        let before = applied.candidates.len();
        applied.candidates.retain(|candidate| !gone(candidate));
        (applied.candidates.len() != before).then(|| self.elect(key))
    }

    /// Lets the highest revision win.
    fn elect(&mut self, key: &str) -> Elected {
        let Some(applied) = self.by_key.get_mut(key) else { return Elected::Same };
        let running = match applied.state {
            RunState::Running(id) => Some(id),
            _ => None,
        };
        applied.candidates.sort_by_key(|found| std::cmp::Reverse((found.entry.revision, found.order)));
        applied.candidates.truncate(CANDIDATES);
        let Some(best) = applied.candidates.first() else {
            self.by_key.remove(key);
            return Elected::Gone(running);
        };
        let (entry, own) = (&best.entry, &applied.entry);
        let same = entry.id == own.id && entry.config == own.config && entry.version == own.version;
        (applied.entry, applied.place) = (entry.clone(), best.place.clone());
        if same {
            // Applying it again is a way to say: try now.
            return if matches!(applied.state, RunState::Failed { .. }) { Elected::Other(None) } else { Elected::Same };
        }
        applied.to(RunState::Queued);
        applied.tries = Backoff::default();
        Elected::Other(running)
    }
}

impl Engine {
    pub(super) fn configs(&self) -> MutexGuard<'_, Configs> {
        self.configs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a set and waits until each of its keys runs, has failed once, or is queued.
    pub(super) async fn apply(self: &Arc<Self>, owner: Owner, set: ConfigSet) {
        let _turn = self.turn.lock().await;
        for (key, entry, place) in set.into_entries() {
            let elected = self.configs().add(owner, &key, entry, place);
            self.settle(&key, elected).await;
        }
    }

    /// Takes candidates of a key back; the highest one left takes over. False if there was none. The caller has the turn.
    async fn withdraw(self: &Arc<Self>, key: &str, gone: impl Fn(&Candidate) -> bool) -> bool {
        let elected = self.configs().withdraw(key, gone);
        let Some(elected) = elected else { return false };
        self.settle(key, elected).await;
        true
    }

    pub(super) async fn withdraw_revision(self: &Arc<Self>, key: &str, revision: u64) -> bool {
        let _turn = self.turn.lock().await;
        self.withdraw(key, |candidate| candidate.entry.revision == revision).await
    }

    pub(super) async fn withdraw_owner(self: &Arc<Self>, owner: Owner) {
        let _turn = self.turn.lock().await;
        let keys: Vec<String> = self.configs().by_key.keys().cloned().collect();
        for key in keys {
            self.withdraw(&key, |candidate| candidate.owner == owner).await;
        }
    }

    pub(super) async fn remove_config(self: &Arc<Self>, key: &str) -> bool {
        let _turn = self.turn.lock().await;
        self.withdraw(key, |_| true).await
    }

    /// Removes every key that the set does not name.
    pub(super) async fn keep_only(self: &Arc<Self>, set: &ConfigSet) {
        let _turn = self.turn.lock().await;
        let keys: Vec<String> = self.configs().by_key.keys().filter(|key| set.get(key).is_none()).cloned().collect();
        for key in keys {
            self.withdraw(&key, |candidate| candidate.owner == 0).await;
        }
    }

    async fn settle(self: &Arc<Self>, key: &str, elected: Elected) {
        match elected {
            Elected::Same => {}
            Elected::Gone(old) | Elected::Other(old) => {
                if let Some(old) = old {
                    self.remove_controller(old).await;
                }
                self.reconcile(key).await;
            }
        }
        self.touch();
    }

    /// A key's state, as tools see it.
    pub(super) fn config_state(&self, key: &str) -> Option<ConfigState> {
        let mut state = {
            let configs = self.configs();
            let applied = configs.by_key.get(key)?;
            ConfigState {
                key: key.to_owned(),
                config_id: applied.entry.id.clone(),
                version: applied.entry.version.clone(),
                revision: applied.entry.revision,
                candidates: applied.candidates.iter().skip(1).map(|found| found.entry.revision).collect(),
                state: applied.state.clone(),
                since: applied.since,
                location: applied.place.as_ref().and_then(Place::id),
                problem: None,
            }
        };
        if let RunState::Running(id) = state.state {
            let entry = self.controllers().get(&id.0).cloned();
            if let Some((Execution::Failed { error, retry_in }, since)) = entry.map(|entry| entry.execution()) {
                state.state = RunState::Failed { error, retry_in };
                state.since = since;
            }
        }
        state.problem = match &state.state {
            RunState::Failed { error, .. } => Some(error.clone()),
            RunState::Queued => {
                let error = self.no_factory(&state.config_id, state.version.as_ref());
                Some(match state.location.clone() {
                    Some(location) => error.at(location),
                    None => error.context(format!("config `{key}`")),
                })
            }
            _ => None,
        };
        Some(state)
    }

    /// Why there is no factory for a config.
    pub(super) fn no_factory(&self, config_id: &str, version: Option<&semver::VersionReq>) -> Error {
        let factories = self.factories.lock().unwrap_or_else(PoisonError::into_inner);
        let versions = factories.versions(config_id);
        let text = match version {
            Some(range) if !versions.is_empty() => {
                let versions = versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!("no factory of `{config_id}` has a version that fits `{range}`; there are {versions}")
            }
            _ => {
                let ids = factories.config_ids();
                let meant = nearest(config_id, ids.iter().map(String::as_str));
                let meant = meant.map(|id| format!("; did you mean `{id}`?")).unwrap_or_default();
                format!("no factory makes `{config_id}`{meant}")
            }
        };
        Error::new(ErrorKind::NotFound, text)
    }

    /// Makes a key's controller, if it can be made now. The caller has the turn.
    pub(super) fn reconcile<'a>(self: &'a Arc<Self>, key: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(self.reconcile_now(key))
    }

    async fn reconcile_now(self: &Arc<Self>, key: &str) {
        let entry = {
            let mut configs = self.configs();
            let Some(applied) = configs.by_key.get_mut(key) else { return };
            if matches!(applied.state, RunState::Running(_)) {
                return;
            }
            applied.epoch += 1;
            let found = self.factory(&applied.entry.id, applied.entry.version.as_ref());
            applied.to(if found.is_some() { RunState::Constructing } else { RunState::Queued });
            found.map(|found| (applied.entry.clone(), applied.place.clone(), found))
        };
        self.touch();
        let Some((entry, place, (source, info, factory))) = entry else { return };
        let made = self.construct(source, info, factory, &entry, Some(key.to_owned()), false).await;
        let mut configs = self.configs();
        let Some(applied) = configs.by_key.get_mut(key) else { return };
        match made {
            Ok(made) => {
                applied.to(RunState::Running(ControllerId(made.id)));
                applied.tries = Backoff::default();
                drop(configs);
                self.go(&made);
            }
            Err(error) => {
                let retry_in = applied.tries.next();
                tracing::warn!(key, %error, "a controller could not be constructed; it is tried again");
                let error = match place.and_then(|place| place.config(wire::path_of(&error).unwrap_or_default())) {
                    Some(location) => error.at(location),
                    None => error,
                };
                applied.to(RunState::Failed { error, retry_in });
                let (epoch, key, weak) = (applied.epoch, key.to_owned(), Arc::downgrade(self));
                drop(configs);
                self.spawn(async move {
                    tokio::time::sleep(retry_in).await;
                    let Some(engine) = weak.upgrade() else { return };
                    let turn = Arc::clone(&engine.turn);
                    let _turn = turn.lock_owned().await;
                    let same = engine.configs().by_key.get(&key).is_some_and(|applied| applied.epoch == epoch);
                    if same {
                        engine.reconcile(&key).await;
                    }
                });
            }
        }
        self.touch();
    }

    pub(super) fn factory(
        &self,
        config_id: &str,
        version: Option<&semver::VersionReq>,
    ) -> Option<(Source, Info, Arc<dyn Factory>)> {
        self.factories.lock().unwrap_or_else(PoisonError::into_inner).find(config_id, version)
    }

    /// The versions of a config ID's factories, the highest first.
    pub(super) fn versions(&self, config_id: &str) -> Vec<semver::Version> {
        self.factories.lock().unwrap_or_else(PoisonError::into_inner).versions(config_id)
    }

    /// Reconciles every key that does not run. The caller has the turn.
    pub(super) async fn reconcile_queued(self: &Arc<Self>) {
        let keys: Vec<String> = {
            let configs = self.configs();
            let waiting = configs.by_key.iter().filter(|(_, applied)| !matches!(applied.state, RunState::Running(_)));
            waiting.map(|(key, _)| key.clone()).collect()
        };
        for key in keys {
            self.reconcile(&key).await;
        }
    }

    /// Constructs a controller of a config; it neither runs nor is it routed to yet.
    pub(super) async fn construct(
        self: &Arc<Self>,
        source: Source,
        info: Info,
        factory: Arc<dyn Factory>,
        entry: &Entry,
        key: Option<String>,
        staged: bool,
    ) -> Result<Arc<ControllerEntry>> {
        let config = wire::encode(&entry.config)?;
        let controller = self.construct_raw(&info, factory, config.clone()).await?;
        let (controller, cancel) = controller;
        Ok(ControllerEntry::new(self.next_id(), info, source, controller, key, Some(config), cancel, staged))
    }

    pub(super) async fn construct_raw(
        self: &Arc<Self>,
        info: &Info,
        factory: Arc<dyn Factory>,
        config: Vec<u8>,
    ) -> Result<(Arc<dyn AnyController>, CancellationToken)> {
        let cancel = CancellationToken::new();
        let context = Context::new(self.handle(), cancel.clone(), Arc::new(info.clone()));
        let work = contained(async move { factory.construct(config, context).await });
        match tokio::time::timeout(CONSTRUCT_LIMIT, work).await {
            Ok(controller) => Ok((controller?, cancel)),
            Err(_) => {
                cancel.cancel();
                let what = format!("constructing {} took longer than {CONSTRUCT_LIMIT:?}", info.id);
                Err(Error::new(ErrorKind::TimedOut, what))
            }
        }
    }

    pub(super) fn handle(self: &Arc<Self>) -> BusHandle {
        BusHandle::new(Arc::clone(self) as Arc<dyn Backend>)
    }

    /// Puts a constructed controller on the bus: it runs, is routed to, and is offered what stands.
    pub(super) fn go(self: &Arc<Self>, entry: &Arc<ControllerEntry>) {
        self.controllers().insert(entry.id, Arc::clone(entry));
        self.run(entry);
        self.route(std::slice::from_ref(entry), &[]);
        self.offer_standing(entry);
        self.touch();
    }

    /// Starts a controller's execution.
    pub(super) fn run(self: &Arc<Self>, entry: &Arc<ControllerEntry>) {
        self.spawn(Arc::clone(entry).run(self.handle(), self.changed.clone()));
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match (tokio::runtime::Handle::try_current(), &self.runtime) {
            (Ok(handle), _) => drop(handle.spawn(work)),
            (Err(_), Some(handle)) => drop(handle.spawn(work)),
            (Err(_), None) => tracing::error!("the bus was made, and is used, outside a tokio runtime"),
        }
    }

    /// Takes a controller off the bus and waits until it is closed.
    pub(super) async fn remove_controller(self: &Arc<Self>, id: ControllerId) -> bool {
        let Some(entry) = self.controllers().remove(&id.0) else { return false };
        self.route(&[], &[entry.id]);
        entry.withdraw();
        entry.cancel.cancel();
        entry.closed.cancelled().await;
        self.touch();
        true
    }
}
