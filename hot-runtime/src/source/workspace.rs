//! The crates, files and patches of a plugin, as cargo reports them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, Target, TargetKind};

use crate::artifact::symbols::ObjCopy;
use crate::error::{Error, Result};
use crate::source::environment::{self, PINS};
use crate::source::inputs::{InputSet, Stamp};
use crate::source::overlay::is_framework;
use crate::util::in_full;

/// A controller crate of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControllerCrate {
    /// The package's name.
    pub name: String,
    /// The library target's name, as in `extern crate`.
    pub library: String,
    /// The package's directory.
    pub dir: PathBuf,
    /// The package's version.
    pub version: semver::Version,
    /// The features that it offers.
    pub features: BTreeSet<String>,
}

/// What a plugin's crates are built from.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Workspace {
    /// The controller crates, in the requested order.
    pub crates: Vec<ControllerCrate>,
    /// The overlay's dependency on the same `controllerbus` that the crates use, as the entries of a TOML inline table.
    pub controllerbus: String,
    /// `[patch]`, `[replace]` and `[profile]` of the crates' workspace, with absolute paths, and `cargo-features`.
    pub(crate) settings: toml::Table,
    /// The names and directories of local packages.
    pub local: BTreeMap<String, PathBuf>,
    /// The names of what local packages, but for the framework's, depend on by themselves.
    pub(crate) chosen: BTreeSet<String>,
    /// The version of cargo's resolver in the crates' workspace, which affects the features of dependencies.
    pub resolver: String,
    /// The root of the first crate's workspace: cargo runs there, so that its `.cargo/config.toml` and
    /// `rust-toolchain.toml` apply.
    pub root: PathBuf,
    /// The lock file of the crates' workspace.
    pub lock_file: Option<PathBuf>,
    /// Where cargo builds that workspace.
    pub(crate) build_dir: PathBuf,
    /// The local packages' directories, with the roots of their sources.
    pub(crate) packages: BTreeMap<PathBuf, Roots>,
    /// The directories of packages that patch others.
    pub(crate) patches: BTreeSet<PathBuf>,
    /// The manifests of all members of the crates' workspaces, which cargo reads as well.
    members: BTreeSet<PathBuf>,
    /// The roots of the workspaces of all local packages, which may inherit from them.
    roots: BTreeSet<PathBuf>,
}

/// The root source files of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roots {
    pub(crate) name: String,
    /// Those of its library or macro, and of its build script.
    pub(crate) sources: Vec<PathBuf>,
}

/// The compiler that builds plugins.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Toolchain {
    /// The first line of `rustc -vV`.
    pub version: String,
    /// The host's target triple.
    pub target: String,
}

/// The compiler that is used in a directory.
fn rustc(folder: &Path) -> Command {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.current_dir(folder);
    environment::scrub_cargo_env(&mut rustc);
    rustc
}

impl Toolchain {
    /// The compiler that is used in a directory, which may pin one. It is run once per process for each directory.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no compiler.
    pub fn of(folder: &Path) -> Result<Self> {
        /// With the state of the files that pin it.
        type Known = BTreeMap<PathBuf, (Vec<Option<Stamp>>, Toolchain)>;
        static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
        let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let pins = folder.ancestors().flat_map(|folder| PINS.map(|name| Stamp::of(&folder.join(name)))).collect();
        if let Some((_, found)) = known().get(folder).filter(|(then, _)| *then == pins) {
            return Ok(found.clone());
        }
        let mut asked = rustc(folder);
        let output = asked.arg("-vV").output();
        let failed = || Error::io("running the compiler (is Rust installed?)", Path::new(asked.get_program()));
        let output = output.map_err(failed())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().unwrap_or_default().to_owned();
        let target = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default().to_owned();
        let found = Self { version, target };
        known().insert(folder.to_owned(), (pins, found.clone()));
        Ok(found)
    }

