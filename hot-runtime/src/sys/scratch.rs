//! Scratch directories, each of one process; those that a killed process left behind are removed.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::files::{create_private_dir, is_open_to_others};

/// Whether this process now holds a lock, or would if the file system had locks. Some, such as network mounts and
/// sandboxes, have none: a scratch directory still has a unique name there, but what was left behind is not removed.
fn is_locked(file: &File, parent: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if has_no_locks(&error) => {
            tracing::debug!(%error, folder = %parent.display(), "this file system has no locks");
            Ok(true)
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether an error means that the file system has no locks.
pub(crate) fn has_no_locks(error: &io::Error) -> bool {
    #[cfg(unix)]
    let known = matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL)
    );
    #[cfg(not(unix))]
    let known = false;
    known || error.kind() == io::ErrorKind::Unsupported
}

/// A unique name for a directory. The directory is removed on drop or, if this process is killed, by the next one that
/// reserves a name there.
pub(crate) struct ScratchDir {
    path: PathBuf,
    lock: PathBuf,
    /// Locked while this process lives.
    _file: File,
}

impl ScratchDir {
    /// Reserves `parent/PREFIX...` without creating the directory. Blocks.
    ///
    /// # Errors
    /// Why nothing can be written or locked in `parent`.
    pub(crate) fn reserve(parent: &Path, prefix: &str) -> io::Result<Self> {
        remove_abandoned(parent, prefix);
        loop {
            let file = tempfile::Builder::new().prefix(prefix).suffix(".lock").tempfile_in(parent)?;
            let (file, lock) = file.keep().map_err(|error| error.error)?;
            // A process that removes abandoned ones may have been faster.
            if is_locked(&file, parent)? && lock.is_file() {
                return Ok(Self { path: lock.with_extension(""), lock, _file: file });
            }
        }
    }

    /// As [`ScratchDir::reserve`], for a directory that only this user can enter. Where the file system has no
    /// permissions, as on media formatted for other systems, it is in the system's directory for temporary files instead.
    /// Blocks.
    ///
    /// # Errors
    /// Why nothing can be written or locked there.
    pub(crate) fn reserve_private(parent: &Path, prefix: &str) -> io::Result<Self> {
        if can_be_private(parent)? {
            return Self::reserve(parent, prefix);
        }
        let elsewhere = std::env::temp_dir();
        tracing::warn!(
            "the file system of {} has no permissions; private copies of plugins are written to {} instead",
            parent.display(),
            elsewhere.display()
        );
        Self::reserve(&elsewhere, &format!("cbus-{prefix}"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        let _ = std::fs::remove_file(&self.lock);
    }
}

/// Whether permissions work in this directory.
fn can_be_private(parent: &Path) -> io::Result<bool> {
    let tried = tempfile::Builder::new().prefix(".private-").tempdir_in(parent)?;
    let inside = tried.path().join("inside");
    create_private_dir(&inside)?;
    Ok(!is_open_to_others(&std::fs::metadata(&inside)?))
}

fn remove_abandoned(parent: &Path, prefix: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(prefix) || !name.ends_with(".lock") {
            continue;
        }
        let path = entry.path();
        let Ok(file) = File::options().write(true).open(&path) else { continue };
        // Where there are no locks it may be in use.
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
        let used = ScratchDir::reserve(parent.path(), "loaded-").expect("a folder");
        std::fs::create_dir(used.path()).expect("a folder");
        // As it is left by a process that was killed: the lock file is there, and nobody holds it.
        let (left, other) = (parent.path().join("loaded-left"), parent.path().join("other"));
        std::fs::write(left.with_extension("lock"), "").expect("writing");
        std::fs::create_dir(&left).expect("a folder");
        std::fs::write(left.join("copy"), "bytes").expect("writing");
        std::fs::create_dir(&other).expect("a folder");

        let next = ScratchDir::reserve(parent.path(), "loaded-").expect("another folder");
        assert_ne!(next.path(), used.path());
        assert!(used.path().is_dir() && other.is_dir());
        assert!(!left.exists() && !left.with_extension("lock").exists());
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists() && !path.with_extension("lock").exists());
    }

