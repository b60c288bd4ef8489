//! Directives that the bus itself resolves, by which controllers ask for controllers: [`LoadFactory`],
//! [`LoadConfig`], [`LoadControllerWithConfig`], [`ExecController`] and [`ApplyConfigSet`].

// The entries of the derives in their slice are statics in a link section.
#![allow(unsafe_code)]

use std::sync::{Arc, OnceLock, Weak};

use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

use super::configs::Earlier;
use super::engine::Engine;
use super::{ControllerId, RunState, Source};
use crate::config::{Config, ConfigSet, Entry};
use crate::controller::factory::erase;
use crate::controller::{Context, Controller, Info, Routes};
use crate::directive::Values;
use crate::error::ErrorKind;
use crate::{BusError, Error, Event, Result};

/// Asks for the factory of a config ID: the highest version in the range. The value changes when a better one is added.
#[derive(crate::Directive, Clone, Debug, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/load-factory", value = LoadedFactory)]
pub struct LoadFactory {
    /// The config ID.
    pub config_id: String,
    /// Which versions will do; any if it is `None`.
    pub version: Option<VersionReq>,
}

/// A factory that the bus knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoadedFactory {
    /// Who its controllers will be.
    pub info: Info,
    /// Where it comes from.
    pub source: Source,
}

/// Asks what is known about the configs of an ID.
#[derive(crate::Directive, Clone, Debug, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/load-config", value = LoadedConfig)]
pub struct LoadConfig {
    /// The config ID.
    pub config_id: String,
}

/// What is known about the configs of an ID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoadedConfig {
    /// The JSON schema, of the highest version.
    pub schema: serde_json::Value,
    /// The versions of the factories, the highest first.
    pub versions: Vec<Version>,
}

/// Asks for a running controller of a config. It runs as long as the directive is active.
#[derive(crate::Directive, Clone, Debug, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/load-controller", value = LoadedController)]
pub struct LoadControllerWithConfig {
    /// The config ID.
    pub config_id: String,
    /// Which versions will do; any if it is `None`.
    pub version: Option<VersionReq>,
    /// The config as JSON text.
    pub config: String,
}

impl LoadControllerWithConfig {
    /// Asks for a controller of a config of a known type.
    ///
    /// # Errors
    /// [`ErrorKind::Encoding`] if it does not serialize.
    pub fn of<C: Config>(config: &C) -> Result<Self, BusError> {
        let config = serde_json::to_string(config)
            .map_err(|error| Error::new(ErrorKind::Encoding, format!("config {}: {error}", C::ID)))?;
        Ok(Self { config_id: C::ID.to_owned(), version: None, config })
    }
}

/// A controller that runs because it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoadedController {
    /// Its id on the bus.
    pub id: ControllerId,
    /// Who it is.
    pub info: Info,
}

/// Like [`LoadControllerWithConfig`], but its value is the controller's current state.
#[derive(crate::Directive, Clone, Debug, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/exec-controller", value = ExecState)]
pub struct ExecController {
    /// What to run.
    pub load: LoadControllerWithConfig,
}

/// The state of a controller that was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ExecState {
    /// It waits for a factory, or is being constructed.
    Waiting,
    /// It is running.
    Running(LoadedController),
    /// It failed, and is retried.
    Failed(Error),
}

/// Applies a config set as long as the directive is active. There is a value for each key, with its state.
#[derive(crate::Directive, Clone, Debug, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/apply-config-set", value = AppliedConfig, validate = ApplyConfigSet::check)]
pub struct ApplyConfigSet {
    /// The set as YAML or JSON text.
    pub set: String,
}

/// Reads a config set. Set when a bus is created, and so not in plugins: the host's bus checks their directives, and without
/// a YAML parser, which each reload would link, a plugin is half as large.
static READER: OnceLock<fn(&str) -> Result<ConfigSet>> = OnceLock::new();

impl ApplyConfigSet {
    fn check(&self) -> Result<()> {
        READER.get().map_or(Ok(()), |read| read(&self.set).map(drop))
    }
}

/// The state of one key of an applied config set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AppliedConfig {
    /// The key.
    pub key: String,
    /// The elected revision, which may be from another set.
    pub revision: u64,
    /// The controller, if it is running.
    pub controller: Option<ControllerId>,
    /// Why it is not running.
    pub problem: Option<Error>,
}

/// The bus as one of its own controllers.
pub(super) struct Loading(pub(super) Weak<Engine>);

#[derive(crate::Config, Serialize, Deserialize, PartialEq)]
#[config(id = "controllerbus/loading")]
pub(super) struct NoConfig {}

/// The bus's own controller. No list of controllers has it.
pub(super) fn controller(engine: Weak<Engine>) -> Arc<dyn crate::controller::AnyController> {
    READER.get_or_init(|| ConfigSet::from_text);
    erase(Loading(engine))
}

impl Controller for Loading {
    type Config = NoConfig;

