//! Which crates, files and patches a plugin is made of, by cargo's own account.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use cargo_metadata::{CargoOpt, Metadata, MetadataCommand, Package, PackageId};

use crate::build::inputs::Stamp;
use crate::error::{Error, Result};
use crate::overlay::is_framework;

/// One controller crate of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerCrate {
    /// The package's name.
    pub name: String,
    /// The library target's name, as `extern crate` wants it.
    pub library: String,
    /// The package's folder.
    pub dir: PathBuf,
    /// The package's version.
    pub version: semver::Version,
    /// The features that it offers.
    pub features: BTreeSet<String>,
}

/// What a plugin's crates are built from.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The controller crates, in the order that they were asked for.
    pub crates: Vec<ControllerCrate>,
    /// How the overlay depends on the very `controllerbus` that the crates use, as a TOML inline table.
    pub controllerbus: String,
    /// Folders of local packages, and manifests, whose change is a change of the plugin.
    pub watched: Vec<PathBuf>,
    /// `[patch]`, `[replace]` and `[profile]` of the crates' workspace, with absolute paths.
    pub settings: toml::Table,
    /// The packages that are built from local folders: their names and those folders.
    pub local: BTreeMap<String, PathBuf>,
    /// The root of the (first) crate's workspace: cargo is run there, so that its `.cargo/config.toml` and
    /// `rust-toolchain.toml` count.
    pub root: PathBuf,
    /// The lock file of the crates' workspace.
    pub lock_file: Option<PathBuf>,
}

/// The files by which a folder pins its toolchain.
pub(crate) const PINS: [&str; 2] = ["rust-toolchain.toml", "rust-toolchain"];

/// The compiler that builds plugins.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The first line of `rustc -vV`.
    pub version: String,
    /// The host's target triple.
    pub target: String,
}

impl Toolchain {
    /// The compiler that is used in a folder, which may pin one. It is asked once in a process for each folder.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no compiler.
    pub fn of(folder: &Path) -> Result<Self> {
        /// With the state of the files that pin it.
        type Known = BTreeMap<PathBuf, (Vec<Option<Stamp>>, Toolchain)>;
        static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
        let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let pins = folder.ancestors().flat_map(|folder| PINS.map(|name| Stamp::of(&folder.join(name)))).collect();
        if let Some((_, found)) = known().get(folder).filter(|(then, _)| *then == pins) {
            return Ok(found.clone());
        }
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(&rustc)
            .arg("-vV")
            .current_dir(folder)
            .output()
            .map_err(Error::io("running the compiler (is Rust installed?)", Path::new(&rustc)))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().unwrap_or_default().to_owned();
        let target = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default().to_owned();
        let found = Self { version, target };
        known().insert(folder.to_owned(), (pins, found.clone()));
        Ok(found)
    }
}

impl Workspace {
    /// Asks cargo about the crates in these folders. Blocks.
    ///
    /// # Errors
    /// [`Error::Metadata`] with what cargo said, or [`Error::NotAController`] with what the crate lacks.
    pub fn read(crates: &[PathBuf]) -> Result<Self> {
        let mut found = Self {
            crates: Vec::new(),
            controllerbus: String::new(),
            watched: Vec::new(),
            settings: toml::Table::new(),
            local: BTreeMap::new(),
            root: PathBuf::new(),
            lock_file: None,
        };
        let mut watched = BTreeSet::new();
        for path in crates {
            found.read_crate(path, &mut watched)?;
        }
        found.watched = watched.into_iter().collect();
        Ok(found)
    }

    /// The local packages that may read any of these files. A crate can include another's, but the framework does not.
    pub(crate) fn readers(&self, files: &[PathBuf]) -> BTreeSet<String> {
        let reads = |(name, folder): &(&String, &PathBuf)| {
            !is_framework(name) || files.iter().any(|file| file.starts_with(folder))
        };
        self.local.iter().filter(reads).map(|(name, _)| name.clone()).collect()
    }

