//! Runs config sets: one controller for each key, made as soon as there is a factory for it.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::engine::{Engine, EngineBackend};
use super::entry::{Backoff, ControllerEntry, contained};
use super::{BusHandle, ControllerId, Source};
use crate::config::{ConfigSet, Entry};
use crate::controller::factory::Factory;
use crate::controller::{AnyController, BoxFuture, Context, Info};
use crate::directive::wire;
use crate::error::ErrorKind;
use crate::{Error, Result};

/// How long a construction may take.
pub(super) const CONSTRUCT_LIMIT: Duration = Duration::from_secs(30);

/// What a config's controller is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum RunState {
    /// No factory makes its config ID yet.
    Queued,
    /// It is being constructed.
    Constructing,
    /// It runs.
    Running(ControllerId),
    /// It could not be constructed; it is tried again.
    Failed {
        /// Why.
        error: Error,
        /// When, from the failure on.
        retry_in: Duration,
    },
}

/// One key of the applied config sets.
#[derive(Clone, Debug)]
pub struct ConfigState {
    /// The key.
    pub key: String,
    /// The config ID.
    pub config_id: String,
    /// The revision that runs.
    pub revision: u64,
    /// What its controller is doing.
    pub state: RunState,
}

/// The applied configs by key.
#[derive(Default)]
pub(super) struct Configs {
    pub(super) by_key: BTreeMap<String, Applied>,
}

pub(super) struct Applied {
    pub(super) entry: Entry,
    pub(super) state: RunState,
    tries: Backoff,
    /// Raised with each change, so that a retry of before does nothing.
    epoch: u64,
}

impl Engine {
    pub(super) fn configs(&self) -> MutexGuard<'_, Configs> {
        self.configs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a set and waits until each of its keys runs, has failed once, or is queued.
    pub(super) async fn apply(self: &Arc<Self>, set: ConfigSet) {
        let _turn = self.turn.lock().await;
        for (key, entry) in set.into_entries() {
            let mut old = None;
            {
                let mut configs = self.configs();
                match configs.by_key.get_mut(&key) {
                    Some(applied) if entry.revision < applied.entry.revision => continue,
                    Some(applied) if applied.entry.id == entry.id && applied.entry.config == entry.config => {
                        applied.entry.revision = entry.revision;
                        if !matches!(applied.state, RunState::Failed { .. }) {
                            continue;
                        }
                    }
                    Some(applied) => {
                        if let RunState::Running(id) = applied.state {
                            old = Some(id);
                        }
                        applied.entry = entry;
                        applied.state = RunState::Queued;
                        applied.tries = Backoff::default();
                    }
                    None => {
                        let tries = Backoff::default();
                        configs.by_key.insert(key.clone(), Applied { entry, state: RunState::Queued, tries, epoch: 0 });
                    }
                }
            }
            if let Some(old) = old {
                self.remove_controller(old).await;
            }
            self.reconcile(&key).await;
        }
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
            let found = self.factory(&applied.entry.id);
            applied.state = if found.is_some() { RunState::Constructing } else { RunState::Queued };
            found.map(|found| (applied.entry.clone(), found))
        };
        self.touch();
        let Some((entry, (source, info, factory))) = entry else { return };
        let made = self.construct(source, info, factory, &entry, Some(key.to_owned()), false).await;
        let mut configs = self.configs();
        let Some(applied) = configs.by_key.get_mut(key) else { return };
        match made {
            Ok(made) => {
                applied.state = RunState::Running(ControllerId(made.id));
                applied.tries = Backoff::default();
                drop(configs);
                self.go(&made);
            }
            Err(error) => {
                let retry_in = applied.tries.next();
                tracing::warn!(key, %error, "a controller could not be constructed; it is tried again");
                applied.state = RunState::Failed { error, retry_in };
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

    pub(super) fn factory(&self, config_id: &str) -> Option<(Source, Info, Arc<dyn Factory>)> {
        self.factories.lock().unwrap_or_else(PoisonError::into_inner).find(config_id)
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
        BusHandle::new(Arc::new(EngineBackend(Arc::clone(self))))
    }

    /// Puts a constructed controller on the bus: it runs, is routed to, and is offered what stands.
    pub(super) fn go(self: &Arc<Self>, entry: &Arc<ControllerEntry>) {
        self.controllers().insert(entry.id, Arc::clone(entry));
        self.spawn(Arc::clone(entry).run(self.handle()));
        self.route(std::slice::from_ref(entry), &[]);
        self.offer_standing(entry);
        self.touch();
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
