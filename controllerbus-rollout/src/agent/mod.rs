//! The agent, controller `controllerbus/fleet/agent`: has this host run what the rollouts of a store say, and tells how it is.

mod backend;
mod follow;
mod install;
mod look;
mod show;
mod turns;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use controllerbus::controller::{Closures, Info};
use controllerbus::{Bus, BusHandle, Context};
use hot_runtime::sign::PublicKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::{Cache, private_dir};
use crate::chain::Chain;
use crate::error::{Error, Result};
use crate::health::{HostHealth, PluginHealth, RolloutStep};
use crate::link::Link;
use crate::orchestrator::tell;
use crate::seen::Memory;
use crate::shown::{ShowRollouts, ShowStore, ShownStore};
use crate::store::{Store, jittered};

pub use backend::{Load, Look, PluginEvent, Plugins, RuntimePlugins};
use turns::Turns;
pub use turns::{ArtifactTurn, Turn};

/// How an agent works.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    store: Store,
    host: String,
    labels: BTreeMap<String, String>,
    keys: Vec<PublicKey>,
    folder: PathBuf,
    poll: Duration,
    look: Duration,
    retry: Duration,
    cache: u64,
    only: Option<Vec<String>>,
    site: Option<String>,
}

impl AgentOptions {
    /// An agent of this host for a store. It accepts what one of the keys has signed, and nothing else. In `folder` it keeps
    /// what it remembers, and copies of artifacts; nobody else may write there, or above it.
    pub fn new(
        store: &Store,
        host: impl Into<String>,
        keys: impl IntoIterator<Item = PublicKey>,
        folder: impl Into<PathBuf>,
    ) -> Self {
        Self {
            store: store.clone(),
            host: host.into(),
            labels: BTreeMap::new(),
            keys: keys.into_iter().collect(),
            folder: folder.into(),
            poll: Duration::from_secs(30),
            look: Duration::from_secs(2),
            retry: Duration::from_secs(5),
            cache: 1 << 30,
            only: None,
            site: None,
        }
    }

    /// With what this host is, for rollouts that are not for all.
    #[must_use]
    pub fn labels(mut self, labels: BTreeMap<String, String>) -> Self {
        self.labels = labels;
        self
    }

    /// Sets how often it looks for new steps by itself; 30 s unless set, each time up to a quarter more or less. Where a fleet
    /// carries the directive `fleet/rollout-step`, it hears of them at once.
    #[must_use]
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every;
        self
    }

    /// Sets how often it looks at its plugins' counts; 2 s unless set.
    #[must_use]
    pub fn look(mut self, every: Duration) -> Self {
        self.look = every;
        self
    }

    /// Sets how large its cache may be, in bytes; 1 GiB unless set. What runs, and what ran before, is never removed.
    #[must_use]
    pub fn cache(mut self, bytes: u64) -> Self {
        self.cache = bytes;
        self
    }

    /// Sets at which site this host is. Of the hosts of a site, which share a line, four fetch at the same time, as far as they
    /// hear of each other: a fleet has them offer the directive `fleet/artifact-turn`, and ask it of all. Without a site it
    /// fetches at once.
    #[must_use]
    pub fn site(mut self, site: impl Into<String>) -> Self {
        self.site = Some(site.into());
        self
    }

    /// Follows only these plugins; all that the store has rollouts of, unless set.
    #[must_use]
    pub fn only(mut self, plugins: impl IntoIterator<Item = String>) -> Self {
        self.only = Some(plugins.into_iter().collect());
        self
    }
}

