//! The plugins: copies of one library, each with its own id and version in place of those it was built with.

use std::path::{Path, PathBuf};

use controllerbus::{Bus, Error, Result};
use hot_runtime::artifact::{Checks, seal};
use hot_runtime::{HotRuntime, PluginSpec, Trust};

use crate::scratch::Scratch;

/// How many plugins there are.
pub const PLUGINS: usize = 20;

/// How many of these, from the first on, are files in a plugins directory.
pub const FILES: usize = 4;

/// How many, at the end, run in their own processes.
pub const ISOLATED: usize = 8;

/// The name of threads that never exit.
pub const FOR_GOOD: &str = "for-good";

/// How many versions there are of each plugin.
const VERSIONS: usize = 2;

/// The artifacts of all plugins.
pub struct Plugins {
    /// The artifact of the healthy plugin.
    pub greeter: PathBuf,
    made: PathBuf,
    watched: PathBuf,
}

/// A plugin's id, which is also its config id.
pub fn id(plugin: usize) -> String {
    format!("trouble-{plugin:02}")
}

impl Plugins {
    /// Builds one plugin, and makes the others from it.
    pub async fn build(scratch: &Scratch) -> Result<Self> {
        let bus = Bus::new();
        let work = scratch.work_dir().join("chaos");
        let mut builder = HotRuntime::builder(&bus).work_dir(&work).target_dir(scratch.target_dir());
        for (id, name) in [("healthy".to_owned(), "greeter"), (id(0), "trouble")] {
            builder = builder.plugin(PluginSpec::new(id).crate_path(scratch.path(name)).watch(false));
        }
        let runtime = builder.start().await.map_err(|error| Error::msg(error.to_string()))?;
        let built = |id: &str| {
            let served = runtime.generations().into_iter().find(|found| found.plugin == id);
            served.map(|_| work.join("artifacts").join(format!("{id}.cbus{}", std::env::consts::DLL_SUFFIX)))
        };
        let (Some(greeter), Some(trouble)) = (built("healthy"), built(&id(0))) else {
            return Err(Error::msg("the plugins could not be built"));
        };
        runtime.shutdown().await;
        let plugins = Self { greeter, made: work.join("made"), watched: work.join("watched") };
        for folder in [&plugins.made, &plugins.watched] {
            if folder.exists() {
                std::fs::remove_dir_all(folder)?;
            }
            std::fs::create_dir_all(folder)?;
        }
        let checks = Checks::new(Trust::anyone());
        let library = checks.verify(&trouble).map_err(|error| Error::msg(error.to_string()))?.library().to_vec();
        for plugin in 0..PLUGINS {
            for version in 0..VERSIONS {
                plugins.write(&library, plugin, version)?;
            }
        }
        Ok(plugins)
    }

    fn write(&self, library: &[u8], plugin: usize, version: usize) -> Result<()> {
        let mut library = library.to_vec();
        overwrite(&mut library, &id(0), &id(plugin))?;
        overwrite(&mut library, "version-0000000", &format!("version-{version:07}"))?;
        let (out, body) = (self.artifact(plugin, version), self.made.join("body"));
        std::fs::write(&body, library)?;
        seal(&body, &out).map(drop).map_err(|error| Error::msg(error.to_string()))
    }

    /// The artifact of a version of a plugin.
    pub fn artifact(&self, plugin: usize, version: usize) -> PathBuf {
        let suffix = std::env::consts::DLL_SUFFIX;
        self.made.join(format!("{}-{}.cbus{suffix}", id(plugin), version % VERSIONS))
    }

    /// The plugins directory.
    pub fn folder(&self) -> &Path {
        &self.watched
    }

    /// Where a plugin's file is in the plugins directory.
    pub fn file(&self, plugin: usize) -> PathBuf {
        self.watched.join(format!("{}.cbus{}", id(plugin), std::env::consts::DLL_SUFFIX))
    }

    /// Puts a version of a plugin into the plugins directory.
    pub fn place(&self, plugin: usize, version: usize) -> Result<()> {
        let half = self.watched.join(format!("{}.half", id(plugin)));
        std::fs::copy(self.artifact(plugin, version), &half)?;
        Ok(std::fs::rename(half, self.file(plugin))?)
    }
}

/// Overwrites each occurrence of a string in a library with another of the same length.
fn overwrite(library: &mut [u8], text: &str, with: &str) -> Result<()> {
    let found: Vec<usize> = memchr::memmem::find_iter(library, text).collect();
    if found.is_empty() || text.len() != with.len() {
        return Err(Error::msg(format!("the library has no `{text}` to overwrite with `{with}`")));
    }
    for at in found {
        library[at..at + with.len()].copy_from_slice(with.as_bytes());
    }
    Ok(())
}
