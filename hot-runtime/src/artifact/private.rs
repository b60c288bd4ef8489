//! Private copies: the verified bytes where only this user can write, under a name that was never used before.
//!
//! A new file costs more than all other steps of a load: the system makes room for it and clears each page. So the file of one
//! copy that was removed stays as a spare one, which the next copy overwrites. Never while anybody can see it: only a copy that no
//! other process was given, that has no other name, and of which this process has no view left, not even a symbolizer's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use controllerbus::error::Code;
use serde::{Deserialize, Serialize};

use super::io::write_in_steps;
use super::symbols::Symbols;
use super::{Verified, needed};
use crate::error::{Error, Result};
use crate::sys::files::{create_private_dir, has_one_name, is_open_to_others, is_own};
use crate::sys::maps::may_be_viewed;
use crate::util::slug;

/// The private copy of a verified artifact: the only thing that is ever opened.
///
/// It can be sent to a plugin host, which trusts the runtime that started it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrivateCopy {
    /// The copy.
    path: PathBuf,
    /// Where the artifact was read from, for messages.
    shown: PathBuf,
    /// The entry symbol, from the manifest.
    entry: String,
    /// The hash that was verified, as hex.
    hash: String,
    /// The shared libraries that it needs. A process of its own closes nothing, and need not know them.
    #[serde(skip)]
    needed: Vec<String>,
    /// Whether only this process ever opens it.
    #[serde(skip)]
    is_kept_here: bool,
    /// What debuggers and backtraces read besides.
    #[serde(skip)]
    symbols: Option<Arc<Symbols>>,
}

/// When a load is over for sure.
const SETTLED: Duration = Duration::from_millis(500);

/// Whether std prints where a panic comes from.
fn are_backtraces_asked_for() -> bool {
    ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"].iter().any(|name| std::env::var_os(name).is_some_and(|value| value != "0"))
}

/// The file that the next copy in a directory overwrites.
const SPARE: &str = "spare";

impl PrivateCopy {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the artifact was read from.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// The entry symbol.
    pub fn entry(&self) -> &str {
        &self.entry
    }

    /// The names of the shared libraries that it needs, as the loader is told them.
    pub(crate) fn needed(&self) -> &[String] {
        &self.needed
    }

    /// The BLAKE3 hash of its bytes, as hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

impl PrivateCopy {
    /// The same bytes under another name beside this one; either can be removed without the other. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when neither a link nor a copy can be made.
    pub(crate) fn again_as(&self, ending: &str) -> Result<Self> {
        let path = self.path.with_extension(ending);
        if std::fs::hard_link(&self.path, &path).is_err() {
            std::fs::copy(&self.path, &path).map_err(Error::io("keeping the artifact of a generation", &path))?;
        }
        Ok(Self { path, ..self.clone() })
    }

    /// Notes that no other process opens it.
    pub(crate) fn kept_here(self) -> Self {
        Self { is_kept_here: true, ..self }
    }

    /// Has the symbols put beside it by another thread, if they are not part of it and backtraces are asked for. Must be called
    /// inside a tokio runtime.
    pub(crate) fn provide_symbols_for_backtraces(&self) {
        if let Some(symbols) = self.symbols.clone().filter(|_| are_backtraces_asked_for()) {
            tokio::task::spawn_blocking(move || symbols.provide());
        }
    }

    /// The same for debuggers, when the load is over.
    pub(crate) fn provide_symbols_for_debuggers(&self) {
        let Some(symbols) = self.symbols.as_ref().filter(|_| !are_backtraces_asked_for()).map(Arc::downgrade) else {
            return;
        };
        tokio::spawn(async move {
            tokio::time::sleep(SETTLED).await;
            if let Some(symbols) = symbols.upgrade() {
                tokio::task::spawn_blocking(move || symbols.provide());
            }
        });
    }

