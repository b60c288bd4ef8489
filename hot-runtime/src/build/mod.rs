//! Source to sealed artifact.
//!
//! ```no_run
//! # async fn example() -> Result<(), hot_runtime::Error> {
//! use hot_runtime::build::{BuildOptions, PluginBuilder};
//! use hot_runtime::PluginSpec;
//!
//! let spec = PluginSpec::new("greeter").crate_path("../greeter").release(true).watch(false);
//! let options = BuildOptions::new("target/controllerbus").output("out/greeter-{buildHash}.cbus.so");
//! let built = PluginBuilder::new(spec, options).build(&|event| println!("{event:?}"), &Default::default()).await?;
//! println!("{} in {:.0} ms", built.artifact.display(), built.build_ms);
//! # Ok(())
//! # }
//! ```

mod capture;
mod cargo;
mod compiler;
mod direct;
pub(crate) mod inputs;
mod kept;
mod link;
mod message;
mod prelink;
mod process;
mod progress;
mod turn;
pub(crate) mod unmap;
pub(crate) mod unwind;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use message::{CompilerMessage, MessageLevel, MessageSpan, without_colours};
pub use progress::{BuildEvent, BuildPhase, BuiltBy, Observer, PhaseTime};

use crate::artifact::{self, Inspected};
use crate::error::{Error, Result};
use crate::overlay::{Overlay, PluginSpec};
use crate::workspace::Workspace;
use capture::Capture;
use direct::{Plan, Session};
use inputs::Snapshot;
use progress::Progress;
use turn::Turn;

/// What stands for the build hash in an output's name or a plugin's version.
pub const BUILD_HASH: &str = "{buildHash}";

/// Where and how long a plugin is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// Where overlays and artifacts go.
    pub work_dir: PathBuf,
    /// Where cargo's outputs go; plugins that share one share their dependencies' builds.
    pub target_dir: PathBuf,
    /// Where the overlay crate goes; a folder for each plugin in the work folder unless set.
    pub overlay_dir: Option<PathBuf>,
    /// The artifact's path, with `{buildHash}` where the build hash shall be; `artifacts/ID.cbus.so` in the work
    /// folder unless set.
    pub output: Option<PathBuf>,
    /// When to give up.
    pub timeout: Duration,
    /// How many bytes of artifacts to keep, so that to go back to a source needs no compiler.
    pub keep: u64,
}

impl BuildOptions {
    /// Everything in the work folder, with a limit of 10 minutes; 256 MiB of artifacts are kept.
    pub fn new(work_dir: impl Into<PathBuf>) -> Self {
        let work_dir = work_dir.into();
        let work_dir = std::path::absolute(&work_dir).unwrap_or(work_dir);
        let target_dir = work_dir.join("target");
        Self {
            work_dir,
            target_dir,
            overlay_dir: None,
            output: None,
            timeout: Duration::from_secs(600),
            keep: 256 << 20,
        }
    }

    /// Sets cargo's target folder.
    #[must_use]
    pub fn target_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        self.target_dir = std::path::absolute(&dir).unwrap_or(dir);
        self
    }

    /// Sets the overlay's folder.
    #[must_use]
    pub fn overlay_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.overlay_dir = Some(dir.into());
        self
    }

    /// Sets the artifact's path.
    #[must_use]
    pub fn output(mut self, path: impl Into<PathBuf>) -> Self {
        self.output = Some(path.into());
        self
    }

    /// Sets the limit.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many bytes of artifacts to keep; 0 for none.
    #[must_use]
    pub fn keep(mut self, bytes: u64) -> Self {
        self.keep = bytes;
        self
    }

    fn overlay_of(&self, spec: &PluginSpec) -> PathBuf {
        let dir = self.overlay_dir.clone().unwrap_or_else(|| self.work_dir.join("overlays").join(spec.slug()));
        // The compiler runs elsewhere.
        std::path::absolute(&dir).unwrap_or(dir)
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

/// How a build ended.
#[derive(Clone, Debug, Serialize)]
pub struct BuildReport {
    /// The artifact.
    pub artifact: PathBuf,
    /// The hash of what it was built from, as 16 hex digits. After an edit that changes no code (a comment, a touch)
    /// it is that of the build before, whose artifact is as good.
    pub build_hash: String,
    /// The BLAKE3 hash of the library in it, as hex.
    pub hash: String,
    /// The artifact's size in bytes.
    pub size: u64,
    /// Who compiled.
    pub by: BuiltBy,
    /// Why cargo was asked, if rustc alone could have been.
    pub why_cargo: Option<String>,
    /// Why all of it was linked, if rustc compiled and the dependencies could not be linked beforehand: then the link of
    /// each edit takes longer.
    pub why_full_link: Option<String>,
    /// The warnings.
    pub messages: Vec<CompilerMessage>,
    /// From the build's begin to the artifact, in milliseconds.
    pub build_ms: f64,
    /// How long each step took.
    pub phases: Vec<PhaseTime>,
}

impl BuildReport {
    /// Of an artifact that is there; how the build went is filled in at its end.
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
            by,
            why_cargo: None,
            why_full_link: None,
            messages,
            build_ms: 0.0,
            phases: Vec::new(),
        }
    }
}