    /// The `objcopy` that comes with the compiler that is used in a directory, or else that of the system. Blocks.
    pub(crate) fn objcopy(folder: &Path) -> ObjCopy {
        let mut asked = rustc(folder);
        asked.args(["--print", "sysroot", "--print", "target-libdir"]);
        let said = asked.output().ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
        let mut lines = said.lines().map(Path::new);
        let (sysroot, libraries) = (lines.next(), lines.next().and_then(Path::parent));
        match (sysroot, libraries.map(|folder| folder.join("bin/rust-objcopy"))) {
            (Some(sysroot), Some(its)) if its.is_file() => ObjCopy::new(its, Some(sysroot.join("lib"))),
            _ => ObjCopy::new("objcopy", None),
        }
    }
}

impl Workspace {
    /// Reads the crates in these directories with cargo. Blocks.
    ///
    /// # Errors
    /// [`Error::NoCrate`] where there is nothing, [`Error::Metadata`] with cargo's message, or [`Error::NotAController`] with what
    /// the crate lacks.
    pub fn read(crates: &[PathBuf]) -> Result<Self> {
        let mut found = Self::default();
        for path in crates {
            let full = in_full(path);
            if std::fs::metadata(&full).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
                let from = path.is_relative().then(std::env::current_dir).and_then(std::io::Result::ok);
                return Err(Error::NoCrate { path: full, from });
            }
            found.read_crate(&full)?;
        }
        Ok(found)
    }

    /// The versions of `controllerbus` in the lock file; none if nothing is locked yet, or it is not in there.
    pub(crate) fn framework_versions(&self) -> Vec<String> {
        let text = self.lock_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        let table: toml::Table = toml::from_str(&text).unwrap_or_default();
        let packages = table.get("package").and_then(toml::Value::as_array).into_iter().flatten();
        let of = |package: &toml::Value, key: &str| Some(package.get(key)?.as_str()?.to_owned());
        let found = packages.filter(|package| of(package, "name").as_deref() == Some("controllerbus"));
        found.filter_map(|package| of(package, "version")).collect()
    }

    /// The paths that decide how cargo builds the plugin, apart from sources: manifests and lock files in all parents,
    /// cargo's and rustup's settings, and existing or possible build scripts.
    pub(crate) fn deciding(&self, asked: &[PathBuf]) -> InputSet {
        let mut files = self.manifests(asked);
        files.insert(self.root.join("Cargo.lock"));
        files.extend(environment::files(&self.root));
        files.extend(environment::pins(&self.root));
        files.extend(self.packages.keys().map(|folder| folder.join("build.rs")));
        InputSet { files, quiet: environment::quiet(), ..InputSet::default() }
    }

    /// Deciding files that the build hash does not cover: manifests of parents that are not the plugin's, and toolchain
    /// pins, because the hash covers the compiler's version itself.
    pub(crate) fn apart(&self) -> BTreeSet<PathBuf> {
        let is_its =
            |path: &PathBuf| path.parent().is_some_and(|it| self.roots.contains(it) || self.packages.contains_key(it));
        let mut apart: BTreeSet<_> = self.manifests(&[]).into_iter().filter(|path| !is_its(path)).collect();
        apart.extend(environment::pins(&self.root));
        apart
    }

    /// The manifests of the packages, all their parents and all members of the workspaces, whether they exist or not.
    fn manifests(&self, asked: &[PathBuf]) -> BTreeSet<PathBuf> {
        let folders = self.packages.keys().chain(asked).chain([&self.root]).chain(&self.roots);
        let above = folders.flat_map(|folder| folder.ancestors()).filter(|it| it.has_root());
        above.map(|folder| folder.join("Cargo.toml")).chain(self.members.iter().cloned()).collect()
    }

    fn read_crate(&mut self, path: &Path) -> Result<()> {
        let not_a_controller =
            |message: &str| Error::NotAController { path: path.to_owned(), message: message.to_owned() };
        let manifest = path.join("Cargo.toml");
        if path.is_dir() && !manifest.exists() {
            return Err(not_a_controller("it has no Cargo.toml; give the directory of a controller crate"));
        }
        std::fs::metadata(&manifest).map_err(Error::io("finding the crate's manifest", &manifest))?;
        // What is pinned where the first crate is compiles the others, too.
        let metadata = ask(path, if self.crates.is_empty() { path } else { &self.root })?;
        self.members.extend(metadata.packages.iter().map(|member| member.manifest_path.as_std_path().to_owned()));
        let package = metadata.packages.iter().find(|package| package.manifest_path.as_std_path() == manifest);
        let package = package.ok_or_else(|| not_a_controller(&not_a_package(path, &metadata)))?.clone();
        let kinds: Vec<String> =
            package.targets.iter().flat_map(|target| &target.kind).map(ToString::to_string).collect();
        let linkable =
            |target: &&Target| target.kind.iter().any(|kind| matches!(kind, TargetKind::Lib | TargetKind::RLib));
        let library = package.targets.iter().find(linkable).ok_or_else(|| {
            not_a_controller(match kinds.iter().find(|kind| matches!(kind.as_str(), "cdylib" | "dylib" | "staticlib")) {
                Some(_) => {
                    "its library has a crate-type that other crates cannot link; add \"lib\" to `crate-type`, or remove the \
                     line: the plugin file is built from the overlay that is generated around the crate"
                }
                None => "it has no library target; add src/lib.rs",
            })
        })?;
        let root = metadata.workspace_root.as_std_path().to_owned();
        self.roots.insert(root.clone());
        if self.crates.is_empty() {
            root.clone_into(&mut self.root);
            let built = metadata.build_directory.as_ref().unwrap_or(&metadata.target_directory);
            built.as_std_path().clone_into(&mut self.build_dir);
            self.settings = self.read_settings(&root)?;
        }
        let lock_file = root.join("Cargo.lock");
        if self.lock_file.is_none() && lock_file.is_file() {
            self.lock_file = Some(lock_file);
        }
        let patched = self.patches.iter().cloned().collect::<Vec<_>>();
        let bus = self.read_local(&metadata, &package, &patched)?;
        self.controllerbus = match self.framework(&bus)? {
            Some(found) => found,
            None => locked(&root, &package)?.ok_or_else(|| {
                not_a_controller("it does not depend on `controllerbus`; add it to its [dependencies]")
            })?,
        };
        if let Some(other) = self.crates.iter().find(|other| *other.name == *package.name) {
            let both = format!("{} and {}", other.dir.display(), path.display());
            return Err(not_a_controller(&format!(
                "the plugin has two crates with the name `{}`, in {both}; rename one of them",
                package.name
            )));
        }
        let name = library.name.replace('-', "_");
        if let Some(other) = self.crates.iter().find(|other| other.library == name) {
            let both = format!("{} and {}", other.dir.display(), path.display());
            return Err(not_a_controller(&format!(
                "the plugin has two crates with the library name `{name}`, in {both}; rename one of them"
            )));
        }
        self.crates.push(ControllerCrate {
            name: package.name.to_string(),
            library: name,
            dir: path.to_owned(),
            version: package.version.clone(),
            features: package.features.keys().cloned().collect(),
        });
        Ok(())
    }

    /// The local packages that are members of their workspace.
    pub(crate) fn local_members(&self) -> impl Iterator<Item = &str> {
        let is_member = |folder: &Path| self.members.contains(&folder.join("Cargo.toml"));
        self.local.iter().filter(move |(_, folder)| is_member(folder)).map(|(name, _)| name.as_str())
    }

    /// Visits a package and all local ones that it or a patch depends on. Returns their dependencies on
    /// `controllerbus`.
    fn read_local(
        &mut self,
        metadata: &Metadata,
        first: &Package,
        patches: &[PathBuf],
    ) -> Result<Vec<cargo_metadata::Dependency>> {
        let mut known: BTreeMap<PathBuf, Package> = BTreeMap::new();
        let learn = |metadata: &Metadata, known: &mut BTreeMap<PathBuf, Package>| {
            for package in &metadata.packages {
                let folder = package.manifest_path.parent().map(|folder| folder.as_std_path().to_owned());
                known.insert(folder.unwrap_or_default(), package.clone());
            }
        };
        learn(metadata, &mut known);
        let of = |package: &Package| package.manifest_path.parent().map(|at| at.as_std_path().to_owned());
        let mut waiting: Vec<PathBuf> = of(first).into_iter().chain(patches.iter().cloned()).collect();
        let mut seen = BTreeSet::new();
        let mut bus = Vec::new();
        while let Some(folder) = waiting.pop() {
            if !seen.insert(folder.clone()) {
                continue;
            }
            if !known.contains_key(&folder) {
                let metadata = ask(&folder, &self.root)?;
                self.roots.insert(metadata.workspace_root.as_std_path().to_owned());
                learn(&metadata, &mut known);
            }
            let Some(package) = known.get(&folder) else { continue };
            self.add_local(&folder, package);
            for dependency in package.dependencies.iter().filter(|it| it.kind != DependencyKind::Development) {
                if dependency.name == "controllerbus" {
                    bus.push(dependency.clone());
                }
                if !is_framework(&package.name) {
                    self.chosen.insert(dependency.name.clone());
                }
                waiting.extend(dependency.path.as_ref().map(|path| path.as_std_path().to_owned()));
            }
        }
        Ok(bus)
    }

    fn add_local(&mut self, folder: &Path, package: &Package) {
        let mut roots = Roots { name: package.name.to_string(), ..Roots::default() };
        for target in &package.targets {
            let others = [TargetKind::Bin, TargetKind::Example, TargetKind::Test, TargetKind::Bench];
            if !target.kind.iter().any(|kind| others.contains(kind)) {
                roots.sources.push(target.src_path.as_std_path().to_owned());
            }
        }
        self.local.insert(package.name.to_string(), folder.to_owned());
        self.packages.insert(folder.to_owned(), roots);
    }

    /// A dependency on the same `controllerbus` that local crates depend on, in the same form, so that cargo unifies
    /// them. `None` if none of them does.
    fn framework(&self, wanted: &[cargo_metadata::Dependency]) -> Result<Option<String>> {
        let Some(one) = wanted.iter().find(|one| one.path.is_some()).or_else(|| wanted.first()) else {
            return Ok(None);
        };
        if let Some(path) = &one.path {
            return Ok(Some(format!("path = {}", quoted(path.as_str()))));
        }
        // Patches apply to the overlay as well, because its settings include them.
        let source = one.source.as_ref().map(|source| source.repr.as_str()).unwrap_or_default();
        Ok(Some(from_source(source, &one.req.to_string())))
    }

    /// The workspace's `[patch]`, `[replace]` and `[profile]`, with absolute paths, and `cargo-features`.
    fn read_settings(&mut self, root: &Path) -> Result<toml::Table> {
        let file = root.join("Cargo.toml");
        let text = std::fs::read_to_string(&file).map_err(Error::io("reading the workspace's manifest", &file))?;
        let manifest: toml::Table = toml::from_str(&text)
            .map_err(|error| Error::Metadata { path: file.clone(), message: error.to_string() })?;
        resolver(&manifest).clone_into(&mut self.resolver);
        let mut kept = toml::Table::new();
        for section in ["cargo-features", "patch", "replace", "profile"] {
            if let Some(value) = manifest.get(section) {
                let mut value = value.clone();
                if matches!(section, "patch" | "replace") {
                    self.make_absolute(&mut value, root);
                }
                kept.insert(section.to_owned(), value);
            }
        }
        Ok(kept)
    }

    fn make_absolute(&mut self, value: &mut toml::Value, root: &Path) {
        let Some(table) = value.as_table_mut() else { return };
        for (key, value) in table.iter_mut() {
            match value {
                toml::Value::String(text) if key == "path" => {
                    let path = in_full(&root.join(&*text));
                    *text = path.to_string_lossy().into_owned();
                    self.patches.insert(path);
                }
                other => self.make_absolute(other, root),
            }
        }
    }
}

