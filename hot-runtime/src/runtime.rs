//! The runtime that a host embeds: one task for each plugin, which builds, swaps and unloads in turn.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use controllerbus::{Bus, bus};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifact::{Checks, Trust, Verified};
use crate::build::{BuildOptions, inputs};
use crate::capability::Capabilities;
use crate::error::{Error, Result};
use crate::event::{RuntimeEvent, ShutdownReport, StillLoaded, SwapReport, Timeline, UnloadReport};
use crate::folder;
use crate::history::Keep;
use crate::overlay::PluginSpec;
use crate::own_folder::OwnFolder;
use crate::placing::{Placing, Said};
use crate::probation::Probation;
use crate::process::{Isolation, ProcessOptions};
use crate::registry::{GenerationInfo, Registry};
use crate::serving::Serving;
use crate::settings::PluginSettings;
use crate::swap::millis;
use crate::task::{Command, Plugin, Source};
use crate::watch::Watcher;
use crate::workspace::Workspace;

type Listener = Arc<dyn Fn(&RuntimeEvent) + Send + Sync>;

/// What holds for every plugin of a runtime.
pub(crate) struct Settings {
    pub(crate) workers: u32,
    pub(crate) grace: Duration,
    pub(crate) drain: Duration,
    pub(crate) hand_over: Duration,
    pub(crate) probation: Probation,
    pub(crate) keep: Keep,
    pub(crate) checks: Checks,
}

/// What the plugins' tasks share.
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) registry: Registry,
    pub(crate) settings: Settings,
    /// Where what is loaded is copied to.
    pub(crate) private_dir: OwnFolder,
    pub(crate) placing: Placing,
    build: BuildOptions,
    /// One for all plugins.
    pub(crate) watcher: Watcher,
    events: broadcast::Sender<RuntimeEvent>,
    listeners: Vec<Listener>,
    pub(crate) retiring: TaskTracker,
}

/// Generations are numbered through the whole process, so that a `Source` means one of them on any bus.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

/// How many runtimes there have been in the process.
static RUNTIMES: AtomicU64 = AtomicU64::new(0);

impl Shared {
    pub(crate) fn next_generation(&self) -> u64 {
        GENERATIONS.fetch_add(1, Ordering::Relaxed)
    }

    /// How long the end of a generation may take before nobody waits for it any more.
    fn end_limit(&self) -> Duration {
        let limits = self.bus.limits();
        limits.cancel + limits.close + self.settings.drain * 2
    }

    pub(crate) fn emit(&self, event: RuntimeEvent) {
        tracing::debug!(?event);
        for listener in &self.listeners {
            // Its panic is its own: it costs the others, and what is being done, nothing.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| listener(&event))) {
                let error = controllerbus::Error::from_panic(payload);
                tracing::error!(?event, %error, "a listener of the runtime's events panicked");
            }
        }
        let _ = self.events.send(event);
    }
}

/// Collects what a [`HotRuntime`] starts with.
pub struct Builder {
    bus: Bus,
    plugins: Vec<PluginSpec>,
    watches: Vec<PathBuf>,
    plugins_dir: Option<PathBuf>,
    work_dir: Option<PathBuf>,
    target_dir: Option<PathBuf>,
    build_timeout: Duration,
    watcher: Option<Watcher>,
    listeners: Vec<Listener>,
    placing: Placing,
    settings: Settings,
}

impl Builder {
    /// Builds the controller crate at `path` into a plugin of its own and rebuilds it on each change.
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

