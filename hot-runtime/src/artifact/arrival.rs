//! Files that are copied to where only this user can write as they are hashed: so their bytes are copied once, what is checked is
//! what is opened, and no memory has to be cleared for them.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempPath;

use super::private::create;
use crate::sys::view::View;
use crate::util::Pace;

/// How many bytes are copied at a time: they are still in the processor's cache when they are written.
const PART: usize = 128 << 10;

/// A file in the directory for private copies that is not one yet. It is removed when this is dropped.
pub(super) struct Arrival {
    view: View,
    file: File,
    path: TempPath,
}

impl Arrival {
    /// Room for so many bytes in that directory; an error where files there cannot be mapped.
    pub(super) fn with_room(length: u64, dir: &Path) -> io::Result<Self> {
        static SEQUENCE: AtomicU64 = AtomicU64::new(0);
        let path = dir.join(format!("arriving-{}", SEQUENCE.fetch_add(1, Ordering::Relaxed)));
        let file = create(dir, &path)?;
        let path = TempPath::try_from_path(path)?;
        file.set_len(length)?;
        Ok(Self { view: View::of_own(&file)?, file, path })
    }

    /// Fills the room from its beginning, once, as far as there are bytes, and passes each part to `look` on its way. Returns how many
    /// there were.
    ///
    /// Not within the system: a file system that has two files share their blocks writes these to the disk for that, and reads them
    /// again.
    pub(super) fn copy_in_steps(&mut self, mut from: impl Read, mut look: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut part = vec![0; PART];
        let mut pace = Pace::new();
        let mut length = 0;
        loop {
            let room = (self.view.len() - length).min(PART);
            let read = match from.read(&mut part[..room]) {
                Ok(0) => return Ok(length),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            look(&part[..read]);
            self.file.write_all(&part[..read])?;
            length += read;
            pace.step();
        }
    }

    /// Writes over what is there.
    pub(super) fn write_at(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(at as u64))?;
        self.file.write_all(bytes)
    }

    /// Gives the first bytes a name that is not used yet, and forgets the rest.
    pub(super) fn name(self, length: u64, name: &Path) -> io::Result<()> {
        let Self { view, file, path } = self;
        drop(view);
        file.set_len(length)?;
        path.persist_noclobber(name).map_err(|error| error.error)
    }

    /// Where it is.
    pub(super) fn dir(&self) -> Option<&Path> {
        self.path.parent()
    }
}

impl Deref for Arrival {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.view
    }
}
