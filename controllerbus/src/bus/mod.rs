//! The bus: keeps running controllers and standing directives, and routes one to the other.

mod bridge;
mod configs;
mod engine;
mod entry;
mod factories;
mod handle;
mod handover;
mod introspect;
mod lane;
pub mod loading;
mod reference;
mod resolver;
mod standing;
mod swap;
mod table;
mod unread;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use bridge::{Across, Bridge};
pub use configs::{ConfigState, RunState};
pub use entry::Execution;
pub(crate) use entry::contained;
pub use handle::{Backend, BusHandle};
pub use introspect::{
    ConfigWatch, ControllerSnapshot, DirectiveSnapshot, FactorySnapshot, ResolverSnapshot, ResolverState, Snapshot,
    ValueSnapshot,
};
pub use swap::{Committed, Staged};

use crate::Result;
use crate::config::ConfigSet;
use crate::controller::factory::{FACTORIES, Factory};
use crate::controller::{AnyController, Info};
use crate::directive::{Directive, Request};
use engine::Engine;
use entry::ControllerEntry;

/// Where factories and controllers come from: this binary, or one generation of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Source(pub u64);

impl Source {
    /// This binary.
    pub const STATIC: Self = Self(0);
}

/// Identifies a controller on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ControllerId(pub u64);

/// Where controllers meet. Cheap to clone; every clone is the same bus.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> controllerbus::Result<()> {
/// use controllerbus::prelude::*;
///
/// let bus = Bus::new();
/// bus.apply(ConfigSet::from_yaml("{}")?).await?;
/// assert!(bus.controllers().is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Bus(Arc<Engine>);

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}

impl Bus {
    /// A bus that knows the factories linked into this binary. Best made inside the tokio runtime that it shall use.
    pub fn new() -> Self {
        let engine = Engine::new();
        let factories = FACTORIES.iter().map(super::controller::factory::FactoryEntry::factory).collect();
        engine.factories.lock().unwrap_or_else(PoisonError::into_inner).add(Source::STATIC, factories);
        Self(engine)
    }

    /// The bus as controllers see it.
    pub fn handle(&self) -> BusHandle {
        self.0.handle()
    }

    /// See [`BusHandle::request`].
    ///
    /// # Errors
    /// As there.
    pub fn request<D: Directive>(&self, directive: D) -> Result<Request<D>> {
        self.0.add(Arc::new(directive)).map(Request::new)
    }

    /// See [`BusHandle::resolve`].
    ///
    /// # Errors
    /// As there.
    pub async fn resolve<D: Directive>(&self, directive: D) -> Result<Arc<D::Value>> {
        self.request(directive)?.value().await
    }

    /// See [`BusHandle::resolve_all`].
    ///
    /// # Errors
    /// As there.
    pub async fn resolve_all<D: Directive>(&self, directive: D) -> Result<Vec<Arc<D::Value>>> {
        self.request(directive)?.values().await
    }

    /// See [`BusHandle::try_resolve`].
    ///
    /// # Errors
    /// As there.
    pub async fn try_resolve<D: Directive>(&self, directive: D) -> Result<Option<Arc<D::Value>>> {
        self.request(directive)?.value_unless_idle().await
    }

    /// Puts a controller on the bus: it is executed, and offered the directives that stand.
    pub fn add_controller(&self, controller: Arc<dyn AnyController>, info: Info) -> ControllerId {
        let id = self.0.next_id();
        let cancel = CancellationToken::new();
        let entry = ControllerEntry::new(id, info, Source::STATIC, controller, None, None, cancel, false);
        self.0.go(&entry);
        ControllerId(id)
    }

    /// Takes a controller off the bus: its values go, it is cancelled and closed. False if it is not there.
    pub async fn remove_controller(&self, id: ControllerId) -> bool {
        self.0.remove_controller(id).await
    }

