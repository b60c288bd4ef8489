//! What is built first: `cbus` with its feature `fleet`, and versions of a plugin. The example of rollouts has this file, too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::Result;

/// The root of this workspace.
fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?)
}

/// The target directory of this workspace.
fn target() -> Result<PathBuf> {
    let named = std::env::var_os("CARGO_TARGET_DIR");
    let target = named.map_or_else(|| root().map(|root| root.join("target")), |target| Ok(target.into()))?;
    Ok(std::path::absolute(target)?)
}

/// Where builds of an example are kept. A lock makes examples take turns.
pub struct Kept {
    /// The plugin's sources, in the example's folder.
    source: PathBuf,
    /// What its crate is called there, and here.
    names: (String, &'static str),
    folder: PathBuf,
    _lock: File,
}

impl Kept {
    /// Those of the example in a folder below `examples`, whose plugin is called by a name.
    pub fn open(example: &str, plugin: &'static str) -> Result<Self> {
        let source = root()?.join("examples").join(example).join("greeter");
        let folder = target()?.join(format!("{example}-example"));
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        Ok(Self { source, names: (format!("{example}-greeter"), plugin), folder, _lock: lock })
    }

    /// The program: the one that CBUS names, or this repository's, built now. Cargo shows how far it is.
    pub async fn cbus(&self) -> Result<PathBuf> {
        if let Some(named) = std::env::var_os("CBUS").filter(|named| !named.is_empty()) {
            let path = std::path::absolute(&named)?;
            return if path.is_file() {
                Ok(path)
            } else {
                Err(format!("CBUS is {}, where there is no file", path.display()).into())
            };
        }
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "-p", "cbus", "--features", "fleet", "--message-format", "json-render-diagnostics"]);
        cargo.current_dir(root()?).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let built = cargo.spawn().map_err(|error| format!("cannot run cargo: {error}"))?.wait_with_output().await?;
        if !built.status.success() {
            return Err("cargo could not build cbus; what it said is above".into());
        }
        let messages = String::from_utf8_lossy(&built.stdout);
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let made = |message: serde_json::Value| {
            (message["target"]["name"] == "cbus").then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
        };
        let built = messages.filter_map(made).next_back().ok_or("cargo has built cbus, and does not say where")?;
        // Another build may put another one there.
        let own = self.folder.join("cbus");
        let part = self.folder.join("cbus.part");
        fs::copy(built, &part)?;
        fs::rename(&part, &own)?;
        Ok(own)
    }

    /// A version of the plugin, which greets with this word.
    pub async fn plugin(&self, cbus: &Path, version: &str, greeting: &str) -> Result<PathBuf> {
        let (root, (there, here)) = (root()?, &self.names);
        let source = self.folder.join("crates").join(here);
        fs::create_dir_all(source.join("src"))?;
        let manifest = fs::read_to_string(self.source.join("Cargo.toml"))?;
        let own = format!("{:?}", root.join("controllerbus"));
        let manifest = manifest.replace("\"../../../controllerbus\"", &own) + "\n[workspace]\n";
        fs::write(source.join("Cargo.toml"), manifest.replace(&format!("{there:?}"), &format!("{here:?}")))?;
        fs::copy(root.join("Cargo.lock"), source.join("Cargo.lock"))?;
        let code = fs::read_to_string(self.source.join("src/lib.rs"))?;
        fs::write(source.join("src/lib.rs"), code.replace("\"Hello\"", &format!("{greeting:?}")))?;
        let file = self.folder.join(format!("{here}-{version}.cbus.so"));
        let mut command = Command::new(cbus);
        command.arg("build").arg(&source).arg("-o").arg(&file).args(["--plugin-version", version, "--quiet"]);
        // The dependencies are those of the other examples and tests.
        command.env("CBUS_WORK_DIR", self.folder.join("work")).env("CBUS_TARGET_DIR", target()?.join("plugins"));
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        if command.status().await?.success() {
            Ok(file)
        } else {
            Err("the plugin could not be built; what was said is above".into())
        }
    }
}
