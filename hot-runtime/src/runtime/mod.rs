//! The runtime that a host embeds: one task per plugin, which builds, swaps and unloads one after the other.

mod builder;
mod claims;
pub(crate) mod config;
mod folder;
mod functions;
mod loaders;
mod printer;
mod states;
mod task;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use controllerbus::{Bus, bus};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifact::{Verified, remove_spare};
use crate::compile::BuildOptions;
use crate::error::{Error, Result};
use crate::event::{RuntimeEvent, ShutdownReport, StillLoaded, SwapReport, Timeline, UnloadReport};
use crate::generation::context::Shared;
use crate::generation::registry::GenerationInfo;
use crate::generation::serving::Serving;
use crate::host::moment::Moment;
use crate::host::placement::Override;
use crate::host::{Isolation, ProcessOptions};
use crate::output;
use crate::source::spec::PluginSpec;
use crate::source::watch::Watcher;
use crate::util::blocking;
use claims::Claims;
use task::{Command, NewSource, Plugin, Source};

pub use builder::Builder;
pub use loaders::{CrateConfig, FolderConfig};

/// Compiles controller crates, loads them onto a bus, and swaps and unloads them while the process serves. Cheap to
/// clone; all clones are the same runtime.
///
/// Dropping the last clone stops watching; [`HotRuntime::shutdown`] also unloads everything.
#[derive(Clone)]
pub struct HotRuntime {
    inner: Arc<Inner>,
}

/// The handles to a plugin.
#[derive(Clone)]
pub(crate) struct Known {
    /// Its task.
    task: mpsc::Sender<Command>,
    /// Its serving side, for requests that need not wait for its builds.
    pub(crate) serving: Arc<Serving>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    build: BuildOptions,
    /// Shared by all plugins.
    watcher: Watcher,
    plugins: Mutex<HashMap<String, Known>>,
    /// Where each plugin comes from.
    claims: Claims,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// The source of the factories of its config-set entries.
    settings: bus::Source,
}

impl HotRuntime {
    /// Configures a runtime on a bus.
    #[must_use]
    pub fn builder(bus: &Bus) -> Builder {
        Builder::new(bus)
    }

    /// Builds the controller crate at `path`, loads it onto a bus of its own, and follows its changes: a host in one call. It
    /// [prints](Builder::print_events) what happens. [`HotRuntime::builder`] sets everything else.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn watch(path: impl Into<PathBuf>) -> Result<Self> {
        Self::builder(&Bus::new()).watch(path).print_events().start().await
    }

    /// Subscribes to events. A receiver that falls 256 events behind loses the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.shared.events.subscribe()
    }

    /// All loaded generations and the last ended ones.
    #[must_use]
    pub fn generations(&self) -> Vec<GenerationInfo> {
        self.inner.shared.registry.generations()
    }

    /// Loads a built artifact, or swaps it for the loaded generation of the same plugin. [`Builder::trust`] decides
    /// whether it is accepted.
    ///
    /// # What a host takes on
    /// A plugin is native code. In the host's process it can do whatever the host can, undefined behaviour included,
    /// and what its manifest says about its types is believed: a file that lies about them corrupts memory. All that is
    /// checked beforehand is that the file is complete, where it is, and who signed it. So load only what you would
    /// link, and give everything else a process of its own and a sandbox.
    ///
    /// # Errors
    /// Why the file was refused or the swap rolled back; the previous generation keeps serving.
    pub async fn load_file(&self, path: impl AsRef<Path>) -> Result<SwapReport> {
        let (artifact, timeline) = self.inner.read(path.as_ref()).await?;
        self.inner.load(artifact, timeline).await
    }

    /// Rebuilds a plugin now and swaps it in; `None` if the build gave what is already loaded.
    ///
    /// # Errors
    /// [`Error::UnknownPlugin`], the build's error, or why the swap was rolled back.
    pub async fn rebuild(&self, plugin: &str) -> Result<Option<SwapReport>> {
        let (answer, answered) = oneshot::channel();
        self.inner.send(plugin, Command::Build(Some(answer))).await?;
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// Pauses or resumes the builds that changes cause. What is changed in a pause is built at its end; a build that runs is not
    /// stopped, and [`HotRuntime::rebuild`] builds all the same.
    pub fn set_paused(&self, paused: bool) {
        self.inner.shared.paused.send_replace(paused);
    }

    /// Whether changes are built later, because builds are paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        *self.inner.shared.paused.borrow()
    }

    /// Moves a plugin to the host's process or to one of its own: the serving generation is swapped for the same code
    /// there, without a gap. `None` if the plugin is not loaded, or already runs there.
    ///
    /// # Errors
    /// Why the swap was rolled back; the previous generation keeps serving, and the next load tries again.
    pub async fn set_isolation(&self, plugin: &str, isolation: Isolation) -> Result<Option<SwapReport>> {
        self.inner.place(plugin, isolation, None).await
    }

    /// As [`HotRuntime::set_isolation`], to a process of its own with these options.
    ///
    /// # Errors
    /// As [`HotRuntime::set_isolation`].
    pub async fn isolate(&self, plugin: &str, options: ProcessOptions) -> Result<Option<SwapReport>> {
        self.inner.place(plugin, Isolation::Process, Some(options)).await
    }

    /// Has every process of a plugin end itself at a moment, unless another one is set before, or it is taken back: also if this
    /// process is frozen then, and for those that are started later. Who sets it has a name; the first moment of all counts. While it is over,
    /// no process is started.
    ///
    /// It is known to a process before what is constructed in it after this call.
    pub fn set_deadline(&self, plugin: &str, by: &str, at: Option<Moment>) {
        #[cfg(all(unix, feature = "process"))]
        self.inner.shared.deadlines.of(plugin).set(by, at);
        #[cfg(not(all(unix, feature = "process")))]
        let _ = (plugin, by, at);
    }

    /// Goes back to the generation before the serving one, or to that of a build whose hash starts with `to`, by an
    /// ordinary swap: the state is handed over, and where the earlier code rejects it, it starts from its own last
    /// state. The build that serves now is not swapped in again until its content changes.
    ///
    /// # Errors
    /// [`Error::UnknownPlugin`], [`Error::NothingToGoBackTo`], or why the swap was rolled back.
    pub async fn roll_back(&self, plugin: &str, to: Option<&str>) -> Result<SwapReport> {
        self.inner.known(plugin)?.serving.roll_back(to).await
    }

    /// Takes a plugin off the bus and unloads it. Its sources are still watched: the next change loads it again.
    ///
    /// Returns when it is unloaded, or when the time limits are over; the report then says what keeps it, and it is
    /// unloaded in the background as soon as that ends. The plugin's next generation does not wait for that.
    ///
    /// # Errors
    /// [`Error::UnknownPlugin`] if no plugin with this id is loaded.
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
            took: begun.elapsed(),
            unmapped: Some(false),
            leaked_thread_locals: 0,
            left: Some(info.keeps()),
        })
    }

    /// Stops watching, unloads every plugin, and waits until replaced generations are unloaded too, or the time limits
    /// are over: the report lists what is still loaded then.
    pub async fn shutdown(self) -> ShutdownReport {
        let shared = &self.inner.shared;
        self.inner.stop.cancel();
        self.inner.tasks.close();
        let ending = async {
            shared.bus.remove_source(self.inner.settings).await;
            // The tasks move what serves to what retires.
            self.inner.tasks.wait().await;
            shared.retiring.close();
            shared.retiring.wait().await;
        };
        let _ = tokio::time::timeout(shared.end_limit(), ending).await;
        let left = shared.registry.still_loaded();
        for StillLoaded { plugin, generation, why } in &left {
            tracing::warn!(plugin, generation, why, "still loaded at the end of the runtime");
        }
        remove_spare(shared.private_dir.path());
        let _ = std::fs::remove_dir(shared.private_dir.path());
        shared.timings.written().await;
        output::written().await;
        ShutdownReport { left }
    }
}

