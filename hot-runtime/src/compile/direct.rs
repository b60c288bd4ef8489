//! Builds without cargo: only what changed, by calling rustc as cargo called it.
//!
//! A [`Session`] starts from a build by cargo, from which it learns how each local crate is compiled and from what.
//! After an edit it says which crates must be recompiled, or why cargo must build; if in doubt, cargo builds.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::artifact::unwind::Tables;
use crate::compile::capture::{Call, Capture, DepInfo};
use crate::compile::cargo::{CargoBuilt, failed, stop_of};
use crate::compile::compiler::Compiler;
use crate::compile::link::{Linker, Shape};
use crate::compile::prelink::Prelinked;
use crate::compile::process::{self, Ended, Lines};
use crate::compile::progress::Progress;
use crate::compile::standby::{self, ArgumentFile, Invocation, Standby};
use crate::compile::units::{Kind, Script, Unit, Units, stem_of};
use crate::compile::{BuildOptions, verdict};
use crate::error::{Error, Result};
use crate::message::CompilerMessage;
use crate::phase::BuildPhase;
use crate::source::environment;
use crate::source::inputs::{Content, InputSet, Inputs, Snapshot, Stamp};
use crate::source::overlay::{Overlay, is_framework};
use crate::source::spec::PluginSpec;
use crate::source::workspace::Workspace;
use crate::sys::memory::large_pages_pay;
use crate::sys::scratch::ScratchDir;
use crate::util::blocking;

/// What to do after an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Cargo must build, for this reason.
    Cargo(String),
    /// Recompile these units, in the order of their dependencies, then link the plugin.
    Direct(Vec<usize>),
}

