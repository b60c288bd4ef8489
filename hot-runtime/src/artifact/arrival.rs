//! Files that are copied to where only this user can write before anything looks at them: so their bytes are copied once, what is
//! checked is what is opened, and no memory has to be cleared for them.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempPath;

use super::io::STEP;
use super::private::create;
use crate::sys::view::View;
use crate::util::Pace;

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

    /// Fills the room, once, and passes each part to `look` while it is still in the processor's cache. Returns how many bytes there
    /// were.
    pub(super) fn copy_in_steps(&self, from: &File, mut look: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut pace = Pace::new();
        let mut length = 0;
        while length < self.view.len() {
            let room = (self.view.len() - length).min(STEP) as u64;
            // Within the system, where that can do it.
            let copied = io::copy(&mut from.take(room), &mut &self.file)? as usize;
            if copied == 0 {
                break;
            }
            look(&self.view[length..length + copied]);
            length += copied;
            pace.step();
        }
        Ok(length)
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