    /// Loads every `*.cbus.so` (`.dylib`, `.dll`) of a folder and follows the folder. [`Builder::trust`] says whose.
    ///
    /// # What a host takes on
    /// As with [`HotRuntime::load_file`], for every file that ever comes to lie there.
    #[must_use]
    pub fn plugins_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugins_dir = Some(path.into());
        self
    }

    /// Where overlays, builds and artifacts go. The default is `target/controllerbus` below the current folder.
    #[must_use]
    pub fn work_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.work_dir = Some(path.into());
        self
    }

    /// Where cargo compiles. The default is `target` in the work folder; runtimes that share one share the builds
    /// of their plugins' dependencies.
    #[must_use]
    pub fn target_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.target_dir = Some(path.into());
        self
    }

    /// How long a new generation may take to become ready before it is rolled back; 10 s unless set.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// How long a replaced generation may take to end before it is shown as draining or stuck; 5 s unless set.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.settings.drain = drain;
        self
    }

    /// How long calls that are at work without an answer may take to end before the state of their controller is handed
    /// over without them; 5 ms unless set. Calls that begin meanwhile wait. Controllers without a state wait for nothing.
    #[must_use]
    pub fn hand_over(mut self, patience: Duration) -> Self {
        self.settings.hand_over = patience;
        self
    }

    /// For how long, and by what, a new generation is judged after it has taken over; 10 s unless set. One that is not well
    /// is taken back, and the one before serves again. `Probation::lasting(Duration::ZERO)` is none.
    #[must_use]
    pub fn probation(mut self, probation: Probation) -> Self {
        self.settings.probation = probation;
        self
    }

    /// Of how many generations before the one that serves the artifacts are kept, for each plugin, and how many bytes they
    /// may have together; 3 and 256 MiB unless set.
    #[must_use]
    pub fn keep_generations(mut self, generations: usize, bytes: u64) -> Self {
        self.settings.keep = Keep { generations, bytes };
        self
    }

    /// How long a build may take; 10 minutes unless set.
    #[must_use]
    pub fn build_timeout(mut self, timeout: Duration) -> Self {
        self.build_timeout = timeout;
        self
    }

    /// Looks at files this often, instead of waiting for the system to tell of changes: for file systems that do not tell,
    /// such as network mounts and folders shared with a container or a virtual machine.
    #[must_use]
    pub fn poll(mut self, every: Duration) -> Self {
        self.watcher = Some(Watcher::polling(every));
        self
    }

    /// Watches by this one, which the host may use for files of its own too.
    #[must_use]
    pub fn watcher(mut self, watcher: Watcher) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// Says whose plugin files this host loads. Without it none are: a plugin can do all that the host can. What this
    /// runtime builds itself is not a file from elsewhere: who may change its sources may change what it runs.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.settings.checks = self.settings.checks.trust(trust);
        self
    }

    /// Sets the size above which a plugin file is refused without being read, in bytes; 64 MiB unless set.
    #[must_use]
    pub fn largest_file(mut self, bytes: u64) -> Self {
        self.settings.checks = self.settings.checks.largest(bytes);
        self
    }

    /// Loads plugin files, and follows a plugins folder, even where other users of the machine may write.
    #[must_use]
    pub fn allow_world_writable(mut self, allowed: bool) -> Self {
        self.settings.checks = self.settings.checks.allow_world_writable(allowed);
        self
    }

    /// Worker threads of each plugin's own runtime; 2 unless set.
    #[must_use]
    pub fn workers(mut self, workers: u32) -> Self {
        self.settings.workers = workers.max(1);
        self
    }

    /// Runs every plugin, of which nothing else is said, in the host's process or in one of its own.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.placing.default.isolation = isolation;
        self
    }

    /// What process-hosted plugins may use, and how they are watched, where nothing else is said of one.
    #[must_use]
    pub fn process_options(mut self, options: ProcessOptions) -> Self {
        self.placing.default.process = options;
        self
    }

    /// What plugins may do on the bus, of which nothing else is said; everything unless set.
    #[must_use]
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.placing.default.capabilities = Some(capabilities);
        self
    }

    /// The executable that serves process-hosted plugins. Without one it is the variable `CBUS_PLUGIN_HOST`, or the
    /// running executable if its `main` begins with [`crate::plugin_host`], or `cbus-plugin-host` beside it or in `PATH`.
    #[must_use]
    pub fn plugin_host(mut self, executable: impl Into<PathBuf>) -> Self {
        self.placing.plugin_host = Some(executable.into());
        self
    }

    /// Calls a function with every event, from the first on. It must return soon.
    #[must_use]
    pub fn on_event(mut self, listener: impl Fn(&RuntimeEvent) + Send + Sync + 'static) -> Self {
        self.listeners.push(Arc::new(listener));
        self
    }

    /// Starts the runtime and waits until each plugin has been built and loaded, or has failed once.
    ///
    /// A plugin that does not build or load is told by events, not by an error: its next change mends it.
    ///
    /// # Errors
    /// A crate that is not there or is no controller crate, or a folder that cannot be used.
    pub async fn start(self) -> Result<HotRuntime> {
        if self.settings.checks.accept_nothing() {
            let reason = "signatures are required and there is no key to verify them with; give `Trust::keys` one";
            return Err(Error::Settings { reason: reason.to_owned() });
        }
        if self.plugins_dir.is_some() && self.settings.checks.are_undecided() {
            let reason = "there is a plugins folder, and nobody has said whose files are loaded from it; give the builder \
                          `Trust::keys(..)`, or `Trust::anyone()` for what lies where nobody else may write";
            return Err(Error::Settings { reason: reason.to_owned() });
        }
        let work_dir = match self.work_dir {
            Some(dir) => dir,
            None => PathBuf::from("target/controllerbus"),
        };
        std::fs::create_dir_all(&work_dir).map_err(|source| Error::Io {
            what: "creating the work folder".to_owned(),
            path: work_dir.clone(),
            source,
        })?;
        inputs::mark_as_outputs(&work_dir)?;
        let mut build = BuildOptions::new(work_dir).timeout(self.build_timeout);
        if let Some(dir) = self.target_dir {
            build = build.target_dir(dir);
        }
        let private_dir = OwnFolder::reserve_private(&build.work_dir, "loaded-")
            .map_err(Error::io("reserving a folder for private copies", &build.work_dir))?;
        let shared = Arc::new(Shared {
            bus: self.bus,
            registry: Registry::default(),
            settings: self.settings,
            private_dir,
            placing: self.placing,
            build,
            watcher: self.watcher.unwrap_or_default(),
            events: broadcast::channel(256).0,
            listeners: self.listeners,
            retiring: TaskTracker::new(),
        });
        // From the other end than generations, which are counted up.
        let settings = bus::Source(u64::MAX - RUNTIMES.fetch_add(1, Ordering::Relaxed));
        let runtime = HotRuntime {
            inner: Arc::new(Inner {
                shared,
                plugins: Mutex::default(),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
                settings,
            }),
        };
        let factory = PluginSettings::of(Arc::downgrade(&runtime.inner));
        runtime.inner.shared.bus.add_factories(settings, vec![factory]);
        let mut specs = self.plugins;
        for path in self.watches {
            let read = path.clone();
            let workspace = run_blocking(move || Workspace::read(&[read])).await?;
            let name = workspace.crates.first().map(|found| found.name.clone()).unwrap_or_default();
            specs.push(PluginSpec::new(name).crate_path(path));
        }
        check_ids(&specs)?;
        let mut first = Vec::new();
        for spec in specs {
            first.push(runtime.inner.add_source(spec).await?);
        }
        if let Some(dir) = self.plugins_dir {
            folder::follow(&runtime.inner, dir).await?;
        }
        for loaded in first {
            let _ = loaded.await;
        }
        Ok(runtime)
    }
}

