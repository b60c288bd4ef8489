//! What a daemon consists of, and its graceful shutdown.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use controllerbus::Bus;
use controllerbus::bus::Limits;
use hot_runtime::watch::Watcher;
use hot_runtime::{GenerationInfo, HotRuntime, Isolation, PluginSpec, Probation, Trust};
use miette::Result;

use super::Journal;
use crate::api::controller::{Api, ApiFactory};
use crate::report::explain;

/// How long a replaced or leaving generation may take before it is reported.
const DRAIN: Duration = Duration::from_secs(2);

/// How long a controller may take to end once it is cancelled, and how long its `close` may.
const CONTROLLER_END: Duration = Duration::from_millis(1500);

/// How long the whole shutdown may take; what is left then ends with the process.
const END: Duration = Duration::from_millis(4500);

/// What the runtime of a daemon starts with.
pub struct Options {
    /// The plugins that are built and watched.
    pub plugins: Vec<PluginSpec>,
    /// The directory whose plugin files are loaded.
    pub plugins_dir: Option<PathBuf>,
    /// Where overlays, builds and private copies go.
    pub work_dir: PathBuf,
    /// Where cargo compiles.
    pub target_dir: PathBuf,
    /// Which plugin files are trusted.
    pub trust: Trust,
    /// The largest plugin file that is read, in bytes.
    pub largest: u64,
    /// Whether files are loaded from where others can write.
    pub allow_world_writable: bool,
    /// Where plugins run, unless something else is configured for one.
    pub isolation: Isolation,
    /// For how many seconds a new generation is on probation; 0 for none.
    pub probation: u64,
    /// How changes of files are noticed.
    pub watcher: Watcher,
}

/// A bus with a runtime and a journal of what happened.
pub struct Host {
    pub bus: Bus,
    pub journal: Arc<Journal>,
    pub started: Instant,
    began_ms: u64,
    /// APIs that already listen and wait for their controllers to be constructed.
    pub prepared_apis: Mutex<Vec<Api>>,
    runtime: OnceLock<HotRuntime>,
}

impl Host {
    /// A bus that can serve its API; nothing is built or loaded yet.
    pub fn new(journal: Arc<Journal>) -> Arc<Self> {
        let host = Arc::new(Self {
            bus: Bus::with_limits(Limits::default().cancel(CONTROLLER_END).close(CONTROLLER_END)),
            journal,
            started: Instant::now(),
            began_ms: super::now_ms(),
            prepared_apis: Mutex::default(),
            runtime: OnceLock::new(),
        });
        #[cfg(unix)]
        super::given::adopt(&host.bus);
        let factory = Arc::new(ApiFactory::new(&host));
        host.bus.add_factories(controllerbus::bus::Source::STATIC, vec![factory]);
        host
    }

    /// Builds, loads and watches. Returns once each plugin has been built and loaded, or has failed once.
    pub async fn start(&self, options: Options) -> Result<()> {
        let journal = Arc::clone(&self.journal);
        let mut builder = HotRuntime::builder(&self.bus)
            .work_dir(options.work_dir)
            .target_dir(options.target_dir)
            .drain(DRAIN)
            .isolation(options.isolation)
            .probation(Probation::lasting(Duration::from_secs(options.probation)))
            .watcher(options.watcher)
            .on_event(move |event| journal.runtime_event(event));
        builder = builder
            .trust(options.trust)
            .largest_file(options.largest)
            .allow_world_writable(options.allow_world_writable);
        for spec in options.plugins {
            builder = builder.plugin(spec);
        }
        if let Some(dir) = options.plugins_dir {
            builder = builder.plugins_dir(dir);
        }
        let runtime = builder.start().await.map_err(explain)?;
        let _ = self.runtime.set(runtime);
        Ok(())
    }

    /// When the daemon started, in milliseconds since 1970.
    pub fn started_ms(&self) -> u64 {
        self.began_ms
    }

    /// The runtime, once it has started.
    pub fn runtime(&self) -> Option<&HotRuntime> {
        self.runtime.get()
    }

    /// All loaded generations, and the last unloaded ones.
    pub fn generations(&self) -> Vec<GenerationInfo> {
        self.runtime().map(HotRuntime::generations).unwrap_or_default()
    }

    /// Shuts down the controllers, then the plugins. Returns what has not ended in time.
    pub async fn end(&self) -> Vec<String> {
        let ending = async {
            let left = self.bus.close().await;
            let mut left: Vec<String> = left.into_iter().map(|found| format!("controller {}", found.info.id)).collect();
            if let Some(runtime) = self.runtime() {
                let report = runtime.clone().shutdown().await;
                left.extend(report.left.into_iter().map(|found| format!("{}, {}", found.plugin, found.why)));
            }
            left
        };
        tokio::time::timeout(END, ending).await.unwrap_or_else(|_| {
            let leaving = self.bus.leaving().into_iter().map(|found| format!("controller {}", found.info.id));
            let loaded = self.generations().into_iter().filter(|found| found.mapped).map(|found| found.plugin);
            leaving.chain(loaded).collect()
        })
    }
}

/// Resident memory of this process in bytes; 0 if unknown.
pub fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}