/// What all that an agent follows have in common.
struct Inner {
    options: AgentOptions,
    plugins: Arc<dyn Plugins>,
    memory: PathBuf,
    cache: Cache,
    turns: Arc<Turns>,
    told: watch::Sender<BTreeMap<String, u64>>,
    following: Mutex<HashMap<String, watch::Receiver<HostHealth>>>,
    /// The newest step of each plugin, where this host knows one. A plugin is in it once the store was asked.
    links: watch::Sender<BTreeMap<String, Option<Link>>>,
    /// Whether the store was asked of which plugins it has rollouts.
    has_looked: AtomicBool,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Inner {
    /// How a plugin is here; it is followed from now on. `None` if this host is not to follow it.
    fn follow(self: &Arc<Self>, plugin: &str) -> Option<watch::Receiver<HostHealth>> {
        if self.options.only.as_ref().is_some_and(|only| !only.iter().any(|one| one == plugin)) {
            return None;
        }
        let mut following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = following.get(plugin) {
            return Some(known.clone());
        }
        if self.stop.is_cancelled() || following.len() >= MOST {
            return None;
        }
        let health =
            HostHealth { labels: self.options.labels.clone(), ..HostHealth::of(self.options.host.clone(), plugin) };
        let (sender, receiver) = watch::channel(health);
        following.insert(plugin.to_owned(), receiver.clone());
        self.tasks.spawn(follow::follow(Arc::clone(self), plugin.to_owned(), sender));
        Some(receiver)
    }

    /// What is in the way of a plugin's rollouts here.
    fn problem(&self, plugin: &str) -> Option<String> {
        let following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        following.get(plugin).and_then(|health| health.borrow().problem.clone())
    }

    /// Whether these are all plugins that are followed, as far as the store could be read.
    fn is_all(&self, known: &BTreeMap<String, Option<Link>>) -> bool {
        let following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_looked.load(Ordering::SeqCst) && following.keys().all(|plugin| known.contains_key(plugin))
    }
}

/// Runs an agent on a bus, which is also that of the fleet. Dropping what is returned ends it; what runs goes on running.
///
/// # Errors
/// A folder that cannot be used, no key, or the bus's.
pub fn run_agent(bus: &Bus, options: AgentOptions, plugins: Arc<dyn Plugins>) -> Result<controllerbus::bus::Running> {
    let (controller, info) = controller(bus.handle(), options, plugins)?;
    Ok(bus.handle().add_controller(Arc::new(controller), info)?)
}

/// The agent as a controller.
pub(crate) fn controller(bus: BusHandle, options: AgentOptions, plugins: Arc<dyn Plugins>) -> Result<(Closures, Info)> {
    if options.keys.is_empty() {
        let why = "an agent without a key accepts nothing; name at least one public key";
        return Err(Error::Invalid(why.to_owned()));
    }
    let memory = options.folder.join("seen");
    private_dir(&memory)?;
    let cache = Cache::open(options.folder.join("cache"), options.cache)?;
    let turns = Arc::new(Turns::new(&options.host, options.site.clone()));
    let is_limited = options.only.is_some();
    let inner = Arc::new(Inner {
        turns: Arc::clone(&turns),
        options,
        plugins,
        memory,
        cache,
        told: watch::Sender::new(BTreeMap::new()),
        following: Mutex::default(),
        links: watch::Sender::new(BTreeMap::new()),
        has_looked: AtomicBool::new(is_limited),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    });
    let (executing, telling, showing) = (Arc::clone(&inner), Arc::clone(&inner), Arc::clone(&inner));
    let store = ShownStore::new(inner.options.store.url(), &inner.options.host);
    let controller = Closures::new()
        .executes(move |context| run(Arc::clone(&executing), context))
        .resolves(move |asked: PluginHealth, values| {
            let health = inner.follow(&asked.plugin);
            async move {
                match health {
                    Some(health) => values.follow(health).await,
                    None => Ok(()),
                }
            }
        })
        .resolves(move |asked: ArtifactTurn, values| Arc::clone(&turns).answer(asked, values))
        .resolves(move |step: RolloutStep, values| {
            let (host, is_ours) = (telling.options.host.clone(), telling.follow(&step.plugin).is_some());
            if is_ours {
                tell(&telling.told, &step);
            }
            async move {
                if is_ours {
                    values.add(host);
                }
                Ok(())
            }
        })
        .resolves(move |_: ShowRollouts, values| show::show(Arc::clone(&showing), bus.clone(), values))
        .resolves(move |_: ShowStore, values| {
            values.add(store.clone());
            std::future::ready(Ok(()))
        });
    let version = semver::Version::new(0, 1, 0);
    let info = Info::new("controllerbus/fleet/agent", version, "controllerbus/fleet/agent");
    Ok((controller, info.with_description("Has this host run the releases that are rolled out to it.")))
}

/// How many plugins an agent follows at most: whoever may ask for their health names them.
const MOST: usize = 1000;

/// How many polls of a known plugin there are to one look for new ones, which costs more.
const RARELY: u32 = 10;

async fn run(inner: Arc<Inner>, context: Context) -> controllerbus::Result<()> {
    inner.turns.ask(context.bus().clone());
    // What ran before runs again, whatever the store does.
    for plugin in Memory::all(&inner.memory) {
        inner.follow(&plugin);
    }
    for plugin in inner.options.only.iter().flatten() {
        inner.follow(plugin);
    }
    let looks_for_new = inner.options.only.is_none();
    while !context.is_cancelled() {
        if looks_for_new {
            match Chain::plugins(&inner.options.store).await {
                Ok(found) => found.iter().for_each(|plugin| drop(inner.follow(plugin))),
                Err(error) => tracing::warn!(%error, "new plugins are not seen"),
            }
            inner.has_looked.store(true, Ordering::SeqCst);
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(inner.options.poll * RARELY)) => {}
            () = context.cancelled() => {}
        }
    }
    inner.stop.cancel();
    inner.tasks.close();
    inner.tasks.wait().await;
    Ok(())
}