    /// Removes the file, which may become the spare one. Blocks.
    pub(crate) fn remove(&self) {
        let spare = self.path.with_file_name(SPARE);
        // Where one is there already, a file that takes its name would be written to the disk.
        if self.is_seen_by_nobody() && !spare.exists() && std::fs::rename(&self.path, &spare).is_ok() {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove a plugin's private copy");
        }
    }

    fn is_seen_by_nobody(&self) -> bool {
        let stem = self.path.file_stem().and_then(std::ffi::OsStr::to_str);
        self.is_kept_here
            && std::fs::symlink_metadata(&self.path).is_ok_and(|found| has_one_name(&found))
            && stem.is_some_and(|stem| !may_be_viewed(stem))
    }
}

/// Removes the spare file of a directory. Blocks.
pub(crate) fn remove_spare(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(SPARE));
}

/// Gives the spare file of a directory a name that was never used, if there is one.
fn take_spare(dir: &Path, path: &Path) -> Option<std::fs::File> {
    if path.symlink_metadata().is_ok() {
        return None;
    }
    std::fs::rename(dir.join(SPARE), path).ok()?;
    let found = std::fs::symlink_metadata(path).ok()?;
    let is_spare = found.is_file() && is_own(&found) && has_one_name(&found);
    let opened = is_spare.then(|| writable().open(path).ok()).flatten();
    if opened.is_none() {
        let _ = std::fs::remove_file(path);
    }
    opened
}

/// To read it, too, in a view.
fn writable() -> std::fs::OpenOptions {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true);
    options
}

/// Creates a file in a directory for private copies, or takes the spare one.
pub(super) fn create(dir: &Path, path: &Path) -> std::io::Result<std::fs::File> {
    // Never an existing path: for one that it knows, the loader would return the old library.
    match take_spare(dir, path) {
        Some(file) => Ok(file),
        None => writable().create_new(true).open(path),
    }
}

impl Verified {
    /// Writes the verified bytes to a new file in a directory that only this user can enter.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written, [`Error::Artifact`] when the directory is not safe.
    pub fn write_private(&self, dir: &Path) -> Result<PrivateCopy> {
        let (dir, path) = (private_folder(dir)?, self.private_name());
        let path = dir.join(path);
        let mut file = create(&dir, &path).map_err(Error::io("creating the private copy of a plugin", &path))?;
        let library = self.library();
        let written = write_in_steps(&mut file, library).and_then(|()| file.set_len(library.len() as u64));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&path);
            return Err(Error::io("writing the private copy of a plugin (is the disk full?)", &path)(error));
        }
        Ok(self.copied_to(path))
    }

    /// The same, without a copy if the bytes are in that directory already.
    ///
    /// # Errors
    /// As [`Verified::write_private`].
    pub(crate) fn into_private(self, dir: &Path) -> Result<PrivateCopy> {
        let dir = private_folder(dir)?;
        if !self.is_in(&dir) {
            return self.write_private(&dir);
        }
        let copy = self.copied_to(dir.join(self.private_name()));
        let named = self.into_named(&copy.path);
        named.map_err(Error::io("naming the private copy of a plugin", &copy.path))?;
        Ok(copy)
    }

    fn copied_to(&self, path: PathBuf) -> PrivateCopy {
        let (shown, entry, hash) = (self.path.clone(), self.bundle.entry.clone(), self.hash.clone());
        let symbols = path.parent().and_then(|dir| Symbols::of(self.library(), &shown, dir));
        PrivateCopy { path, shown, entry, hash, needed: needed(self.library()), is_kept_here: false, symbols }
    }

    /// A name that was never used.
    fn private_name(&self) -> String {
        static SEQUENCE: AtomicU64 = AtomicU64::new(0);
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        format!(
            "{}-{}-{sequence}{}",
            slug(&self.bundle.id),
            slug(&self.bundle.build_hash),
            std::env::consts::DLL_SUFFIX
        )
    }
}

