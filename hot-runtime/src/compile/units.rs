//! What cargo's last build compiled, from what, and how: from cargo's messages, the wrapper's records and rustc's
//! dep-info.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cargo_metadata::TargetKind;

use crate::compile::capture::{Call, Capture, DepInfo};
use crate::compile::link::Shape;
use crate::source::hash::Names;
use crate::source::inputs::{Content, InputSet, Snapshot, Stamp, other_form};

/// Something that cargo compiled.
#[derive(Clone, Debug)]
pub(crate) struct CargoArtifact {
    /// The package's directory.
    pub(crate) package: PathBuf,
    /// The package's name.
    pub(crate) package_name: String,
    /// Whether its sources are in a local directory, not in cargo's own.
    pub(crate) local: bool,
    /// The kind of its target.
    pub(crate) kind: Kind,
    /// The output files.
    pub(crate) files: Vec<PathBuf>,
}

/// What a crate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A library, which is linked.
    Library,
    /// A procedural macro, which runs while others are compiled.
    Macro,
    /// A build script, which runs before its package is compiled.
    Script,
}

impl Kind {
    pub(crate) fn of(kinds: &[TargetKind]) -> Self {
        match kinds.first() {
            Some(TargetKind::ProcMacro) => Self::Macro,
            Some(TargetKind::CustomBuild) => Self::Script,
            _ => Self::Library,
        }
    }
}

/// A build script that ran, and when it would run again.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Its package's directory.
    pub(crate) package: PathBuf,
    local: bool,
    /// The files and directories that it says it reads.
    pub(crate) reads: BTreeSet<PathBuf>,
    /// The variables that it says it reads, with their values.
    variables: Vec<(String, Option<OsString>)>,
    /// Its instructions for cargo.
    told: Vec<String>,
}

impl Script {
    /// Reads its output, which cargo keeps beside its output directory.
    pub(crate) fn read(package: &Path, local: bool, out_dir: &Path) -> Self {
        // Cargo's current and future layout.
        let beside = |name: &str| out_dir.parent().map(|folder| folder.join(name)).unwrap_or_default();
        let output = ["output", "run/stdout"].map(beside).into_iter().find(|path| path.is_file()).unwrap_or_default();
        let said = std::fs::read_to_string(&output).unwrap_or_default();
        let mut reads = BTreeSet::new();
        let mut variables = Vec::new();
        let mut told = Vec::new();
        for line in said.lines() {
            let Some((key, value)) = line.strip_prefix("cargo:").and_then(|line| {
                let line = line.strip_prefix(':').unwrap_or(line);
                line.split_once('=')
            }) else {
                continue;
            };
            match key {
                "rerun-if-changed" => {
                    // As cargo reads it.
                    let path = package.join(value.trim_end());
                    // Downloaded packages do not change.
                    if local || !path.starts_with(package) {
                        reads.insert(path);
                    }
                }
                "rerun-if-env-changed" => variables.push((value.to_owned(), std::env::var_os(value))),
                "warning" | "error" | "rustc-check-cfg" => {}
                // The lock file determines what a downloaded one does, except for what it finds on this machine.
                _ if local || key.starts_with("rustc-link") => told.push(line.to_owned()),
                _ => {}
            }
        }
        Self { package: package.to_owned(), local, reads, variables, told }
    }

    /// Whether it does not say what it reads, which means its whole package. Downloaded packages do not change.
    pub(crate) fn is_silent(&self) -> bool {
        self.local && self.reads.is_empty() && self.variables.is_empty()
    }

    /// Its inputs.
    pub(crate) fn inputs(&self) -> InputSet {
        let packages = self.is_silent().then(|| self.package.clone()).into_iter().collect();
        InputSet { trees: self.reads.clone(), packages, ..InputSet::default() }
    }

    /// A path that it says it reads and that does not exist: then cargo runs it in every build.
    pub(crate) fn lacks(&self) -> Option<&Path> {
        self.reads.iter().find(|path| !path.exists()).map(PathBuf::as_path)
    }

    /// A variable that it reads and that changed since.
    pub(crate) fn changed_variable(&self) -> Option<&str> {
        let changed = self.variables.iter().find(|(name, then)| std::env::var_os(name) != *then);
        changed.map(|(name, _)| name.as_str())
    }
}

