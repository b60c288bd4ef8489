//! Builds plugins: from sources to a sealed artifact.
//!
//! ```no_run
//! # async fn example() -> Result<(), hot_runtime::Error> {
//! use hot_runtime::compile::{BuildOptions, PluginBuilder};
//! use hot_runtime::PluginSpec;
//!
//! let spec = PluginSpec::new("greeter").crate_path("../greeter").release(true).watch(false);
//! let options = BuildOptions::new("target/controllerbus").output("out/greeter-{buildHash}.cbus.so");
//! let built = PluginBuilder::new(spec, options).build(&|event| println!("{event:?}"), &Default::default()).await?;
//! println!("{} in {:?}", built.artifact.display(), built.took);
//! # Ok(())
//! # }
//! ```

mod cache;
mod capture;
mod cargo;
mod compiler;
mod direct;
mod guess;
pub(crate) mod learned;
mod link;
mod lock;
mod needed;
mod optimized;
mod prelink;
mod process;
mod progress;
mod reuse;
mod standby;
pub(crate) mod trial;
mod units;
mod verdict;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use progress::{BuildEvent, Observer};

pub use crate::message::{CompilerMessage, MessageLevel, MessageSpan, without_colours};
pub use crate::phase::{BuildPhase, BuiltBy, PhaseTime};
pub use crate::source::inputs::Inputs;
pub use crate::source::spec::BUILD_HASH;

use crate::artifact::{self, Inspected, symbols};
use crate::error::{Error, Result};
use crate::source::hash::Names;
use crate::source::inputs::Snapshot;
use crate::source::overlay::{Dependencies, Overlay};
use crate::source::spec::PluginSpec;
use crate::source::watch::Watched;
use crate::source::workspace::{Toolchain, Workspace};
use crate::source::{environment, inputs};
use crate::util::{blocking, in_full};
use cache::ArtifactCache;
use capture::{Capture, DepInfo};
use cargo::CargoBuilt;
use direct::{Failure, Job, Plan, Session};
use learned::Learned;
use lock::{BuildLock, CargoLock};
use optimized::{Optimized, Optimizing};
use progress::Progress;
use units::Units;

/// Where a plugin is built, and for how long at most.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildOptions {
    /// The directory for overlays and artifacts.
    pub work_dir: PathBuf,
    /// Cargo's target directory; plugins with the same one share the builds of their dependencies.
    pub target_dir: PathBuf,
    /// The directory of the overlay crate; one for each plugin in the work directory unless set.
    pub overlay_dir: Option<PathBuf>,
    /// The artifact's path, in which `{buildHash}` stands for the build hash; `artifacts/ID.cbus.so` in the work directory
    /// unless set.
    pub output: Option<PathBuf>,
    /// How long a build may take.
    pub timeout: Duration,
    /// How many bytes of artifacts to cache, so that returning to earlier sources needs no compiler.
    pub keep: u64,
    /// Whether to compile the dependencies of a plugin again after its first edit, with optimisation, in the background
    /// and at a low priority. Libraries are then about half as large, and further edits are linked and loaded sooner. It needs
    /// some minutes of a core and 300 MB in the target directory, once. It is not done for release builds, nor if the
    /// workspace's dev profile sets an `opt-level`.
    pub optimize_dependencies: bool,
}

impl BuildOptions {
    /// Options with everything in the work directory, a limit of 10 minutes, and 256 MiB of cached artifacts. Dependencies
    /// are optimised unless the variable `CBUS_OPTIMIZE_DEPENDENCIES` is `false`.
    #[must_use]
    pub fn new(work_dir: impl Into<PathBuf>) -> Self {
        let work_dir = in_full(&work_dir.into());
        let target_dir = work_dir.join("target");
        Self {
            work_dir,
            target_dir,
            overlay_dir: None,
            output: None,
            timeout: Duration::from_secs(600),
            keep: 256 << 20,
            optimize_dependencies: std::env::var_os("CBUS_OPTIMIZE_DEPENDENCIES").is_none_or(|value| value != "false"),
        }
    }

