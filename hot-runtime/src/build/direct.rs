//! Builds without cargo: just what has changed, by calling rustc as cargo called it.
//!
//! A [`Session`] begins with a build by cargo, from which it learns how each local crate is compiled and from what.
//! After an edit it says which crates have to be compiled again, or why cargo has to be asked; in doubt, cargo is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::build::capture::{Call, Capture, DepInfo};
use crate::build::cargo::{self, CargoBuilt, Kind, Made, Script, stop_of};
use crate::build::compiler::Compiler;
use crate::build::inputs::Stamp;
use crate::build::kept::Kept;
use crate::build::link::{Linker, Shape};
use crate::build::message::CompilerMessage;
use crate::build::prelink::Prelinked;
use crate::build::process::{self, Ended, Lines};
use crate::build::progress::{BuildPhase, Progress};
use crate::build::unwind::Tables;
use crate::build::{BuildOptions, blocking};
use crate::error::{Error, Result};
use crate::overlay::{Overlay, PluginSpec};
use crate::own_folder::OwnFolder;
use crate::workspace::PINS;

/// What has to be done after an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Cargo has to be asked, because of this.
    Cargo(String),
    /// The crates that are out of date are compiled again, then the plugin is linked.
    Direct,
}

/// What cargo's last build taught, and what was compiled since.
pub(crate) struct Session {
    units: Vec<Unit>,
    scripts: Vec<Script>,
    /// Where what is compiled here goes, so that cargo's own files stay as cargo left them.
    folder: OwnFolder,
    /// What was built here before.
    pub(crate) kept: Kept,
    linker: Arc<Linker>,
    /// The linker is called by the compiler driver.
    by_driver: bool,
    prelinking: Option<JoinHandle<Result<Prelinked, String>>>,
    prelinked: Option<Prelinked>,
    /// Why everything is linked in full each time, if it is.
    why_full: Option<String>,
    /// The functions of a library that was linked in full, and which of them never had unwind tables.
    tables: Tables,
    /// How often it was made.
    prelinks: usize,
    /// Files that decide how cargo builds, though they are no sources.
    settings: Vec<(PathBuf, Option<Stamp>)>,
    /// The variables that cargo reads.
    variables: BTreeMap<OsString, OsString>,
}

/// A local crate, as it is compiled for this plugin.
struct Unit {
    package: PathBuf,
    kind: Kind,
    /// The stem of its files: `name-hash`.
    stem: String,
    call: Option<Call>,
    inputs: DepInfo,
    /// The units that it is compiled against.
    needs: Vec<usize>,
    /// Its source is not what it was compiled from.
    stale: bool,
    /// What cargo linked of it, and what is linked now.
    archive: PathBuf,
    current: PathBuf,
    /// It was compiled since the plugin was linked.
    fresh: bool,
    /// What was linked of it by cargo, and what is linked now.
    first: Option<Shape>,
    linked: Option<blake3::Hash>,
}

