//! The inputs of a build, and whether they have changed.
//!
//! A hot reload promises that the running code is the code on disk. So the inputs of a build are exactly what it really
//! read:
//!
//! * every file in every crate's dep-info, including those of build scripts and procedural macros and their
//!   dependencies; what build scripts say they read or, if they say nothing, their package according to cargo;
//!   manifests, the lock file, cargo's and rustup's settings in every parent, the compiler itself; all through links,
//!   so that their targets count;
//! * files that do *not exist* and would count if they appeared: a module's other path, a `build.rs`, a parent's config
//!   or manifest and, after a failed build, the files that it did not find and any new name beside its sources;
//! * the variables that sources, scripts and cargo read from the environment (`environment.rs`, `Unit::is_stale`).
//!
//! Anything else in a package's directory, such as logs, databases or gigabytes of data, is not an input: it is not read,
//! not watched, and changes nothing.
//!
//! *Events are hints, contents are the truth.* An event leads to a comparison of stamps and, where these differ, of
//! hashes ([`Inputs::changed`]). A build starts with a [`Snapshot`], which decides whether it is out of date, also
//! while it runs. If a build discovers an input that may have changed since the build started, it is repeated.
//!
//! *Equal build hash, equal code.* The hash covers every input that was read (`hash.rs`). The inputs are known only
//! after a build; before the first one they are guessed (`guess.rs`), and if the guess was wrong, or a file was written
//! meanwhile, the plugin is built again under the right hash. A cached artifact has its own snapshot, and is used only
//! if all of that still holds.

mod listing;
mod set;
mod stamp;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use listing::Listings;
pub(crate) use set::{InputSet, each_folder, other_form};
pub(crate) use stamp::{Content, Contents, Stamp};

use crate::error::{Error, Result};
use crate::source::watch::Watched;

/// How far the system's file times may lag behind.
const GRAIN: Duration = Duration::from_millis(10);

/// The contents of all inputs at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    contents: BTreeMap<PathBuf, Content>,
    /// The contents of files that a build hash does not cover.
    quiet: BTreeMap<PathBuf, Content>,
    /// The names in directories where a new name counts.
    names: BTreeMap<PathBuf, BTreeSet<OsString>>,
    /// Folders that counted as a whole: files that appeared since then did not exist.
    trees: BTreeSet<PathBuf>,
    packages: BTreeSet<PathBuf>,
}

impl Snapshot {
    /// The content of a file; none for a path that is not an input.
    pub(crate) fn of(&self, path: &Path) -> Content {
        self.contents.get(path).or_else(|| self.quiet.get(path)).copied().flatten()
    }

    /// The existing files that a build hash covers, with their contents.
    pub(crate) fn present(&self) -> impl Iterator<Item = (&PathBuf, blake3::Hash)> {
        self.contents.iter().filter_map(|(path, content)| Some((path, (*content)?)))
    }

    /// An input whose content differs from `before`, that appeared or was removed, or a directory with a new name.
    pub(crate) fn change_since<'a>(&'a self, before: &'a Self) -> Option<&'a Path> {
        let paths = [self, before].into_iter().flat_map(|one| one.contents.keys().chain(one.quiet.keys()));
        let changed = paths.into_iter().find(|path| self.of(path) != before.of(path));
        let new = || {
            self.names.iter().find_map(|(folder, names)| {
                let then = before.names.get(folder)?;
                let new = |name: &&OsString| !then.contains(*name) && !set::is_tool_file(name);
                names.iter().any(|name| new(&name)).then_some(folder)
            })
        };
        changed.or_else(new).map(PathBuf::as_path)
    }

    /// The part that a set is about.
    pub(crate) fn part(&self, of: &InputSet) -> Self {
        let part = |all: &BTreeMap<PathBuf, Content>| {
            let wanted = all.iter().filter(|(path, _)| of.is_about(path));
            wanted.map(|(path, content)| (path.clone(), *content)).collect()
        };
        Self { contents: part(&self.contents), quiet: part(&self.quiet), ..Self::default() }
    }
}

#[derive(Default)]
struct Known {
    set: InputSet,
    /// The inputs at the start of the last build.
    built: Snapshot,
    contents: Contents,
    listings: Listings,
    listed: BTreeSet<PathBuf>,
    /// Where builds write.
    outputs: PathBuf,
    /// Where cargo builds, once that is known.
    root: Option<PathBuf>,
}