    /// Sets cargo's target directory.
    #[must_use]
    pub fn target_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.target_dir = in_full(&dir.into());
        self
    }

    /// Sets the overlay's directory.
    #[must_use]
    pub fn overlay_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.overlay_dir = Some(in_full(&dir.into()));
        self
    }

    /// Sets the artifact's path.
    #[must_use]
    pub fn output(mut self, path: impl Into<PathBuf>) -> Self {
        self.output = Some(in_full(&path.into()));
        self
    }

    /// Sets how long a build may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many bytes of artifacts to cache; 0 for none.
    #[must_use]
    pub fn keep(mut self, bytes: u64) -> Self {
        self.keep = bytes;
        self
    }

    /// Sets whether the dependencies of a plugin that is edited are optimised in the background.
    #[must_use]
    pub fn optimize_dependencies(mut self, on: bool) -> Self {
        self.optimize_dependencies = on;
        self
    }

    fn overlay_of(&self, spec: &PluginSpec) -> PathBuf {
        let dir = self.overlay_dir.clone().unwrap_or_else(|| self.work_dir.join("overlays").join(spec.slug()));
        // The compiler runs in another directory.
        in_full(&dir)
    }

    fn output_of(&self, spec: &PluginSpec, build_hash: &str) -> PathBuf {
        match &self.output {
            Some(path) => PathBuf::from(path.to_string_lossy().replace(BUILD_HASH, build_hash)),
            None => {
                let name = format!("{}.cbus{}", spec.slug(), std::env::consts::DLL_SUFFIX);
                self.work_dir.join("artifacts").join(name)
            }
        }
    }
}

/// The result of a build.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct BuildReport {
    /// The artifact's path.
    pub artifact: PathBuf,
    /// The hash of the build's inputs, as 16 hex digits. After an edit that changes no code (a comment, a touch) it is
    /// that of the previous build, whose artifact is reused.
    pub build_hash: String,
    /// The BLAKE3 hash of the library, as hex.
    pub hash: String,
    /// The artifact's size in bytes.
    pub size: u64,
    /// The file beside the artifact with what only debuggers and backtraces read, if that was set apart.
    pub symbols: Option<PathBuf>,
    /// What compiled it.
    pub by: BuiltBy,
    /// Whether its dependencies are optimised although its profile does not say so; see
    /// [`BuildOptions::optimize_dependencies`].
    pub optimized: bool,
    /// Why cargo built it, if it did.
    pub why_cargo: Option<String>,
    /// Why the plugin was linked in full, if its dependencies could not be prelinked: then each link takes longer.
    pub why_full_link: Option<String>,
    /// The warnings.
    pub messages: Vec<CompilerMessage>,
    /// How long the build took; in JSON, milliseconds.
    #[serde(rename = "build_ms", with = "crate::util::millis")]
    pub took: Duration,
    /// How long each step took.
    pub phases: Vec<PhaseTime>,
}

impl BuildReport {
    /// For an existing artifact; the rest is filled in at the end of the build.
    fn new(
        artifact: PathBuf,
        build_hash: String,
        sealed: artifact::Sealed,
        by: BuiltBy,
        messages: Vec<CompilerMessage>,
    ) -> Self {
        let artifact::Sealed { hash, size } = sealed;
        Self {
            artifact,
            build_hash,
            hash,
            size,
            symbols: None,
            by,
            optimized: false,
            why_cargo: None,
            why_full_link: None,
            messages,
            took: Duration::ZERO,
            phases: Vec::new(),
        }
    }
}

/// How often a build is restarted because a file was written while it was read.
const ROUNDS: usize = 3;

/// Builds one plugin over and over: first with cargo, then with rustc for just what changed, wherever that gives the
/// same result.
pub struct PluginBuilder {
    spec: PluginSpec,
    options: BuildOptions,
    workspace: Workspace,
    inputs: Inputs,
    /// What builds read, as far as known.
    learned: Option<Learned>,
    session: Option<Session>,
    cache: ArtifactCache,
    /// The last artifact, with its inputs and environment.
    last: Option<(BuildReport, Snapshot, blake3::Hash)>,
    /// How the dependencies of the current session are compiled.
    dependencies: Dependencies,
    optimizing: Optimizing,
    /// Whether cargo compiles incrementally.
    incremental: bool,
    /// Whether what only debuggers read goes into a file of its own.
    symbols_apart: bool,
    warned_of_wrapper: bool,
}