/// How the linker is called.
#[derive(Clone, Copy)]
enum How<'a> {
    /// As rustc did it.
    InFull,
    /// With the object of the dependencies.
    Prelinked(&'a Prelinked),
    /// So, and not by the compiler driver.
    Directly(&'a Prelinked),
}

/// What a direct build made.
pub(crate) struct DirectBuilt {
    /// The library; `None` if it would be what was linked before, in all but what debuggers read.
    pub(crate) library: Option<PathBuf>,
    pub(crate) messages: Vec<CompilerMessage>,
}

impl Session {
    /// Learns from a build by cargo. `None`, with a reason in the log, if something is not understood: then cargo makes
    /// the next build too. Blocks.
    pub(crate) fn learn(
        built: &CargoBuilt,
        capture: &Capture,
        local: &[PathBuf],
        hash: &str,
        overlay: &Overlay,
        options: &BuildOptions,
    ) -> Option<Self> {
        let because = |reason: &str| tracing::debug!(reason, "the next build is cargo's too");
        let Some(linker) = built.link_line.as_deref().and_then(|line| Linker::keep(line, hash)) else {
            because("how rustc called the linker is not known");
            return None;
        };
        let mut units = Vec::new();
        for made in &built.made {
            if !local.contains(&made.package) || made.package == overlay.dir {
                continue;
            }
            units.push(Unit::learn(made, capture)?);
        }
        let at: HashMap<String, usize> = units.iter().enumerate().map(|(at, unit)| (unit.stem.clone(), at)).collect();
        for unit in &mut units {
            let externs = unit.call.iter().flat_map(Call::externs);
            unit.needs = externs.filter_map(|path| at.get(&stem_of(path)).copied()).collect();
        }
        let folder = OwnFolder::reserve(capture.folder.parent()?, "direct-").ok()?;
        std::fs::create_dir(folder.path()).ok()?;
        let settings = settings(&overlay.root, units.iter().find_map(|unit| unit.call.as_ref()), &options.target_dir);
        Some(Self {
            units,
            scripts: built.scripts.clone(),
            kept: Kept::new(folder.path().join("kept"), options.keep),
            folder,
            by_driver: !linker.knows_linker(),
            linker: Arc::new(linker),
            prelinking: None,
            prelinked: None,
            why_full: None,
            tables: Tables::read(&built.library).ok()?,
            prelinks: 0,
            settings,
            variables: variables(),
        })
    }

    /// Links what is not going to be edited, in the background.
    pub(crate) fn prelink(&mut self) {
        // The crates that are edited, in contrast to what they are written against.
        let edited =
            self.units.iter().filter(|unit| unit.kind == Kind::Library && !unit.stem.starts_with("controllerbus-"));
        let edited: Vec<_> = edited.map(|unit| (unit.archive.clone(), unit.current.clone())).collect();
        self.prelinks += 1;
        let (linker, folder, version) = (Arc::clone(&self.linker), self.folder.path().to_owned(), self.prelinks);
        self.prelinked = None;
        self.prelinking = Some(tokio::task::spawn_blocking(move || {
            let linked: BTreeSet<_> = linker.archives().cloned().collect();
            // A crate that is a tool's dependency only is not linked.
            let (kept, current) = edited.into_iter().filter(|(archive, _)| linked.contains(archive)).unzip();
            Prelinked::make(&linker, &kept, &current, &folder, version)
        }));
    }

    /// Files outside the watched folders that a crate was compiled from.
    pub(crate) fn outside(&self, watched: &[PathBuf], target_dir: &Path) -> BTreeSet<PathBuf> {
        let files = self.units.iter().flat_map(|unit| &unit.inputs.files);
        let outside = files.filter(|file| !watched.iter().any(|root| file.starts_with(root)));
        outside.filter(|file| !file.starts_with(target_dir)).cloned().collect()
    }

    /// Marks what is out of date after these files changed, and says who has to build.
    pub(crate) fn plan(&mut self, changed: &[PathBuf]) -> Plan {
        if let Some((path, _)) = self.settings.iter().find(|(path, then)| Stamp::of(path) != *then) {
            return Plan::Cargo(format!("{} has changed", path.display()));
        }
        let now = variables();
        let names = self.variables.keys().chain(now.keys());
        if let Some(name) = names.into_iter().find(|name| self.variables.get(*name) != now.get(*name)) {
            return Plan::Cargo(format!("the variable {} has changed", name.to_string_lossy()));
        }
        for script in &self.scripts {
            if let Some(name) = script.changed_variable() {
                return Plan::Cargo(format!("a build script reads the variable {name}, which has changed"));
            }
        }
        for path in changed {
            if let Some(reason) = self.mark(path) {
                return Plan::Cargo(reason);
            }
        }
        for unit in &mut self.units {
            let Some(call) = &unit.call else { continue };
            if unit.kind == Kind::Library && !unit.inputs.environment.is_empty() {
                let now = call.environment_now();
                let value = |name: &str| now.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
                unit.stale |=
                    unit.inputs.environment.iter().any(|(name, then)| value(name) != then.as_ref().map(OsString::from));
            }
        }
        // Whoever is compiled against something stale is stale.
        loop {
            let stale: Vec<bool> = self.units.iter().map(|unit| unit.stale).collect();
            let mut more = false;
            for unit in &mut self.units {
                if !unit.stale && unit.needs.iter().any(|need| stale[*need]) {
                    unit.stale = true;
                    more = true;
                }
            }
            if !more {
                break;
            }
        }
        match self.units.iter().find(|unit| unit.stale && (unit.call.is_none() || unit.kind != Kind::Library)) {
            Some(unit) => Plan::Cargo(format!("how {} is compiled is not known", unit.stem)),
            None => Plan::Direct,
        }
    }

    /// Marks the units that a changed file makes stale, or says why cargo has to be asked.
    fn mark(&mut self, path: &Path) -> Option<String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if matches!(&*name, "Cargo.toml" | "Cargo.lock" | "build.rs") || PINS.contains(&&*name) {
            return Some(format!("{} has changed", path.display()));
        }
        let owners = self.units.iter().map(|unit| &unit.package).filter(|package| path.starts_with(package));
        let owner = owners.max_by_key(|package| package.as_os_str().len()).cloned();
        if let Some(script) = self.scripts.iter().find(|script| script.may_read(path, owner.as_deref())) {
            return Some(format!("the build script of {} may read {}", script.package.display(), path.display()));
        }
        let mut marked = false;
        for unit in &mut self.units {
            // A file that came or went may decide what a module is, or be read by a macro. What a build script reads
            // of its package is known better.
            let may_read = owner.as_ref() == Some(&unit.package) && unit.kind != Kind::Script;
            if may_read || unit.inputs.files.iter().any(|file| file == path) {
                if unit.kind != Kind::Library {
                    return Some(format!("{} runs while others are compiled, and has changed", unit.stem));
                }
                unit.stale = true;
                marked = true;
            }
        }
        (!marked).then(|| format!("{} belongs to no crate that is known", path.display()))
    }

    /// Whether a crate has to be compiled, or was and is not linked yet.
    pub(crate) fn is_stale(&self) -> bool {
        self.units.iter().any(|unit| unit.stale || unit.fresh)
    }

    /// What is served is not what was linked here last: an artifact of before was taken. So what is compiled next has to
    /// be linked, whatever it is.
    pub(crate) fn took_a_kept_one(&mut self) {
        self.units.iter_mut().for_each(|unit| unit.linked = None);
    }

    /// Keeps cargo from taking for up to date what was compiled here since. Blocks while another cargo builds there.
    pub(crate) fn forget_what_was_compiled_here(&self) {
        for unit in self.units.iter().filter(|unit| unit.stale || unit.current != unit.archive) {
            let (Some(target), Some(hash)) = (unit.archive.parent().and_then(Path::parent), unit.hash()) else {
                continue;
            };
            // Cargo goes by times; an older file that was put back would be taken for what is built.
            cargo::forget_in(target, |name| name.ends_with(hash));
        }
    }

    /// Compiles what is out of date and links the plugin, or says why only cargo can go on.
    ///
    /// # Errors
    /// [`Error::Build`], [`Error::BuildTimedOut`], [`Error::Cancelled`], [`Error::Io`].
    pub(crate) async fn build(
        &mut self,
        hash: &str,
        spec: &PluginSpec,
        options: &BuildOptions,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Result<DirectBuilt, String>> {
        progress.phase(BuildPhase::Compiling);
        let mut messages = Vec::new();
        let mut last: Option<(usize, Compiler)> = None;
        for at in self.order() {
            if let Some((before, compiler)) = last.take() {
                self.judge(before, compiler, spec, progress, &mut messages).await?;
            }
            last = self.compile(at, spec, options, progress, cancel).await.map(|compiler| (at, compiler));
            if let Some((_, ended)) = last.take_if(|(_, compiler)| compiler.has_ended()) {
                self.judge(at, ended, spec, progress, &mut messages).await?;
            }
            self.take(at, progress)?;
        }
        // The last one tidies up while what it wrote is linked.
        let ending = async {
            if let Some((_, compiler)) = &mut last {
                compiler.end().await;
            }
        };
        let (linked, ()) = tokio::join!(self.link_anew(hash, spec, options, progress, cancel), ending);
        if let Some((at, compiler)) = last {
            self.judge(at, compiler, spec, progress, &mut messages).await?;
        }
        Ok(linked?.map(|(library, codes)| {
            // Not before: what was compiled by a rustc that failed then is neither linked nor what was compiled.
            for (at, code) in codes {
                (self.units[at].fresh, self.units[at].linked) = (false, code);
            }
            DirectBuilt { library, messages }
        }))
    }

    /// Waits for a compiler's end and says how that was. Until then its unit is stale.
    async fn judge(
        &mut self,
        at: usize,
        compiler: Compiler<'_>,
        spec: &PluginSpec,
        progress: &mut Progress<'_>,
        messages: &mut Vec<CompilerMessage>,
    ) -> Result<()> {
        compiler.judge(spec, progress, messages).await?;
        self.units[at].stale = false;
        Ok(())
    }

    /// Links what was compiled, and gives the code of each unit that is linked anew; no library if it would be what was
    /// linked before. Or says why only cargo can go on.
    async fn link_anew(
        &mut self,
        hash: &str,
        spec: &PluginSpec,
        options: &BuildOptions,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Result<(Option<PathBuf>, Vec<(usize, Option<blake3::Hash>)>), String>> {
        let (mut shapes, mut needs) = (Vec::new(), BTreeSet::new());
        let mut differs = self.units.iter().all(|unit| !unit.fresh);
        for (at, unit) in self.units.iter().enumerate().filter(|(_, unit)| unit.fresh) {
            let shape = Shape::of(&unit.current);
            if shape.as_ref().map(|shape| &shape.surface) != unit.first.as_ref().map(|shape| &shape.surface) {
                return Ok(Err(format!("what the linker has to be told of {} has changed", unit.stem)));
            }
            let code = shape.as_ref().map(|shape| shape.code);
            differs |= code.is_none() || code != unit.linked;
            needs.extend(shape.into_iter().flat_map(|shape| shape.needs));
            shapes.push((at, code));
        }
        if !differs {
            return Ok(Ok((None, shapes)));
        }
        progress.phase(BuildPhase::Linking);
        let moved = self.units.iter().filter(|unit| unit.current != unit.archive);
        let exchanged: BTreeMap<_, _> = moved.map(|unit| (unit.archive.clone(), unit.current.clone())).collect();
        let linked = self.link_with_dependencies(hash, &exchanged, &needs, spec, options, cancel).await?;
        let library = match linked {
            Some(library) => library,
            None => match self.link(hash, &exchanged, How::InFull, spec, options, cancel).await? {
                Ok(library) => {
                    self.tables = tables(&library).await?;
                    library
                }
                Err(said) => return Ok(Err(said)),
            },
        };
        Ok(Ok((Some(library), shapes)))
    }

    /// Links with the object of the dependencies. `None` if there is none or it will not do; then it is made anew.
    async fn link_with_dependencies(
        &mut self,
        hash: &str,
        exchanged: &BTreeMap<PathBuf, PathBuf>,
        needs: &BTreeSet<String>,
        spec: &PluginSpec,
        options: &BuildOptions,
        cancel: &CancellationToken,
    ) -> Result<Option<PathBuf>> {
        self.await_the_dependencies(spec).await;
        let usable = |prelinked: &&Prelinked| exchanged.keys().all(|archive| !prelinked.archives.contains(archive));
        let Some(prelinked) = self.prelinked.as_ref().filter(usable).cloned() else { return Ok(None) };
        let mut linked = None;
        if let Some(lacking) = prelinked.lacks(needs) {
            tracing::debug!(plugin = spec.id, lacking, "the edit needs more of the dependencies than was linked");
        } else {
            let how = if self.by_driver { How::Prelinked(&prelinked) } else { How::Directly(&prelinked) };
            linked = self.link(hash, exchanged, how, spec, options, cancel).await?.ok();
            if linked.is_none() && !self.by_driver {
                // Was it that?
                let how = How::Prelinked(&prelinked);
                linked = self.link(hash, exchanged, how, spec, options, cancel).await?.ok();
                self.by_driver = linked.is_some();
            }
        }
        let Some(library) = linked else {
            self.prelink();
            return Ok(None);
        };
        if let Some(lost) = tables(&library).await?.lost_since(&self.tables) {
            self.link_in_full(spec, format!("linked beforehand, `{lost}` loses its unwind table"));
            return Ok(None);
        }
        Ok(Some(library))
    }

    /// Waits until the dependencies are linked, if they are being linked.
    async fn await_the_dependencies(&mut self, spec: &PluginSpec) {
        let Some(prelinking) = self.prelinking.take() else { return };
        match prelinking.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(prelinked) => self.prelinked = Some(prelinked),
            Err(why) => self.link_in_full(spec, why),
        }
    }

    /// From now on everything is linked each time. Said once.
    fn link_in_full(&mut self, spec: &PluginSpec, why: String) {
        self.prelinked = None;
        if self.why_full.is_none() {
            tracing::warn!(plugin = spec.id, why, "all of the plugin is linked after each edit, which takes longer");
        }
        self.why_full = Some(why);
    }

    /// Why everything is linked in full each time, if it is.
    pub(crate) fn why_full(&self) -> Option<&str> {
        self.why_full.as_deref()
    }

    /// Links, or says why that failed.
    async fn link(
        &self,
        hash: &str,
        exchanged: &BTreeMap<PathBuf, PathBuf>,
        how: How<'_>,
        spec: &PluginSpec,
        options: &BuildOptions,
        cancel: &CancellationToken,
    ) -> Result<Result<PathBuf, String>> {
        let (linker, folder, wanted) = (Arc::clone(&self.linker), self.folder.path().to_owned(), hash.to_owned());
        let exchanged = exchanged.clone();
        let (prelinked, by_driver) = match how {
            How::InFull => (None, true),
            How::Prelinked(object) => (Some(object.clone()), true),
            How::Directly(object) => (Some(object.clone()), false),
        };
        let command = move || linker.command(&wanted, &folder, &exchanged, prelinked.as_ref(), by_driver);
        let linking = blocking(command).await?;
        let Some((command, library)) = linking else {
            return Ok(Err("what was compiled is not among what was linked".to_owned()));
        };
        let mut said = Vec::new();
        let ended = run(command, spec, options, cancel, |line| said.extend_from_slice(line)).await?;
        if !ended.success() {
            let said = String::from_utf8_lossy(&said);
            tracing::debug!(plugin = spec.id, by_driver, %said, "linking again failed");
            return Ok(Err(format!("linking again failed: {said}")));
        }
        Ok(Ok(library))
    }

    /// The stale units, each after those that it needs.
    fn order(&self) -> Vec<usize> {
        let mut order = Vec::new();
        let mut waiting: Vec<usize> = (0..self.units.len()).filter(|at| self.units[*at].stale).collect();
        while !waiting.is_empty() {
            let ready = |at: &usize| self.units[*at].needs.iter().all(|need| !waiting.contains(need));
            let (now, later): (Vec<_>, Vec<_>) = waiting.iter().copied().partition(|at| ready(at));
            if now.is_empty() {
                break;
            }
            order.extend(now);
            waiting = later;
        }
        order
    }

    /// Starts the compiler of a unit and waits until it has written the library, or has ended. `None` if it is not known
    /// how to compile it.
    async fn compile<'a>(
        &self,
        at: usize,
        spec: &'a PluginSpec,
        options: &'a BuildOptions,
        progress: &mut Progress<'_>,
        cancel: &'a CancellationToken,
    ) -> Option<Compiler<'a>> {
        let unit = &self.units[at];
        let command = self.command(at, unit.call.as_ref()?);
        let (line, lines) = mpsc::unbounded_channel();
        let hear = move |said: &[u8]| drop(line.send(said.to_vec()));
        let wanted = unit.archive.file_name().unwrap_or_default().to_owned();
        let mut compiler = Compiler::new(wanted, run(command, spec, options, cancel, hear), lines);
        compiler.library(progress).await;
        Some(compiler)
    }

    /// Takes what was compiled of a unit for what is current.
    fn take(&mut self, at: usize, progress: &Progress<'_>) -> Result<()> {
        let folder = self.folder.path();
        let unit = &mut self.units[at];
        let Some(call) = &unit.call else { return Ok(()) };
        unit.inputs = DepInfo::read(&folder.join(format!("{}.d", unit.stem)), &call.folder)?;
        unit.current = folder.join(unit.archive.file_name().unwrap_or_default());
        unit.fresh = true;
        progress.compiled(unit.stem.rsplit_once('-').map_or(&unit.stem, |(name, _)| name));
        Ok(())
    }

    /// The call that cargo would make, with its outputs in our folder and with our outputs as its inputs.
    fn command(&self, at: usize, call: &Call) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(&call.rustc);
        // Rustc's allocator takes its memory in large pages then, if nobody says otherwise: a tenth of the time of a
        // small crate is page faults.
        command.current_dir(&call.folder).env_clear().env("MALLOC_CONF", "thp:always").envs(call.environment_now());
        let mut before = "";
        for argument in &call.arguments {
            let text = argument.to_str().unwrap_or_default();
            match before {
                "--out-dir" => command.arg(folder),
                "--extern" => match self.exchanged(at, text) {
                    Some(exchanged) => command.arg(exchanged),
                    None => command.arg(argument),
                },
                _ => command.arg(argument),
            };
            before = text;
        }
        let mut dependencies = OsString::from("dependency=");
        dependencies.push(folder);
        command.arg("-L").arg(dependencies);
        process::prepare(&mut command);
        command
    }

    /// `name=path` of a unit that was compiled here.
    fn exchanged(&self, at: usize, text: &str) -> Option<OsString> {
        let (name, path) = text.split_once('=')?;
        let path = Path::new(path);
        let stem = stem_of(path);
        let needs = self.units[at].needs.iter().map(|need| &self.units[*need]);
        let unit = needs.into_iter().find(|unit| unit.stem == stem && unit.current != unit.archive)?;
        let mut exchanged = OsString::from(format!("{name}="));
        exchanged.push(unit.current.with_extension(path.extension()?));
        Some(exchanged)
    }
}

