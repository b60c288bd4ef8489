//! Configures and starts a runtime.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use controllerbus::{Bus, bus};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::claims::Claims;
use super::config::PluginSettings;
use super::printer::printer;
use super::states::KeptStates;
use super::{HotRuntime, Inner, folder, loaders};
use crate::artifact::{Checks, Trust};
use crate::compile::BuildOptions;
use crate::error::{Error, Result};
use crate::event::RuntimeEvent;
use crate::generation::builds::Builds;
use crate::generation::context::{Check, Listener, Settings, Shared};
use crate::generation::history::Keep;
use crate::generation::probation::Probation;
use crate::generation::registry::Registry;
use crate::host::capability::Capabilities;
use crate::host::placement::PlacementRules;
use crate::host::{Isolation, ProcessOptions};
use crate::output::{self, To};
use crate::source::inputs;
use crate::source::spec::PluginSpec;
use crate::source::watch::Watcher;
use crate::source::workspace::Workspace;
use crate::sys::scratch::ScratchDir;
use crate::timings::Keeper;
use crate::util::{blocking, in_full};

/// Called with the runtime once it exists.
type Given = Box<dyn FnOnce(&HotRuntime) + Send>;

/// How many runtimes this process has started.
static RUNTIMES: AtomicU64 = AtomicU64::new(0);

/// Configures a [`HotRuntime`].
///
/// ```no_run
/// use controllerbus::{Bus, ConfigSet};
/// use hot_runtime::{HotRuntime, Trust};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let bus = Bus::new();
/// let runtime = HotRuntime::builder(&bus)
///     .watch("../greeter")          // a crate: built, and swapped in after each change
///     .plugins_dir("plugins")       // files that were built elsewhere: loaded as they come, unloaded as they go
///     .trust(Trust::anyone())       // nobody else can write to that directory
///     .print_events()
///     .start()
///     .await?;
/// bus.apply(ConfigSet::from_yaml("greeter: { id: example/greeter, config: { greeting: Hello } }")?).await?.all_running()?;
/// // ... until the program ends
/// runtime.shutdown().await;
/// # Ok(())
/// # }
/// ```
pub struct Builder {
    bus: Bus,
    plugins: Vec<PluginSpec>,
    watches: Vec<PathBuf>,
    plugins_dirs: Vec<PathBuf>,
    work_dir: Option<PathBuf>,
    target_dir: Option<PathBuf>,
    optimize_dependencies: Option<bool>,
    build_timeout: Duration,
    watcher: Option<Watcher>,
    listeners: Vec<Listener>,
    given: Vec<Given>,
    before_swap: Option<Check>,
    placements: PlacementRules,
    settings: Settings,
}

impl Builder {
    /// A runtime on a bus with default settings.
    pub(super) fn new(bus: &Bus) -> Self {
        Self {
            bus: bus.clone(),
            plugins: Vec::new(),
            watches: Vec::new(),
            plugins_dirs: Vec::new(),
            work_dir: None,
            target_dir: None,
            optimize_dependencies: None,
            build_timeout: Duration::from_secs(600),
            watcher: None,
            listeners: Vec::new(),
            given: Vec::new(),
            before_swap: None,
            placements: PlacementRules::default(),
            settings: Settings {
                workers: 2,
                grace: Duration::from_secs(10),
                drain: Duration::from_secs(5),
                hand_over: Duration::from_millis(5),
                probation: Probation::default(),
                keep: Keep::default(),
                checks: Checks::new(Trust::undecided()),
                before_swap: None,
            },
        }
    }

    /// Builds the controller crate at `path` as a plugin and rebuilds it on each change. A
    /// [`CrateConfig`](crate::CrateConfig) adds and removes one while the runtime runs.
    #[must_use]
    pub fn watch(mut self, path: impl Into<PathBuf>) -> Self {
        self.watches.push(path.into());
        self
    }

    /// Builds and watches a plugin of one or more crates.
    #[must_use]
    pub fn plugin(mut self, spec: PluginSpec) -> Self {
        self.plugins.push(spec);
        self
    }