impl PluginBuilder {
    /// A builder for a plugin. Nothing is read yet.
    #[must_use]
    pub fn new(mut spec: PluginSpec, options: BuildOptions) -> Self {
        // Whatever directory this process changes to.
        spec.crates.iter_mut().for_each(|path| *path = in_full(path));
        let inputs = Inputs::new(&options.target_dir);
        let cache = ArtifactCache::new(options.target_dir.join("cbus"), options.keep);
        let incremental = spec.watch;
        let (workspace, learned) = (Workspace::default(), None);
        Self {
            spec,
            options,
            workspace,
            inputs,
            learned,
            session: None,
            cache,
            last: None,
            dependencies: Dependencies::Plain,
            optimizing: Optimizing::NotYet,
            incremental,
            symbols_apart: false,
            warned_of_wrapper: false,
        }
    }

    /// The plugin's spec.
    pub fn spec(&self) -> &PluginSpec {
        &self.spec
    }

    /// The inputs of its builds; empty before the first read.
    pub fn inputs(&self) -> Inputs {
        self.inputs.clone()
    }

    /// Writes the overlay crate, which plain cargo can build.
    ///
    /// # Errors
    /// A crate that does not exist or is not a controller crate, or a file that cannot be written.
    pub async fn generate(&mut self) -> Result<Overlay> {
        self.write_overlay(None).await
    }

    /// As [`PluginBuilder::generate`]; a salt makes the build hash unique.
    async fn write_overlay(&mut self, salt: Option<String>) -> Result<Overlay> {
        let (spec, dir, inputs) = (self.spec.clone(), self.options.overlay_of(&self.spec), self.inputs.clone());
        let (learned, before) = (self.learned.clone(), self.inputs.set());
        let (target_dir, dependencies) = (self.options.target_dir.clone(), self.dependencies);
        let (workspace, learned, overlay) = blocking(move || {
            let workspace = match Workspace::read(&spec.crates) {
                Ok(workspace) => workspace,
                Err(error) => {
                    // A change of any of these may fix it.
                    let mut set = Workspace::default().deciding(&spec.crates);
                    set.extend(&before);
                    inputs.begin(set);
                    return Err(error);
                }
            };
            let learned =
                learned.or_else(|| Learned::read(&dir, &spec.crates)).unwrap_or_else(|| Learned::guess(&workspace));
            let mut set = workspace.deciding(&spec.crates);
            set.extend(&learned.set);
            inputs.build_at(&workspace.root);
            let now = inputs.begin(set);
            let mut texts = learned.texts.clone();
            texts.extend(salt);
            let names = names(&workspace, &dir, &target_dir);
            let hash = Overlay::build_hash(&workspace, &spec, dependencies, &texts, &now, &names)?;
            let overlay = Overlay::write(&workspace, &spec, dependencies, &dir, hash)?;
            Ok((workspace, learned, overlay))
        })
        .await?;
        self.workspace = workspace;
        self.learned = Some(learned);
        self.symbols_apart = overlay.symbols_apart;
        Ok(overlay)
    }

    /// Builds it. Cancelling stops the compiler and everything that it started.
    ///
    /// # Errors
    /// [`Error::Build`] with the compiler's messages, [`Error::BuildTimedOut`], [`Error::Cancelled`], the errors of
    /// [`PluginBuilder::generate`], or an artifact that cannot be written.
    pub async fn build(&mut self, observer: Observer<'_>, cancel: &CancellationToken) -> Result<BuildReport> {
        self.build_watching(observer, cancel, |_| (), None).await.map(|(report, _)| report)
    }

