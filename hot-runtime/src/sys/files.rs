//! Files: their identity, their permissions, and how one replaces another.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

/// Which file or directory this is, whatever its name: device and inode. Zeros where the system has neither.
pub(crate) fn identity(found: &Metadata) -> (u64, u64) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (found.dev(), found.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        (0, 0)
    }
}

/// When the inode was changed last, in seconds and nanoseconds: unlike the time of modification nobody can set it.
/// Zeros where there is no such time.
pub(crate) fn inode_changed(found: &Metadata) -> (i64, i64) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (found.ctime(), found.ctime_nsec())
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        (0, 0)
    }
}

/// Opens a file for reading without blocking, even if it is a pipe or a device.
pub(crate) fn open_nonblocking(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_CLOEXEC);
    options.open(path)
}

/// Creates a new file for writing that only its owner can read, where the system knows owners.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Creates a directory, with its parents, that only its owner can enter, where the system knows owners. One that is there
/// stays as it is.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Whether others than its owner can read a file or enter a directory.
pub(crate) fn is_open_to_others(found: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        found.mode() & 0o077 != 0
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        false
    }
}

/// Whether a file has no other name; false where the system does not say.
pub(crate) fn has_one_name(found: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        found.nlink() == 1
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        false
    }
}

/// Whether a file belongs to this user.
pub(crate) fn is_own(found: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        found.uid() == rustix::process::geteuid().as_raw()
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        true
    }
}

/// Makes a file that was created for its owner only readable, but not executable, for everyone.
pub(crate) fn make_readable(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let _ = file;
    Ok(())
}

/// Gives a file the name of another, which is removed. Readers of the name see the one or the other; if the power fails
/// soon after, the file may not be whole, which its hash shows.
pub(crate) fn replace(file: &Path, name: &Path) -> io::Result<()> {
    // Ext4 writes a file to the disk when it takes another's name, which takes longer than to hash and open it; not
    // when the two exchange names.
    #[cfg(target_os = "linux")]
    if std::fs::symlink_metadata(name).is_ok_and(|found| !found.is_dir()) {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, file, CWD, name, RenameFlags::EXCHANGE).is_ok() {
            let _ = std::fs::remove_file(file);
            return Ok(());
        }
    }
    std::fs::rename(file, name)
}

/// Has the names in a directory written to the disk, where the system does that by itself later.
pub(crate) fn sync_dir(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    let _ = folder;
    Ok(())
}

/// Restores a string from `OsStr::as_encoded_bytes`; `None` where that is not possible.
pub(crate) fn os_string(bytes: &[u8]) -> Option<OsString> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        Some(OsString::from_vec(bytes.to_vec()))
    }
    #[cfg(not(unix))]
    {
        let _ = bytes;
        None
    }
}