    /// The file system is the whole process's, so this test runs again as a process of its own in which locking fails.
    #[cfg(target_os = "linux")]
    #[test]
    fn where_there_are_no_locks_a_folder_is_ones_own_all_the_same() {
        const CHILD: &str = "CONTROLLERBUS_TEST_NO_LOCKS";
        let parent = tempfile::tempdir().expect("a folder");
        if std::env::var_os(CHILD).is_some() {
            let file = File::create(parent.path().join("file")).expect("a file");
            assert!(matches!(file.try_lock(), Err(TryLockError::Error(_))), "locking fails");
            let one = ScratchDir::reserve(parent.path(), "loaded-").expect("a folder");
            let other = ScratchDir::reserve(parent.path(), "loaded-").expect("another folder");
            std::fs::create_dir(other.path()).expect("a folder");
            assert_ne!(one.path(), other.path());
            drop(one);
            // Nobody can say that it is not in use.
            let third = ScratchDir::reserve(parent.path(), "loaded-").expect("another folder");
            assert!(other.path().is_dir() && third.path() != other.path());
            return;
        }
        let text = format!(
            "#include <errno.h>\n#include <stdlib.h>\nint flock(int file, int how) {{ errno = atoi(getenv(\"{CHILD}\")); return -1; }}\n"
        );
        for error in [libc::ENOSYS, libc::ENOLCK, libc::EOPNOTSUPP] {
            run_again_with(&text, CHILD, &error.to_string());
        }
    }

    /// The same for a file system on which every file is everybody's.
    #[cfg(target_os = "linux")]
    #[test]
    fn where_there_are_no_permissions_private_copies_are_elsewhere() {
        const CHILD: &str = "CONTROLLERBUS_TEST_NO_PERMISSIONS";
        if let Some(mounted) = std::env::var_os(CHILD) {
            let mounted = Path::new(&mounted);
            assert!(is_open_to_others(&std::fs::metadata(mounted).expect("the folder")));
            let one = ScratchDir::reserve_private(mounted, "loaded-").expect("a folder");
            assert!(!one.path().starts_with(mounted), "{}", one.path().display());
            create_private_dir(one.path()).expect("a folder");
            assert!(!is_open_to_others(&std::fs::metadata(one.path()).expect("the folder")));
            return;
        }
        let parent = tempfile::tempdir().expect("a folder");
        let mounted = parent.path().join("mounted");
        std::fs::create_dir(&mounted).expect("a folder");
        let here = ScratchDir::reserve_private(&mounted, "loaded-").expect("a folder");
        assert!(here.path().starts_with(&mounted));
        let text = format!(
            "#define _GNU_SOURCE\n#include <stdlib.h>\n#include <string.h>\n#include <sys/stat.h>\n#include <sys/syscall.h>\n\
             #include <unistd.h>\nint statx(int at, const char *path, int flags, unsigned mask, struct statx *found) {{\n\
             const char *mounted = getenv(\"{CHILD}\");\nint failed = syscall(SYS_statx, at, path, flags, mask, found);\n\
             if (!failed && path && strncmp(path, mounted, strlen(mounted)) == 0) found->stx_mode |= 0777;\n\
             return failed;\n}}\n"
        );
        run_again_with(&text, CHILD, &mounted.to_string_lossy());
    }

    /// Runs the calling test again as a process of its own, with a variable, and with a C source's functions in place of the
    /// system's.
    #[cfg(target_os = "linux")]
    fn run_again_with(text: &str, variable: &str, value: &str) {
        use std::process::Command;
        let folder = tempfile::tempdir().expect("a folder");
        let (source, library) = (folder.path().join("instead.c"), folder.path().join("instead.so"));
        std::fs::write(&source, text).expect("writing");
        let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().expect("cc");
        assert!(made.success());
        let mut child = Command::new(std::env::current_exe().expect("this executable"));
        child.args(["--exact", std::thread::current().name().unwrap_or_default()]);
        let output = child.env(variable, value).env("LD_PRELOAD", &library).output().expect("the child");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}