/// Two plugins of one id would take turns at being the plugin.
fn check_ids(specs: &[PluginSpec]) -> Result<()> {
    let crates =
        |spec: &PluginSpec| spec.crates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    for (at, spec) in specs.iter().enumerate() {
        if let Some(other) = specs[..at].iter().find(|other| other.id == spec.id) {
            let reason = format!(
                "two plugins have the id `{}`: of {} and of {}; a plugin of one crate has its name: rename one of the crates, \
                 or give a plugin another id",
                spec.id,
                crates(other),
                crates(spec)
            );
            return Err(Error::Settings { reason });
        }
    }
    Ok(())
}

async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Closed))
}

/// Compiles controller crates, loads them onto a bus, swaps and unloads them while the process serves. Cheap to clone; every
/// clone is the same runtime.
///
/// Dropping the last one stops the watching; [`HotRuntime::shutdown`] also unloads everything.
#[derive(Clone)]
pub struct HotRuntime {
    inner: Arc<Inner>,
}

/// A plugin as the runtime reaches it.
#[derive(Clone)]
pub(crate) struct Known {
    /// Its task.
    task: mpsc::Sender<Command>,
    /// What of it serves, for what does not wait for its builds.
    pub(crate) serving: Arc<Serving>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    plugins: Mutex<HashMap<String, Known>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Where the factory of its config-set entries is from.
    settings: bus::Source,
}

impl HotRuntime {
    /// Starts to describe a runtime on a bus.
    pub fn builder(bus: &Bus) -> Builder {
        Builder {
            bus: bus.clone(),
            plugins: Vec::new(),
            watches: Vec::new(),
            plugins_dir: None,
            work_dir: None,
            target_dir: None,
            build_timeout: Duration::from_secs(600),
            watcher: None,
            listeners: Vec::new(),
            placing: Placing::default(),
            settings: Settings {
                workers: 2,
                grace: Duration::from_secs(10),
                drain: Duration::from_secs(5),
                hand_over: Duration::from_millis(5),
                probation: Probation::default(),
                keep: Keep::default(),
                checks: Checks::new(Trust::undecided()),
            },
        }
    }

