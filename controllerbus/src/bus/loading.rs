//! Directives that the bus itself resolves. By them controllers ask for controllers ([`LoadFactory`], [`LoadConfig`],
//! [`LoadControllerWithConfig`], [`ExecController`]), apply config sets and look them up ([`ApplyConfigSet`],
//! [`LookupConfigSet`]), and see what there is ([`ListControllers`], [`ListDirectives`], [`ListFactories`]): in plugins as in the
//! host.
//!
//! ```
//! use controllerbus::bus::loading::ListControllers;
//! use controllerbus::prelude::*;
//!
//! async fn show(context: &Context) -> Result<()> {
//!     // What there is now; `request` follows it.
//!     for controller in context.bus().resolve_all(ListControllers {}).await? {
//!         println!("{} {}", controller.id.0, controller.info.id);
//!     }
//!     Ok(())
//! }
//! ```

// The entries of the derives in their slice are statics in a link section.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, OnceLock, Weak};

use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::configs::{Earlier, key_of_directive};
use super::engine::Engine;
use super::{ControllerId, ControllerSnapshot, DirectiveSnapshot, FactorySnapshot, RunState, Source};
use crate::config::{Config, ConfigSet, Entry};
use crate::controller::factory::erase;
use crate::controller::{Context, Controller, Info, Routes};
use crate::directive::Values;
use crate::error::ErrorKind;
use crate::{BusError, Directive as _, Error, Event, Result, Retry};

/// Asks for the factory of a config ID: the highest version in the range. The value changes when a better one is added.
///
/// A controller may answer it, too: it is asked for every config that no factory is known for, and answers by
/// [adding one](super::BusHandle::add_factories), which it keeps as long as the directive is active.
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

/// Asks for a running controller of a config. It runs as long as the directive is active: hold the
/// [`Request`](crate::Request), because `resolve` releases its own when it has the value.
#[derive(crate::Directive, Clone, Debug, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/load-controller", value = LoadedController)]
#[non_exhaustive]
pub struct LoadControllerWithConfig {
    /// The config ID.
    pub config_id: String,
    /// Which versions will do; any if it is `None`.
    pub version: Option<VersionReq>,
    /// The config as JSON text.
    pub config: String,
    /// How often it is tried again when it fails; the last failure is the directive's. Without it, each failure is, and it is
    /// tried again like any resolver.
    #[serde(default)]
    pub retry: Option<Retry>,
}

impl LoadControllerWithConfig {
    /// Asks for a controller of a config of a known type.
    ///
    /// # Errors
    /// [`ErrorKind::Encoding`] if it does not serialize.
    pub fn of<C: Config>(config: &C) -> Result<Self, BusError> {
        let config = serde_json::to_string(config)
            .map_err(|error| Error::new(ErrorKind::Encoding, format!("config {}: {error}", C::ID)))?;
        Ok(Self::by_id(C::ID, config))
    }

    /// Asks for a controller of a config whose type only its plugin knows: its ID, and the config as JSON text.
    pub fn by_id(config_id: impl Into<String>, config: impl Into<String>) -> Self {
        Self { config_id: config_id.into(), version: None, config: config.into(), retry: None }
    }

    /// With the versions that will do.
    #[must_use]
    pub fn with_version(self, version: VersionReq) -> Self {
        Self { version: Some(version), ..self }
    }

    /// With how often it is tried again.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry: Some(retry), ..self }
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

impl ApplyConfigSet {
    /// Applies a set.
    pub fn of(set: &ConfigSet) -> Self {
        Self { set: set.to_json() }
    }
}

/// Looks up keys of the applied config sets. There is a value for each key that is applied, with its state.
#[derive(crate::Directive, Clone, Debug, Default, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/lookup-config-set", value = AppliedConfig)]
#[non_exhaustive]
pub struct LookupConfigSet {
    /// The keys; all of them if there is none here.
    pub keys: Vec<String>,
    /// Whether the configs of these keys are kept as long as the directive is active, even if whoever has applied them withdraws
    /// them.
    pub keep: bool,
}

impl LookupConfigSet {
    /// Looks up these keys.
    pub fn of<I: Into<String>>(keys: impl IntoIterator<Item = I>) -> Self {
        Self { keys: keys.into_iter().map(Into::into).collect(), keep: false }
    }

    /// Looks up all keys.
    pub fn all() -> Self {
        Self::default()
    }

    /// Also keeps the configs; see [`LookupConfigSet::keep`](struct@LookupConfigSet).
    #[must_use]
    pub fn keep(self) -> Self {
        Self { keep: true, ..self }
    }
}

/// Lists the controllers on the bus: there is a value for each, which is replaced when something about it changes.
#[derive(crate::Directive, Clone, Debug, Default, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/list-controllers", value = ControllerSnapshot)]
pub struct ListControllers {}

/// Lists the factories that the bus knows.
#[derive(crate::Directive, Clone, Debug, Default, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/list-factories", value = FactorySnapshot)]
pub struct ListFactories {}

/// Lists the active directives, without those that list what there is: there is a value for each, which is replaced when
/// something about it changes. While it is active, every change of a directive costs more.
#[derive(crate::Directive, Clone, Debug, Default, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/list-directives", value = DirectiveSnapshot)]
#[non_exhaustive]
pub struct ListDirectives {
    /// Only directives with this id.
    pub id: Option<String>,
}

impl ListDirectives {
    /// Lists those with this id.
    pub fn of(id: impl Into<String>) -> Self {
        Self { id: Some(id.into()) }
    }

