//! A copy of the controller's crate, for the demo to edit.

use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};

/// The version in the original crate.
const FIRST: &str = "version-0000001";

/// The controller crate's path to `controllerbus`.
const CONTROLLERBUS: &str = "\"../../../controllerbus\"";

/// A copy of the controller's crate, in a temporary directory that is removed with it.
pub struct Site {
    folder: tempfile::TempDir,
    source: String,
    /// Where the plugin is built: the directory of this workspace's tests, because some dependencies are the same.
    pub target_dir: PathBuf,
}

impl Site {
    /// Copies the crate.
    ///
    /// # Errors
    /// Fails if a file cannot be read or written.
    pub fn copy() -> Result<Self> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = own.join("../..").canonicalize()?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let folder = tempfile::tempdir()?;
        let (from, to) = (own.join("site"), folder.path().join("site"));
        fs::create_dir_all(to.join("src"))?;
        for file in ["Cargo.lock", "src/lib.rs", "src/serve.rs"] {
            fs::copy(from.join(file), to.join(file))?;
        }
        let manifest = fs::read_to_string(from.join("Cargo.toml"))?;
        let controllerbus = format!("{:?}", root.join("controllerbus"));
        fs::write(to.join("Cargo.toml"), manifest.replace(CONTROLLERBUS, &controllerbus))?;
        let source = fs::read_to_string(to.join("src/lib.rs"))?;
        Ok(Self { folder, source, target_dir: std::path::absolute(target.join("plugins"))? })
    }

    /// The path of the copy.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("site")
    }

    /// The name of a version.
    pub fn version(number: u64) -> String {
        format!("version-{number:07}")
    }

    /// Edits the copy to be this version.
    ///
    /// # Errors
    /// Fails if a file cannot be read or written.
    pub fn edit(&self, number: u64) -> Result<()> {
        fs::write(self.path().join("src/lib.rs"), self.source.replace(FIRST, &Self::version(number)))
    }
}