    fn read_crate(&mut self, path: &Path, watched: &mut BTreeSet<PathBuf>) -> Result<()> {
        let path = path.canonicalize().map_err(Error::io("finding the crate", path))?;
        let not_a_controller =
            |message: &str| Error::NotAController { path: path.clone(), message: message.to_owned() };
        let metadata = MetadataCommand::new()
            .manifest_path(path.join("Cargo.toml"))
            .current_dir(&path)
            .features(CargoOpt::AllFeatures)
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .exec()
            .map_err(|error| Error::Metadata { path: path.clone(), message: error.to_string() })?;
        let manifest = path.join("Cargo.toml");
        let package = metadata
            .packages
            .iter()
            .find(|package| package.manifest_path.as_std_path() == manifest)
            .ok_or_else(|| not_a_controller("its manifest has no [package]"))?;
        let library = package
            .targets
            .iter()
            .find(|target| target.kind.iter().any(|kind| matches!(kind.to_string().as_str(), "lib" | "rlib")))
            .ok_or_else(|| not_a_controller("it has no library target that others can link; add src/lib.rs"))?;
        let closure = closure(&metadata, &package.id);
        let bus = closure
            .iter()
            .find(|package| package.name.as_str() == "controllerbus")
            .ok_or_else(|| not_a_controller("it does not depend on `controllerbus`; add it to its [dependencies]"))?;
        self.controllerbus = dependency(bus);
        for package in &closure {
            if package.source.is_none()
                && let Some(dir) = package.manifest_path.parent()
            {
                watched.insert(dir.as_std_path().to_owned());
                self.local.insert(package.name.to_string(), dir.as_std_path().to_owned());
            }
        }
        let root = metadata.workspace_root.as_std_path();
        if self.crates.is_empty() {
            root.clone_into(&mut self.root);
        }
        for file in ["Cargo.toml", "Cargo.lock"].map(|name| root.join(name)) {
            if file.is_file() {
                watched.insert(file);
            }
        }
        let lock_file = root.join("Cargo.lock");
        if self.lock_file.is_none() && lock_file.is_file() {
            self.lock_file = Some(lock_file);
        }
        if self.settings.is_empty() {
            self.settings = settings(root, watched)?;
        }
        self.crates.push(ControllerCrate {
            name: package.name.to_string(),
            library: library.name.replace('-', "_"),
            dir: path,
            version: package.version.clone(),
            features: package.features.keys().cloned().collect(),
        });
        Ok(())
    }
}

/// A package and everything that it depends on, as cargo resolved it.
fn closure<'a>(metadata: &'a Metadata, root: &'a PackageId) -> Vec<&'a Package> {
    let packages: HashMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let nodes: HashMap<_, _> =
        metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).map(|node| (&node.id, node)).collect();
    let mut seen = BTreeSet::from([root]);
    let mut waiting = vec![root];
    while let Some(id) = waiting.pop() {
        for dependency in nodes.get(id).into_iter().flat_map(|node| &node.deps) {
            let needed = dependency.dep_kinds.is_empty()
                || dependency.dep_kinds.iter().any(|kind| kind.kind != cargo_metadata::DependencyKind::Development);
            if needed && seen.insert(&dependency.pkg) {
                waiting.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter().filter_map(|id| packages.get(id).copied()).collect()
}

/// A dependency on exactly this package.
fn dependency(package: &Package) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    match &package.source {
        None => {
            let dir = package.manifest_path.parent().map(ToString::to_string).unwrap_or_default();
            format!("{{ path = {} }}", quoted(&dir))
        }
        Some(source) => match source.repr.strip_prefix("git+") {
            Some(git) => {
                let (url, revision) = git.split_once('#').unwrap_or((git, ""));
                let url = url.split('?').next().unwrap_or(url);
                format!("{{ git = {}, rev = {} }}", quoted(url), quoted(revision))
            }
            None => format!("{{ version = {} }}", quoted(&format!("={}", package.version))),
        },
    }
}

/// The workspace's `[patch]`, `[replace]` and `[profile]`, with absolute paths, which are also to be watched.
fn settings(root: &Path, watched: &mut BTreeSet<PathBuf>) -> Result<toml::Table> {
    let file = root.join("Cargo.toml");
    let text = std::fs::read_to_string(&file).map_err(Error::io("reading the workspace's manifest", &file))?;
    let manifest: toml::Table =
        toml::from_str(&text).map_err(|error| Error::Metadata { path: file.clone(), message: error.to_string() })?;
    let mut kept = toml::Table::new();
    for section in ["patch", "replace", "profile"] {
        if let Some(value) = manifest.get(section) {
            let mut value = value.clone();
            if section != "profile" {
                make_absolute(&mut value, root, watched);
            }
            kept.insert(section.to_owned(), value);
        }
    }
    Ok(kept)
}

fn make_absolute(value: &mut toml::Value, root: &Path, watched: &mut BTreeSet<PathBuf>) {
    let Some(table) = value.as_table_mut() else { return };
    for (key, value) in table.iter_mut() {
        match value {
            toml::Value::String(text) if key == "path" => {
                let joined = root.join(&*text);
                let path = joined.canonicalize().unwrap_or(joined);
                *text = path.to_string_lossy().into_owned();
                watched.insert(path);
            }
            other => make_absolute(other, root, watched),
        }
    }
}