/// Builds one plugin, again and again: the first time by cargo, then by rustc for just what has changed, wherever that
/// gives the same.
pub struct PluginBuilder {
    spec: PluginSpec,
    options: BuildOptions,
    workspace: Option<Workspace>,
    /// Files outside the watched folders that a crate was compiled from.
    outside: BTreeSet<PathBuf>,
    snapshot: Option<Snapshot>,
    session: Option<Session>,
    last: Option<BuildReport>,
}

impl PluginBuilder {
    /// For a plugin. Nothing is read yet.
    pub fn new(spec: PluginSpec, options: BuildOptions) -> Self {
        let outside = BTreeSet::new();
        Self { spec, options, workspace: None, outside, snapshot: None, session: None, last: None }
    }

    /// What is built.
    pub fn spec(&self) -> &PluginSpec {
        &self.spec
    }

    /// The folders and files whose change is a change of the plugin; empty until it is read for the first time.
    pub fn watched(&self) -> Vec<PathBuf> {
        let folders = self.workspace.iter().flat_map(|workspace| &workspace.watched);
        folders.chain(&self.outside).cloned().collect()
    }

    /// Writes the overlay crate and stops. It builds by itself with plain cargo.
    ///
    /// # Errors
    /// A crate that is not there or is no controller crate, or a file that cannot be written.
    pub async fn generate(&mut self) -> Result<Overlay> {
        let (spec, dir) = (self.spec.clone(), self.options.overlay_of(&self.spec));
        let (outside, before) = (self.outside.clone(), self.snapshot.take());
        let target_dir = self.options.target_dir.clone();
        let (workspace, snapshot, overlay) = blocking(move || {
            let workspace = Workspace::read(&spec.crates)?;
            let roots: Vec<_> = workspace.watched.iter().chain(&outside).cloned().collect();
            let snapshot = Snapshot::take(&roots, before.as_ref())?;
            let put_back = before.map(|before| snapshot.put_back_since(&before)).unwrap_or_default();
            if !put_back.is_empty() {
                cargo::forget(&target_dir, &workspace.readers(&put_back));
            }
            let overlay = Overlay::write(&workspace, &spec, &dir, &snapshot)?;
            Ok((workspace, snapshot, overlay))
        })
        .await?;
        (self.workspace, self.snapshot) = (Some(workspace), Some(snapshot));
        Ok(overlay)
    }

    /// Builds it. Cancelling stops the compiler with all that it started.
    ///
    /// # Errors
    /// [`Error::Build`] with the compiler's messages, [`Error::BuildTimedOut`], [`Error::Cancelled`], what
    /// [`PluginBuilder::generate`] says, or an artifact that cannot be written.
    pub async fn build(&mut self, observer: Observer<'_>, cancel: &CancellationToken) -> Result<BuildReport> {
        self.build_watching(observer, cancel, |_| Ok(())).await.map(|(report, _)| report)
    }

    /// The same; `watch` gets what is to be watched before the compiler starts, so that no change is missed. What was
    /// just sealed comes with it, so that it need not be read again.
    pub(crate) async fn build_watching(
        &mut self,
        observer: Observer<'_>,
        cancel: &CancellationToken,
        watch: impl Fn(Vec<PathBuf>) -> Result<()>,
    ) -> Result<(BuildReport, Option<Inspected>)> {
        let mut progress = Progress::new(observer);
        let _turn = Turn::take(&self.options.target_dir, &self.spec, &mut progress, cancel).await?;
        progress.phase(BuildPhase::Reading);
        let (made, why_cargo) = match self.build_directly(&mut progress, cancel).await? {
            Ok(made) => (made, None),
            Err(why) => {
                tracing::debug!(plugin = self.spec.id, why, "cargo builds");
                (self.build_by_cargo(&mut progress, cancel, watch).await?, Some(why))
            }
        };
        let (report, in_memory) = match made {
            Made::Before(report, messages) => (BuildReport { messages, ..report }, None),
            Made::Kept { artifact, build_hash, sealed, messages } => {
                (BuildReport::new(artifact, build_hash, sealed, BuiltBy::Kept, messages), None)
            }
            Made::Library { library, build_hash, by, messages } => {
                progress.phase(BuildPhase::Sealing);
                // Should that fail, what is there is not what was linked last.
                self.last = None;
                let artifact = self.options.output_of(&self.spec, &build_hash);
                // What cargo linked is cargo's.
                let (out, ours) = (artifact.clone(), by == BuiltBy::Rustc);
                let (sealed, in_memory) = blocking(move || artifact::seal_and_keep(&library, &out, ours)).await?;
                if let Some(session) = &mut self.session {
                    session.kept.add(&build_hash, &artifact, &sealed, &messages);
                }
                (BuildReport::new(artifact, build_hash, sealed, by, messages), in_memory)
            }
        };
        let (build_ms, phases) = progress.end();
        let why_full_link = self.session.as_ref().and_then(|session| session.why_full().map(str::to_owned));
        let report = BuildReport { why_cargo, why_full_link, build_ms, phases, ..report };
        self.last = Some(report.clone());
        Ok((report, in_memory))
    }

