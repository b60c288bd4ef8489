//! What an agent needs of a host: loading plugins and looking at them. `hot-runtime` does it; tests do without real plugins.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::Bus;
use controllerbus::controller::BoxFuture;
use hot_runtime::artifact::{Checks, Verified};
use hot_runtime::sign::PublicKey;
use hot_runtime::{GenerationState, HotRuntime, RuntimeEvent, Trust};
use tokio::sync::broadcast;

use crate::blocking;
use crate::error::{Error, Result};
use crate::health::{Check, Counts};
use crate::rollout::Gates;

/// What an agent needs of a host.
pub trait Plugins: Send + Sync + 'static {
    /// Verifies a file, and has it serve in place of what serves. Returns its generation.
    fn load<'a>(&'a self, load: Load<'a>) -> BoxFuture<'a, Result<u64>>;

    /// Takes a plugin off.
    fn unload<'a>(&'a self, plugin: &'a str) -> BoxFuture<'a, Result<()>>;

    /// How a plugin is, as far as these gates ask for it.
    fn look<'a>(&'a self, plugin: &'a str, gates: &'a Gates) -> BoxFuture<'a, Look>;

    /// How many directives of this id stand that a plugin answers.
    fn works<'a>(&'a self, _plugin: &'a str, _id: &'a str) -> BoxFuture<'a, usize> {
        Box::pin(async { 0 })
    }

    /// What happens to plugins.
    fn events(&self) -> broadcast::Receiver<PluginEvent>;
}

/// A file that is to serve.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Load<'a> {
    /// The plugin that it has to be.
    pub plugin: &'a str,
    /// The file, with its signature beside it.
    pub path: &'a Path,
    /// The version that it has to be.
    pub version: &'a semver::Version,
    /// One of these keys has to have signed it.
    pub keys: &'a [PublicKey],
    /// Whether it served before, and comes back.
    pub back: bool,
}

impl<'a> Load<'a> {
    /// A file.
    pub fn new(
        plugin: &'a str,
        path: &'a Path,
        version: &'a semver::Version,
        keys: &'a [PublicKey],
        back: bool,
    ) -> Self {
        Self { plugin, path, version, keys, back }
    }
}

/// How a plugin is.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Look {
    /// The generation that serves.
    pub generation: Option<u64>,
    /// The configs that do not run, with the reasons.
    pub configs: Vec<String>,
    /// What its controllers did, by directive.
    pub counts: BTreeMap<String, Counts>,
    /// What the health directive was answered.
    pub check: Option<Check>,
}

/// Something that happened to a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PluginEvent {
    /// A generation serves.
    Serves {
        /// The plugin.
        plugin: String,
        /// The generation.
        generation: u64,
    },
    /// The host itself has taken a generation back.
    TakenBack {
        /// The plugin.
        plugin: String,
        /// The generation that was taken back.
        from: u64,
        /// The one that serves instead.
        to: u64,
        /// Why.
        why: String,
    },
    /// Its process has crashed, and is started again.
    Crashed {
        /// The plugin.
        plugin: String,
        /// The generation.
        generation: u64,
    },
}

impl PluginEvent {
    /// The plugin.
    pub fn plugin(&self) -> &str {
        match self {
            Self::Serves { plugin, .. } | Self::TakenBack { plugin, .. } | Self::Crashed { plugin, .. } => plugin,
        }
    }

    fn of(event: &RuntimeEvent) -> Option<Self> {
        Some(match event {
            RuntimeEvent::Swapped { plugin, to, .. } => Self::Serves { plugin: plugin.clone(), generation: *to },
            RuntimeEvent::TakenBack { plugin, from, to, reason, .. } => {
                Self::TakenBack { plugin: plugin.clone(), from: *from, to: *to, why: reason.clone() }
            }
            RuntimeEvent::Crashed { plugin, generation, .. } => {
                Self::Crashed { plugin: plugin.clone(), generation: *generation }
            }
            _ => return None,
        })
    }
}

/// The plugins of a `hot-runtime` on a bus.
#[derive(Debug)]
pub struct RuntimePlugins {
    pub(super) bus: Bus,
    pub(super) runtime: HotRuntime,
    events: broadcast::Sender<PluginEvent>,
    /// Since when requests are waiting, by directive and what distinguishes them.
    pub(super) waiting: Mutex<HashMap<(String, String), tokio::time::Instant>>,
}

impl RuntimePlugins {
    /// Those of a runtime on a bus. Call it inside of tokio.
    pub fn new(bus: &Bus, runtime: &HotRuntime) -> Arc<Self> {
        let (events, mut told) = (broadcast::channel(256).0, runtime.events());
        let to = events.clone();
        tokio::spawn(async move {
            loop {
                match told.recv().await {
                    Ok(event) => {
                        if let Some(event) = PluginEvent::of(&event) {
                            let _ = to.send(event);
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        Arc::new(Self { bus: bus.clone(), runtime: runtime.clone(), events, waiting: Mutex::default() })
    }

    /// The generation of a plugin that serves.
    pub(super) fn serving(&self, plugin: &str) -> Option<u64> {
        let generations = self.runtime.generations();
        let serves =
            |info: &&hot_runtime::GenerationInfo| info.plugin == plugin && info.state == GenerationState::Serving;
        generations.iter().filter(serves).map(|info| info.generation).max()
    }
}

/// Verifies a file: whole, signed by one of the keys whatever the host accepts otherwise, for this host, and what it is to be.
async fn verified(load: Load<'_>) -> Result<Verified> {
    let (path, keys) = (load.path.to_owned(), load.keys.to_vec());
    let verified = blocking(move || Ok(Checks::new(Trust::keys(keys)).largest(u64::MAX).verify(&path)?)).await?;
    let bundle = &verified.bundle;
    if bundle.id == load.plugin && bundle.version == *load.version {
        return Ok(verified);
    }
    let why = format!("it is {} {}, and the release says {} {}", bundle.id, bundle.version, load.plugin, load.version);
    Err(Error::refused(format!("the artifact {}", load.path.display()), why))
}

impl Plugins for RuntimePlugins {
    fn load<'a>(&'a self, load: Load<'a>) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let build = verified(load).await?.bundle.build_hash.clone();
            match self.runtime.load_file(load.path).await {
                Ok(report) => Ok(report.to),
                // Where the older code refuses the newer state, it may still have its own last one.
                Err(error) if load.back => match self.runtime.roll_back(load.plugin, Some(&build)).await {
                    Ok(report) => Ok(report.to),
                    Err(_) => Err(error.into()),
                },
                Err(error) => Err(error.into()),
            }
        })
    }

    fn unload<'a>(&'a self, plugin: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.runtime.unload(plugin).await {
                Ok(_) | Err(hot_runtime::Error::UnknownPlugin { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn look<'a>(&'a self, plugin: &'a str, gates: &'a Gates) -> BoxFuture<'a, Look> {
        Box::pin(async move {
            let Some(generation) = self.serving(plugin) else { return Look::default() };
            let check = match &gates.health {
                Some(health) => Some(self.check(generation, &health.directive, Duration::from_secs(2)).await),
                None => None,
            };
            let (configs, counts) = (self.failed_configs(generation), self.counts(generation, gates));
            Look { generation: Some(generation), configs, counts, check }
        })
    }

    fn works<'a>(&'a self, plugin: &'a str, id: &'a str) -> BoxFuture<'a, usize> {
        Box::pin(async move { self.serving(plugin).map_or(0, |generation| self.works_of(generation, id)) })
    }

    fn events(&self) -> broadcast::Receiver<PluginEvent> {
        self.events.subscribe()
    }
}
