//! Folders that are one process's own, beside those of others; what a process left behind that was killed is removed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A name for a folder that nobody else uses. The folder is removed on drop; if this process is killed, by the next one
/// that asks for such a name there.
pub(crate) struct OwnFolder {
    path: PathBuf,
    lock: PathBuf,
    /// Locked for as long as this process lives.
    _file: File,
}

impl OwnFolder {
    /// Reserves `parent/PREFIX...`; the folder itself is not made. Blocks.
    ///
    /// # Errors
    /// Why nothing can be written in `parent`.
    pub(crate) fn reserve(parent: &Path, prefix: &str) -> io::Result<Self> {
        remove_abandoned(parent, prefix);
        loop {
            let file = tempfile::Builder::new().prefix(prefix).suffix(".lock").tempfile_in(parent)?;
            let (file, lock) = file.keep().map_err(|error| error.error)?;
            // One that looks for abandoned ones may have been faster.
            if file.try_lock().is_ok() && lock.is_file() {
                return Ok(Self { path: lock.with_extension(""), lock, _file: file });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        let _ = std::fs::remove_file(&self.lock);
    }
}

fn remove_abandoned(parent: &Path, prefix: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(prefix) || !name.ends_with(".lock") {
            continue;
        }
        let path = entry.path();
        let Ok(file) = File::options().write(true).open(&path) else { continue };
        if file.try_lock().is_ok() {
            let _ = std::fs::remove_dir_all(path.with_extension(""));
            let _ = std::fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_in_use_is_not() {
        let parent = tempfile::tempdir().expect("a folder");
        let used = OwnFolder::reserve(parent.path(), "loaded-").expect("a folder");
        std::fs::create_dir(used.path()).expect("a folder");
        // As it is left by a process that was killed: the lock file is there, and nobody holds it.
        let (left, other) = (parent.path().join("loaded-left"), parent.path().join("other"));
        std::fs::write(left.with_extension("lock"), "").expect("writing");
        std::fs::create_dir(&left).expect("a folder");
        std::fs::write(left.join("copy"), "bytes").expect("writing");
        std::fs::create_dir(&other).expect("a folder");

        let next = OwnFolder::reserve(parent.path(), "loaded-").expect("another folder");
        assert_ne!(next.path(), used.path());
        assert!(used.path().is_dir() && other.is_dir());
        assert!(!left.exists() && !left.with_extension("lock").exists());
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists() && !path.with_extension("lock").exists());
    }
}
