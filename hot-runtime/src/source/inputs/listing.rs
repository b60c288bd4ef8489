//! The files that belong to a package according to cargo: those in git that are not ignored, or what `include` and
//! `exclude` say. Only cargo knows, and it is run again when a new name appears.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{CACHE_TAG, Stamp};
use crate::artifact::is_of_artifact;
use crate::source::environment;

/// A package's files, and the other entries beside them.
#[derive(Debug, Default)]
struct Listed {
    files: BTreeSet<PathBuf>,
    /// With the state of directories, in which a file of the package may appear.
    others: BTreeMap<PathBuf, Option<Stamp>>,
    /// The files that decide which entries belong to the package.
    rules: Vec<(PathBuf, Option<Stamp>)>,
}

/// The files of packages whose build scripts do not say what they read.
#[derive(Debug, Default)]
pub(crate) struct Listings(BTreeMap<PathBuf, Listed>);

impl Listings {
    /// The current files of a package, according to the cargo that builds at a workspace's root. Blocks.
    pub(crate) fn of(&mut self, package: &Path, root: &Path) -> BTreeSet<PathBuf> {
        let listed = self.0.entry(package.to_owned()).or_default();
        let mut there = BTreeSet::new();
        let folders: BTreeSet<_> = listed.files.iter().filter_map(|file| file.parent()).chain([package]).collect();
        for folder in folders {
            there.extend(std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        let has = |path: &Path| listed.files.range(path.to_owned()..).next().is_some_and(|file| file.starts_with(path));
        let known = |path: &PathBuf| has(path) || listed.others.get(path).is_some_and(|then| *then == folder(path));
        let rules = rules(package);
        if rules != listed.rules || !there.iter().all(known) {
            // If cargo fails here, the build reports what is wrong.
            let files = list(package, root).unwrap_or_else(|| listed.files.clone());
            let others = there.into_iter().filter(|path| !files.iter().any(|file| file.starts_with(path)));
            let others = others.map(|path| (path.clone(), folder(&path))).collect();
            *listed = Listed { files, others, rules };
        }
        listed.files.clone()
    }

    /// Folders of a package in which a file of it may appear, although there is none yet.
    pub(crate) fn other_folders(&self) -> impl Iterator<Item = &PathBuf> {
        let others = self.0.values().flat_map(|listed| &listed.others);
        others.filter(|(_, is_folder)| is_folder.is_some()).map(|(path, _)| path)
    }
}

/// The state of a directory in which a file of the package may appear. Not one that nobody here can read, such as a database's
/// that another user runs: cargo does not read it either, and it cannot be watched.
fn folder(path: &Path) -> Option<Stamp> {
    let never = path.ends_with(".git") || path.join(CACHE_TAG).is_file() || std::fs::read_dir(path).is_err();
    if never { None } else { Stamp::of_any(path) }
}

/// The files that decide which files of a directory belong to a package.
fn rules(package: &Path) -> Vec<(PathBuf, Option<Stamp>)> {
    let of_git = package.ancestors().flat_map(|folder| [folder.join(".gitignore"), folder.join(".git/info/exclude")]);
    let all = of_git.chain([package.join("Cargo.toml")]);
    all.map(|path| (path.clone(), Stamp::of(&path))).collect()
}

fn list(package: &Path, root: &Path) -> Option<BTreeSet<PathBuf>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["package", "--list", "--allow-dirty", "--offline", "--quiet", "--manifest-path"]);
    // Not in the package's folder, which may pin another toolchain than the one that builds.
    cargo.arg(package.join("Cargo.toml")).current_dir(root);
    environment::scrub_cargo_env(&mut cargo);
    let output = cargo.stdin(Stdio::null()).output().ok()?;
    if !output.status.success() {
        tracing::debug!(said = %String::from_utf8_lossy(&output.stderr), "cargo does not list {}", package.display());
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Names that exist only in a packaged crate.
    let made_up = ["Cargo.toml.orig", ".cargo_vcs_info.json"];
    let files = text.lines().filter(|line| !made_up.contains(line)).map(|line| package.join(line));
    // Outputs in the package's folder are not inputs.
    let mut marked = BTreeMap::new();
    let mut is_marked = |folder: &Path| {
        *marked.entry(folder.to_owned()).or_insert_with(|| folder != package && folder.join(CACHE_TAG).is_file())
    };
    let mut is_made = |file: &PathBuf| {
        let folders = file.ancestors().skip(1).take_while(|folder| folder.starts_with(package));
        is_of_artifact(file) || folders.into_iter().any(&mut is_marked)
    };
    Some(files.filter(|file| file.is_file() && !is_made(file)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packages_files_are_cargos_without_what_is_ignored_or_built() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |inside: &str, text: &str| {
            let path = folder.path().join(inside);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("writing");
        };
        let git = |arguments: &[&str]| {
            let done = Command::new("git").args(arguments).current_dir(folder.path()).status().expect("git");
            assert!(done.success());
        };
        write("Cargo.toml", "[package]\nname = \"listed\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n");
        // Without that, what git ignores is none of cargo's concern.
        git(&["init", "-q"]);
        git(&["add", "Cargo.toml"]);
        write("src/lib.rs", "");
        write(".gitignore", "*.log\n/node_modules\n");
        write("work/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
        let mut listings = Listings::default();
        // What the package's folder pins is not there, and does not matter.
        write("rust-toolchain.toml", "[toolchain]\nchannel = \"no-such-toolchain\"\n");
        let root = tempfile::tempdir().expect("a folder");
        let mut has = |inside: &str| listings.of(folder.path(), root.path()).contains(&folder.path().join(inside));
        assert!(has("src/lib.rs") && has("Cargo.toml"));
        let plugin = ["out/listed.cbus.so", "out/listed.cbus.so.debug", "out/listed.cbus.so.minisig"];
        let others = ["app.log", "src/more.log", "node_modules/x/y.js", "work/overlays/a.rs"];
        for nobodys in others.into_iter().chain(plugin) {
            write(nobodys, "");
            assert!(!has(nobodys), "{nobodys}");
        }
        for input in ["data.txt", "data/deep/in.txt", "data/deep/more.txt"] {
            write(input, "");
            assert!(has(input), "{input}");
        }
        // What is ignored may change, and what is excluded.
        write(".gitignore", "/data\n");
        assert!(has("app.log") && !has("data/deep/in.txt"));
        let manifest = std::fs::read_to_string(folder.path().join("Cargo.toml")).expect("the manifest");
        write("Cargo.toml", &manifest.replace("[workspace]", "exclude = [\"*.log\"]\n[workspace]"));
        assert!(!has("app.log") && has("data.txt"));
    }
    #[cfg(target_os = "linux")]
    #[test]
    fn folders_that_cannot_be_read_are_neither_inputs_nor_watched() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let at = |inside: &str| folder.path().join(inside);
        let locked = |inside: &str| {
            std::fs::create_dir(at(inside)).expect("a folder");
            std::fs::write(at(inside).join("base"), "").expect("writing");
            std::fs::set_permissions(at(inside), std::fs::Permissions::from_mode(0o0)).expect("its mode");
        };
        std::fs::write(at("Cargo.toml"), "[package]\nname = \"locked\"\nedition = \"2021\"\n[workspace]\n")
            .expect("writing");
        std::fs::create_dir_all(at("src")).expect("a folder");
        std::fs::create_dir_all(at("data")).expect("a folder");
        std::fs::write(at("src/lib.rs"), "").expect("writing");
        // What root may do, nobody else can.
        crate::sys::access::tests::give_up_reading_everything();
        let inputs = super::super::Inputs::new(&at("target"));
        // A package whose script says nothing of what it reads, and a folder that one has named.
        let packages = BTreeSet::from([folder.path().to_owned()]);
        let set = super::super::InputSet { packages, trees: [at("data")].into(), ..Default::default() };
        locked("pgdata");
        locked("data/pgdata");
        assert!(std::fs::read_dir(at("pgdata")).is_err());
        let snapshot = inputs.begin(set);
        assert!(snapshot.present().any(|(path, _)| *path == at("src/lib.rs")));
        assert!(!snapshot.present().any(|(path, _)| path.to_string_lossy().contains("pgdata")));
        locked("src/later");
        locked("data/later");
        assert!(!inputs.changed());
        let watched = inputs.watched();
        assert!(watched.iter().any(|it| *it.path() == at("src")), "{watched:?}");
        assert!(!watched.iter().any(|it| it.path().ends_with("pgdata") || it.path().ends_with("later")), "{watched:?}");
        std::fs::write(at("src/new.rs"), "").expect("writing");
        assert!(inputs.changed());
        for inside in ["pgdata", "data/pgdata", "src/later", "data/later"] {
            std::fs::set_permissions(at(inside), std::fs::Permissions::from_mode(0o700)).expect("its mode");
        }
    }
}