impl Unit {
    fn learn(made: &Made, capture: &Capture) -> Option<Self> {
        let file = made.files.iter().find(|file| file.extension().is_some_and(|ending| ending == "rlib"));
        let file = file.or_else(|| made.files.first())?.clone();
        let stem = stem_of(&file);
        let kind = made.kind;
        let (deps, hash) = (file.parent()?, stem.rsplit_once('-').map(|(_, hash)| hash));
        let fingerprints = deps.parent()?.join(".fingerprint");
        let package = made.package_name.as_str();
        let compiled = hash.and_then(|hash| {
            let stamp = fingerprints.join(format!("{package}-{hash}")).join("invoked.timestamp");
            std::fs::metadata(stamp).and_then(|found| found.modified()).ok()
        });
        let call = if kind == Kind::Library { capture.call(&stem, compiled) } else { None };
        let folder = call.as_ref().map_or(made.package.as_path(), |call| call.folder.as_path());
        let inputs = match kind {
            Kind::Library | Kind::Macro => DepInfo::read(&deps.join(format!("{stem}.d")), folder).unwrap_or_default(),
            // Cargo names the file otherwise than rustc does.
            Kind::Script => std::fs::read_dir(deps)
                .ok()?
                .flatten()
                .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "d"))
                .find_map(|entry| DepInfo::read(&entry.path(), folder).ok())
                .unwrap_or_default(),
        };
        let call = call.filter(|_| !inputs.files.is_empty());
        let first = if kind == Kind::Library { Some(Shape::of(&file)?) } else { None };
        let linked = first.as_ref().map(|shape| shape.code);
        // As rustc names it to the linker.
        let archive = file.canonicalize().ok()?;
        let (current, package) = (archive.clone(), made.package.clone());
        Some(Self {
            package,
            kind,
            stem,
            call,
            inputs,
            needs: Vec::new(),
            stale: false,
            archive,
            current,
            fresh: false,
            first,
            linked,
        })
    }

    fn hash(&self) -> Option<&str> {
        self.stem.rsplit_once('-').map(|(_, hash)| hash)
    }
}