    /// Makes factories known and constructs the configs that wait for them, in the background.
    pub fn add_factories(&self, source: Source, factories: Vec<Arc<dyn Factory>>) {
        self.0.factories.lock().unwrap_or_else(PoisonError::into_inner).add(source, factories);
        self.0.touch();
        let engine = Arc::clone(&self.0);
        self.0.spawn(async move {
            let turn = Arc::clone(&engine.turn);
            let _turn = turn.lock_owned().await;
            engine.reconcile_queued().await;
        });
    }

    /// Takes a source's factories and controllers off the bus; configs that ran on it use another factory, or wait.
    pub async fn remove_source(&self, source: Source) {
        let engine = &self.0;
        let _turn = engine.turn.lock().await;
        let gone = engine.factories.lock().unwrap_or_else(PoisonError::into_inner).remove(source);
        drop(gone);
        let leaving: Vec<_> = engine.controllers().values().filter(|entry| entry.source == source).cloned().collect();
        for entry in leaving {
            engine.remove_controller(ControllerId(entry.id)).await;
            if let Some(key) = &entry.key
                && let Some(applied) = engine.configs().by_key.get_mut(key)
            {
                applied.state = RunState::Queued;
            }
        }
        engine.reconcile_queued().await;
        engine.touch();
    }

    /// Applies a config set: of each key the highest revision wins, and an equal config is left running.
    /// Returns when each of its keys runs, has failed once, or waits for a factory; see [`Bus::configs`].
    ///
    /// # Errors
    /// None at present; what is wrong with one key is shown in its state and does not keep the others.
    pub async fn apply(&self, set: ConfigSet) -> Result<()> {
        self.0.apply(0, set).await;
        Ok(())
    }

    /// Applies a config set as all there is: keys that it does not name are removed.
    ///
    /// # Errors
    /// As [`Bus::apply`].
    pub async fn apply_only(&self, set: ConfigSet) -> Result<()> {
        self.0.keep_only(&set).await;
        self.apply(set).await
    }

    /// Forgets a config, all its revisions, and takes its controller off the bus. False if the key is not there.
    pub async fn remove_config(&self, key: &str) -> bool {
        self.0.remove_config(key).await
    }

    /// Takes one revision of a config back: if it is the one that runs, the next lower one takes over. False if it is
    /// not there.
    pub async fn withdraw_config(&self, key: &str, revision: u64) -> bool {
        self.0.withdraw_revision(key, revision).await
    }

    /// An applied config and what its controller is doing.
    pub fn config(&self, key: &str) -> Option<ConfigState> {
        self.0.config_state(key)
    }

    /// The applied configs and what their controllers are doing, by key.
    pub fn configs(&self) -> Vec<ConfigState> {
        let keys: Vec<String> = self.0.configs().by_key.keys().cloned().collect();
        keys.iter().filter_map(|key| self.0.config_state(key)).collect()
    }

    /// The config IDs that some factory makes controllers of.
    pub fn config_ids(&self) -> Vec<String> {
        self.0.factories.lock().unwrap_or_else(PoisonError::into_inner).config_ids()
    }

    /// Makes a new generation of controllers ready beside the one that runs: constructs each with the new
    /// factory, hands its state over, executes it, and offers it what stands, with its values held back.
    ///
    /// # Errors
    /// What kept a controller from being constructed, restored, executed or ready within `grace`.
    /// The running generation is untouched then.
    pub async fn stage(
        &self,
        from: Source,
        to: Source,
        factories: Vec<Arc<dyn Factory>>,
        grace: Duration,
    ) -> Result<Staged> {
        self.0.stage(from, to, factories, grace).await
    }

    /// Ends every directive and refuses new ones, then takes every controller off.
    pub async fn close(&self) {
        self.0.close();
        let ids: Vec<u64> = self.0.controllers().keys().copied().collect();
        for id in ids {
            self.0.remove_controller(ControllerId(id)).await;
        }
    }
}