    /// As [`PluginBuilder::build`]; `watch` is called with what to watch whenever more is known about that, also before
    /// the compiler starts. Returns also what was just sealed, so that it need not be read again, in the directory for private copies
    /// if one is given.
    pub(crate) async fn build_watching(
        &mut self,
        observer: Observer<'_>,
        cancel: &CancellationToken,
        watch: impl Fn(Vec<Watched>),
        private: Option<&Path>,
    ) -> Result<(BuildReport, Option<Inspected>)> {
        let mut progress = Progress::new(observer);
        let _lock = BuildLock::acquire(&self.options.target_dir, &self.spec, &mut progress, cancel).await?;
        if let Some(optimized) = self.optimizing.done(&self.spec.id).await {
            self.continue_from(optimized);
        }
        let mut round = 0;
        let (made, why_cargo) = loop {
            progress.phase(BuildPhase::Reading);
            let made = self.make(&mut progress, cancel, &watch, round).await;
            let made = match made {
                Ok(made) => made,
                Err(error) => {
                    self.learn_from_failure(&error).await?;
                    watch(self.inputs.watched());
                    return Err(error);
                }
            };
            watch(self.inputs.watched());
            match made {
                Some(made) => break made,
                None => round += 1,
            }
        };
        let (mut optimized, mut symbols) = (false, None);
        let (report, in_memory, inputs) = match made {
            BuildOutput::Unchanged(report, messages, inputs) => {
                (optimized, symbols) = (report.optimized, report.symbols.clone());
                (BuildReport { messages, ..report }, None, inputs)
            }
            BuildOutput::Cached { artifact, build_hash, sealed, messages, inputs } => {
                (BuildReport::new(artifact, build_hash, sealed, BuiltBy::Kept, messages), None, inputs)
            }
            BuildOutput::Library { library, build_hash, by, messages, inputs } => {
                progress.phase(BuildPhase::Sealing);
                // If sealing fails, the artifact is not what was linked last.
                self.last = None;
                let artifact = self.options.output_of(&self.spec, &build_hash);
                // What cargo linked belongs to cargo.
                let (out, ours) = (artifact.clone(), by == BuiltBy::Rustc);
                let private = private.map(Path::to_owned);
                let named = format!("{}-{build_hash}", self.spec.slug());
                let root = self.symbols_apart.then(|| self.workspace.root.clone());
                let sealing = move || {
                    let stripped = root.map(|root| stripped(&library, &out, &named, &root)).transpose()?.flatten();
                    let library = stripped.as_ref().map_or(&library, |stripped| &stripped.library);
                    let (sealed, in_memory) = artifact::seal_and_keep(library, &out, ours, private.as_deref())?;
                    Ok((sealed, in_memory, stripped.is_some().then(|| artifact::symbols_path(&out))))
                };
                let (sealed, in_memory, apart) = blocking(sealing).await?;
                symbols = apart;
                if self.spec.watch && round < ROUNDS {
                    self.cache.add(&build_hash, &artifact, &sealed, &messages, (&inputs, environment()));
                }
                optimized = by == BuiltBy::Rustc && self.dependencies == Dependencies::Optimized;
                (BuildReport::new(artifact, build_hash, sealed, by, messages), in_memory, inputs)
            }
        };
        let (took, phases) = progress.end();
        if report.by == BuiltBy::Rustc && self.dependencies == Dependencies::Plain {
            self.optimizing.start(&self.workspace, &self.spec, &self.options);
        }
        let why_full_link = self.session.as_ref().and_then(|session| session.why_full().map(str::to_owned));
        let report = BuildReport { optimized, symbols, why_cargo, why_full_link, took, phases, ..report };
        self.last = Some((report.clone(), inputs, environment()));
        Ok((report, in_memory))
    }

    /// Builds directly or with cargo, and says why with cargo; `None` if a file was written while it was read.
    async fn make(
        &mut self,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
        watch: &impl Fn(Vec<Watched>),
        round: usize,
    ) -> Result<Option<(BuildOutput, Option<String>)>> {
        let why = match self.make_directly(progress, cancel, round).await {
            Ok(made) => return Ok(Some((made, None))),
            Err(Failure::Failed(error)) => return Err(error),
            Err(Failure::Written) => return Ok(None),
            Err(Failure::Cargo(why)) => why,
        };
        tracing::debug!(plugin = self.spec.id, why, "cargo builds");
        // The plain build comes first, because it takes less time.
        self.optimizing.stop();
        if let Some(session) = &mut self.session {
            session.stand_down().await;
        }
        let before = std::mem::replace(&mut self.dependencies, Dependencies::Plain);
        let made = self.build_by_cargo(progress, cancel, watch, round).await;
        if !matches!(made, Ok(Some(_))) {
            // The session is still the one before.
            self.dependencies = before;
        }
        let made = made?;
        Ok(made.map(|made| (made, Some(why))))
    }