/// Why a direct build did not succeed.
pub(crate) enum Failure {
    /// Cargo must build, for this reason.
    Cargo(String),
    /// A file was written while it was read: build again.
    Written,
    /// The build failed.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What is known from cargo's last build, and what was compiled since.
pub(crate) struct Session {
    pub(crate) known: Units,
    /// The outputs of direct builds, so that cargo's own files stay as cargo left them.
    folder: ScratchDir,
    linker: Arc<Linker>,
    /// The linker is called by the compiler driver.
    by_driver: bool,
    prelinking: Option<JoinHandle<Result<Prelinked, String>>>,
    prelinked: Option<Prelinked>,
    /// Why each link is a full one, if it is.
    why_full: Option<String>,
    /// The unwind tables of a fully linked library.
    tables: Tables,
    /// How many times dependencies were prelinked.
    prelinks: usize,
    /// The contents of the files that decide how cargo builds, and of the sources of macros and scripts.
    decided: Snapshot,
    pub(crate) deciding: InputSet,
    /// The variables that cargo reads.
    variables: BTreeMap<OsString, OsString>,
    /// The compiler wrapper.
    wrapper: Option<OsString>,
    /// The packages that patch others: non-local crates may be compiled against them.
    patches: BTreeSet<PathBuf>,
    /// The compiler and the linker for the next edit.
    standby: Standby,
}

/// How the linker is called.
#[derive(Clone, Copy)]
enum How<'a> {
    /// As rustc called it.
    InFull,
    /// With the prelinked dependencies.
    Prelinked(&'a Prelinked),
    /// With the prelinked dependencies, and without the compiler driver.
    Directly(&'a Prelinked),
}

/// The result of a direct build.
pub(crate) struct DirectBuilt {
    /// The library; `None` if it would equal the previous one in everything but debug information.
    pub(crate) library: Option<PathBuf>,
    /// Its build hash.
    pub(crate) hash: String,
    /// The contents of the inputs.
    pub(crate) now: Snapshot,
    pub(crate) messages: Vec<CompilerMessage>,
}

/// The result of linking.
struct Linked {
    /// `None` if it would equal the previous one.
    library: Option<PathBuf>,
    /// The hash of each recompiled unit's code.
    codes: Vec<(usize, Option<blake3::Hash>)>,
}

/// The linked library; `None` if linking failed in a way that another way of linking, or cargo, may avoid.
fn unless_cargo_is_needed(linked: Result<PathBuf, Failure>) -> Result<Option<PathBuf>, Failure> {
    match linked {
        Ok(library) => Ok(Some(library)),
        Err(Failure::Cargo(_)) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Computes the build hash, once the build's inputs are known.
pub(crate) type HashOf<'a> = &'a (dyn Fn(&Units, &Snapshot) -> Result<String> + Send + Sync);

impl Session {
    /// Learns from a build by cargo. `None`, with a reason in the log, if something is not understood: then the next
    /// build is cargo's too. Blocks.
    pub(crate) fn new(
        built: &CargoBuilt,
        mut known: Units,
        now: &Snapshot,
        deciding: &InputSet,
        capture: &Capture,
        overlay: &Overlay,
        workspace: &Workspace,
    ) -> Option<Self> {
        let Some(linker) = built.link_line.as_deref().and_then(|line| Linker::keep(line, &overlay.build_hash)) else {
            tracing::debug!("the next build is cargo's too: it is not known how rustc called the linker");
            return None;
        };
        known.compiled_from(now);
        let folder = ScratchDir::reserve(capture.folder.parent()?, "direct-").ok()?;
        std::fs::create_dir(folder.path()).ok()?;
        let mut deciding = deciding.clone();
        deciding.extend(&known.of_tools());
        // Patches in the workspace's manifest, and those in cargo's settings: the local units outside the workspace.
        let mut patches = workspace.patches.clone();
        let others = known.units.iter().filter(|unit| unit.local && !workspace.packages.contains_key(&unit.package));
        patches.extend(others.map(|unit| unit.package.clone()));
        let wrapper = environment::wrapper(&overlay.root).filter(|wrapper| !environment::only_remembers(wrapper));
        Some(Self {
            decided: now.part(&deciding),
            deciding,
            known,
            folder,
            by_driver: !linker.knows_linker(),
            linker: Arc::new(linker),
            prelinking: None,
            prelinked: None,
            why_full: None,
            tables: Tables::read(&built.library).ok()?,
            prelinks: 0,
            variables: environment::variables(),
            wrapper,
            patches,
            standby: Standby::default(),
        })
    }

    /// The packages whose build scripts read something that has changed. Cargo compares times only: it does not notice
    /// a file with an old one, nor a file that was removed.
    pub(crate) fn with_other_script(&self, now: &Snapshot) -> BTreeSet<String> {
        let differs = |package: &&PathBuf| {
            let of_it = self.known.scripts.iter().filter(|script| script.package == **package);
            of_it.map(Script::inputs).any(|set| now.part(&set).change_since(&self.decided.part(&set)).is_some())
        };
        let packages: BTreeSet<_> = self.known.scripts.iter().map(|script| &script.package).filter(differs).collect();
        let units = self.known.units.iter().filter(|unit| packages.contains(&unit.package));
        units.map(|unit| unit.package_name.clone()).collect()
    }

    /// Links the dependencies, in the background.
    pub(crate) fn prelink(&mut self) {
        // The user's own crates, but not the framework, and those that use them.
        let units = &self.known.units;
        let own = units.iter().map(|unit| unit.local && !is_framework(&unit.package_name)).collect();
        let edited =
            units.iter().zip(self.with_users(own)).filter(|(unit, is_edited)| *is_edited && unit.kind == Kind::Library);
        let edited: Vec<_> = edited.map(|(unit, _)| (unit.archive.clone(), unit.current.clone())).collect();
        self.prelinks += 1;
        let (linker, folder, version) = (Arc::clone(&self.linker), self.folder.path().to_owned(), self.prelinks);
        self.prelinked = None;
        self.prelinking = Some(tokio::task::spawn_blocking(move || {
            let linked: BTreeSet<_> = linker.archives().cloned().collect();
            // A crate that only tools depend on is not linked.
            let (kept, current) = edited.into_iter().filter(|(archive, _)| linked.contains(archive)).unzip();
            Prelinked::make(&linker, &kept, &current, &folder, version)
        }));
    }

    /// Marks all units that are compiled against marked ones.
    fn with_users(&self, mut marked: Vec<bool>) -> Vec<bool> {
        loop {
            let uses = |at: &usize| !marked[*at] && self.known.units[*at].needs.iter().any(|(need, _)| marked[*need]);
            let more: Vec<_> = (0..marked.len()).filter(uses).collect();
            if more.is_empty() {
                return marked;
            }
            more.into_iter().for_each(|at| marked[at] = true);
        }
    }

    /// Decides what to build and how, given the contents of the inputs. Blocks.
    pub(crate) fn plan(&self, now: &Snapshot) -> Plan {
        if let Some(why) = self.needs_cargo(now) {
            return Plan::Cargo(why);
        }
        let units = &self.known.units;
        let version = |at: usize| units[at].version;
        let stale = |unit: &Unit| {
            (unit.local && unit.is_stale(now)) || unit.needs.iter().any(|(need, then)| version(*need) != *then)
        };
        let stale: Vec<bool> = units.iter().map(stale).collect();
        if stale.iter().zip(units).any(|(stale, unit)| *stale && self.patches.contains(&unit.package))
            && let Some(unit) =
                units.iter().find(|unit| !unit.local && unit.kind == Kind::Library && unit.call.is_none())
        {
            return Plan::Cargo(format!("it is not known what {} is compiled against", unit.stem));
        }
        let stale = self.with_users(stale);
        let waiting: Vec<usize> = (0..units.len()).filter(|at| stale[*at]).collect();
        if let Some(unit) = waiting.iter().map(|at| &units[*at]).find(|unit| unit.kind != Kind::Library) {
            return Plan::Cargo(format!("{} changed, and runs while others are compiled", unit.stem));
        }
        if let Some(unit) = waiting.iter().map(|at| &units[*at]).find(|unit| unit.call.is_none()) {
            return Plan::Cargo(format!("it is not known how {} is compiled", unit.stem));
        }
        Plan::Direct(self.in_order(waiting))
    }

    /// Why cargo must build, whichever units are stale.
    fn needs_cargo(&self, now: &Snapshot) -> Option<String> {
        if let Some(path) = now.part(&self.deciding).change_since(&self.decided) {
            return Some(format!("{} changed", path.display()));
        }
        let variables = environment::variables();
        let mut names = self.variables.keys().chain(variables.keys());
        if let Some(name) = names.find(|name| self.variables.get(*name) != variables.get(*name)) {
            return Some(format!("the variable {} changed", name.to_string_lossy()));
        }
        for script in &self.known.scripts {
            let package = script.package.display();
            if let Some(name) = script.changed_variable() {
                return Some(format!("the build script of {package} reads the variable {name}, which changed"));
            }
            if let Some(path) = script.lacks() {
                let path = path.display();
                return Some(format!("the build script of {package} says that it reads {path}, which does not exist"));
            }
        }
        // Another build may have replaced it, or someone may have cleaned up.
        let used = self.known.units.iter().filter(|unit| unit.current == unit.archive);
        let mut lost = used.filter(|unit| Stamp::of(&unit.archive) != unit.as_made);
        lost.next().map(|unit| format!("{} is not what cargo built", unit.archive.display()))
    }

    /// Orders units by their dependencies.
    fn in_order(&self, mut waiting: Vec<usize>) -> Vec<usize> {
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let ready = |at: &usize| self.known.units[*at].needs.iter().all(|(need, _)| !waiting.contains(need));
            let (now, later): (Vec<_>, Vec<_>) = waiting.iter().copied().partition(|at| ready(at));
            if now.is_empty() {
                break;
            }
            order.extend(now);
            waiting = later;
        }
        order
    }

    /// Forgets what was linked last, because a cached artifact serves instead: whatever is compiled next must be
    /// linked.
    pub(crate) fn invalidate_linked(&mut self) {
        self.known.units.iter_mut().for_each(|unit| unit.linked = None);
    }

    /// Compiles units, in the order of their dependencies, and links the plugin under the hash that `hash` computes.
    ///
    /// # Errors
    /// [`Failure::Cargo`] if cargo must build; else [`Error::Build`], [`Error::BuildTimedOut`],
    /// [`Error::Cancelled`], [`Error::Io`].
    pub(crate) async fn build(
        &mut self,
        order: &[usize],
        inputs: &Inputs,
        hash: HashOf<'_>,
        job: Job<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<DirectBuilt, Failure> {
        let mut last = None;
        let built = self.build_leaving(&mut last, order, inputs, hash, job, progress).await;
        if let Some((_, mut compiler)) = last {
            // The next one must not start before this one has ended.
            compiler.end().await;
        }
        built
    }

    /// [`build`](Self::build), which may leave a compiler running, in `last`, if it fails.
    async fn build_leaving<'a>(
        &mut self,
        last: &mut Option<(usize, Compiler<'a>)>,
        order: &[usize],
        inputs: &Inputs,
        hash: HashOf<'_>,
        job: Job<'a>,
        progress: &mut Progress<'_>,
    ) -> Result<DirectBuilt, Failure> {
        progress.phase(BuildPhase::Compiling);
        let (edited, began) = (self.edited(order, inputs), SystemTime::now());
        let mut messages = Vec::new();
        for at in order.iter().copied() {
            if let Some((before, compiler)) = last.take() {
                self.finish(before, compiler, &edited, job, progress, &mut messages).await?;
                self.note(before, inputs, began, job).await?;
            }
            *last = self.compile(at, job, progress).await.map(|compiler| (at, compiler));
            if let Some((_, ended)) = last.take_if(|(_, compiler)| compiler.has_ended()) {
                self.finish(at, ended, &edited, job, progress, &mut messages).await?;
            }
            self.take(at, progress).map_err(|error| Failure::Cargo(error.with_causes().to_string()))?;
            if last.is_none() {
                self.note(at, inputs, began, job).await?;
            }
        }
        let mut of_last = None;
        if let Some((at, _)) = last {
            of_last = self.read_by(*at, inputs, began).await?;
            if of_last.is_none() && !job.lenient {
                return Err(Failure::Written);
            }
        }
        let (set, known) = (self.known.sources(), inputs.clone());
        let now = blocking(move || Ok(known.learn_more(set))).await?;
        let hash = hash(&self.known, &now)?;
        // The last compiler cleans up while its output is linked.
        let ending = async {
            if let Some((_, compiler)) = last {
                compiler.end().await;
            }
        };
        let (linked, ()) = tokio::join!(self.link_anew(&hash, job, progress), ending);
        if let Some((at, compiler)) = last.take() {
            self.finish(at, compiler, &edited, job, progress, &mut messages).await?;
            self.known.units[at].from = of_last;
        }
        let Linked { library, codes } = linked?;
        // Only now is it certain that all compilers succeeded.
        for (at, code) in codes {
            let unit = &mut self.known.units[at];
            unit.fresh = false;
            unit.linked = code;
        }
        Ok(DirectBuilt { library, hash, now, messages })
    }

    /// Starts a compiler and a linker that wait for the next edit, which probably is one of the unit that was edited
    /// last.
    pub(crate) fn stand_by(&mut self, order: &[usize]) {
        let own = |at: &usize| {
            let unit = &self.known.units[*at];
            unit.local && unit.kind == Kind::Library && !is_framework(&unit.package_name)
        };
        let at = order.first().copied().or_else(|| (0..self.known.units.len()).rev().find(own));
        let compiler = at.and_then(|at| Some(self.invocation(at, self.known.units[at].call.as_ref()?)));
        let linker = (!self.by_driver && self.prelinked.is_some()).then(|| self.linker.linker()).flatten();
        self.standby.prepare(compiler.into_iter().chain(linker).collect());
    }

    /// Ends the compiler that waits, because cargo's are next.
    pub(crate) async fn stand_down(&mut self) {
        self.standby.clear().await;
    }

    /// The files of the units whose own sources changed.
    fn edited(&self, order: &[usize], inputs: &Inputs) -> BTreeSet<PathBuf> {
        let now = inputs.built();
        let units = order.iter().map(|at| &self.known.units[*at]).filter(|unit| unit.local && unit.is_stale(&now));
        units.flat_map(Unit::paths).collect()
    }

    /// The contents of a unit's files; `None` if one was written during the build.
    async fn read_by(
        &self,
        at: usize,
        inputs: &Inputs,
        began: SystemTime,
    ) -> Result<Option<BTreeMap<PathBuf, Content>>, Failure> {
        let (paths, inputs) = (self.known.units[at].paths(), inputs.clone());
        Ok(blocking(move || Ok(inputs.read_since(paths, began))).await?)
    }

    /// Records what a unit was compiled from.
    async fn note(&mut self, at: usize, inputs: &Inputs, began: SystemTime, job: Job<'_>) -> Result<(), Failure> {
        let from = self.read_by(at, inputs, began).await?;
        let trusted = from.is_some() || job.lenient;
        self.known.units[at].from = from;
        if trusted { Ok(()) } else { Err(Failure::Written) }
    }

    /// Waits for a compiler to end, and checks how it did.
    async fn finish(
        &mut self,
        at: usize,
        compiler: Compiler<'_>,
        edited: &BTreeSet<PathBuf>,
        job: Job<'_>,
        progress: &mut Progress<'_>,
        messages: &mut Vec<CompilerMessage>,
    ) -> Result<(), Failure> {
        let heard = compiler.heard(progress).await?;
        let Some(call) = &self.known.units[at].call else { return Ok(()) };
        if heard.status.success() {
            messages.extend(heard.messages.into_iter().map(|message| message.in_folder(&call.folder)));
            return Ok(());
        }
        // A new file beside the edited ones counts as edited.
        let spans = heard.messages.iter().flat_map(|message| &message.spans).map(|span| call.folder.join(&span.file));
        let beside = spans.filter(|file| edited.iter().any(|known| known.parent() == file.parent()));
        let files = edited.iter().cloned().chain(beside).collect();
        let about = verdict::is_about(&files, &call.folder, heard.status, &heard.messages, &heard.other);
        let found: Vec<_> = heard.messages.into_iter().map(|message| message.in_folder(&call.folder)).collect();
        let internal = heard.status.code() != Some(1);
        if internal && let Some(folder) = call.option("incremental") {
            // Its incremental data may be the cause.
            remove_incremental(Path::new(folder), &call.stem());
        }
        messages.extend(found);
        let failed = failed(job.spec, std::mem::take(messages), &String::from_utf8_lossy(&heard.other));
        Err(if about { Failure::Failed(failed) } else { Failure::Cargo(format!("rustc failed: {failed}")) })
    }

    /// Links what was compiled; no library if it would equal the previous one.
    async fn link_anew(&mut self, hash: &str, job: Job<'_>, progress: &mut Progress<'_>) -> Result<Linked, Failure> {
        let mut codes = Vec::new();
        let mut needs = BTreeSet::new();
        let mut differs = self.known.units.iter().all(|unit| !unit.fresh);
        for (at, unit) in self.known.units.iter().enumerate().filter(|(_, unit)| unit.fresh) {
            let shape = Shape::of(&unit.current);
            if shape.as_ref().map(|shape| &shape.surface) != unit.first.as_ref().map(|shape| &shape.surface) {
                return Err(Failure::Cargo(format!(
                    "the symbols of {} that the linker is told about differ",
                    unit.stem
                )));
            }
            let code = shape.as_ref().map(|shape| shape.code);
            differs |= code.is_none() || code != unit.linked;
            needs.extend(shape.into_iter().flat_map(|shape| shape.needs));
            codes.push((at, code));
        }
        if !differs {
            return Ok(Linked { library: None, codes });
        }
        progress.phase(BuildPhase::Linking);
        let moved = self.known.units.iter().filter(|unit| unit.current != unit.archive);
        let exchanged: BTreeMap<_, _> = moved.map(|unit| (unit.archive.clone(), unit.current.clone())).collect();
        let linked = self.link_with_dependencies(hash, &exchanged, &needs, job).await?;
        let library = match linked {
            Some(library) => library,
            None => {
                let library = self.link(hash, &exchanged, How::InFull, job).await?;
                self.tables = tables(&library).await?;
                library
            }
        };
        Ok(Linked { library: Some(library), codes })
    }

    /// Links with the prelinked dependencies. `None` if there are none, or they do not suffice; then they are prelinked
    /// again.
    async fn link_with_dependencies(
        &mut self,
        hash: &str,
        exchanged: &BTreeMap<PathBuf, PathBuf>,
        needs: &BTreeSet<String>,
        job: Job<'_>,
    ) -> Result<Option<PathBuf>, Failure> {
        self.await_prelink(job.spec).await;
        let usable = |prelinked: &&Prelinked| exchanged.keys().all(|archive| !prelinked.archives.contains(archive));
        let Some(prelinked) = self.prelinked.as_ref().filter(usable).cloned() else { return Ok(None) };
        let mut linked = None;
        if let Some(lacking) = prelinked.lacks(needs) {
            tracing::debug!(
                plugin = job.spec.id,
                lacking,
                "the edit needs more of the dependencies than was prelinked"
            );
        } else {
            let how = if self.by_driver { How::Prelinked(&prelinked) } else { How::Directly(&prelinked) };
            linked = unless_cargo_is_needed(self.link(hash, exchanged, how, job).await)?;
            if linked.is_none() && !self.by_driver {
                // Perhaps because the driver was left out.
                let how = How::Prelinked(&prelinked);
                linked = unless_cargo_is_needed(self.link(hash, exchanged, how, job).await)?;
                self.by_driver = linked.is_some();
            }
        }
        let Some(library) = linked else {
            self.prelink();
            return Ok(None);
        };
        if let Some(lost) = tables(&library).await?.lost_since(&self.tables) {
            self.link_in_full(job.spec, format!("`{lost}` loses its unwind table when it is prelinked"));
            return Ok(None);
        }
        Ok(Some(library))
    }

    /// Waits for the dependencies to be prelinked, if they are being.
    async fn await_prelink(&mut self, spec: &PluginSpec) {
        let Some(prelinking) = self.prelinking.take() else { return };
        match prelinking.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(prelinked) => self.prelinked = Some(prelinked),
            Err(why) => self.link_in_full(spec, why),
        }
    }

    /// Links in full from now on. Logged once.
    fn link_in_full(&mut self, spec: &PluginSpec, why: String) {
        self.prelinked = None;
        if self.why_full.is_none() {
            tracing::warn!(plugin = spec.id, why, "the plugin is linked in full after each edit, which takes longer");
        }
        self.why_full = Some(why);
    }

    /// Why each link is a full one, if it is.
    pub(crate) fn why_full(&self) -> Option<&str> {
        self.why_full.as_deref()
    }

    /// Links.
    ///
    /// # Errors
    /// [`Failure::Cargo`] if the linker fails, or does not link what was compiled.
    async fn link(
        &self,
        hash: &str,
        exchanged: &BTreeMap<PathBuf, PathBuf>,
        how: How<'_>,
        job: Job<'_>,
    ) -> Result<PathBuf, Failure> {
        let (linker, folder, wanted) = (Arc::clone(&self.linker), self.folder.path().to_owned(), hash.to_owned());
        let exchanged = exchanged.clone();
        let (prelinked, by_driver) = match how {
            How::InFull => (None, true),
            How::Prelinked(object) => (Some(object.clone()), true),
            How::Directly(object) => (Some(object.clone()), false),
        };
        let invocation = move || linker.invocation(&wanted, &folder, &exchanged, prelinked.as_ref(), by_driver);
        let linking = blocking(invocation).await?;
        let Some((invocation, library)) = linking else {
            return Err(Failure::Cargo("a recompiled crate is not among those that are linked".to_owned()));
        };
        let mut said = Vec::new();
        let child = self.start(&invocation).await?;
        let ended = run(child, &invocation, job, |line| said.extend_from_slice(line)).await?;
        if !ended.success() {
            let said = String::from_utf8_lossy(&said);
            tracing::debug!(plugin = job.spec.id, by_driver, %said, "relinking failed");
            return Err(Failure::Cargo(format!("relinking failed: {said}")));
        }
        Ok(library)
    }

    /// Starts the compiler of a unit and waits until it has written the library, or has ended. `None` if it is not
    /// known how to compile the unit.
    async fn compile<'a>(&mut self, at: usize, job: Job<'a>, progress: &mut Progress<'_>) -> Option<Compiler<'a>> {
        let versions: Vec<_> = self.known.units.iter().map(|unit| unit.version).collect();
        let unit = &mut self.known.units[at];
        if !unit.local && unit.first.is_none() {
            unit.first = Shape::of(&unit.archive);
        }
        // Unknown until the compiler has succeeded.
        unit.from = None;
        unit.needs.iter_mut().for_each(|(need, version)| *version = versions[*need]);
        let wanted = unit.archive.file_name().unwrap_or_default().to_owned();
        let invocation = self.invocation(at, self.known.units[at].call.as_ref()?);
        let started = self.start(&invocation).await;
        let (line, lines) = mpsc::unbounded_channel();
        let hear = move |said: &[u8]| drop(line.send(said.to_vec()));
        let running = async move { run(started?, &invocation, job, hear).await };
        let mut compiler = Compiler::new(wanted, running, lines);
        compiler.library(progress).await;
        Some(compiler)
    }

    /// Makes the new output of a unit the current one.
    fn take(&mut self, at: usize, progress: &Progress<'_>) -> Result<()> {
        let folder = self.folder.path();
        let unit = &mut self.known.units[at];
        let Some(call) = &unit.call else { return Ok(()) };
        if unit.local {
            unit.inputs = DepInfo::read(&folder.join(format!("{}.d", unit.stem)), &call.folder)?;
        }
        unit.current = folder.join(unit.archive.file_name().unwrap_or_default());
        unit.fresh = true;
        unit.version += 1;
        progress.compiled(unit.stem.rsplit_once('-').map_or(&unit.stem, |(name, _)| name));
        Ok(())
    }

    /// The call that cargo would make, with outputs in the session's directory and the session's outputs as inputs.
    fn invocation(&self, at: usize, call: &Call) -> Invocation {
        let folder = self.folder.path();
        let rustc = call.rustc.clone().into_os_string();
        let (program, first, reads) = match &self.wrapper {
            // It need not understand what rustc understands.
            Some(wrapper) => (wrapper.clone(), vec![rustc], ArgumentFile::None),
            None => (rustc, Vec::new(), ArgumentFile::Lines),
        };
        let mut environment = Vec::new();
        if large_pages_pay() {
            // Unless it is set already, this makes rustc's allocator use huge pages: page faults are a tenth of a small
            // crate's time.
            environment.push(("MALLOC_CONF".into(), "thp:always".into()));
        }
        let now = call.environment_now();
        environment = standby::with(environment, now.iter().map(|(name, value)| (name.as_ref(), value.as_ref())));
        // Meant for cargo only; a wrapper may refuse to work if it is set.
        environment.retain(|(name, _)| name != "CARGO_INCREMENTAL");
        let mut arguments = Vec::new();
        let mut before = "";
        for argument in &call.arguments {
            let text = argument.to_str().unwrap_or_default();
            arguments.push(match before {
                "--out-dir" => folder.as_os_str().to_owned(),
                "--extern" => self.exchanged(at, text).unwrap_or_else(|| argument.clone()),
                _ => argument.clone(),
            });
            before = text;
        }
        let mut dependencies = OsString::from("dependency=");
        dependencies.push(folder);
        arguments.extend(["-L".into(), dependencies]);
        Invocation { program, first, arguments, folder: Some(call.folder.clone()), environment, reads }
    }

    async fn start(&self, invocation: &Invocation) -> Result<tokio::process::Child> {
        let program = PathBuf::from(&invocation.program);
        self.standby.start(invocation).await.map_err(Error::io("running the compiler", &program))
    }

    /// `name=path` of a recompiled unit.
    fn exchanged(&self, at: usize, text: &str) -> Option<OsString> {
        let (name, path) = text.split_once('=')?;
        let path = Path::new(path);
        let stem = stem_of(path);
        let needs = self.known.units[at].needs.iter().map(|(need, _)| &self.known.units[*need]);
        let unit = needs.into_iter().find(|unit| unit.stem == stem && unit.current != unit.archive)?;
        let mut exchanged = OsString::from(format!("{name}="));
        exchanged.push(unit.current.with_extension(path.extension()?));
        Some(exchanged)
    }
}

/// What is built, and how it is stopped.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) spec: &'a PluginSpec,
    pub(crate) options: &'a BuildOptions,
    pub(crate) cancel: &'a CancellationToken,
    /// Accept that a file was written while it was read, because that happened too often.
    pub(crate) lenient: bool,
}

async fn tables(library: &Path) -> Result<Tables> {
    let library = library.to_owned();
    blocking(move || Tables::read(&library).map_err(Error::io("reading the built library", &library))).await
}

async fn run(
    child: tokio::process::Child,
    invocation: &Invocation,
    job: Job<'_>,
    line: impl FnMut(&[u8]),
) -> Result<std::process::ExitStatus> {
    let program = PathBuf::from(&invocation.program);
    let ended = process::run(child, Lines::Stderr, line, stop_of(job.cancel, job.options)).await;
    match ended.map_err(Error::io("waiting for the compiler", &program))?.0 {
        Ended::Exited(status) => Ok(status),
        Ended::Stopped(stop) => Err(stop.error(job.spec, job.options)),
    }
}

/// Removes a crate's incremental data.
fn remove_incremental(folder: &Path, stem: &str) {
    let name = stem.rsplit_once('-').map_or(stem, |(name, _)| name);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().rsplit_once('-').is_some_and(|(known, _)| known == name) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
