//! What a plugin is built from: the state of its files, what changed since, and the build hash over all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};

/// A file changed this shortly before it was read may change again without a new time stamp.
const RACY: Duration = Duration::from_millis(100);

/// What the system says of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: SystemTime,
    size: u64,
    /// Inode and time of the last change of the inode, where there are such things: a restored old file has them new.
    inode: (u64, i64, i64),
}

impl Stamp {
    /// Of a file; `None` if it is not there or is no file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        #[cfg(unix)]
        let inode = {
            use std::os::unix::fs::MetadataExt;
            (found.ino(), found.ctime(), found.ctime_nsec())
        };
        #[cfg(not(unix))]
        let inode = (0, 0, 0);
        Some(Self { modified: found.modified().ok()?, size: found.len(), inode })
    }

    fn newest(&self) -> SystemTime {
        let (_, seconds, nanoseconds) = self.inode;
        let changed = Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0));
        self.modified.max(SystemTime::UNIX_EPOCH + changed)
    }
}

#[derive(Clone, Debug)]
struct FileState {
    stamp: Stamp,
    hash: blake3::Hash,
    read_at: SystemTime,
}

impl FileState {
    /// Whether nothing can have changed since, if the stamp is the same.
    fn settled(&self) -> bool {
        self.read_at.duration_since(self.stamp.newest()).is_ok_and(|age| age > RACY)
    }
}

/// The state of every file that a plugin is built from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, FileState>,
}

impl Snapshot {
    /// Of the files below some folders, and of single files. Only what may have changed since `before` is read.
    ///
    /// # Errors
    /// [`Error::Io`] with the file or folder that cannot be read.
    pub(crate) fn take(roots: &[PathBuf], before: Option<&Self>) -> Result<Self> {
        let mut paths = BTreeSet::new();
        for root in roots {
            collect(root, &mut paths)?;
        }
        let mut files = BTreeMap::new();
        for path in paths {
            // An editor may have taken a file away since it was listed.
            let Some(stamp) = Stamp::of(&path) else { continue };
            let known = before.and_then(|before| before.files.get(&path));
            if let Some(known) = known.filter(|known| known.stamp == stamp && known.settled()) {
                files.insert(path, known.clone());
                continue;
            }
            let read_at = SystemTime::now();
            let hash = match std::fs::read(&path) {
                Ok(bytes) => blake3::hash(&bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("reading a source file", &path)(error)),
            };
            files.insert(path, FileState { stamp, hash, read_at });
        }
        Ok(Self { roots: roots.to_vec(), files })
    }

    /// The files whose content is not what it was, with those that came and went.
    pub(crate) fn changes_since(&self, before: &Self) -> Vec<PathBuf> {
        let differs = |path: &&PathBuf| {
            let (now, then) = (self.files.get(*path), before.files.get(*path));
            now.map(|state| state.hash) != then.map(|state| state.hash)
        };
        let gone = before.files.keys().filter(|path| !self.files.contains_key(*path));
        self.files.keys().chain(gone).filter(differs).cloned().collect()
    }

    /// The files that are not what they were and have a time from before that: they were put back with an old time.
    pub(crate) fn put_back_since(&self, before: &Self) -> Vec<PathBuf> {
        let put_back = |path: &PathBuf| match (self.files.get(path), before.files.get(path)) {
            (Some(now), Some(then)) => now.stamp.modified < then.read_at,
            _ => false,
        };
        self.changes_since(before).into_iter().filter(put_back).collect()
    }

    /// The build hash: over these files and some texts, as 16 hex digits. The same for the same files in another folder.
    pub(crate) fn build_hash(&self, texts: &[&str]) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for text in texts {
            add(text.as_bytes());
        }
        for (path, state) in &self.files {
            let inside = self.roots.iter().filter_map(|root| path.strip_prefix(root).ok()).next_back();
            let name = match inside {
                Some(inside) if !inside.as_os_str().is_empty() => inside,
                _ => Path::new(path.file_name().unwrap_or_default()),
            };
            add(name.to_string_lossy().as_bytes());
            add(state.hash.as_bytes());
        }
        let mut hash = hasher.finalize().to_hex()[..16].to_owned();
        if hash.bytes().all(|digit| digit.is_ascii_digit()) {
            // A number with a leading zero would be no identifier of a semantic version.
            hash.replace_range(..1, "a");
        }
        hash
    }
}

fn collect(path: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.insert(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(Error::io("listing a source folder", path))? {
        let entry = entry.map_err(Error::io("listing a source folder", path))?;
        let path = entry.path();
        if ignored(&path) {
            continue;
        }
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            match collect(&path, files) {
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
        } else {
            files.insert(path);
        }
    }
    Ok(())
}

/// Whether a file or folder is none of a crate's sources: build outputs, version control, editors' own files.
pub(crate) fn ignored(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // An artifact and what belongs to it, or a folder of outputs.
    is_nobodys(path) || name.contains(".cbus.") || path.join(CACHE_TAG).is_file()
}

/// Whether a file or folder is a tool's own: nothing that anybody means to give to a build or a host.
pub(crate) fn is_nobodys(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "target"
        || name == "4913"
        || name.starts_with('.')
        || name.starts_with('#')
        || name.ends_with('~')
        || name.ends_with(".swp")
}

/// What cargo and others put into a folder of things that can be made again, by <https://bford.info/cachedir/>.
const CACHE_TAG: &str = "CACHEDIR.TAG";

/// Marks a folder as one of outputs, so that no build takes what is in it for a crate's sources, wherever it is.
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

    #[test]
    fn a_restored_old_file_is_a_change_and_a_touched_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, other) = (folder.path().join("lib.rs"), folder.path().join("other.rs"));
        std::fs::write(&file, "one").expect("writing");
        std::fs::write(&other, "same").expect("writing");
        let old = std::fs::metadata(&file).and_then(|found| found.modified()).expect("a time");
        let roots = [folder.path().to_owned()];
        let before = Snapshot::take(&roots, None).expect("a snapshot");
        // As a restore does it: other content of the same length, with an old time.
        std::fs::write(&file, "two").expect("writing");
        std::fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(old)).expect("an old time");
        std::fs::write(&other, "same").expect("touching");
        let after = Snapshot::take(&roots, Some(&before)).expect("a snapshot");
        assert_eq!(after.changes_since(&before), [file]);
        assert_ne!(after.build_hash(&[]), before.build_hash(&[]));
    }

    #[test]
    fn what_is_made_in_a_crates_own_folder_is_none_of_its_sources() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        for file in ["src/lib.rs", "src/old.cbus.so", "work/overlays/a/src/lib.rs", "target/x", "lib.rs~"] {
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("a folder");
            std::fs::write(file, "text").expect("writing");
        }
        mark_as_outputs(&root.join("work")).expect("marking");
        let snapshot = Snapshot::take(&[root.to_owned()], None).expect("a snapshot");
        assert_eq!(snapshot.files.keys().collect::<Vec<_>>(), [&root.join("src/lib.rs")]);
    }

    #[test]
    fn the_build_hash_does_not_depend_on_the_folder() {
        let hash = || {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::create_dir(folder.path().join("src")).expect("a folder");
            std::fs::write(folder.path().join("src/lib.rs"), "text").expect("writing");
            Snapshot::take(&[folder.path().to_owned()], None).expect("a snapshot").build_hash(&["id"])
        };
        assert_eq!(hash(), hash());
    }
}