/// `libname-hash.rlib` to `name-hash`.
fn stem_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.strip_prefix("lib").unwrap_or(&stem).to_owned()
}

async fn tables(library: &Path) -> Result<Tables> {
    let library = library.to_owned();
    blocking(move || Tables::read(&library).map_err(Error::io("reading the built library", &library))).await
}

async fn run(
    mut command: Command,
    spec: &PluginSpec,
    options: &BuildOptions,
    cancel: &CancellationToken,
    line: impl FnMut(&[u8]),
) -> Result<std::process::ExitStatus> {
    let program = PathBuf::from(command.as_std().get_program());
    let child = command.spawn().map_err(Error::io("running the compiler", &program))?;
    let ended = process::run(child, Lines::Stderr, line, stop_of(cancel, options)).await;
    match ended.map_err(Error::io("waiting for the compiler", &program))?.0 {
        Ended::Exited(status) => Ok(status),
        Ended::Stopped(stop) => Err(stop.error(spec, options)),
    }
}

/// Cargo's and rustup's own settings: which files, and how they are now.
fn settings(root: &Path, call: Option<&Call>, target_dir: &Path) -> Vec<(PathBuf, Option<Stamp>)> {
    let mut paths = Vec::new();
    for folder in root.ancestors() {
        let names = [".cargo/config.toml", ".cargo/config"].into_iter().chain(PINS);
        paths.extend(names.map(|name| folder.join(name)));
    }
    let home = |variable: &str, default: &str| {
        let set = std::env::var_os(variable).map(PathBuf::from);
        set.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(default)))
    };
    paths.extend(home("CARGO_HOME", ".cargo").map(|home| home.join("config.toml")));
    paths.extend(home("RUSTUP_HOME", ".rustup").map(|home| home.join("settings.toml")));
    paths.extend(call.map(|call| call.rustc.clone()));
    paths.retain(|path| !path.starts_with(target_dir));
    paths.into_iter().map(|path| (path.clone(), Stamp::of(&path))).collect()
}

/// The variables of this process that decide how cargo builds.
fn variables() -> BTreeMap<OsString, OsString> {
    std::env::vars_os().filter(|(name, _)| cargo::decides(&name.to_string_lossy())).collect()
}
