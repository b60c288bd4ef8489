//! The state of a file, as the system reports it without reading it, and the hash of its content.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::sys::files::{identity, inode_changed};

/// A file that changed this recently before it was read may change again without a new time.
const RACY: Duration = Duration::from_millis(100);

/// The same for times in whole seconds: some file systems count in steps of two.
const RACY_IN_SECONDS: Duration = Duration::from_millis(2100);

/// Larger files in a directory that a build script reads as a whole count by their stamp, as they do for cargo.
const LARGE: u64 = 16 << 20;

/// The state of a file, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: SystemTime,
    size: u64,
    /// These differ for a file that was restored with an old time.
    identity: (u64, u64),
    inode_changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a file, following links; `None` if it does not exist or is not a file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        Self::read(&std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?)
    }

    /// The stamp of a file or a directory.
    pub(crate) fn of_any(path: &Path) -> Option<Self> {
        Self::read(&std::fs::metadata(path).ok()?)
    }

    fn read(found: &std::fs::Metadata) -> Option<Self> {
        let (identity, inode_changed) = (identity(found), inode_changed(found));
        Some(Self { modified: found.modified().ok()?, size: found.len(), identity, inode_changed })
    }

    /// Its time of modification, which can be set to anything.
    pub(crate) fn modified(&self) -> SystemTime {
        self.modified
    }

    /// How long after its last change another one may not change its time.
    fn racy(&self) -> Duration {
        let newest = self.newest().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if newest.subsec_nanos() == 0 { RACY_IN_SECONDS } else { RACY }
    }

    /// The time of its last change, even if its time of modification was set to an earlier one.
    pub(crate) fn newest(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.inode_changed;
        let changed = Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0));
        self.modified.max(SystemTime::UNIX_EPOCH + changed)
    }
}

/// The hash of a file's content; `None` if it cannot be read.
pub(crate) type Content = Option<blake3::Hash>;

#[derive(Clone, Debug)]
struct Known {
    stamp: Stamp,
    content: Content,
    read_at: SystemTime,
}

impl Known {
    /// Whether a file with this stamp still has this content.
    fn holds(&self, stamp: &Stamp) -> bool {
        // Within that time it may have changed without a different stamp.
        self.stamp == *stamp && self.read_at.duration_since(stamp.newest()).is_ok_and(|age| age > stamp.racy())
    }
}

/// The known contents of files, so that only those that may have changed are read again.
#[derive(Debug, Default)]
pub(crate) struct Contents(HashMap<PathBuf, Known>);

impl Contents {
    /// The current content of a file. `large` is whether large files are read as well.
    pub(crate) fn of(&mut self, path: &Path, large: bool) -> (Option<Stamp>, Content) {
        let Some(stamp) = Stamp::of(path) else {
            self.0.remove(path);
            return (None, None);
        };
        if let Some(known) = self.0.get(path).filter(|known| known.holds(&stamp)) {
            return (Some(stamp), known.content);
        }
        let read_at = SystemTime::now();
        let content = if large || stamp.size <= LARGE {
            let mut hasher = blake3::Hasher::new();
            let read = File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
            // The compiler reports what cannot be read.
            read.ok().map(|()| hasher.finalize())
        } else {
            Some(blake3::hash(format!("{:?} {}", stamp.modified, stamp.size).as_bytes()))
        };
        self.0.insert(path.to_owned(), Known { stamp, content, read_at });
        (Some(stamp), content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_old_file_is_other_content_and_a_touched_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, other) = (folder.path().join("lib.rs"), folder.path().join("other.rs"));
        std::fs::write(&file, "one").expect("writing");
        std::fs::write(&other, "same").expect("writing");
        let old = std::fs::metadata(&file).and_then(|found| found.modified()).expect("a time");
        let mut contents = Contents::default();
        let mut read = |path: &Path| contents.of(path, true).1.expect("a file");
        let before = (read(&file), read(&other));
        // As a restore does it: other content of the same length, with an old time.
        std::fs::write(&file, "two").expect("writing");
        std::fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(old)).expect("an old time");
        std::fs::write(&other, "same").expect("touching");
        assert_ne!(read(&file), before.0);
        assert_eq!(read(&other), before.1);
        assert_eq!(contents.of(&folder.path().join("none"), true), (None, None));
    }

    #[test]
    fn what_was_read_soon_after_a_change_is_read_again_and_later_where_times_are_whole_seconds() {
        let second = Duration::from_secs(1_800_000_000);
        let stamp = |time: Duration| Stamp {
            modified: SystemTime::UNIX_EPOCH + time,
            size: 3,
            identity: (1, 2),
            inode_changed: (time.as_secs() as i64, time.subsec_nanos().into()),
        };
        let holds = |changed: Duration, read_after_ms: u64| {
            let read_at = SystemTime::UNIX_EPOCH + changed + Duration::from_millis(read_after_ms);
            Known { stamp: stamp(changed), content: None, read_at }.holds(&stamp(changed))
        };
        let exact = second + Duration::from_nanos(123_456_789);
        assert_eq!((holds(exact, 50), holds(exact, 150)), (false, true));
        assert_eq!((holds(second, 150), holds(second, 1999), holds(second, 2200)), (false, false, true));
        // A clock that was set back, and a file from the future.
        assert!(!Known { stamp: stamp(second), content: None, read_at: SystemTime::UNIX_EPOCH }.holds(&stamp(second)));
    }
}