    /// Compiles just what changed, if it is known how, or takes an earlier build of the same inputs.
    async fn make_directly(
        &mut self,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
        round: usize,
    ) -> Result<BuildOutput, Failure> {
        let known = self.learned.clone().filter(|_| self.session.is_some() || self.last.is_some());
        let Some(learned) = known else {
            return Err(Failure::Cargo("there was no build by cargo yet".to_owned()));
        };
        let mut set = self.workspace.deciding(&self.spec.crates);
        set.extend(&learned.set);
        if let Some(session) = &self.session {
            // The files that decided at its start may differ from those that would now.
            set.extend(&session.deciding);
            if round > 0 {
                // The inputs that the previous round discovered, to detect whether they are being written.
                set.extend(&session.known.sources());
            }
        }
        let inputs = self.inputs.clone();
        let now = blocking(move || Ok(inputs.begin(set))).await?;
        let lacking =
            self.session.iter().flat_map(|session| &session.known.scripts).any(|script| script.lacks().is_some());
        // The outputs of a script that cargo runs each time are not known.
        if !lacking && let Some(made) = self.made_before(&now).await? {
            if let (Some(session), BuildOutput::Cached { .. }) = (&mut self.session, &made) {
                session.invalidate_linked();
            }
            return Ok(made);
        }
        let Some(session) = &mut self.session else {
            return Err(Failure::Cargo("an input changed".to_owned()));
        };
        let order = match session.plan(&now) {
            Plan::Cargo(why) => return Err(Failure::Cargo(why)),
            Plan::Direct(order) => order,
        };
        let job = Job { spec: &self.spec, options: &self.options, cancel, lenient: round >= ROUNDS };
        let place = match self.dependencies {
            Dependencies::Plain => &self.options,
            Dependencies::Optimized => &optimized::place(&self.spec, &self.options),
        };
        let names = names(&self.workspace, &place.overlay_of(&self.spec), &place.target_dir);
        let (workspace, spec, dependencies) = (&self.workspace, &self.spec, self.dependencies);
        let beyond = &learned.beyond;
        let hash = |units: &Units, now: &Snapshot| {
            let mut texts = Learned::texts_of(units, &names, beyond);
            texts.extend(salt(job.lenient));
            Overlay::build_hash(workspace, spec, dependencies, &texts, now, &names)
        };
        let permit = match order.is_empty() {
            true => None,
            false => Some(lock::compiler_permit(&self.spec, progress, cancel).await?),
        };
        let built = session.build(&order, &self.inputs, &hash, job, progress).await;
        drop(permit);
        session.stand_by(&order);
        let built = built?;
        let learned = Learned::of(&session.known, &names, beyond.clone());
        let (inputs, messages) = (built.now, built.messages);
        let before = self.last.as_ref().filter(|(last, ..)| last.artifact.is_file());
        let made = match (built.library, before) {
            (Some(library), _) => {
                Ok(BuildOutput::Library { library, build_hash: built.hash, by: BuiltBy::Rustc, messages, inputs })
            }
            (None, Some((before, ..))) => {
                Ok(BuildOutput::Unchanged(BuildReport { by: BuiltBy::Rustc, ..before.clone() }, messages, inputs))
            }
            (None, None) => Err(Failure::Cargo("the previous build's artifact is gone".to_owned())),
        };
        self.learned = Some(learned);
        made
    }

    /// Compiles edits with optimised dependencies from now on.
    fn continue_from(&mut self, optimized: Optimized) {
        let Optimized { workspace, learned, mut session, inputs } = optimized;
        // An edit that changes no code needs no new library if what serves has the same code.
        let serves = self.last.as_ref().map(|(_, inputs, _)| inputs);
        if !serves.is_some_and(|serves| session.known.are_as_in(serves, &inputs)) {
            session.invalidate_linked();
        }
        tracing::debug!(plugin = self.spec.id, "its dependencies are optimised");
        self.dependencies = Dependencies::Optimized;
        self.workspace = workspace;
        self.learned = Some(learned);
        self.session = Some(session);
    }

    /// An earlier build of the same inputs, if it still exists.
    async fn made_before(&mut self, now: &Snapshot) -> Result<Option<BuildOutput>> {
        let environment = environment();
        if let Some((last, inputs, then)) = &self.last
            && *then == environment
            && last.artifact.is_file()
            && inputs.change_since(now).is_none()
        {
            return Ok(Some(BuildOutput::Unchanged(last.clone(), Vec::new(), inputs.clone())));
        }
        let (inputs, spec, options) = (self.inputs.clone(), &self.spec, &self.options);
        let holds = |snapshot: &Snapshot, then: &blake3::Hash| *then == environment && inputs.holds(snapshot, now);
        let found = self.cache.find(holds, |hash| options.output_of(spec, hash));
        Ok(found.map(|found| {
            let cache::Found { artifact, build_hash, sealed, messages, inputs } = found;
            BuildOutput::Cached { artifact, build_hash, sealed, messages, inputs }
        }))
    }

