//! What belongs to a package as cargo has it: git's, without what is ignored, or what `include` and `exclude` say. Only
//! cargo can tell, and it is asked when there is a name that it has not told of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Stamp;
use crate::build::settings;

/// A package's files, and what else there is beside them.
#[derive(Debug, Default)]
struct Listed {
    files: BTreeSet<PathBuf>,
    /// With the state of those that are folders: a file of the package's may come there.
    others: BTreeMap<PathBuf, Option<Stamp>>,
    /// What decides which is which.
    rules: Vec<(PathBuf, Option<Stamp>)>,
}

/// The files of packages whose build scripts do not say what they read.
#[derive(Debug, Default)]
pub(crate) struct Listings(BTreeMap<PathBuf, Listed>);

impl Listings {
    /// The files of a package now. Blocks.
    pub(crate) fn of(&mut self, package: &Path) -> BTreeSet<PathBuf> {
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
            // If it does not say, it says what is wrong with the package when it builds it.
            let files = list(package).unwrap_or_else(|| listed.files.clone());
            let others = there.into_iter().filter(|path| !files.iter().any(|file| file.starts_with(path)));
            let others = others.map(|path| (path.clone(), folder(&path))).collect();
            *listed = Listed { files, others, rules };
        }
        listed.files.clone()
    }

    /// Folders of a package in which a file of it may come though there is none yet.
    pub(crate) fn other_folders(&self) -> impl Iterator<Item = &PathBuf> {
        let others = self.0.values().flat_map(|listed| &listed.others);
        others.filter(|(_, is_folder)| is_folder.is_some()).map(|(path, _)| path)
    }
}

/// The state of a folder in which a file of the package's may come.
fn folder(path: &Path) -> Option<Stamp> {
    let never = path.ends_with(".git") || path.join("CACHEDIR.TAG").is_file() || !path.is_dir();
    if never { None } else { Stamp::of_any(path) }
}

/// What decides which files of a folder belong to a package.
fn rules(package: &Path) -> Vec<(PathBuf, Option<Stamp>)> {
    let of_git = package.ancestors().flat_map(|folder| [folder.join(".gitignore"), folder.join(".git/info/exclude")]);
    let all = of_git.chain([package.join("Cargo.toml")]);
    all.map(|path| (path.clone(), Stamp::of(&path))).collect()
}

fn list(package: &Path) -> Option<BTreeSet<PathBuf>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["package", "--list", "--allow-dirty", "--offline", "--quiet"]).current_dir(package);
    settings::without_the_callers_cargo(&mut cargo);
    let output = cargo.stdin(Stdio::null()).output().ok()?;
    if !output.status.success() {
        tracing::debug!(said = %String::from_utf8_lossy(&output.stderr), "cargo does not list {}", package.display());
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The manifest as it was is what this is named in a package.
    let made_up = ["Cargo.toml.orig", ".cargo_vcs_info.json"];
    let files = text.lines().filter(|line| !made_up.contains(line)).map(|line| package.join(line));
    Some(files.filter(|file| file.is_file()).collect())
}