/// The inputs of a plugin's builds, to wait for their next change. Cheap to clone; all clones are the same inputs.
#[derive(Clone, Default)]
pub struct Inputs(Arc<Mutex<Known>>);

impl std::fmt::Debug for Inputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inputs").field("files", &self.lock().set.files.len()).finish_non_exhaustive()
    }
}

impl Inputs {
    /// No inputs yet; builds write to `outputs`.
    pub(crate) fn new(outputs: &Path) -> Self {
        Self(Arc::new(Mutex::new(Known { outputs: outputs.to_owned(), ..Known::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the root of the workspace in which cargo builds, which may pin a toolchain.
    pub(crate) fn build_at(&self, root: &Path) {
        self.lock().root = Some(root.to_owned());
    }

    /// What to watch for changes of the inputs.
    pub fn watched(&self) -> Vec<Watched> {
        let known = self.lock();
        let mut watched = known.set.watched(&known.outputs, &known.listed);
        watched.extend(known.listings.other_folders().map(|folder| Watched::Folder(folder.clone())));
        watched
    }

    /// Whether any input has changed since the last build started, even if that build still runs. Reads what may have
    /// changed, so it blocks.
    pub fn changed(&self) -> bool {
        let mut known = self.lock();
        let now = known.take();
        let change = now.change_since(&known.built);
        if let Some(path) = change {
            tracing::debug!(path = %path.display(), "an input changed");
        }
        change.is_some()
    }

    /// The paths of the inputs.
    pub(crate) fn set(&self) -> InputSet {
        self.lock().set.clone()
    }

    /// Starts a build with these inputs and their current contents. Blocks.
    pub(crate) fn begin(&self, set: InputSet) -> Snapshot {
        let mut known = self.lock();
        known.set = set;
        known.built = known.take();
        known.built.clone()
    }

    /// Replaces the inputs of the build that started last by better known ones; new ones count with their current
    /// contents. Blocks.
    pub(crate) fn learn(&self, set: InputSet) -> Snapshot {
        let mut known = self.lock();
        known.set = set;
        let now = known.take();
        let began = std::mem::take(&mut known.built);
        known.built = now;
        for (path, then) in began.contents {
            if known.set.is_about(&path) {
                known.built.contents.insert(path, then);
            }
        }
        known.built.quiet.extend(began.quiet);
        for (folder, names) in began.names {
            known.built.names.insert(folder, names);
        }
        known.built.clone()
    }

    /// The contents with which the last build started.
    pub(crate) fn built(&self) -> Snapshot {
        self.lock().built.clone()
    }

    /// As [`Inputs::learn`], in addition to the known inputs.
    pub(crate) fn learn_more(&self, set: InputSet) -> Snapshot {
        let mut all = self.set();
        all.extend(&set);
        self.learn(all)
    }

    /// The contents of files that a build read; `None` if one of them may have been written since the build began: its
    /// content differs from then or, if that is unknown, it is not older. Blocks.
    pub(crate) fn read_since(&self, paths: BTreeSet<PathBuf>, began: SystemTime) -> Option<BTreeMap<PathBuf, Content>> {
        let mut known = self.lock();
        let known = &mut *known;
        let mut read = BTreeMap::new();
        for path in paths {
            let (stamp, now) = known.contents.of(&path, true);
            let trusted = match known.built.contents.get(&path) {
                Some(then) => *then == now,
                None => stamp.is_none_or(|stamp| stamp.newest() + GRAIN < began) || path.starts_with(&known.outputs),
            };
            if !trusted {
                tracing::debug!(path = %path.display(), "a file was written while it was read");
                return None;
            }
            read.insert(path, now);
        }
        Some(read)
    }

    /// Adds files that the last build did not find: a build may succeed once one of them exists.
    pub(crate) fn lacked(&self, paths: &BTreeSet<PathBuf>) {
        let mut known = self.lock();
        known.set.files.extend(paths.iter().cloned());
        for path in paths {
            known.built.contents.insert(path.clone(), None);
        }
    }

    /// Whether everything is as in a snapshot. What was just read, `now`, is not read again. Blocks.
    pub(crate) fn holds(&self, snapshot: &Snapshot, now: &Snapshot) -> bool {
        let just_read = [&now.contents, &now.quiet];
        let differs = |then| just_read.iter().any(|now| in_both(then, now).any(|(then, now)| then != now));
        // Almost all snapshots do, and there may be hundreds of them.
        if differs(&snapshot.contents) || differs(&snapshot.quiet) {
            return false;
        }
        let mut known = self.lock();
        let known = &mut *known;
        let is_in_now = |path| now.contents.contains_key(path) || now.quiet.contains_key(path);
        let mut others = snapshot.contents.iter().chain(&snapshot.quiet).filter(|(path, _)| !is_in_now(*path));
        others.all(|(path, then)| known.contents.of(path, known.set.files.contains(path)).1 == *then)
            && known.listed(&snapshot.packages).iter().all(|path| snapshot.contents.contains_key(path))
            && files_in(&snapshot.trees).iter().all(|path| snapshot.contents.contains_key(path))
    }
}

impl Known {
    fn take(&mut self) -> Snapshot {
        let (trees, packages) = (self.set.trees.clone(), self.set.packages.clone());
        let mut contents = BTreeMap::new();
        for file in &self.set.files {
            contents.insert(file.clone(), self.contents.of(file, true).1);
        }
        let quiet = self.set.quiet.iter().map(|file| (file.clone(), self.contents.of(file, true).1)).collect();
        self.listed = self.listed(&packages);
        for file in files_in(&trees).iter().chain(&self.listed) {
            if !contents.contains_key(file) {
                contents.insert(file.clone(), self.contents.of(file, false).1);
            }
        }
        let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = |folder: &PathBuf| (folder.clone(), entries(folder).map(|entry| entry.file_name()).collect());
        Snapshot { contents, quiet, names: self.set.folders.iter().map(names).collect(), trees, packages }
    }

    /// The files of packages, according to cargo.
    fn listed(&mut self, packages: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        let Self { listings, root, .. } = self;
        packages.iter().flat_map(|package| listings.of(package, root.as_deref().unwrap_or(package))).collect()
    }
}

/// What both say of the paths that both know. In one pass, because each of many lookups would compare long paths.
fn in_both<'a>(
    one: &'a BTreeMap<PathBuf, Content>,
    other: &'a BTreeMap<PathBuf, Content>,
) -> impl Iterator<Item = (&'a Content, &'a Content)> {
    let mut others = other.iter().peekable();
    one.iter().filter_map(move |(path, content)| {
        while others.next_if(|(other, _)| *other < path).is_some() {}
        others.next_if(|(other, _)| *other == path).map(|(_, other)| (content, other))
    })
}

/// The files in directories that count as a whole, and the paths of those that do not exist.
fn files_in(trees: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for tree in trees {
        if !tree.is_dir() {
            files.insert(tree.clone());
        }
        each_folder(tree, &mut |folder| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            files.extend(entries.filter(|path| !path.is_dir()));
        });
    }
    files
}

/// The tag of directories whose contents can be regenerated, as cargo and others write it: <https://bford.info/cachedir/>.
const CACHE_TAG: &str = "CACHEDIR.TAG";

/// Marks a directory as one of outputs, so that its contents never count as inputs of a build script.
///
/// # Errors
/// [`Error::Io`] if the mark cannot be written.
pub(crate) fn mark_as_outputs(folder: &Path) -> Result<()> {
    let tag = folder.join(CACHE_TAG);
    if tag.is_file() {
        return Ok(());
    }
    let text = "Signature: 8a477f597d28d172789f06886806bc55\n\
                # This file is a cache directory tag created by hot-runtime.\n\
                # For information about cache directory tags see https://bford.info/cachedir/\n";
    std::fs::write(&tag, text).map_err(Error::io("marking the folder of outputs", &tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_of(files: &[PathBuf]) -> InputSet {
        InputSet { files: files.iter().cloned().collect(), ..InputSet::default() }
    }

    #[test]
    fn what_comes_where_nothing_was_and_what_goes_is_a_change_and_what_nobody_reads_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("lib.rs"), "one").expect("writing");
        let inputs = Inputs::new(&at("target"));
        inputs.begin(set_of(&[at("lib.rs"), at("build.rs")]));
        std::fs::write(at("app.log"), "line").expect("writing");
        std::fs::write(at("lib.rs"), "one").expect("touching");
        assert!(!inputs.changed());
        std::fs::write(at("build.rs"), "fn main() {}").expect("writing");
        assert!(inputs.changed());
        inputs.begin(inputs.set());
        assert!(!inputs.changed());
        std::fs::remove_file(at("lib.rs")).expect("removing");
        assert!(inputs.changed());
    }

    #[test]
    fn a_change_of_a_running_build_is_one_also_after_more_is_known_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("lib.rs"), "one").expect("writing");
        std::fs::write(at("data.txt"), "one").expect("writing");
        let inputs = Inputs::new(&at("target"));
        let began = inputs.begin(set_of(&[at("lib.rs")]));
        std::fs::write(at("lib.rs"), "other").expect("writing");
        let learned = inputs.learn(set_of(&[at("lib.rs"), at("data.txt")]));
        assert_eq!(learned.of(&at("lib.rs")), began.of(&at("lib.rs")));
        assert!(learned.of(&at("data.txt")).is_some());
        assert!(inputs.changed());
    }

    #[test]
    fn a_snapshot_holds_by_what_was_just_read_and_by_the_system_for_the_rest() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(at(name), text).expect("writing");
        write("lib.rs", "one");
        write("data.txt", "one");
        let inputs = Inputs::new(&at("target"));
        let kept = inputs.begin(set_of(&[at("lib.rs"), at("data.txt")]));
        write("lib.rs", "two");
        let now = inputs.begin(set_of(&[at("lib.rs")]));
        write("lib.rs", "one");
        assert!(!inputs.holds(&kept, &now), "the build that begins is one of `two`");
        let now = inputs.begin(set_of(&[at("lib.rs")]));
        assert!(inputs.holds(&kept, &now));
        write("data.txt", "two");
        assert!(!inputs.holds(&kept, &now));
    }