    /// After a failed build, watches for the files that it did not find, and for new files beside its sources.
    async fn learn_from_failure(&mut self, error: &Error) -> Result<()> {
        let (said, messages) = match error {
            Error::Build { rendered, messages, .. } => (without_colours(rendered), messages.as_slice()),
            Error::Metadata { message, .. } => (message.clone(), [].as_slice()),
            _ => return Ok(()),
        };
        let folders: Vec<PathBuf> = self.workspace.packages.keys().chain([&self.workspace.root]).cloned().collect();
        let mut named: BTreeSet<_> = folders.iter().flat_map(|folder| verdict::paths_in(messages, folder)).collect();
        named.extend(verdict::paths_in_text(&said, &self.workspace.root));
        let (lacked, there): (Vec<_>, Vec<_>) = named.into_iter().partition(|path| !path.exists());
        let mut set = self.inputs.set();
        set.files.extend(there.into_iter().filter(|path| path.is_file()));
        set.extend(&verdict::failed_scripts(&said));
        let source = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "rs") && path.is_file();
        let beside: BTreeSet<_> =
            set.files.iter().filter(source).filter_map(|path| path.parent()).map(Path::to_owned).collect();
        set.folders.extend(beside.into_iter().filter(|folder| !folder.starts_with(&self.options.target_dir)));
        let inputs = self.inputs.clone();
        blocking(move || {
            inputs.learn(set);
            inputs.lacked(&lacked.into_iter().collect());
            Ok(())
        })
        .await
    }

    /// The directories of local crates, with names to replace them. The longest comes last, because the compiler uses the
    /// last match.
    fn local_names(&self, overlay: &Overlay) -> Vec<(PathBuf, String)> {
        let folders = self.workspace.packages.keys();
        let mut names: Vec<_> = folders
            .map(|folder| (folder.clone(), format!("/{}", folder.file_name().unwrap_or_default().to_string_lossy())))
            .collect();
        names.push((overlay.dir.clone(), "/overlay".to_owned()));
        names.push((self.options.target_dir.clone(), "/target".to_owned()));
        let in_full: Vec<_> = names
            .iter()
            .filter_map(|(folder, name)| {
                Some((folder.canonicalize().ok().filter(|full| full != folder)?, name.clone()))
            })
            .collect();
        names.extend(in_full);
        names.sort_by_key(|(folder, _)| folder.as_os_str().len());
        names
    }

    /// `None` if a file was written while it was read.
    async fn build_by_cargo(
        &mut self,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
        watch: &impl Fn(Vec<Watched>),
        round: usize,
    ) -> Result<Option<BuildOutput>> {
        let target_dir = self.options.target_dir.clone();
        // Also for a single build: later builds may reuse what is compiled here.
        let capture = blocking(move || Ok(Capture::prepare(&target_dir))).await?;
        let mut attempt = 0;
        loop {
            progress.phase(BuildPhase::Reading);
            let began = SystemTime::now();
            // A build whose hash differs each time has no hash of its own.
            let salted = round >= ROUNDS || attempt >= ROUNDS;
            let overlay = self.write_overlay(salt(salted)).await?;
            watch(self.inputs.watched());
            if cancel.is_cancelled() {
                return Err(Error::Cancelled { plugin: self.spec.id.clone() });
            }
            self.reuse_dependencies(progress, cancel).await?;
            self.invalidate_cargo_fingerprints(capture.clone(), progress, cancel).await?;
            let built = self.run_cargo(&overlay, capture.as_ref(), progress, cancel).await?;
            let (library, messages) = (built.library.clone(), built.messages.clone());
            let (made, asked) = (built.made.clone(), library.clone());
            if let Some(rendered) = blocking(move || Ok(needed::of_rust(&asked, &made))).await? {
                return Err(Error::Build { plugin: self.spec.id.clone(), rendered, messages });
            }
            let learning = self.learn(built, &overlay, capture.clone(), began);
            let Some((session, now, hash)) = learning.await? else {
                if round < ROUNDS {
                    return Ok(None);
                }
                let (build_hash, inputs) = (overlay.build_hash, self.inputs.built());
                return Ok(Some(BuildOutput::Library { library, build_hash, by: BuiltBy::Cargo, messages, inputs }));
            };
            if !salted && hash != overlay.build_hash {
                // The inputs had been guessed, and now are known.
                attempt += 1;
                continue;
            }
            self.session = session;
            if let Some(session) = &mut self.session {
                session.prelink();
            }
            let build_hash = overlay.build_hash;
            return Ok(Some(BuildOutput::Library { library, build_hash, by: BuiltBy::Cargo, messages, inputs: now }));
        }
    }

    /// Begins with what cargo has compiled for the workspace. Not for a single build, whose artifact contains no paths of this machine.
    async fn reuse_dependencies(&self, progress: &mut Progress<'_>, cancel: &CancellationToken) -> Result<()> {
        let target_dir = self.options.target_dir.clone();
        let profile = if self.spec.release { "release" } else { "debug" };
        if self.spec.watch {
            if self.dependencies != Dependencies::Plain {
                return Ok(());
            }
            let workspace = self.workspace.clone();
            return blocking(move || {
                reuse::take_over(&workspace, &target_dir, profile);
                Ok(())
            })
            .await;
        }
        let mut lock = None;
        loop {
            let (folder, is_locked) = (target_dir.clone(), lock.is_some());
            let forget = move || {
                reuse::forget_taken_over(&folder, profile, is_locked)
                    .map_err(Error::io("forgetting what was taken over from the workspace", &folder))
            };
            if blocking(forget).await? {
                return Ok(());
            }
            lock = Some(self.cargo_lock(&target_dir.join(profile), progress, cancel).await?);
        }
    }

    async fn cargo_lock(
        &self,
        profile: &Path,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<CargoLock> {
        CargoLock::acquire(profile, self.options.timeout, &self.spec, progress, cancel).await
    }

    /// Learns from a build by cargo what it read. `None` if a file was written during the build.
    async fn learn(
        &mut self,
        built: CargoBuilt,
        overlay: &Overlay,
        capture: Option<Capture>,
        began: SystemTime,
    ) -> Result<Option<(Option<Session>, Snapshot, String)>> {
        let (overlay, spec, workspace) = (overlay.clone(), self.spec.clone(), self.workspace.clone());
        let (inputs, target_dir, dependencies) =
            (self.inputs.clone(), self.options.target_dir.clone(), self.dependencies);
        let (learned, found) = blocking(move || {
            let units = Units::learn(&built.made, built.scripts.clone(), capture.as_ref(), &overlay.dir);
            let names = names(&workspace, &overlay.dir, &target_dir);
            let learned = Learned::of(&units, &names, learned::beyond(&overlay.dir, workspace.lock_file.as_deref()));
            learned.write(&overlay.dir, &spec.crates);
            let mut deciding = workspace.deciding(&spec.crates);
            deciding.quiet.extend(units.compilers());
            let mut set = deciding.clone();
            set.extend(&learned.set);
            let read = inputs.read_since(units.sources().files, began).is_some();
            let now = inputs.learn(set);
            if !read {
                return Ok((learned, None));
            }
            let hash = Overlay::build_hash(&workspace, &spec, dependencies, &learned.texts, &now, &names)?;
            let capture = capture.filter(|_| spec.watch);
            let session = capture
                .and_then(|capture| Session::new(&built, units, &now, &deciding, &capture, &overlay, &workspace));
            Ok((learned, Some((session, now, hash))))
        })
        .await?;
        self.learned = Some(learned);
        Ok(found)
    }

    /// Runs cargo; again without incremental compilation if that fails.
    async fn run_cargo(
        &mut self,
        overlay: &Overlay,
        capture: Option<&Capture>,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<CargoBuilt> {
        let local = self.local_names(overlay);
        let wrapper = environment::wrapper(&overlay.root);
        if let Some(said) = environment::wrapper_of_members(&overlay.root)
            && !std::mem::replace(&mut self.warned_of_wrapper, true)
        {
            tracing::warn!(
                plugin = self.spec.id,
                "nothing of a plugin is compiled by the wrapper that {said} sets, because that is for the members of a \
                 workspace, and a plugin is bundled outside of it; to apply it to plugins, set it as `build.rustc-wrapper`"
            );
        }
        let _permit = lock::cargo_permit(&self.options.target_dir, &self.spec, progress, cancel).await?;
        loop {
            let incremental = self.incremental;
            let in_background = self.dependencies == Dependencies::Optimized;
            let how = cargo::How { capture, local: &local, wrapper: wrapper.as_deref(), incremental, in_background };
            let failed = match cargo::build(overlay, &self.spec, &self.options, how, progress, cancel).await {
                Err(error @ Error::Build { .. }) if incremental => error,
                done => return done,
            };
            let said = failed.to_string();
            if !verdict::is_internal(&said) && !verdict::is_about_incremental(&said) {
                return Err(failed);
            }
            self.incremental = false;
            let by = wrapper.as_ref().map_or_else(|| "the compiler".into(), |wrapper| wrapper.to_string_lossy());
            tracing::warn!(
                plugin = self.spec.id,
                "{by} fails with incremental compilation; it is turned off from now on, which takes longer"
            );
        }
    }

    /// Makes cargo rebuild what it would consider up to date because it compares times only, such as when a file was
    /// put back with an old time.
    async fn invalidate_cargo_fingerprints(
        &self,
        capture: Option<Capture>,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let (packages, target_dir) = (self.workspace.packages.clone(), self.options.target_dir.clone());
        let of_scripts = self.session.as_ref().map(|session| session.with_other_script(&self.inputs.built()));
        let looking = move || {
            let put_back = |path: &Path, since: SystemTime| {
                let found = inputs::Stamp::of(path);
                found.is_some_and(|found| found.modified() <= since && found.newest() > since)
            };
            let mut forget = of_scripts.unwrap_or_default();
            let folders = packages.keys().map(PathBuf::as_path).collect();
            for call in capture.iter().flat_map(|capture| capture.calls_in(&folders)) {
                let read = call.dep_info().and_then(|file| DepInfo::read(&file, &call.folder).ok()).unwrap_or_default();
                if read.files.iter().any(|file| put_back(file, call.recorded)) {
                    forget.extend(call.variable("CARGO_PKG_NAME").map(|name| name.to_string_lossy().into_owned()));
                }
            }
            let profiles = if forget.is_empty() { Vec::new() } else { cargo::profiles(&target_dir) };
            Ok((profiles, Arc::new(forget)))
        };
        let (profiles, forget) = blocking(looking).await?;
        for profile in profiles {
            let _lock = self.cargo_lock(&profile, progress, cancel).await?;
            let forget = Arc::clone(&forget);
            blocking(move || {
                cargo::invalidate_fingerprints(&profile, &forget);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for PluginBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { spec, options, inputs, .. } = self;
        f.debug_struct("PluginBuilder")
            .field("spec", spec)
            .field("options", options)
            .field("inputs", inputs)
            .finish_non_exhaustive()
    }
}

/// A library without what only debuggers read, which is set apart; `None` if it has to stay in. Blocks.
///
/// # Errors
/// A library that is not to be sealed.
fn stripped(library: &Path, out: &Path, named: &str, root: &Path) -> Result<Option<symbols::Stripped>> {
    match symbols::set_apart(library, out, named, &Toolchain::objcopy(root)) {
        Err(error) if !matches!(error, Error::Artifact { .. }) => {
            tracing::warn!(error = %error.with_causes(), "a plugin keeps what only debuggers read");
            Ok(None)
        }
        done => done,
    }
}

/// The names of directories in build hashes.
fn names(workspace: &Workspace, overlay: &Path, target_dir: &Path) -> Names {
    let mut folders: Vec<_> =
        workspace.packages.iter().map(|(folder, package)| (folder.clone(), package.name.clone())).collect();
    folders.push((overlay.to_owned(), "overlay".to_owned()));
    folders.push((target_dir.to_owned(), "target".to_owned()));
    folders.push((environment::cargo_home(), "cargo".to_owned()));
    Names { folders, root: workspace.root.clone(), apart: workspace.apart() }
}

/// A text that makes a build hash unique, if wanted.
fn salt(wanted: bool) -> Option<String> {
    wanted.then(|| format!("{:?}", SystemTime::now()))
}

/// The hash of this process's environment.
fn environment() -> blake3::Hash {
    let mut all = environment::callers_environment();
    all.sort();
    blake3::hash(format!("{all:?}").as_bytes())
}

/// The output of a build, before it is sealed.
enum BuildOutput {
    /// The previous build's artifact, because the code is the same, with this build's messages.
    Unchanged(BuildReport, Vec<CompilerMessage>, Snapshot),
    /// A cached artifact of the same inputs.
    Cached {
        artifact: PathBuf,
        build_hash: String,
        sealed: artifact::Sealed,
        messages: Vec<CompilerMessage>,
        inputs: Snapshot,
    },
    /// A new library.
    Library { library: PathBuf, build_hash: String, by: BuiltBy, messages: Vec<CompilerMessage>, inputs: Snapshot },
}