impl std::fmt::Debug for HotRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plugins: Vec<String> = self.inner.lock().keys().cloned().collect();
        f.debug_struct("HotRuntime").field("plugins", &plugins).finish_non_exhaustive()
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

    /// Sets where a plugin is to run, and moves it there if it is loaded.
    pub(crate) async fn place(
        &self,
        plugin: &str,
        isolation: Isolation,
        process: Option<ProcessOptions>,
    ) -> Result<Option<SwapReport>> {
        let isolation = Some(isolation);
        self.shared.placements.set_override(plugin, Override { isolation, process, ..Override::default() });
        self.bring(plugin).await
    }

    /// Moves a plugin to where it is to run, if it is loaded.
    pub(crate) async fn bring(&self, plugin: &str) -> Result<Option<SwapReport>> {
        let Some(known) = self.lock().get(plugin).cloned() else { return Ok(None) };
        let task = known.task;
        let (answer, answered) = oneshot::channel();
        task.send(Command::Place(answer)).await.map_err(|_| Error::Closed)?;
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// The sender of a plugin's task, which is started without a source if there is none yet.
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
        self.shared.placements.set_spec(&id, Override { isolation: spec.isolation, process, capabilities });
        self.claims.add_crate(&id);
        let (options, watcher) = (self.build.clone(), self.watcher.clone());
        let source = Source::new(NewSource { spec, options, watcher, stop: self.stop.child_token() }).await?;
        let known = self.spawn(&id, Some(source));
        self.lock().insert(id, known.clone());
        let (answer, answered) = oneshot::channel();
        known.task.send(Command::Build(Some(answer))).await.map_err(|_| Error::Closed)?;
        Ok(answered)
    }

    /// Reads and verifies a file. The verified bytes are what is loaded, whatever happens to the file afterwards.
    pub(crate) async fn read(&self, path: &Path) -> Result<(Verified, Timeline)> {
        let begun = Instant::now();
        let (path, shared) = (path.to_owned(), Arc::clone(&self.shared));
        let reading = move || shared.settings.checks.verify_into(&path, shared.private_dir.path());
        let artifact = blocking(reading).await?;
        Ok((artifact, Timeline { verify: begun.elapsed(), ..Timeline::default() }))
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
        plugins.get(plugin).cloned().ok_or_else(|| unknown(plugin, plugins.keys().map(String::as_str)))
    }
}

/// The error for an unknown plugin, with a suggestion where a known id is close.
fn unknown<'a>(plugin: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let nearest = controllerbus::__private::nearest(plugin, known).map(str::to_owned);
    Error::UnknownPlugin { id: plugin.to_owned(), nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_is_near_is_suggested() {
        let known = ["greeter", "clock"];
        let said = |plugin| unknown(plugin, known).to_string();
        assert_eq!(said("greter"), "no plugin `greter` is loaded; did you mean `greeter`?");
        assert_eq!(said("database"), "no plugin `database` is loaded");
        assert_eq!(unknown("greeter", []).to_string(), "no plugin `greeter` is loaded");
    }
}