    /// The events from now on. A receiver that falls 256 events behind loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.shared.events.subscribe()
    }

    /// Every generation that is loaded, and the last ended ones.
    pub fn generations(&self) -> Vec<GenerationInfo> {
        self.inner.shared.registry.generations()
    }

    /// Loads a built artifact, or swaps it for what is loaded of the same plugin. [`Builder::trust`] says whose.
    ///
    /// # What a host takes on
    /// A plugin is native code. In the host's process it can do all that the host can, undefined behaviour included, and
    /// what it says of its types in its manifest is believed: a file that lies about them corrupts memory. All that is
    /// checked before is that it is whole, where it lies, and who has signed it. So load what you would link; give
    /// everything else a process of its own, and a sandbox.
    ///
    /// # Errors
    /// Why the file was refused or the swap rolled back; what served before goes on.
    pub async fn load_file(&self, path: impl AsRef<Path>) -> Result<SwapReport> {
        let (artifact, timeline) = self.inner.read(path.as_ref()).await?;
        self.inner.load(artifact, timeline).await
    }

    /// Builds a plugin again now and swaps it in; `None` if the build gave what is loaded already.
    ///
    /// # Errors
    /// [`Error::UnknownPlugin`], the build's error, or why the swap was rolled back.
    pub async fn rebuild(&self, plugin: &str) -> Result<Option<SwapReport>> {
        let (answer, answered) = oneshot::channel();
        self.inner.send(plugin, Command::Build(Some(answer))).await?;
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// Runs a plugin in the host's process or in one of its own from now on: what serves is swapped for the same code
    /// there, without a gap. `None` if nothing of it is loaded, or if it runs there already.
    ///
    /// # Errors
    /// Why the swap was rolled back; what served before goes on, and the next load tries again.
    pub async fn set_isolation(&self, plugin: &str, isolation: Isolation) -> Result<Option<SwapReport>> {
        self.inner.place(plugin, isolation, None).await
    }

    /// As [`HotRuntime::set_isolation`], in a process of its own with these options.
    ///
    /// # Errors
    /// As there.
    pub async fn isolate(&self, plugin: &str, options: ProcessOptions) -> Result<Option<SwapReport>> {
        self.inner.place(plugin, Isolation::Process, Some(options)).await
    }

    /// Goes back to the generation that served before the one that does, or to the one of a build whose hash begins with
    /// `to`, by an ordinary swap: the state is handed over, and where the earlier code refuses it, it begins with its own
    /// last one. The build that serves now is not swapped in again until its content changes.
    ///
    /// # Errors
    /// [`Error::UnknownPlugin`], [`Error::NothingToGoBackTo`], or why the swap was rolled back.
    pub async fn roll_back(&self, plugin: &str, to: Option<&str>) -> Result<SwapReport> {
        self.inner.known(plugin)?.serving.roll_back(to).await
    }

    /// Takes a plugin off the bus and unloads it. Its source is watched on: the next change loads it again.
    ///
    /// Returns when it is unloaded, or its limits are over; what keeps it then is in the report, and it is unloaded in the
    /// background when that ends. The plugin's next generation need not wait for that.
    ///
    /// # Errors
    /// [`Error::UnknownPlugin`] when nothing of this id is loaded.
    pub async fn unload(&self, plugin: &str) -> Result<UnloadReport> {
        let begun = Instant::now();
        let shared = &self.inner.shared;
        let serving = shared.registry.serving(plugin);
        let (answer, answered) = oneshot::channel();
        self.inner.send(plugin, Command::Unload(answer)).await?;
        let answered = match tokio::time::timeout(shared.end_limit(), answered).await {
            Ok(answered) => return answered.unwrap_or(Err(Error::Closed)),
            Err(_) => serving.and_then(|generation| shared.registry.generation(generation)),
        };
        let info = answered.ok_or(Error::Closed)?;
        Ok(UnloadReport {
            plugin: plugin.to_owned(),
            generation: info.generation,
            unload_ms: millis(begun),
            unmapped: false,
            leaked_thread_locals: 0,
            left: Some(info.keeps()),
        })
    }

    /// Stops watching, unloads every plugin, and waits until replaced generations are gone too, or their limits are over:
    /// what is still loaded then is in the report.
    pub async fn shutdown(self) -> ShutdownReport {
        let shared = &self.inner.shared;
        self.inner.stop.cancel();
        self.inner.tasks.close();
        let ending = async {
            shared.bus.remove_source(self.inner.settings).await;
            // These put what serves among what retires.
            self.inner.tasks.wait().await;
            shared.retiring.close();
            shared.retiring.wait().await;
        };
        let _ = tokio::time::timeout(shared.end_limit(), ending).await;
        let left = shared.registry.still_loaded();
        for StillLoaded { plugin, generation, why } in &left {
            tracing::warn!(plugin, generation, why, "still loaded when the runtime ends");
        }
        let _ = std::fs::remove_dir(shared.private_dir.path());
        ShutdownReport { left }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where a plugin is to run, and brings it there if it is loaded.
    pub(crate) async fn place(
        &self,
        plugin: &str,
        isolation: Isolation,
        process: Option<ProcessOptions>,
    ) -> Result<Option<SwapReport>> {
        let isolation = Some(isolation);
        self.shared.placing.choose(plugin, Said { isolation, process, ..Said::default() });
        self.bring(plugin).await
    }

    /// Brings a plugin to where it is to run, if it is loaded.
    pub(crate) async fn bring(&self, plugin: &str) -> Result<Option<SwapReport>> {
        let Some(known) = self.lock().get(plugin).cloned() else { return Ok(None) };
        let task = known.task;
        let (answer, answered) = oneshot::channel();
        task.send(Command::Place(answer)).await.map_err(|_| Error::Closed)?;
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// The sender of a plugin's task, made without a source if there is none yet.
    fn task_of(&self, plugin: &str) -> mpsc::Sender<Command> {
        let mut plugins = self.lock();
        if let Some(known) = plugins.get(plugin) {
            return known.task.clone();
        }
        let known = self.spawn(plugin, None);
        let task = known.task.clone();
        plugins.insert(plugin.to_owned(), known);
        task
    }

    fn spawn(&self, plugin: &str, source: Option<Source>) -> Known {
        let (task, commands) = mpsc::channel(16);
        let serving = Serving::new(plugin, Arc::clone(&self.shared));
        let plugin = Plugin::new(Arc::clone(&self.shared), source, Arc::clone(&serving), plugin);
        self.tasks.spawn(plugin.run(commands, self.stop.clone()));
        Known { task, serving }
    }

    async fn add_source(&self, spec: PluginSpec) -> Result<oneshot::Receiver<Result<Option<SwapReport>>>> {
        let id = spec.id.clone();
        let (process, capabilities) = (spec.process.clone(), spec.capabilities.clone());
        self.shared.placing.specify(&id, Said { isolation: spec.isolation, process, capabilities });
        let source = Source::new(spec, self.shared.build.clone(), &self.shared.watcher).await?;
        let known = self.spawn(&id, Some(source));
        self.lock().insert(id, known.clone());
        let (answer, answered) = oneshot::channel();
        known.task.send(Command::Build(Some(answer))).await.map_err(|_| Error::Closed)?;
        Ok(answered)
    }

    /// Reads and verifies a file. What is verified here is what is loaded, whatever becomes of the path.
    pub(crate) async fn read(&self, path: &Path) -> Result<(Verified, Timeline)> {
        let begun = Instant::now();
        let (path, checks) = (path.to_owned(), self.shared.settings.checks.clone());
        let artifact = run_blocking(move || checks.verify(&path)).await?;
        Ok((artifact, Timeline { verify_ms: millis(begun), ..Timeline::default() }))
    }

    /// Swaps a verified artifact in.
    pub(crate) async fn load(&self, artifact: Verified, timeline: Timeline) -> Result<SwapReport> {
        let (answer, answered) = oneshot::channel();
        let task = self.task_of(&artifact.bundle.id);
        task.send(Command::Load(Box::new(artifact), timeline, answer)).await.map_err(|_| Error::Closed)?;
        answered.await.unwrap_or(Err(Error::Closed))
    }

    pub(crate) async fn send(&self, plugin: &str, command: Command) -> Result<()> {
        self.known(plugin)?.task.send(command).await.map_err(|_| Error::Closed)
    }

    pub(crate) fn known(&self, plugin: &str) -> Result<Known> {
        let plugins = self.lock();
        plugins.get(plugin).cloned().ok_or_else(|| {
            let nearest = plugins.keys().min_by_key(|id| controllerbus::config::distance(id, plugin)).cloned();
            Error::UnknownPlugin { id: plugin.to_owned(), nearest }
        })
    }
}