/// A crate, as it is compiled for this plugin.
pub(crate) struct Unit {
    pub(crate) package: PathBuf,
    pub(crate) package_name: String,
    pub(crate) local: bool,
    pub(crate) kind: Kind,
    /// The stem of its files: `name-hash`.
    pub(crate) stem: String,
    pub(crate) call: Option<Call>,
    /// What it read, for local crates.
    pub(crate) inputs: DepInfo,
    /// The contents of its inputs; `None` if unknown, so that it must be recompiled.
    pub(crate) from: Option<BTreeMap<PathBuf, Content>>,
    /// The units that it was compiled against, with their versions.
    pub(crate) needs: Vec<(usize, u64)>,
    /// How often it was recompiled.
    pub(crate) version: u64,
    /// The output that cargo linked, its state then, and the current output.
    pub(crate) archive: PathBuf,
    pub(crate) as_made: Option<Stamp>,
    pub(crate) current: PathBuf,
    /// Whether it was recompiled since the plugin was linked.
    pub(crate) fresh: bool,
    /// The shape that cargo linked, and the code that is linked now.
    pub(crate) first: Option<Shape>,
    pub(crate) linked: Option<blake3::Hash>,
}

impl Unit {
    /// Whether its sources, or the variables that it reads, have changed.
    pub(crate) fn is_stale(&self, now: &Snapshot) -> bool {
        let Some(from) = &self.from else { return true };
        from.iter().any(|(path, then)| now.of(path) != *then) || self.reads_other_values()
    }

    fn reads_other_values(&self) -> bool {
        let Some(call) = self.call.as_ref().filter(|_| !self.inputs.environment.is_empty()) else { return false };
        let now = call.environment_now();
        let value = |name: &str| now.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        self.inputs.environment.iter().any(|(name, then)| value(name) != then.as_ref().map(OsString::from))
    }

    /// The paths that decide how cargo compiles it, apart from its sources.
    fn of_package(&self) -> [PathBuf; 2] {
        ["Cargo.toml", "build.rs"].map(|name| self.package.join(name))
    }

    /// The paths that determine it: the files that it read, and the other paths where their modules would be looked
    /// for.
    pub(crate) fn paths(&self) -> BTreeSet<PathBuf> {
        let others = self.inputs.files.iter().filter_map(|file| other_form(file));
        self.inputs.files.iter().cloned().chain(others).collect()
    }

    fn learn(made: &CargoArtifact, capture: Option<&Capture>) -> Option<Self> {
        let file = made.files.iter().find(|file| file.extension().is_some_and(|ending| ending == "rlib"));
        let file = file.or_else(|| made.files.first())?.clone();
        let folder = file.parent()?;
        let (stem, call) = match made.kind {
            Kind::Library | Kind::Macro => (stem_of(&file), None),
            // Cargo names it differently than rustc.
            Kind::Script => {
                let call = capture.and_then(|capture| capture.call_into(folder));
                (call.as_ref().map_or_else(|| stem_of(&file), Call::stem), call)
            }
        };
        let compiled = compiled_at(&file, &made.package_name, &stem);
        let call = call.or_else(|| capture?.call(&stem)).filter(|call| call.recorded >= compiled);
        let seen_from = call.as_ref().map_or(made.package.as_path(), |call| call.folder.as_path());
        let inputs = match made.local {
            true => DepInfo::read(&folder.join(format!("{stem}.d")), seen_from).unwrap_or_default(),
            false => DepInfo::default(),
        };
        let call = call.filter(|_| !made.local || !inputs.files.is_empty());
        // As rustc passes it to the linker.
        let archive = file.canonicalize().ok()?;
        Some(Self {
            package: made.package.clone(),
            package_name: made.package_name.clone(),
            local: made.local,
            kind: made.kind,
            stem,
            call,
            inputs,
            from: None,
            needs: Vec::new(),
            version: 0,
            as_made: Stamp::of(&archive),
            current: archive.clone(),
            archive,
            fresh: false,
            first: None,
            linked: None,
        })
    }
}

/// `libname-hash.rlib` to `name-hash`.
pub(crate) fn stem_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.strip_prefix("lib").unwrap_or(&stem).to_owned()
}