/// Makes a directory for private copies if there is none, and checks that nobody else can enter it. Returns it as
/// `/proc/self/maps` will name it.
pub(super) fn private_folder(dir: &Path) -> Result<PathBuf> {
    let refuse = |reason: &str| Error::Artifact {
        path: dir.to_owned(),
        code: Code::PRIVATE_FOLDER,
        reason: reason.to_owned(),
        help: "remove it, or use another work folder".to_owned(),
    };
    create_private_dir(dir).map_err(Error::io("creating the directory for private copies", dir))?;
    let found = std::fs::symlink_metadata(dir).map_err(Error::io("checking the directory for private copies", dir))?;
    if !found.is_dir() {
        return Err(refuse("the path for private copies is not a directory"));
    }
    if !is_own(&found) {
        return Err(refuse("the directory for private copies belongs to another user"));
    }
    if is_open_to_others(&found) {
        return Err(refuse("other users can enter the directory for private copies"));
    }
    dir.canonicalize().map_err(Error::io("finding the directory for private copies", dir))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::artifact::{Checks, Trust};
    use crate::sys::files::identity;
    use crate::tiny::Tiny;

    /// A verified artifact whose library has so many bytes more than another.
    fn verified(folder: &Path, more: usize) -> Verified {
        let path = folder.join("plugin.cbus.so");
        let library = [Tiny::default().library(), vec![b'x'; more]].concat();
        crate::tiny::seal(&library, &path);
        Checks::new(Trust::anyone()).verify(&path).expect("an artifact")
    }

    fn file_of(copy: &PrivateCopy) -> (u64, u64) {
        identity(&std::fs::metadata(copy.path()).expect("it is there"))
    }

    #[test]
    fn a_copy_takes_the_file_of_one_that_was_removed_and_has_its_own_bytes_and_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("loaded");
        let mut known = None;
        let mut names = std::collections::HashSet::new();
        for more in [70_000, 3, 700_000, 0] {
            let artifact = verified(folder.path(), more);
            let copy = artifact.write_private(&dir).expect("a copy").kept_here();
            assert_eq!(std::fs::read(copy.path()).expect("reading"), artifact.library(), "{more} more");
            assert!(names.insert(copy.path().to_owned()), "a name that was used before");
            let file = file_of(&copy);
            assert_eq!(*known.get_or_insert(file), file, "the same file");
            copy.remove();
            assert!(!copy.path().exists());
        }
        let (one, two) = (verified(folder.path(), 1), verified(folder.path(), 2));
        let copies = [one, two].map(|artifact| artifact.write_private(&dir).expect("a copy").kept_here());
        assert!(known == Some(file_of(&copies[0])) && known != Some(file_of(&copies[1])));
        copies.iter().for_each(PrivateCopy::remove);
        assert_eq!(std::fs::read_dir(&dir).expect("the folder").count(), 1, "one spare file at most");
        remove_spare(&dir);
        assert_eq!(std::fs::read_dir(&dir).expect("the folder").count(), 0);
    }

    #[test]
    fn what_arrives_in_the_folder_is_the_private_copy_whatever_becomes_of_the_file_that_was_verified() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, dir) = (folder.path().join("plugin.cbus.so"), folder.path().join("loaded"));
        let mut known = None;
        for more in [70_000, 3, 700_000, 0] {
            let library = verified(folder.path(), more).library().to_vec();
            let artifact = Checks::new(Trust::anyone()).verify_into(&path, &dir).expect("an artifact");
            std::fs::write(&path, "somebody's").expect("writing");
            assert_eq!(artifact.library(), library, "{more} more");
            let arrived: Vec<_> =
                std::fs::read_dir(&dir).expect("the folder").map(|entry| entry.expect("it")).collect();
            assert_eq!(arrived.len(), 1, "{arrived:?}");
            let file = identity(&arrived[0].metadata().expect("it is there"));
            assert_eq!(*known.get_or_insert(file), file, "the file of the copy that was removed");
            let copy = artifact.into_private(&dir).expect("a copy").kept_here();
            assert_eq!(file_of(&copy), file, "it is not copied again");
            assert_eq!(std::fs::read(copy.path()).expect("reading"), library, "{more} more");
            assert!(Verified::again(&copy).is_ok());
            copy.remove();
        }
        // What is not opened goes.
        verified(folder.path(), 0);
        drop(Checks::new(Trust::anyone()).verify_into(&path, &dir).expect("an artifact"));
        assert_eq!(std::fs::read_dir(&dir).expect("the folder").count(), 0);
    }

    #[test]
    fn what_has_arrived_elsewhere_is_copied() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, one, other) =
            (folder.path().join("plugin.cbus.so"), folder.path().join("1"), folder.path().join("2"));
        let library = verified(folder.path(), 10).library().to_vec();
        let artifact = Checks::new(Trust::anyone()).verify_into(&path, &one).expect("an artifact");
        let copy = artifact.into_private(&other).expect("a copy");
        assert_eq!(std::fs::read(copy.path()).expect("reading"), library);
        assert!(copy.path().starts_with(&other) && std::fs::read_dir(&one).expect("the folder").count() == 0);
    }

    #[test]
    fn a_file_that_somebody_may_still_see_is_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("loaded");
        let artifact = verified(folder.path(), 0);
        let copy = || artifact.write_private(&dir).expect("a copy").kept_here();
        let is_spared = |copy: &PrivateCopy| {
            copy.remove();
            assert!(!copy.path().exists());
            let is_spared = dir.join(SPARE).exists();
            remove_spare(&dir);
            is_spared
        };
        assert!(is_spared(&copy()));
        // Another process was given it.
        let sent = PrivateCopy { is_kept_here: false, ..copy() };
        assert!(!is_spared(&sent));
        let received: PrivateCopy =
            serde_json::from_str(&serde_json::to_string(&copy()).expect("it is sent")).expect("it is received");
        assert!(!is_spared(&received));
        // It has another name; the last one that goes makes it the spare one.
        let kept = copy();
        let past = kept.again_as("past-0").expect("another name");
        assert!(!is_spared(&kept) && past.path().exists());
        assert!(is_spared(&past));
        // This process has a view of it, code or not, and by whichever name.
        for by_another_name in [false, true] {
            let seen = copy();
            let past = seen.again_as("past-1").expect("another name");
            let (viewed, other) = if by_another_name { (&past, &seen) } else { (&seen, &past) };
            let file = std::fs::File::open(viewed.path()).expect("opening");
            // SAFETY: nothing writes to the file while it is mapped, which is what is tested.
            #[allow(unsafe_code)]
            let view = unsafe { memmap2::Mmap::map(&file) }.expect("a view");
            viewed.remove();
            assert!(!is_spared(other), "by another name: {by_another_name}");
            drop(view);
        }
    }

    #[test]
    fn what_is_not_a_file_of_ones_own_is_not_taken_for_a_spare_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("loaded");
        let artifact = verified(folder.path(), 0);
        artifact.write_private(&dir).expect("a copy").remove();
        let other = folder.path().join("other");
        std::fs::write(&other, "somebody's").expect("writing");
        let spares: [&dyn Fn(&Path); 3] = [
            &|spare| std::os::unix::fs::symlink(&other, spare).expect("a link"),
            &|spare| std::fs::hard_link(&other, spare).expect("a link"),
            &|spare| std::fs::create_dir(spare).expect("a folder"),
        ];
        for make in spares {
            make(&dir.join(SPARE));
            // The folder is nobody else's, so all that matters is that nothing of it is lost.
            if let Ok(copy) = artifact.write_private(&dir) {
                assert_eq!(std::fs::read(copy.path()).expect("reading"), artifact.library());
            }
            assert_eq!(std::fs::read_to_string(&other).expect("reading"), "somebody's");
        }
    }
}