    #[test]
    fn what_a_failed_build_lacked_is_a_change_though_it_came_before_that_was_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let inputs = Inputs::new(&at("target"));
        inputs.begin(set_of(&[at("lib.rs")]));
        std::fs::write(at("missing.rs"), "").expect("writing");
        inputs.lacked(&BTreeSet::from([at("missing.rs")]));
        assert!(inputs.changed());
        inputs.learn(InputSet { folders: BTreeSet::from([folder.path().to_owned()]), ..set_of(&[at("lib.rs")]) });
        assert!(!inputs.changed());
        std::fs::write(at(".missing.rs.swp"), "").expect("writing");
        std::fs::remove_file(at("missing.rs")).expect("removing");
        assert!(!inputs.changed());
        std::fs::write(at("anew.rs"), "").expect("writing");
        assert!(inputs.changed());
    }

    #[test]
    fn a_package_in_a_folder_of_outputs_is_watched_and_what_is_made_there_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("target");
        let (manifest, lib) = (target.join("tmp/crate/Cargo.toml"), target.join("tmp/crate/src/lib.rs"));
        std::fs::create_dir_all(target.join("tmp/crate")).expect("a folder");
        std::fs::write(&manifest, "").expect("writing");
        let made = target.join("debug/build/crate-1/out/made.rs");
        let inputs = Inputs::new(&target);
        inputs.begin(set_of(&[manifest.clone(), lib.clone(), made.clone(), target.join("Cargo.toml")]));
        let watched = inputs.watched();
        assert!(watched.contains(&Watched::File(lib)) && watched.contains(&Watched::File(manifest)));
        assert!(!watched.contains(&Watched::File(made)), "{watched:?}");
    }

    #[test]
    fn a_folder_that_a_script_reads_counts_with_all_that_is_in_it_through_links() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("assets/deep")).expect("a folder");
        std::fs::create_dir(at("elsewhere")).expect("a folder");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("elsewhere"), at("assets/link")).expect("a link");
            std::os::unix::fs::symlink(at("assets"), at("assets/deep/circle")).expect("a link");
        }
        let inputs = Inputs::new(&at("target"));
        let set = InputSet { trees: BTreeSet::from([at("assets")]), ..InputSet::default() };
        inputs.begin(set.clone());
        assert!(!inputs.changed());
        std::fs::write(at("assets/deep/new.txt"), "new").expect("writing");
        assert!(inputs.changed());
        inputs.begin(set);
        std::fs::write(at("elsewhere/linked.txt"), "new").expect("writing");
        assert_eq!(inputs.changed(), cfg!(unix));
        // What is built in there is not what it is built from.
        inputs.begin(inputs.set());
        std::fs::create_dir(at("assets/target")).expect("a folder");
        mark_as_outputs(&at("assets/target")).expect("a mark");
        std::fs::write(at("assets/target/made"), "made").expect("writing");
        assert!(!inputs.changed());
        assert!(!inputs.watched().contains(&Watched::Folder(at("assets/target"))));
    }
}