    async fn construct(_: NoConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("the bus constructs this controller itself"))
    }

    fn routes(routes: &mut Routes<Self>) {
        routes.add::<LoadFactory>(|this, request, values| {
            Box::pin(async move {
                this.follow(values, |engine| {
                    let life = engine.life();
                    let known = life.factories.find(&request.config_id, request.version.as_ref())?;
                    Some(LoadedFactory { info: known.info.clone(), source: known.source })
                })
                .await
            })
        });
        routes.add::<LoadConfig>(|this, request, values| {
            Box::pin(async move {
                this.follow(values, |engine| {
                    let (factory, versions) = {
                        let life = engine.life();
                        let known = life.factories.find(&request.config_id, None)?;
                        (Arc::clone(&known.factory), life.factories.versions(&request.config_id))
                    };
                    let schema = serde_json::from_str(&factory.schema()).unwrap_or_default();
                    Some(LoadedConfig { schema, versions })
                })
                .await
            })
        });
        routes.add::<LoadControllerWithConfig>(|this, request, values| {
            Box::pin(async move { this.load(request, values).await })
        });
        routes.add::<ExecController>(|this, request, values| Box::pin(async move { this.exec(request, values).await }));
        routes
            .add::<ApplyConfigSet>(|this, request, values| Box::pin(async move { this.apply(request, values).await }));
    }
}

/// Withdraws what a directive has applied.
struct WithdrawOnDrop {
    engine: Weak<Engine>,
    owner: u64,
}

impl Drop for WithdrawOnDrop {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.release_owner(self.owner);
        }
    }
}

impl Loading {
    fn engine(&self) -> Result<Arc<Engine>> {
        self.0.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed, "the bus is gone"))
    }

    /// Keeps a value up to date with something that the engine has.
    async fn follow<V: Serialize + PartialEq + Clone + Send + Sync + 'static>(
        &self,
        values: Values<V>,
        find: impl Fn(&Arc<Engine>) -> Option<V>,
    ) -> Result<()> {
        let mut changed = self.engine()?.changed.subscribe();
        let mut slot = values.slot();
        let mut shown = None;
        loop {
            changed.borrow_and_update();
            let found = find(&self.engine()?);
            if found != shown {
                match &found {
                    Some(found) => slot.set(found.clone()),
                    None => slot.clear(),
                }
                shown = found;
            }
            values.idle();
            if changed.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn load(&self, request: LoadControllerWithConfig, values: Values<LoadedController>) -> Result<()> {
        let config = serde_json::from_str(&request.config).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("the config of {} is not valid JSON: {error}", request.config_id))
        })?;
        let engine = self.engine()?;
        let owner = engine.next_id();
        let key = format!("directive {owner}: {}", request.config_id);
        let mut set = ConfigSet::new();
        set.set(key.clone(), Entry { version: request.version, ..Entry::new(request.config_id, config) });
        let mut changed = engine.changed.subscribe();
        let _withdraw = WithdrawOnDrop { engine: Weak::clone(&self.0), owner };
        engine.add_candidates(owner, set, Earlier::Replace)?;
        drop(engine);
        let mut slot = values.slot();
        let mut shown = None;
        loop {
            changed.borrow_and_update();
            let engine = self.engine()?;
            let running = match engine.config_state(&key).map(|state| state.state) {
                Some(RunState::Running(id)) => {
                    let entry = engine.life().controllers.get(&id.0).cloned();
                    entry.map(|entry| LoadedController { id, info: Info::clone(&entry.info) })
                }
                // Reported and retried like the failure of any resolver.
                Some(RunState::Failed { error, .. }) => return Err(error.transient()),
                Some(RunState::Queued | RunState::Removed) => {
                    values.idle();
                    None
                }
                Some(RunState::Constructing) => {
                    values.busy();
                    None
                }
                None => return Err(Error::new(ErrorKind::Closed, "its config was removed")),
            };
            drop(engine);
            if running != shown {
                match &running {
                    Some(running) => {
                        slot.set(running.clone());
                        values.idle();
                    }
                    None => slot.clear(),
                }
                shown = running;
            }
            if changed.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn exec(&self, request: ExecController, values: Values<ExecState>) -> Result<()> {
        let mut loading = self.engine()?.handle().request(request.load)?;
        let mut slot = values.slot();
        slot.set(ExecState::Waiting);
        values.idle();
        while let Some(event) = loading.next().await {
            match event {
                Event::Added(_, running) => slot.set(ExecState::Running(LoadedController::clone(&running))),
                Event::Failed(error) => slot.set(ExecState::Failed(error)),
                Event::Removed(_) if loading.standing().next().is_none() => slot.set(ExecState::Waiting),
                Event::Removed(_) | Event::Idle | Event::Busy => {}
            }
        }
        Ok(())
    }

    async fn apply(&self, request: ApplyConfigSet, values: Values<AppliedConfig>) -> Result<()> {
        let set = ConfigSet::from_text(&request.set)?;
        let keys: Vec<String> = set.iter().map(|(key, _)| key.to_owned()).collect();
        let engine = self.engine()?;
        let owner = engine.next_id();
        let mut changed = engine.changed.subscribe();
        let _withdraw = WithdrawOnDrop { engine: Weak::clone(&self.0), owner };
        engine.add_candidates(owner, set, Earlier::Replace)?;
        drop(engine);
        let mut shown = values.keyed();
        let mut last = std::collections::HashMap::new();
        loop {
            changed.borrow_and_update();
            for key in &keys {
                let Some(state) = self.engine()?.config_state(key) else { continue };
                let controller = match state.state {
                    RunState::Running(id) => Some(id),
                    _ => None,
                };
                let now =
                    AppliedConfig { key: key.clone(), revision: state.revision, controller, problem: state.problem };
                if last.get(key) != Some(&now) {
                    last.insert(key.clone(), now.clone());
                    shown.set(key.clone(), now);
                }
            }
            values.idle();
            if changed.changed().await.is_err() {
                return Ok(());
            }
        }
    }
}
