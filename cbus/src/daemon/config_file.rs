//! The config file of a daemon: read, applied, followed, and applied again on each change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use controllerbus::bus::ConfigOwner;
use controllerbus::{Bus, ConfigSet};
use hot_runtime::watch::{Watched, Watcher};
use miette::Result;

use crate::report::{explain_bus, io};

/// A save is several file events in a row: how long no further one must come.
const QUIET: Duration = Duration::from_millis(20);

/// How long to wait for quiet at most.
const SETTLED: Duration = Duration::from_millis(500);

/// A config set in a file, YAML or JSON.
#[derive(Clone)]
pub struct ConfigFile {
    path: PathBuf,
    /// The keys that came from the file.
    keys: BTreeSet<String>,
    /// The file as one who applies configs: what it loses goes, whoever else applied it, and a lower revision counts.
    owner: Option<Arc<ConfigOwner>>,
    /// What was read last.
    text: Option<String>,
}

impl ConfigFile {
    /// A file that has not been read yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), keys: BTreeSet::new(), owner: None, text: None }
    }

    /// Reads the file.
    pub fn read(&mut self) -> Result<ConfigSet> {
        let text = std::fs::read_to_string(&self.path).map_err(io("reading the config", &self.path))?;
        parse(self.text.insert(text), &self.path.to_string_lossy())
    }

    /// Applies a set in place of the last one of this file.
    pub async fn apply(&mut self, bus: &Bus, set: ConfigSet) -> Result<()> {
        self.keys = set.iter().map(|(key, _)| key.to_owned()).collect();
        let owner = self.owner.get_or_insert_with(|| Arc::new(bus.config_owner()));
        owner.apply(set).await.map(drop).map_err(|error| explain_bus(&error, None))
    }

    /// Tells what keeps configs of the file from running. What waits for a plugin that is being built is no problem yet,
    /// so this is for when the plugins are there.
    pub fn tell_problems(&self, bus: &Bus) {
        for state in bus.configs().iter().filter(|state| self.keys.contains(&state.key)) {
            if let Some(problem) = &state.problem {
                tracing::warn!(target: "cbus", "{}: {problem}", state.key);
            }
        }
    }

    /// Follows the file for as long as this is polled, through links, from what was read last.
    pub async fn follow(mut self, bus: Bus, watcher: &Watcher) {
        let mut following = watcher.follow();
        following.set([Watched::File(self.path.clone())]);
        loop {
            following.changed().await;
            following.settle(QUIET, SETTLED).await;
            let text = std::fs::read_to_string(&self.path).ok();
            // One that is away is being replaced, or comes back.
            if text.is_none() || text == self.text {
                continue;
            }
            let file = self.path.display().to_string();
            match self.read() {
                Ok(set) => match self.apply(&bus, set).await {
                    Ok(()) => {
                        tracing::info!(target: "cbus", "{file} applied again");
                        self.tell_problems(&bus);
                    }
                    Err(error) => tracing::error!(target: "cbus", "{file}: {error}"),
                },
                Err(error) => {
                    tracing::error!(target: "cbus", "what runs goes on without the change of {file}:\n{error:?}");
                }
            }
        }
    }
}

/// Reads a config set, with the place in the text where it is wrong.
pub fn parse(text: &str, name: &str) -> Result<ConfigSet> {
    ConfigSet::parse(name, text).map_err(|error| explain_bus(&error, Some(text)))
}
