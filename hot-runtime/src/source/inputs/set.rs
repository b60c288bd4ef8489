//! The set of paths that a build reads.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CACHE_TAG;
use crate::source::watch::Watched;

/// The paths that determine a build's output, whether they exist or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputSet {
    /// Files that are read, or would be if they existed.
    pub(crate) files: BTreeSet<PathBuf>,
    /// What build scripts say they read: files, or directories with everything in them.
    pub(crate) trees: BTreeSet<PathBuf>,
    /// Packages whose build scripts do not say what they read: all of their files count, according to cargo.
    pub(crate) packages: BTreeSet<PathBuf>,
    /// Folders in which any new name counts: after a failed build it may be what was missing.
    pub(crate) folders: BTreeSet<PathBuf>,
    /// Files that are compared at each build, but not watched.
    #[serde(skip)]
    pub(crate) quiet: BTreeSet<PathBuf>,
}

impl InputSet {
    /// Adds another set.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.files.extend(other.files.iter().cloned());
        self.trees.extend(other.trees.iter().cloned());
        self.packages.extend(other.packages.iter().cloned());
        self.folders.extend(other.folders.iter().cloned());
        self.quiet.extend(other.quiet.iter().cloned());
    }

    /// Whether a path is in the set, or in a directory that counts as a whole.
    pub(crate) fn is_about(&self, path: &Path) -> bool {
        self.files.contains(path)
            || self.quiet.contains(path)
            || self.trees.iter().chain(&self.packages).any(|folder| path.starts_with(folder))
    }

    /// What to watch. Only builds change what is in `outputs`, except for packages that are there.
    pub(crate) fn watched(&self, outputs: &Path, listed: &BTreeSet<PathBuf>) -> Vec<Watched> {
        let inside = self.files.iter().filter(|file| file.ends_with("Cargo.toml") && file.starts_with(outputs));
        let packages: Vec<_> = inside.filter(|file| file.is_file()).filter_map(|file| file.parent()).collect();
        let is_made = |path: &Path| path.starts_with(outputs) && !packages.iter().any(|it| path.starts_with(it));
        let mut watched = BTreeSet::new();
        for file in self.files.iter().chain(listed).filter(|file| !is_made(file)) {
            watched.insert(Watched::File(file.clone()));
        }
        for tree in self.trees.iter().filter(|tree| !is_made(tree)) {
            watched.insert(Watched::File(tree.clone()));
            each_folder(tree, &mut |folder| {
                watched.insert(Watched::Folder(folder.to_owned()));
            });
        }
        let of_listed = listed.iter().filter_map(|file| file.parent()).filter(|folder| !is_made(folder));
        let folders = self.folders.iter().chain(&self.packages).map(PathBuf::as_path).chain(of_listed);
        watched.extend(folders.map(|folder| Watched::Folder(folder.to_owned())));
        watched.into_iter().collect()
    }
}

/// Calls a function with a directory and all directories below it, each once, even if links form a cycle; except for files and
/// directories that are marked as outputs.
pub(crate) fn each_folder(root: &Path, found: &mut dyn FnMut(&Path)) {
    let mut seen = BTreeSet::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        if !folder.canonicalize().is_ok_and(|real| seen.insert(real)) {
            continue;
        }
        if folder != root && folder.join(CACHE_TAG).is_file() {
            continue;
        }
        found(&folder);
        waiting.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
}

/// Whether a name is that of a temporary file of an editor or a tool, which a build cannot have missed.
pub(crate) fn is_tool_file(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name == "4913"
        || name.starts_with('.')
        || name.starts_with('#')
        || name.ends_with('~')
        || name.ends_with(".swp")
        || name.ends_with(".tmp")
}

/// The other path where the compiler looks for the module in a file: if both exist, that is an error.
pub(crate) fn other_form(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    if file.extension()? != "rs" {
        return None;
    }
    match file.file_stem()?.to_str()? {
        "mod" => Some(folder.with_extension("rs")),
        "lib" | "main" | "build" => None,
        name => Some(folder.join(name).join("mod.rs")),
    }
}
