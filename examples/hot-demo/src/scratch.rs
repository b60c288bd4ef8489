//! Copies of the two controller crates, for the demo to edit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use controllerbus::{Error, Result};

/// The demo's directory with copies of the crates. A lock makes demos take turns.
pub struct Scratch {
    folder: PathBuf,
    target: PathBuf,
    _lock: File,
}

/// The root of this workspace.
fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?)
}

/// The target directory of this workspace.
pub fn target() -> Result<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().map(|root| root.join("target")), |it| Ok(it.into()));
    Ok(std::path::absolute(target?)?)
}

impl Scratch {
    /// Makes fresh copies of these examples.
    pub fn new(names: &[&str]) -> Result<Self> {
        let (root, target) = (root()?, target()?);
        let (examples, folder) = (root.join("examples"), target.join("hot-demo"));
        let crates = folder.join("crates");
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        if crates.exists() {
            fs::remove_dir_all(&crates)?;
        }
        for name in names {
            let (from, to) = (examples.join(name), crates.join(name));
            fs::create_dir_all(to.join("src"))?;
            for file in fs::read_dir(from.join("src"))? {
                let file = file?;
                fs::copy(file.path(), to.join("src").join(file.file_name()))?;
            }
            let manifest = fs::read_to_string(from.join("Cargo.toml"))?;
            let controllerbus = format!("{:?}", root.join("controllerbus"));
            fs::write(to.join("Cargo.toml"), manifest.replace("\"../../controllerbus\"", &controllerbus))?;
        }
        fs::write(crates.join("Cargo.toml"), format!("[workspace]\nresolver = \"3\"\nmembers = {names:?}\n"))?;
        fs::copy(root.join("Cargo.lock"), crates.join("Cargo.lock"))?;
        Ok(Self { folder, target: target.join("plugins"), _lock: lock })
    }

    /// The work directory of the runtime.
    pub fn work_dir(&self) -> &Path {
        &self.folder
    }

    /// Where plugins are built: the directory that this workspace's tests use, because the dependencies are the same.
    pub fn target_dir(&self) -> &Path {
        &self.target
    }

    /// The path of a crate's copy.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join("crates").join(name)
    }

    /// Replaces a string in a crate's source and saves it the way an editor does.
    pub fn edit(&self, name: &str, from: &str, to: &str) -> Result<()> {
        let path = self.path(name).join("src/lib.rs");
        let source = fs::read_to_string(&path)?;
        if !source.contains(from) {
            return Err(Error::msg(format!("{} has no `{from}` to edit", path.display())));
        }
        let new = path.with_extension("rs~");
        fs::write(&new, source.replacen(from, to, 1))?;
        fs::rename(&new, &path)?;
        Ok(())
    }
}
