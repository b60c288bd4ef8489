//! Private copies: the verified bytes where only this user can write, under a name that was never used before.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::io::write_in_steps;
use super::{Verified, needed};
use crate::error::{Error, Result};
use crate::sys::files::{create_private_dir, is_open_to_others, is_own};
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
}

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
}

impl Verified {
    /// Writes the verified bytes to a new file in a folder that only this user can enter.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written, [`Error::Artifact`] when the folder is not safe.
    pub fn write_private(&self, dir: &Path) -> Result<PrivateCopy> {
        static SEQUENCE: AtomicU64 = AtomicU64::new(0);
        private_folder(dir)?;
        // As `/proc/self/maps` will name it.
        let dir = dir.canonicalize().map_err(Error::io("finding the directory for private copies", dir))?;
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "{}-{}-{sequence}{}",
            slug(&self.bundle.id),
            slug(&self.bundle.build_hash),
            std::env::consts::DLL_SUFFIX
        );
        let path = dir.join(name);
        // Never an existing path: for one that it knows, the loader would return the old library.
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io("creating the private copy of a plugin", &path))?;
        if let Err(error) = write_in_steps(&mut file, self.library()) {
            let _ = std::fs::remove_file(&path);
            return Err(Error::io("writing the private copy of a plugin (is the disk full?)", &path)(error));
        }
        let (shown, entry, hash) = (self.path.clone(), self.bundle.entry.clone(), self.hash.clone());
        Ok(PrivateCopy { path, shown, entry, hash, needed: needed(self.library()) })
    }
}

fn private_folder(dir: &Path) -> Result<()> {
    let refuse = |reason: &str| Error::Artifact {
        path: dir.to_owned(),
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
    Ok(())
}