/// The resolver version that a workspace's manifest sets, or that its edition implies.
fn resolver(manifest: &toml::Table) -> &str {
    let of = |path: &[&str]| {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(manifest.get(*first)?, |value, key| value.get(*key))?.as_str()
    };
    let said = of(&["workspace", "resolver"]).or_else(|| of(&["package", "resolver"]));
    let edition = || {
        of(&["package", "edition"]).or_else(|| {
            manifest.get("package")?.get("edition")?;
            of(&["workspace", "package", "edition"])
        })
    };
    said.unwrap_or_else(|| match edition() {
        None | Some("2015" | "2018") => "1",
        Some("2021") => "2",
        Some(_) => "3",
    })
}

/// Cargo's metadata for the packages of a workspace, without dependencies, which need not exist yet; from the cargo that is
/// used at another directory.
fn ask(folder: &Path, at: &Path) -> Result<Metadata> {
    let wrong = |message: String| Error::Metadata { path: folder.to_owned(), message };
    // Not the cargo that has started this process, and which a variable names: the folder may pin another one.
    let mut asked = MetadataCommand::new();
    asked.cargo_path("cargo").manifest_path(folder.join("Cargo.toml")).no_deps();
    let mut command = asked.cargo_command();
    environment::scrub_cargo_env(&mut command);
    let output = command.current_dir(at).output().map_err(Error::io("running cargo (is Rust installed?)", folder))?;
    if !output.status.success() {
        return Err(wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let text = text.lines().find(|line| line.starts_with('{')).unwrap_or_default();
    MetadataCommand::parse(text).map_err(|error| wrong(error.to_string()))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A dependency on a version from a source, which is in cargo's notation.
fn from_source(source: &str, version: &str) -> String {
    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
    if let Some(git) = source.strip_prefix("git+") {
        let url = git.split_once('#').map_or(git, |(url, _)| url);
        let (url, which) = url.rsplit_once('?').unwrap_or((url, ""));
        let Some((key @ ("branch" | "tag" | "rev"), name)) = which.split_once('=') else {
            return format!("git = {}", quoted(url));
        };
        return format!("git = {}, {key} = {}", quoted(url), quoted(&decoded(name)));
    }
    if source.is_empty() || source == CRATES_IO {
        return format!("version = {}", quoted(version));
    }
    let index = source.strip_prefix("registry+").unwrap_or(source);
    format!("version = {}, registry-index = {}", quoted(version), quoted(index))
}

/// Decodes a part of a URL.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A dependency on the `controllerbus` that a package depends on indirectly, from its workspace's lock file.
fn locked(root: &Path, package: &Package) -> Result<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Lock {
        #[serde(default)]
        package: Vec<Locked>,
    }
    #[derive(serde::Deserialize)]
    struct Locked {
        name: String,
        version: String,
        source: Option<String>,
        #[serde(default)]
        dependencies: Vec<String>,
    }
    let file = root.join("Cargo.lock");
    if !file.is_file() {
        let mut cargo = Command::new("cargo");
        cargo.arg("generate-lockfile").current_dir(root);
        environment::scrub_cargo_env(&mut cargo);
        // The build reports what is wrong.
        let _ = cargo.output();
    }
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(None) };
    let wrong = |error: toml::de::Error| Error::Metadata { path: file.clone(), message: error.to_string() };
    let lock: Lock = toml::from_str(&text).map_err(wrong)?;
    // `name`, or `name version` if there are several versions.
    let find = |wanted: &str| {
        let (name, version) =
            wanted.split_once(' ').map_or((wanted, None), |(name, rest)| (name, rest.split(' ').next()));
        lock.package.iter().position(|it| it.name == name && version.is_none_or(|version| it.version == version))
    };
    let mut waiting: Vec<usize> = find(&package.name).into_iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(at) = waiting.pop() {
        let found = &lock.package[at];
        if found.name == "controllerbus" {
            let source = found.source.as_deref().unwrap_or_default();
            return Ok(Some(from_source(source, &format!("={}", found.version))));
        }
        if seen.insert(at) {
            waiting.extend(found.dependencies.iter().filter_map(|wanted| find(wanted)));
        }
    }
    Ok(None)
}

/// Why the manifest in a directory is that of no crate, and which crates are below it.
fn not_a_package(path: &Path, metadata: &Metadata) -> String {
    let below = metadata.packages.iter().filter_map(|member| {
        let folder = member.manifest_path.as_std_path().parent()?;
        folder.strip_prefix(path).ok().map(|folder| format!("`{}`", folder.display()))
    });
    match below.collect::<Vec<_>>() {
        members if members.is_empty() => "its manifest has no [package]".to_owned(),
        members => format!("it is a workspace; give the directory of one of its crates: {}", members.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_that_is_not_there_is_named_once_and_in_full() {
        let error = Workspace::read(&["../no-such-crate".into()]).expect_err("there is none").with_causes().to_string();
        let here = std::env::current_dir().expect("the current folder");
        let full = here.parent().expect("a parent").join("no-such-crate");
        assert_eq!(
            error,
            format!(
                "there is no crate at {}: no such folder; relative paths start at the current folder, {}",
                full.display(),
                here.display()
            )
        );
        let absolute =
            Workspace::read(std::slice::from_ref(&full)).expect_err("there is none").with_causes().to_string();
        assert_eq!(absolute, format!("there is no crate at {}: no such folder", full.display()));
    }

    #[test]
    fn of_a_workspace_that_is_no_crate_itself_the_crates_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("its path");
        std::fs::write(root.join("Cargo.toml"), "[workspace]\nmembers = [\"one\", \"more/two\"]\n").expect("writing");
        for name in ["one", "more/two"] {
            std::fs::create_dir_all(root.join(name).join("src")).expect("a folder");
            std::fs::write(root.join(name).join("src/lib.rs"), "").expect("writing");
            let package = name.rsplit('/').next().expect("a name");
            std::fs::write(root.join(name).join("Cargo.toml"), format!("[package]\nname = \"{package}\"\n"))
                .expect("writing");
        }
        let error = Workspace::read(std::slice::from_ref(&root)).expect_err("it is no crate").to_string();
        assert!(error.contains("it is a workspace; give the directory of one of its crates: "), "{error}");
        assert!(error.contains("`one`") && error.contains("`more/two`"), "{error}");
    }

    #[test]
    fn the_resolver_is_what_the_manifest_says_or_that_of_its_edition() {
        let of = |text: &str| resolver(&text.parse().expect("TOML")).to_owned();
        assert_eq!(of("[workspace]\nresolver = \"2\""), "2");
        assert_eq!(of("[workspace]\nmembers = []"), "1");
        assert_eq!(of("[package]\nname = \"a\""), "1");
        assert_eq!(of("[package]\nedition = \"2018\"\nresolver = \"2\""), "2");
        assert_eq!(of("[package]\nedition = \"2021\"\n[workspace]\nresolver = \"3\""), "3");
        assert_eq!(of("[package]\nedition = \"2021\""), "2");
        assert_eq!(of("[package]\nedition.workspace = true\n[workspace.package]\nedition = \"2024\""), "3");
        assert_eq!(of("[workspace.package]\nedition = \"2024\""), "1");
    }
}
