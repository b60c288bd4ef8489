//! What is known of the file system on which a directory is.

use std::io;
use std::path::Path;

/// A file system.
pub(crate) struct Disk {
    /// Its kind, such as `ext4`, or its number where the kind is not known.
    pub(crate) kind: String,
    /// Whether others write to it too, without events on this machine.
    pub(crate) is_remote: bool,
    /// Whether it is in memory.
    pub(crate) is_memory: bool,
    /// Whether nothing on it can be executed, nor opened as a library.
    pub(crate) is_no_exec: bool,
    /// How many bytes are free for this user.
    pub(crate) free: u64,
}

/// The kinds of file systems by the numbers that Linux has for them; whether each is remote.
#[cfg(target_os = "linux")]
const KINDS: [(u32, &str, bool); 19] = [
    (0xEF53, "ext4", false),
    (0x0102_1994, "tmpfs", false),
    (0x8584_58F6, "ramfs", false),
    (0x794C_7630, "overlay", false),
    (0x9123_683E, "btrfs", false),
    (0x5846_5342, "xfs", false),
    (0x2FC1_2FC1, "zfs", false),
    (0xF2F5_2010, "f2fs", false),
    (0xCA45_1A4E, "bcachefs", false),
    (0x4D44, "vfat", false),
    (0x2011_BAB0, "exfat", false),
    (0xF15F, "ecryptfs", false),
    (0x6969, "NFS", true),
    (0x517B, "SMB", true),
    (0xFF53_4D42, "CIFS", true),
    (0xFE53_4D42, "SMB 2", true),
    (0x0102_1997, "9p", true),
    (0x786F_4256, "vboxsf", true),
    (0x6573_5546, "FUSE", true),
];

/// The file system of a directory that exists.
///
/// # Errors
/// The system's error, or that this system does not say.
#[cfg(target_os = "linux")]
pub(crate) fn of(folder: &Path) -> io::Result<Disk> {
    use rustix::fs::{StatVfsMountFlags, statfs, statvfs};
    let number = statfs(folder)?.f_type as u32;
    let found = statvfs(folder)?;
    let known = KINDS.iter().find(|(known, ..)| *known == number);
    let kind = known.map_or_else(|| format!("file system {number:#x}"), |(_, kind, _)| (*kind).to_owned());
    Ok(Disk {
        is_remote: known.is_some_and(|(.., remote)| *remote),
        is_memory: ["tmpfs", "ramfs"].contains(&kind.as_str()),
        kind,
        is_no_exec: found.f_flag.contains(StatVfsMountFlags::NOEXEC),
        free: found.f_bavail.saturating_mul(found.f_frsize),
    })
}

/// Elsewhere it is not asked.
#[cfg(not(target_os = "linux"))]
pub(crate) fn of(_: &Path) -> io::Result<Disk> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether a file can be moved from one directory into the other; `None` if that is not known.
pub(crate) fn is_same(one: &Path, other: &Path) -> Option<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let device = |path: &Path| std::fs::metadata(path).ok().map(|found| found.dev());
        Some(device(one)? == device(other)?)
    }
    #[cfg(not(unix))]
    {
        let _ = (one, other);
        None
    }
}

/// How many directories this user's processes may watch, and how many instances of watchers they may have; `None` where there is no
/// such limit.
pub(crate) fn watch_limits() -> Option<(u64, u64)> {
    let read = |name: &str| {
        let text = std::fs::read_to_string(Path::new("/proc/sys/fs/inotify").join(name)).ok()?;
        text.trim().parse().ok()
    };
    Some((read("max_user_watches")?, read("max_user_instances")?))
}

/// How many watches and instances this user's processes have, as far as this process may see it.
#[cfg(target_os = "linux")]
pub(crate) fn watches_in_use() -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid().as_raw();
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let (mut watches, mut instances) = (0, 0);
    for process in entries(Path::new("/proc")) {
        let is_process = process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        if !is_process || process.metadata().map_or(true, |found| found.uid() != own) {
            continue;
        }
        for file in entries(&process.path().join("fd")) {
            if std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == "anon_inode:inotify") {
                let about = process.path().join("fdinfo").join(file.file_name());
                let text = std::fs::read_to_string(about).unwrap_or_default();
                watches += text.lines().filter(|line| line.starts_with("inotify ")).count() as u64;
                instances += 1;
            }
        }
    }
    (watches, instances)
}

/// Nothing counts them here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn watches_in_use() -> (u64, u64) {
    (0, 0)
}
