//! Copies of the two controller crates, for the demo to edit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use controllerbus::{Error, Result};

/// The crates that the demo bundles into one plugin.
pub const CRATES: [&str; 2] = ["boilerplate", "greeter"];

/// A folder of the demo's own with copies of the crates. Another demo that uses it is waited for.
pub struct Scratch {
    folder: PathBuf,
    target: PathBuf,
    _turn: File,
}

impl Scratch {
    /// Copies the crates anew.
    pub fn new() -> Result<Self> {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let root = examples.join("..").canonicalize()?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let folder = std::path::absolute(target.join("hot-demo"))?;
        let crates = folder.join("crates");
        fs::create_dir_all(&folder)?;
        let turn = File::create(folder.join("lock"))?;
        turn.lock()?;
        if crates.exists() {
            fs::remove_dir_all(&crates)?;
        }
        for name in CRATES {
            let (from, to) = (examples.join(name), crates.join(name));
            fs::create_dir_all(to.join("src"))?;
            fs::copy(from.join("src/lib.rs"), to.join("src/lib.rs"))?;
            let manifest = fs::read_to_string(from.join("Cargo.toml"))?;
            let controllerbus = format!("{:?}", root.join("controllerbus"));
            fs::write(to.join("Cargo.toml"), manifest.replace("\"../../controllerbus\"", &controllerbus))?;
        }
        fs::write(crates.join("Cargo.toml"), format!("[workspace]\nresolver = \"3\"\nmembers = {CRATES:?}\n"))?;
        fs::copy(root.join("Cargo.lock"), crates.join("Cargo.lock"))?;
        let target = std::path::absolute(target.join("plugins"))?;
        Ok(Self { folder, target, _turn: turn })
    }

    /// Where the runtime works.
    pub fn work_dir(&self) -> &Path {
        &self.folder
    }

    /// Where plugins are built: in one folder with those of this workspace's tests, which have the same dependencies.
    pub fn target_dir(&self) -> &Path {
        &self.target
    }

    /// The copy of a crate.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join("crates").join(name)
    }

    /// Replaces a text in a crate's source and saves it as an editor would.
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
