//! The agent, the orchestrator and placement as entries of a config set.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Closures, Info};
use controllerbus::directive::wire;
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;
use hot_runtime::HotRuntime;
use hot_runtime::sign::PublicKey;
use serde::de::DeserializeOwned;

use crate::agent::{self, AgentOptions, Plugins, RuntimePlugins};
use crate::orchestrator::{self, OrchestratorOptions};
use crate::placement::{self, Ends, PlacementOptions, RuntimeEnds};
use crate::store::Store;

/// Has this host run what is rolled out to it, as an entry of a config set.
///
/// ```yaml
/// agent:
///   id: controllerbus/fleet/agent
///   config:
///     store: file:///mnt/share/cbus
///     host: edge-7
///     labels: { role: edge, zone: eu }
///     keys: [ minisign.pub ]
///     folder: /var/lib/cbus/fleet
/// ```
#[derive(Config, Serialize, Deserialize, PartialEq, Clone, Debug)]
#[config(id = "controllerbus/fleet/agent")]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AgentConfig {
    /// The store's URL.
    pub store: String,
    /// This host's name, which no other host has.
    pub host: String,
    /// What this host is, for rollouts that are not for all.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Files with the public keys of those whose releases this host accepts.
    pub keys: Vec<PathBuf>,
    /// Where this host keeps what it remembers, and copies of artifacts. Nobody else may write there.
    pub folder: PathBuf,
    /// How often it looks for new steps by itself, in milliseconds; 30,000 unless set.
    #[serde(default = "thirty_seconds")]
    pub poll_ms: u64,
    /// How often it looks at what the bus counts of a plugin that is rolled out, in milliseconds; 2,000 unless set.
    #[serde(default = "two_seconds")]
    pub look_ms: u64,
    /// The plugins that it follows; all, unless set.
    #[serde(default)]
    pub only: Option<Vec<String>>,
    /// Where this host is: of the hosts of a site, which share a line, four fetch at the same time. Without one it fetches at once.
    #[serde(default)]
    pub site: Option<String>,
}

const fn two_seconds() -> u64 {
    2_000
}

const fn ten_seconds() -> u64 {
    10_000
}

const fn fifteen_seconds() -> u64 {
    15_000
}

const fn thirty_seconds() -> u64 {
    30_000
}

/// Has this host lead rollouts when no other one does, as an entry of a config set.
#[derive(Config, Serialize, Deserialize, PartialEq, Clone, Debug)]
#[config(id = "controllerbus/fleet/rollout")]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RolloutConfig {
    /// The store's URL.
    pub store: String,
    /// This host's name.
    pub host: String,
    /// For how long it leads without saying so again, in milliseconds; 30,000 unless set. Another host goes on after that.
    #[serde(default = "thirty_seconds")]
    pub lease_ms: u64,
    /// For how long a host may be out of reach before it counts as lost, in milliseconds; 10,000 unless set.
    #[serde(default = "ten_seconds")]
    pub patience_ms: u64,
}

/// Has this host run what a published config set says for it, as an entry of a config set.
#[derive(Config, Serialize, Deserialize, PartialEq, Clone, Debug)]
#[config(id = "controllerbus/fleet/placement")]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PlacementConfig {
    /// The store's URL.
    pub store: String,
    /// The set's name.
    pub set: String,
    /// This host's name, which no other host has.
    pub host: String,
    /// What this host is, for entries that are not for all.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Files with the public keys of those whose sets this host accepts.
    pub keys: Vec<PathBuf>,
    /// Where this host keeps the set that it applied last. Nobody else may write there.
    pub folder: PathBuf,
    /// How often it looks for a newer set, in milliseconds; 30,000 unless set.
    #[serde(default = "thirty_seconds")]
    pub poll_ms: u64,
    /// For how long a host may be out of reach before others run what it ran, in milliseconds; 10,000 unless set.
    #[serde(default = "ten_seconds")]
    pub settle_ms: u64,
    /// How long the leases of what is exclusive last, in milliseconds; 15,000 unless set. Another host runs it that long after its
    /// holder was lost.
    #[serde(default = "fifteen_seconds")]
    pub lease_ms: u64,
}

