//! What a daemon consists of, and its graceful shutdown.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use controllerbus::Bus;
use controllerbus::bus::Limits;
use controllerbus_api::{Host, Journal};
use hot_runtime::watch::Watcher;
use hot_runtime::{HotRuntime, Isolation, PluginSpec, Probation, RuntimeEvent, Trust};
use miette::Result;

use crate::report::explain;
use crate::tested::Tests;

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
    /// The directories whose plugin files are loaded.
    pub plugins_dirs: Vec<PathBuf>,
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
    /// Who else hears of what happens, first.
    pub listener: Option<Listener>,
    /// Who runs tests before a build is swapped in.
    pub tests: Option<Arc<Tests>>,
}

/// Called with every event.
pub type Listener = Box<dyn Fn(&RuntimeEvent) + Send + Sync>;

/// A bus that can serve its API; nothing is built or loaded yet.
pub fn new(journal: Arc<Journal>) -> Arc<Host> {
    let bus = Bus::with_limits(Limits::default().cancel(CONTROLLER_END).close(CONTROLLER_END));
    #[cfg(unix)]
    super::given::adopt(&bus);
    super::fleet::add_to(&bus);
    Host::with_journal(bus, journal)
}

/// Builds, loads and watches. Returns once each plugin has been built and loaded, or has failed once.
pub async fn start(host: &Arc<Host>, options: Options) -> Result<()> {
    let mut builder = HotRuntime::builder(&host.bus);
    if let Some(listener) = options.listener {
        builder = builder.on_event(listener);
    }
    if let Some(tests) = options.tests {
        builder = builder.before_swap(move |plugin| Arc::clone(&tests).before_swap(plugin.to_owned()));
    }
    // What shows and controls it need not wait for the first builds.
    let given = Arc::clone(host);
    let mut builder = builder
        .on_runtime(move |runtime| {
            given.set_runtime(runtime.clone());
            super::fleet::add_rollouts_to(&given.bus, runtime);
        })
        .work_dir(options.work_dir)
        .target_dir(options.target_dir)
        .drain(DRAIN)
        .isolation(options.isolation)
        .probation(Probation::lasting(Duration::from_secs(options.probation)))
        .watcher(options.watcher)
        .on_event(host.observer());
    builder =
        builder.trust(options.trust).largest_file(options.largest).allow_world_writable(options.allow_world_writable);
    for spec in options.plugins {
        builder = builder.plugin(spec);
    }
    for dir in options.plugins_dirs {
        builder = builder.plugins_dir(dir);
    }
    builder.start().await.map_err(explain)?;
    Ok(())
}

/// Shuts down the controllers, then the plugins. Returns what has not ended in time.
pub async fn end(host: &Host) -> Vec<String> {
    let ending = async {
        let left = host.bus.close().await;
        let mut left: Vec<String> = left.into_iter().map(|found| format!("controller {}", found.info.id)).collect();
        if let Some(runtime) = host.runtime() {
            let report = runtime.clone().shutdown().await;
            left.extend(report.left.into_iter().map(|found| format!("{}, {}", found.plugin, found.why)));
        }
        left
    };
    tokio::time::timeout(END, ending).await.unwrap_or_else(|_| {
        let leaving = host.bus.leaving().into_iter().map(|found| format!("controller {}", found.info.id));
        let loaded =
            host.generations().into_iter().filter(|found| found.mapped == Some(true)).map(|found| found.plugin);
        leaving.chain(loaded).collect()
    })
}
