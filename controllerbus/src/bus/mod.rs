//! The bus: keeps running controllers and standing directives, and routes one to the other.

mod applying;
mod bridge;
mod configs;
mod counts;
mod engine;
mod entry;
mod factories;
mod handle;
mod handover;
mod instance;
mod introspect;
mod kept;
mod lane;
mod life;
mod limits;
pub mod loading;
mod owning;
mod reference;
mod resolver;
#[cfg(unix)]
mod sockets;
mod standing;
mod stop_first;
mod swap;
mod table;
mod types;
mod unread;

use std::sync::Arc;
use std::time::Duration;

pub use applying::{ApplyReport, ConfigOwner};
pub use bridge::{Across, Bridge};
pub use configs::{ConfigState, Pending, RunState};
pub use counts::{CountsSnapshot, ResolverCounts};
pub use entry::Execution;
pub(crate) use entry::contained;
pub use handle::{Backend, BusHandle};
pub use introspect::{
    ConfigWatch, ControllerSnapshot, DirectiveSnapshot, FactorySnapshot, ResolverSnapshot, ResolverState, Snapshot,
    ValueSnapshot,
};
pub use limits::Limits;
#[cfg(unix)]
pub use sockets::SocketSnapshot;
pub use swap::{Committed, LastStates, Staged};

use crate::Result;
use crate::config::ConfigSet;
use crate::controller::factory::{FACTORIES, Factory};
use crate::controller::{AnyController, Info};
use crate::directive::{Directive, Request};
use engine::Engine;
use entry::{ControllerEntry, Ties};
use factories::Known;

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
    /// A bus that knows the factories linked into this binary. Best made inside the tokio runtime that it shall use: its
    /// work is done there, whoever asks. One that is made outside uses the runtime of whoever calls it.
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// [`Bus::new`] with other limits for the steps of controllers' lives.
    pub fn with_limits(limits: Limits) -> Self {
        let engine = Engine::new(limits);
        let factories = FACTORIES.iter().map(super::controller::factory::FactoryEntry::factory).collect();
        let known = Known::of(Source::STATIC, factories);
        engine.life().factories.add(known);
        Self(engine)
    }

    /// The limits for the steps of controllers' lives.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
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
        let entry = Arc::new(ControllerEntry::new(Ties::new(id), info, Source::STATIC, controller));
        let is_closed = {
            let mut life = self.0.life();
            life.controllers.insert(id, Arc::clone(&entry));
            self.0.is_closed()
        };
        if is_closed {
            self.0.discard_made(entry);
        } else {
            self.0.go(&entry, Vec::new());
        }
        ControllerId(id)
    }

    /// Takes a controller off the bus: its values go, it is cancelled and closed. Returns when it is, or its limits are
    /// over; until it has ended after all, [`Bus::leaving`] shows it. False if it is not there.
    pub async fn remove_controller(&self, id: ControllerId) -> bool {
        let entry = {
            let mut life = self.0.life();
            let entry = life.controllers.get(&id.0).cloned();
            life.leave(&entry);
            entry
        };
        let Some(entry) = entry else { return false };
        self.0.dismiss(std::slice::from_ref(&entry));
        self.0.closed(vec![entry]).await;
        true
    }

    /// Makes factories known and constructs the configs that wait for them, in the background.
    pub fn add_factories(&self, source: Source, factories: Vec<Arc<dyn Factory>>) {
        self.0.add_factories(Known::of(source, factories));
    }

    /// Takes a source's factories and controllers off the bus; configs that ran on it use another factory, or wait.
    /// Returns when its controllers have ended, or their limits are over; those that have not then.
    pub async fn remove_source(&self, source: Source) -> Vec<ControllerSnapshot> {
        let left = self.0.remove_source(source).await;
        left.iter().map(|entry| self.0.snapshot_of(entry)).collect()
    }

    /// Applies a config set: of each key the highest revision wins, and an equal config is left running. Keys with equal
    /// configs share a controller.
    ///
    /// Returns when each of its keys runs, has failed once, or waits for a factory; each step has its limit. A config that
    /// cannot be used leaves the one before running, and is shown as pending. Cancel-safe: what was applied stays so.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Closed`] when the bus is closed or there is no tokio runtime. What is wrong with one key is
    /// in the report, and does not keep the others.
    pub async fn apply(&self, set: ConfigSet) -> Result<ApplyReport> {
        self.0.apply(0, set, false).await
    }

    /// Applies a config set as all there is of those that [`Bus::apply`] has applied: keys that it does not name are
    /// removed.
    ///
    /// # Errors
    /// As [`Bus::apply`].
    pub async fn apply_only(&self, set: ConfigSet) -> Result<ApplyReport> {
        self.0.apply(0, set, true).await
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
        let keys: Vec<String> = self.0.life().configs.by_key.keys().cloned().collect();
        keys.iter().filter_map(|key| self.0.config_state(key)).collect()
    }

    /// The config IDs that some factory makes controllers of.
    pub fn config_ids(&self) -> Vec<String> {
        self.0.life().factories.config_ids()
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
        self.0.stage(from, to, factories, grace, None).await
    }

    /// [`Bus::stage`] of an older generation that comes back because the one that runs is not well: what that cannot save,
    /// or the older code's `restore` refuses, is no obstacle; the older one begins with its own last state then, which
    /// [`Committed::notes`] says.
    ///
    /// # Errors
    /// As [`Bus::stage`].
    pub async fn stage_back(
        &self,
        from: Source,
        to: Source,
        factories: Vec<Arc<dyn Factory>>,
        grace: Duration,
        last: LastStates,
    ) -> Result<Staged> {
        self.0.stage(from, to, factories, grace, Some(last)).await
    }

    /// Asks the controllers of a source how they are: what [`crate::Controller::health`] says of each, and of one that does
    /// not answer within a time, that.
    pub async fn health(&self, source: Source, within: Duration) -> Vec<(ControllerId, Result<()>)> {
        self.0.health(source, within).await
    }

    /// Ends every directive and refuses new ones, then takes every controller off: all are told at once, and each has its
    /// limits. Those that have not ended then; they end in the background, or with the process.
    pub async fn close(&self) -> Vec<ControllerSnapshot> {
        self.0.close();
        let leaving = {
            let mut life = self.0.life();
            let unused = std::mem::take(&mut life.configs);
            unused.instances.values().for_each(|instance| instance.nudge.notify_one());
            let all: Vec<_> = life.controllers.values().cloned().collect();
            life.leave(&all);
            life.leaving.values().cloned().collect::<Vec<_>>()
        };
        self.0.dismiss(&leaving);
        let left = self.0.closed(leaving).await;
        #[cfg(unix)]
        self.0.close_sockets();
        left.iter().map(|entry| self.0.snapshot_of(entry)).collect()
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let life = self.0.life();
        f.debug_struct("Bus").field("controllers", &life.controllers.len()).finish_non_exhaustive()
    }
}