/// When cargo last compiled a unit, perhaps without a record; the epoch if unknown.
fn compiled_at(file: &Path, package: &str, stem: &str) -> SystemTime {
    let hash = stem.rsplit_once('-').map_or("", |(_, hash)| hash);
    let of = |folder: Option<&Path>, inside: &str| folder.map(|folder| folder.join(inside).join("invoked.timestamp"));
    let folder = file.parent();
    let above = folder.and_then(Path::parent);
    let candidates = [
        // `deps/` beside `.fingerprint/`; a script's folder in `build/`; cargo's future layout.
        of(above, &format!(".fingerprint/{package}-{hash}")),
        of(above.and_then(Path::parent), &format!(".fingerprint/{package}-{hash}")),
        of(above, "fingerprint"),
    ];
    let times =
        candidates.into_iter().flatten().filter_map(|path| std::fs::metadata(path).and_then(|it| it.modified()).ok());
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// All units and scripts of a build.
#[derive(Default)]
pub(crate) struct Units {
    pub(crate) units: Vec<Unit>,
    pub(crate) scripts: Vec<Script>,
}

impl Units {
    /// Learns from a build by cargo, leaving out the overlay. Blocks.
    pub(crate) fn learn(
        made: &[CargoArtifact],
        scripts: Vec<Script>,
        capture: Option<&Capture>,
        overlay: &Path,
    ) -> Self {
        let of_overlay = |made: &&CargoArtifact| made.package != overlay;
        let mut units: Vec<_> = made.iter().filter(of_overlay).filter_map(|made| Unit::learn(made, capture)).collect();
        let at: HashMap<String, usize> = units.iter().enumerate().map(|(at, unit)| (unit.stem.clone(), at)).collect();
        for unit in &mut units {
            let externs = unit.call.iter().flat_map(Call::externs);
            unit.needs = externs.filter_map(|path| Some((*at.get(&stem_of(path))?, 0))).collect();
        }
        Self { units, scripts }
    }

    /// The inputs of all units.
    pub(crate) fn sources(&self) -> InputSet {
        let mut set = InputSet::default();
        for unit in self.units.iter().filter(|unit| unit.local) {
            set.files.extend(unit.paths());
            set.files.extend(unit.of_package());
        }
        self.scripts.iter().for_each(|script| set.extend(&script.inputs()));
        set
    }

    /// The inputs that decide how cargo compiles each package, and those of macros and scripts: if they change, cargo
    /// must build.
    pub(crate) fn of_tools(&self) -> InputSet {
        let mut set = InputSet { files: BTreeSet::new(), ..self.sources() };
        for unit in self.units.iter().filter(|unit| unit.local) {
            set.files.extend(unit.of_package());
            if unit.kind != Kind::Library {
                set.files.extend(unit.paths());
            }
        }
        set
    }

    /// The compilers that were used.
    pub(crate) fn compilers(&self) -> impl Iterator<Item = PathBuf> {
        self.units.iter().filter_map(|unit| Some(unit.call.as_ref()?.rustc.clone()))
    }

    /// Records the contents of the sources that the units were compiled from.
    pub(crate) fn compiled_from(&mut self, now: &Snapshot) {
        for unit in &mut self.units {
            unit.from = Some(unit.paths().into_iter().map(|path| (path.clone(), now.of(&path))).collect());
            if unit.local && unit.kind == Kind::Library {
                unit.first = Shape::of(&unit.archive);
                unit.linked = unit.first.as_ref().map(|shape| shape.code);
            }
        }
    }

    /// Whether the local libraries' sources are the same in two snapshots.
    pub(crate) fn are_as_in(&self, one: &Snapshot, other: &Snapshot) -> bool {
        let libraries = self.units.iter().filter(|unit| unit.local && unit.kind == Kind::Library);
        libraries.flat_map(Unit::paths).all(|path| one.of(&path) == other.of(&path))
    }

    /// The inputs that are not files: the variables that sources read, and the scripts' instructions for cargo.
    pub(crate) fn texts(&self, names: &Names) -> Vec<String> {
        let mut texts = BTreeSet::new();
        for unit in self.units.iter().filter(|unit| unit.local) {
            for (name, value) in &unit.inputs.environment {
                // Determined by the manifest.
                if !name.starts_with("CARGO_PKG_") && name != "CARGO_CRATE_NAME" && name != "OUT_DIR" {
                    let name_of = |value: &str| {
                        if name == "CARGO_MANIFEST_DIR" { value.to_owned() } else { names.in_text(value) }
                    };
                    texts.insert(format!("{name}={:?}", value.as_deref().map(name_of)));
                }
            }
        }
        for script in &self.scripts {
            let package = names.of(&script.package);
            texts.extend(script.told.iter().map(|line| format!("{package} {}", names.in_text(line))));
        }
        texts.into_iter().collect()
    }
}