    /// Lists all of them.
    pub fn all() -> Self {
        Self::default()
    }
}

/// Directives that are not listed: their values change with the list.
const LISTS: [&str; 3] = [ListControllers::ID, ListFactories::ID, ListDirectives::ID];

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
                    Some(LoadedFactory { info: known.info.clone(), source: known.source.shown(known.library) })
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
        routes.add::<LookupConfigSet>(|this, request, values| {
            Box::pin(async move { this.look_up(request, values).await })
        });
        routes.add::<ListControllers>(|this, _, values| {
            Box::pin(async move {
                let changed = this.engine()?.changed.subscribe();
                this.list(values, changed, |engine| {
                    engine.controllers().into_iter().map(|found| (found.id.0, found)).collect()
                })
                .await
            })
        });
        routes.add::<ListFactories>(|this, _, values| {
            Box::pin(async move {
                let changed = this.engine()?.changed.subscribe();
                let key =
                    |found: &FactorySnapshot| (found.source, found.info.id.clone(), found.info.version.to_string());
                this.list(values, changed, |engine| {
                    engine.factories().into_iter().map(|found| (key(&found), found)).collect()
                })
                .await
            })
        });
        routes.add::<ListDirectives>(|this, request, values| {
            Box::pin(async move {
                let changed = this.engine()?.directives_changed.subscribe();
                this.list(values, changed, |engine| {
                    let wanted = |id: &str| !LISTS.contains(&id) && request.id.as_deref().is_none_or(|only| only == id);
                    let standing = engine.types.standing().into_iter().filter(|found| wanted(found.directive.id()));
                    standing.map(|found| (Arc::as_ptr(&found).addr(), found.snapshot())).collect()
                })
                .await
            })
        });
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
        let key = key_of_directive(owner, &request.config_id);
        let mut set = ConfigSet::new();
        let (version, retry) = (request.version, request.retry);
        let own_retry = retry.is_some();
        set.set(key.clone(), Entry { version, retry, ..Entry::new(request.config_id, config) });
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
                // Tried again as often as was said: only the last failure is reported.
                Some(RunState::Failed { retry_in: Some(_), .. }) if own_retry => {
                    values.idle();
                    None
                }
                Some(RunState::Failed { error, .. }) if own_retry => return Err(error.permanent()),
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

    /// Keeps a value for each of several things up to date.
    async fn list<K: Hash + Eq + Clone, V: Serialize + PartialEq + Clone + Send + Sync + 'static>(
        &self,
        values: Values<V>,
        mut changed: watch::Receiver<u64>,
        all: impl Fn(&Arc<Engine>) -> HashMap<K, V>,
    ) -> Result<()> {
        let (mut shown, mut last) = (values.keyed(), HashMap::new());
        loop {
            changed.borrow_and_update();
            let now = all(&self.engine()?);
            shown.retain(|key| now.contains_key(key));
            for (key, value) in now.iter().filter(|(key, value)| last.get(*key) != Some(*value)) {
                shown.set(key.clone(), value.clone());
            }
            last = now;
            values.idle();
            if changed.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn apply(&self, request: ApplyConfigSet, values: Values<AppliedConfig>) -> Result<()> {
        let set = ConfigSet::from_text(&request.set)?;
        let keys: Vec<String> = set.iter().map(|(key, _)| key.to_owned()).collect();
        let engine = self.engine()?;
        let owner = engine.next_id();
        let changed = engine.changed.subscribe();
        let _withdraw = WithdrawOnDrop { engine: Weak::clone(&self.0), owner };
        engine.add_candidates(owner, set, Earlier::Replace)?;
        drop(engine);
        self.list(values, changed, |engine| engine.applied(&keys)).await
    }

    async fn look_up(&self, request: LookupConfigSet, values: Values<AppliedConfig>) -> Result<()> {
        let engine = self.engine()?;
        let owner = engine.next_id();
        let changed = engine.changed.subscribe();
        let _withdraw = WithdrawOnDrop { engine: Weak::clone(&self.0), owner };
        drop(engine);
        self.list(values, changed, |engine| {
            let keys = match &request.keys[..] {
                [] => engine.life().configs.by_key.keys().cloned().collect(),
                keys => keys.to_vec(),
            };
            if request.keep {
                engine.keep_configs(owner, &keys);
            }
            engine.applied(&keys)
        })
        .await
    }
}

impl Engine {
    /// The states of those of these keys that are applied.
    fn applied(&self, keys: &[String]) -> HashMap<String, AppliedConfig> {
        let state = |key: &String| {
            let state = self.config_state(key)?;
            let controller = match state.state {
                RunState::Running(id) => Some(id),
                _ => None,
            };
            let (revision, problem) = (state.revision, state.problem);
            Some((key.clone(), AppliedConfig { key: key.clone(), revision, controller, problem }))
        };
        keys.iter().filter_map(state).collect()
    }
}