/// The factories of all three, for `bus.add_factories`: for the plugins of a runtime on this bus. Call it inside of tokio.
pub fn factories(bus: &Bus, runtime: &HotRuntime) -> Vec<Arc<dyn Factory>> {
    let (plugins, handle) = (RuntimePlugins::new(bus, runtime), bus.handle());
    let agent = Made {
        id: AgentConfig::ID,
        schema: AgentConfig::SCHEMA.to_json(),
        make: Box::new(move |config: AgentConfig| {
            let plugins = Arc::clone(&plugins) as Arc<dyn Plugins>;
            agent::controller(handle.clone(), options(config)?, plugins).map(|(controller, _)| controller)
        }),
    };
    let rollout = Made {
        id: RolloutConfig::ID,
        schema: RolloutConfig::SCHEMA.to_json(),
        make: Box::new(|config: RolloutConfig| {
            let options = OrchestratorOptions::new(&Store::open(&config.store)?, config.host);
            let options = options.lease(at_least(config.lease_ms, 1000)).patience(at_least(config.patience_ms, 500));
            Ok(orchestrator::controller(options).0)
        }),
    };
    let (ends, bus) = (RuntimeEnds::new(bus, runtime), bus.clone());
    let placement = Made {
        id: PlacementConfig::ID,
        schema: PlacementConfig::SCHEMA.to_json(),
        make: Box::new(move |config: PlacementConfig| {
            let (store, keys) = (Store::open(&config.store)?, keys(&config.keys)?);
            let options = PlacementOptions::new(&store, config.set, config.host, keys, config.folder);
            let options = options.labels(config.labels).poll(at_least(config.poll_ms, 100));
            let options = options.settle(at_least(config.settle_ms, 500)).lease(at_least(config.lease_ms, 1000));
            let ends = Arc::clone(&ends) as Arc<dyn Ends>;
            placement::controller(&bus, options, ends).map(|(controller, _)| controller)
        }),
    };
    vec![Arc::new(agent), Arc::new(rollout), Arc::new(placement)]
}

fn at_least(ms: u64, least: u64) -> Duration {
    Duration::from_millis(ms.max(least))
}

fn keys(paths: &[PathBuf]) -> crate::Result<Vec<PublicKey>> {
    Ok(paths.iter().map(|path| PublicKey::read(path)).collect::<Result<Vec<_>, _>>()?)
}

fn options(config: AgentConfig) -> crate::Result<AgentOptions> {
    let keys = keys(&config.keys)?;
    let options = AgentOptions::new(&Store::open(&config.store)?, config.host, keys, config.folder);
    let options = options.labels(config.labels).poll(at_least(config.poll_ms, 100)).look(at_least(config.look_ms, 50));
    let options = match config.site {
        Some(site) => options.site(site),
        None => options,
    };
    Ok(match config.only {
        Some(only) => options.only(only),
        None => options,
    })
}

/// Makes controllers of one config by a function.
struct Made<C> {
    id: &'static str,
    schema: String,
    make: Box<dyn Fn(C) -> crate::Result<Closures> + Send + Sync>,
}

impl<C: DeserializeOwned + Send + 'static> Factory for Made<C> {
    fn info(&self) -> Info {
        Info::new(self.id, semver::Version::new(0, 1, 0), self.id)
    }

    fn schema(&self) -> String {
        self.schema.clone()
    }

    fn construct(self: Arc<Self>, config: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let config: C = wire::decode(&config).map_err(Error::permanent)?;
            let made = (self.make)(config).map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
            Ok(Arc::new(made) as Arc<dyn AnyController>)
        })
    }
}
