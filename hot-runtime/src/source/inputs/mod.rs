//! What a build reads, and whether it is still what it was.
//!
//! The promise of a hot reload is that what answers is what stands on the disk. So the inputs of a build are what it
//! really read, and nothing else:
//!
//! * every file of every crate's dep-info, those of build scripts and procedural macros and of what these are made of
//!   included; what build scripts say that they read, or, if they say nothing, their package as cargo has it; manifests,
//!   lock file, cargo's and rustup's settings in every parent, the compiler itself; through links, so that it counts
//!   where they lead;
//! * what is *not there* and would count if it came: a module's other form, a `build.rs`, a parent's config or manifest,
//!   and after a build that failed the files that it did not find, and any new name beside its sources;
//! * the values that sources, scripts and cargo read from the environment (`environment.rs`, `Unit::is_stale`).
//!
//! What merely lies in a package's folder, logs, databases, gigabytes of data, is not an input: it is not read, not
//! watched, and changes nothing.
//!
//! *Events are hints, content is the truth.* An event leads to a comparison of stamps, and where these differ, of
//! hashes ([`Inputs::changed`]). A build begins with a [`Snapshot`]; whether it is out of date is asked of that, also
//! while it runs. What is read first by a build that began before it was last changed is not trusted: it is built again.
//!
//! *Equal build hash, equal code.* The hash is over every input that was read (`hash.rs`). They are known only when a
//! build is over; before the first one they are guessed (`guess.rs`), and when the guess was wrong, or a file was written
//! meanwhile, it is linked again under the right hash. An artifact that is kept has its own snapshot, and is used only if
//! all of that holds now.

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

/// The system's file times may be behind by as much.
const GRAIN: Duration = Duration::from_millis(10);

/// What was in each input at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    contents: BTreeMap<PathBuf, Content>,
    /// The same of files that are no part of a build hash.
    quiet: BTreeMap<PathBuf, Content>,
    /// The names in folders where a new one counts.
    names: BTreeMap<PathBuf, BTreeSet<OsString>>,
    /// What counted with all that was in it: what has come there since was not there.
    trees: BTreeSet<PathBuf>,
    packages: BTreeSet<PathBuf>,
}

impl Snapshot {
    /// What was in a file. A path that is no input has nothing in it.
    pub(crate) fn of(&self, path: &Path) -> Content {
        self.contents.get(path).or_else(|| self.quiet.get(path)).copied().flatten()
    }

    /// All paths at which there was something, with what; those of the build hash.
    pub(crate) fn present(&self) -> impl Iterator<Item = (&PathBuf, blake3::Hash)> {
        self.contents.iter().filter_map(|(path, content)| Some((path, (*content)?)))
    }

    /// An input whose content is not what it was in `before`, with those that came and went, and new names.
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

    /// The part of it that a set is about.
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
    /// The inputs as the last build began with them.
    built: Snapshot,
    contents: Contents,
    listings: Listings,
    listed: BTreeSet<PathBuf>,
    /// Where builds write.
    outputs: PathBuf,
}

/// The inputs of a plugin's builds, for those who wait for their next change. Cheap to clone; every clone is the same.
#[derive(Clone, Default)]
pub struct Inputs(Arc<Mutex<Known>>);

impl std::fmt::Debug for Inputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inputs").field("files", &self.lock().set.files.len()).finish_non_exhaustive()
    }
}

impl Inputs {
    /// Nothing yet; what is in `outputs` is what builds write.
    pub(crate) fn new(outputs: &Path) -> Self {
        Self(Arc::new(Mutex::new(Known { outputs: outputs.to_owned(), ..Known::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be watched for them.
    pub fn watched(&self) -> Vec<Watched> {
        let known = self.lock();
        let mut watched = known.set.watched(&known.outputs, &known.listed);
        watched.extend(known.listings.other_folders().map(|folder| Watched::Folder(folder.clone())));
        watched
    }

    /// Whether any of them is not what it was when the last build began, also if that build is not over. Reads what may
    /// have changed, so it blocks.
    pub fn changed(&self) -> bool {
        let mut known = self.lock();
        let now = known.take();
        let change = now.change_since(&known.built);
        if let Some(path) = change {
            tracing::debug!(path = %path.display(), "an input has changed");
        }
        change.is_some()
    }

    /// The paths that decide.
    pub(crate) fn set(&self) -> InputSet {
        self.lock().set.clone()
    }

    /// A build begins: takes what is in these now. Blocks.
    pub(crate) fn begin(&self, set: InputSet) -> Snapshot {
        let mut known = self.lock();
        known.set = set;
        known.built = known.take();
        known.built.clone()
    }

    /// It is known better what the build that began last reads; what it was not known to read counts as it is now.
    /// Blocks.
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

    /// What the last build began with.
    pub(crate) fn built(&self) -> Snapshot {
        self.lock().built.clone()
    }

    /// The same as [`Inputs::learn`], in addition to what was known.
    pub(crate) fn learn_more(&self, set: InputSet) -> Snapshot {
        let mut all = self.set();
        all.extend(&set);
        self.learn(all)
    }

    /// What is in files that were read since a time; `None` if one of them may have been written since: it is not what it
    /// was when the build began, or, if that is not known, not older than that. Blocks.
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
                tracing::debug!(path = %path.display(), "written while it was read");
                return None;
            }
            read.insert(path, now);
        }
        Some(read)
    }

    /// The last build did not find these: as soon as one of them is there, it is worth another one.
    pub(crate) fn lacked(&self, paths: &BTreeSet<PathBuf>) {
        let mut known = self.lock();
        known.set.files.extend(paths.iter().cloned());
        for path in paths {
            known.built.contents.insert(path.clone(), None);
        }
    }

    /// Whether all is as it was in a snapshot. Blocks.
    pub(crate) fn holds(&self, snapshot: &Snapshot) -> bool {
        let mut known = self.lock();
        let known = &mut *known;
        let mut paths = snapshot.contents.iter().chain(&snapshot.quiet);
        paths.all(|(path, then)| known.contents.of(path, known.set.files.contains(path)).1 == *then)
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

    /// The files of packages, as cargo has them.
    fn listed(&mut self, packages: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        packages.iter().flat_map(|package| self.listings.of(package)).collect()
    }
}

/// The files that count because of what they are in, and the places of what is not there.
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

/// What cargo and others put into a folder of things that can be made again, by <https://bford.info/cachedir/>.
const CACHE_TAG: &str = "CACHEDIR.TAG";

/// Marks a folder as one of outputs, so that no build script's package has what is in it, wherever it is.
///
/// # Errors
/// [`Error::Io`] when the mark cannot be written.
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