    /// Loads every `*.cbus.so` (`.dylib`, `.dll`) in a directory, and follows changes there; can be called for several.
    /// [`Builder::trust`] decides which are accepted. A [`FolderConfig`](crate::FolderConfig) adds and removes one while the
    /// runtime runs.
    ///
    /// # What a host takes on
    /// The same as with [`HotRuntime::load_file`], for every file that is ever put there.
    #[must_use]
    pub fn plugins_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugins_dirs.push(path.into());
        self
    }

    /// Sets the directory for overlays, builds, artifacts and the states of controllers with `persist`; `target/controllerbus` in the
    /// current directory unless set, which `cargo clean` removes.
    #[must_use]
    pub fn work_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.work_dir = Some(path.into());
        self
    }

    /// Sets cargo's target directory; `target` in the work directory unless set. Runtimes with the same one share the builds
    /// of their plugins' dependencies.
    #[must_use]
    pub fn target_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.target_dir = Some(path.into());
        self
    }

    /// Sets whether the dependencies of a plugin that is edited are compiled again in the background, with optimisation,
    /// so that further edits take less time; see [`BuildOptions::optimize_dependencies`].
    #[must_use]
    pub fn optimize_dependencies(mut self, on: bool) -> Self {
        self.optimize_dependencies = Some(on);
        self
    }

    /// Sets how long a new generation may take to become ready before it is rolled back; 10 s unless set.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// Sets how long a replaced generation may take to end before it is reported as draining or stuck; 5 s unless set.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.settings.drain = drain;
        self
    }

    /// Sets how long a swap waits for running calls without an answer before the state of their controller is handed
    /// over without them; 5 ms unless set. Calls that start meanwhile wait. Controllers without a state wait for
    /// nothing.
    #[must_use]
    pub fn hand_over(mut self, patience: Duration) -> Self {
        self.settings.hand_over = patience;
        self
    }

    /// Sets for how long, and by which limits, a new generation is judged after it has taken over; 10 s unless set. An
    /// unhealthy one is rolled back, and the previous one serves again. `Probation::lasting(Duration::ZERO)` turns this
    /// off.
    #[must_use]
    pub fn probation(mut self, probation: Probation) -> Self {
        self.settings.probation = probation;
        self
    }

    /// Sets how many earlier generations' artifacts to keep for each plugin, and how many bytes in total; 3 and 256 MiB
    /// unless set.
    #[must_use]
    pub fn keep_generations(mut self, generations: usize, bytes: u64) -> Self {
        self.settings.keep = Keep { generations, bytes };
        self
    }

    /// Sets how long a build may take; 10 minutes unless set.
    #[must_use]
    pub fn build_timeout(mut self, timeout: Duration) -> Self {
        self.build_timeout = timeout;
        self
    }

    /// Polls files at this interval instead of relying on the system's events: for file systems without events, such as
    /// network mounts and directories shared with a container or a virtual machine.
    #[must_use]
    pub fn poll(mut self, every: Duration) -> Self {
        self.watcher = Some(Watcher::polling(every));
        self
    }

    /// Uses this watcher, which the host can use for its own files as well.
    #[must_use]
    pub fn watcher(mut self, watcher: Watcher) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// Sets whose plugin files this host loads; none unless set, because a plugin can do whatever the host can. This
    /// does not concern what the runtime builds itself: whoever can change its sources can change what it runs anyway.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.settings.checks = self.settings.checks.trust(trust);
        self
    }

    /// Sets the size in bytes above which a plugin file is refused without being read; 64 MiB unless set.
    #[must_use]
    pub fn largest_file(mut self, bytes: u64) -> Self {
        self.settings.checks = self.settings.checks.largest(bytes);
        self
    }

    /// Loads plugin files, and follows a plugins directory, even where other users of the machine can write.
    #[must_use]
    pub fn allow_world_writable(mut self, allowed: bool) -> Self {
        self.settings.checks = self.settings.checks.allow_world_writable(allowed);
        self
    }

    /// Sets the number of worker threads of each plugin's own runtime; 2 unless set.
    #[must_use]
    pub fn workers(mut self, workers: u32) -> Self {
        self.settings.workers = workers.max(1);
        self
    }

    /// Sets where plugins run by default: in the host's process, or each in a process of its own.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.placements.default.isolation = isolation;
        self
    }

    /// Sets how process-hosted plugins run by default.
    #[must_use]
    pub fn process_options(mut self, options: ProcessOptions) -> Self {
        self.placements.default.process = options;
        self
    }

    /// Sets what plugins may do on the bus by default; everything unless set.
    #[must_use]
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.placements.default.capabilities = Some(capabilities);
        self
    }

    /// Sets the executable that serves process-hosted plugins. Otherwise it is the one named by the variable
    /// `CBUS_PLUGIN_HOST`, the running executable if its `main` starts with [`crate::plugin_host`], or
    /// `cbus-plugin-host` beside it or in `PATH`.
    #[must_use]
    pub fn plugin_host(mut self, executable: impl Into<PathBuf>) -> Self {
        // Wherever this process goes.
        self.placements.plugin_host = Some(in_full(&executable.into()));
        self
    }

    /// Calls a function with every event, starting with the first. It must return quickly.
    #[must_use]
    pub fn on_event(mut self, listener: impl Fn(&RuntimeEvent) + Send + Sync + 'static) -> Self {
        self.listeners.push(Arc::new(listener));
        self
    }

    /// Calls a function with the runtime before anything is built or loaded: for whoever shows or controls it during
    /// [`Builder::start`], which returns after the first builds. Plugins are known to it once their crates were read.
    #[must_use]
    pub fn on_runtime(mut self, given: impl FnOnce(&HotRuntime) + Send + 'static) -> Self {
        self.given.push(Box::new(given));
        self
    }

    /// Asks before each build of a crate is swapped in, such as by running its tests: `check` is called with the plugin's id,
    /// and its error is the reason why the build is not swapped in and what serves goes on. A further change of the sources
    /// drops the future, and so does the limit of [`Builder::build_timeout`], which is a refusal.
    #[must_use]
    pub fn before_swap<F>(mut self, check: impl Fn(&str) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.before_swap = Some(Arc::new(move |plugin| Box::pin(check(plugin))));
        self
    }

    /// Prints what happens to the plugins on standard error, in colours on a terminal: builds and what the compiler says,
    /// swaps, roll-backs, crashes, unloads. While the program has no `tracing` subscriber, the warnings and errors that plugins
    /// log are printed, too. For a program whose log has it all already, see [`Builder::on_event`].
    #[must_use]
    pub fn print_events(self) -> Self {
        controllerbus::plugin::traces::print_unheard(|line| output::print(To::Stderr, line));
        self.on_event(printer())
    }

    /// Starts the runtime and waits until each plugin has been built and loaded, or has failed once.
    ///
    /// A plugin that does not build or load is reported by events, not by an error: it is tried again at its next
    /// change.
    ///
    /// # Errors
    /// A crate that does not exist or is not a controller crate, a directory that cannot be used, or contradictory
    /// settings.
    pub async fn start(self) -> Result<HotRuntime> {
        if self.settings.checks.accept_nothing() {
            let reason = "signatures are required but there is no key to verify them with; pass one to `Trust::keys`";
            return Err(Error::Settings { reason: reason.to_owned() });
        }
        if !self.plugins_dirs.is_empty() && self.settings.checks.are_undecided() {
            let reason = "there is a plugins directory, but no trust policy for its files; pass `Trust::keys(..)` to \
                          `Builder::trust`, or `Trust::anyone()` to accept every file where nobody else can write";
            return Err(Error::Settings { reason: reason.to_owned() });
        }
        let work_dir = match self.work_dir {
            Some(dir) => dir,
            None => PathBuf::from("target/controllerbus"),
        };
        std::fs::create_dir_all(&work_dir).map_err(|source| Error::Io {
            what: "creating the work directory".to_owned(),
            path: work_dir.clone(),
            source,
        })?;
        inputs::mark_as_outputs(&work_dir)?;
        let mut build = BuildOptions::new(work_dir).timeout(self.build_timeout);
        if let Some(dir) = self.target_dir {
            build = build.target_dir(dir);
        }
        if let Some(on) = self.optimize_dependencies {
            build = build.optimize_dependencies(on);
        }
        let private_dir = ScratchDir::reserve_private(&build.work_dir, "loaded-")
            .map_err(Error::io("reserving a directory for private copies", &build.work_dir))?;
        // Another runtime on the same bus may have given it a place already.
        self.bus.keep_states_in(Arc::new(KeptStates::new(&build.work_dir)));
        let shared = Arc::new(Shared {
            bus: self.bus,
            registry: Registry::default(),
            comparing: Mutex::default(),
            builds: Builds::default(),
            settings: Settings {
                before_swap: self.before_swap.map(|check| (check, self.build_timeout)),
                ..self.settings
            },
            timings: Keeper::new(&build.work_dir),
            private_dir,
            placements: self.placements,
            #[cfg(all(unix, feature = "process"))]
            deadlines: Default::default(),
            events: broadcast::channel(256).0,
            listeners: self.listeners,
            retiring: TaskTracker::new(),
            paused: watch::Sender::new(false),
        });
        // Counted down from the end, so that it is never a generation's number.
        let settings = bus::Source(u64::MAX - RUNTIMES.fetch_add(1, Ordering::Relaxed));
        let runtime = HotRuntime {
            inner: Arc::new(Inner {
                shared,
                build,
                watcher: self.watcher.unwrap_or_default(),
                plugins: Mutex::default(),
                claims: Claims::default(),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
                settings,
            }),
        };
        self.given.into_iter().for_each(|given| given(&runtime));
        let weak = Arc::downgrade(&runtime.inner);
        let add = |factories| runtime.inner.shared.bus.add_factories(settings, factories);
        add(vec![PluginSettings::of(Weak::clone(&weak))]);
        let mut specs = self.plugins;
        for path in self.watches {
            let read = path.clone();
            let workspace = blocking(move || Workspace::read(&[read])).await?;
            let name = workspace.crates.first().map(|found| found.name.clone()).unwrap_or_default();
            specs.push(PluginSpec::new(name).crate_path(path));
        }
        check_ids(&specs)?;
        let mut first = Vec::new();
        for spec in specs {
            first.push(runtime.inner.add_source(spec).await?);
        }
        for dir in self.plugins_dirs {
            folder::follow(&runtime.inner, dir).await?;
        }
        // What the program itself loads comes first.
        add(loaders::factories(&weak).into());
        for loaded in first {
            let _ = loaded.await;
        }
        Ok(runtime)
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { plugins, watches, plugins_dirs, work_dir, target_dir, build_timeout, .. } = self;
        f.debug_struct("Builder")
            .field("plugins", plugins)
            .field("watches", watches)
            .field("plugins_dirs", plugins_dirs)
            .field("work_dir", work_dir)
            .field("target_dir", target_dir)
            .field("build_timeout", build_timeout)
            .finish_non_exhaustive()
    }
}

/// Refuses two plugins with the same id, which would keep replacing each other.
fn check_ids(specs: &[PluginSpec]) -> Result<()> {
    let crates =
        |spec: &PluginSpec| spec.crates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    for (at, spec) in specs.iter().enumerate() {
        if let Some(other) = specs[..at].iter().find(|other| other.id == spec.id) {
            let reason = format!(
                "two plugins have the id `{}`, built from {} and from {}; a plugin of one crate takes the crate's name, so \
                 rename one of the crates or set another id",
                spec.id,
                crates(other),
                crates(spec)
            );
            return Err(Error::Settings { reason });
        }
    }
    Ok(())
}