    /// Has just what has changed compiled, if it is known how; or says why cargo has to be asked.
    async fn build_directly(
        &mut self,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Result<Made, String>> {
        let roots = self.watched();
        let (Some(session), Some(workspace), Some(before)) = (&mut self.session, &self.workspace, &self.snapshot)
        else {
            return Ok(Err("nothing is known from a build by cargo".to_owned()));
        };
        let known = before.clone();
        let snapshot = blocking(move || Snapshot::take(&roots, Some(&known))).await?;
        if let Plan::Cargo(reason) = session.plan(&snapshot.changes_since(before)) {
            // The snapshot stays the old one: what has changed since matters to cargo's build, too.
            return Ok(Err(reason));
        }
        let snapshot = self.snapshot.insert(snapshot);
        let build_hash = Overlay::build_hash(workspace, &self.spec, snapshot)?;
        let before = self.last.as_ref().filter(|last| last.artifact.is_file());
        if let Some(before) = before.filter(|_| !session.is_stale()) {
            return Ok(Ok(Made::Before(before.clone(), Vec::new())));
        }
        let wanted = self.options.output_of(&self.spec, &build_hash);
        if let Some((sealed, messages)) = session.kept.put(&build_hash, &wanted) {
            session.took_a_kept_one();
            return Ok(Ok(Made::Kept { artifact: wanted, build_hash, sealed, messages }));
        }
        let built = match session.build(&build_hash, &self.spec, &self.options, progress, cancel).await? {
            Ok(built) => built,
            Err(why) => return Ok(Err(why)),
        };
        let by = BuiltBy::Rustc;
        Ok(match (built.library, before) {
            (Some(library), _) => Ok(Made::Library { library, build_hash, by, messages: built.messages }),
            (None, Some(before)) => Ok(Made::Before(BuildReport { by, ..before.clone() }, built.messages)),
            (None, None) => Err("the artifact of the build before has gone".to_owned()),
        })
    }

    /// The folders of local crates, and names for them that do not say where they are. The longest comes last, because
    /// the compiler goes by the last that fits.
    fn local_names(&self, overlay: &Overlay) -> Vec<(PathBuf, String)> {
        let folders = self.workspace.iter().flat_map(|workspace| &workspace.watched).filter(|path| path.is_dir());
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

    async fn build_by_cargo(
        &mut self,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
        watch: impl Fn(Vec<PathBuf>) -> Result<()>,
    ) -> Result<Made> {
        if let Some(session) = self.session.take() {
            blocking(move || {
                session.forget_what_was_compiled_here();
                Ok(())
            })
            .await?;
        }
        let target_dir = self.options.target_dir.clone();
        // Also for what is built once: somebody else may build on with what is compiled here.
        let capture = blocking(move || Ok(Capture::prepare(&target_dir))).await?;
        loop {
            progress.phase(BuildPhase::Reading);
            let overlay = self.generate().await?;
            watch(self.watched())?;
            if cancel.is_cancelled() {
                return Err(Error::Cancelled { plugin: self.spec.id.clone() });
            }
            let local = self.local_names(&overlay);
            let built =
                cargo::build(&overlay, &self.spec, &self.options, capture.as_ref(), &local, progress, cancel).await?;
            let (library, messages) = (built.library.clone(), built.messages.clone());
            if let Some(capture) = capture.as_ref().filter(|_| self.spec.watch) {
                let watched = self.workspace.as_ref().map(|workspace| workspace.watched.clone()).unwrap_or_default();
                let (local, hash) = (watched.clone(), overlay.build_hash.clone());
                let (capture, options, overlay) = (capture.clone(), self.options.clone(), overlay.clone());
                let learn = move || Ok(Session::learn(&built, &capture, &local, &hash, &overlay, &options));
                self.session = blocking(learn).await?;
                let outside = self.session.as_ref().map(|known| known.outside(&watched, &self.options.target_dir));
                if let Some(outside) = outside.filter(|outside| *outside != self.outside) {
                    // The build hash has to be over these as well.
                    self.outside = outside;
                    continue;
                }
            }
            if let Some(session) = &mut self.session {
                session.prelink();
            }
            return Ok(Made::Library { library, build_hash: overlay.build_hash, by: BuiltBy::Cargo, messages });
        }
    }
}

/// What a build comes to before it is sealed.
enum Made {
    /// What the build before made, for its code is the same; and what the compiler said this time.
    Before(BuildReport, Vec<CompilerMessage>),
    /// What an earlier build made of the same sources.
    Kept {
        artifact: PathBuf,
        build_hash: String,
        sealed: artifact::Sealed,
        messages: Vec<CompilerMessage>,
    },
    Library {
        library: PathBuf,
        build_hash: String,
        by: BuiltBy,
        messages: Vec<CompilerMessage>,
    },
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Closed),
    }
}
