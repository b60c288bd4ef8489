//! The config file of a daemon: read, applied, and reapplied on every change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use controllerbus::bus::ConfigOwner;
use controllerbus::{Bus, ConfigSet};
use hot_runtime::watch::{Watched, Watcher};
use miette::Result;

use crate::report::{explain_bus, io};

/// A save causes several file events in a row: how long there must be no further one.
const QUIET: Duration = Duration::from_millis(20);

/// How long to wait for quiet at most.
const SETTLED: Duration = Duration::from_millis(500);

/// A config set in a file, YAML or JSON.
#[derive(Clone)]
pub struct ConfigFile {
    path: PathBuf,
    /// The keys that came from the file.
    keys: BTreeSet<String>,
    /// The file as an owner of configs: keys that it loses are removed even if others applied them too, and its revisions
    /// can go back.
    owner: Option<Arc<ConfigOwner>>,
    /// The text that was last read.
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

    /// Applies a set in place of the file's previous one.
    pub async fn apply(&mut self, bus: &Bus, set: ConfigSet) -> Result<()> {
        self.keys = set.iter().map(|(key, _)| key.to_owned()).collect();
        let owner = self.owner.get_or_insert_with(|| Arc::new(bus.config_owner()));
        owner.apply(set).await.map(drop).map_err(|error| explain_bus(&error, None))
    }

    /// Logs why configs of the file are not running. Waiting for a plugin that is still being built is not a problem, so
    /// this is for when the plugins are there.
    pub fn tell_problems(&self, bus: &Bus) {
        for state in bus.configs().iter().filter(|state| self.keys.contains(&state.key)) {
            if let Some(problem) = &state.problem {
                tracing::warn!(target: "cbus", "{}: {problem}", state.key);
            }
        }
    }

    /// Follows the file, through links, for as long as this is polled; what was last read is not applied again.
    pub async fn follow(mut self, bus: Bus, watcher: &Watcher) {
        let mut following = watcher.follow();
        following.set([Watched::File(self.path.clone())]);
        loop {
            following.changed().await;
            following.settle(QUIET, SETTLED).await;
            let text = std::fs::read_to_string(&self.path).ok();
            // A missing file is being replaced, or will come back.
            if text.is_none() || text == self.text {
                continue;
            }
            let file = self.path.display().to_string();
            match self.read() {
                Ok(set) => match self.apply(&bus, set).await {
                    Ok(()) => {
                        tracing::info!(target: "cbus", "{file} was reapplied");
                        self.tell_problems(&bus);
                    }
                    Err(error) => tracing::error!(target: "cbus", "{file}: {error}"),
                },
                Err(error) => {
                    tracing::error!(target: "cbus", "{file} has errors; the running configuration is unchanged:\n{error:?}");
                }
            }
        }
    }
}

/// Parses a config set; errors have their location in the text.
pub fn parse(text: &str, name: &str) -> Result<ConfigSet> {
    ConfigSet::parse(name, text).map_err(|error| explain_bus(&error, Some(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until the bus has exactly the config with this key.
    async fn has_only(bus: &Bus, key: &str) {
        let has = async {
            while bus.configs().iter().map(|state| state.key.as_str()).ne([key]) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), has)
            .await
            .unwrap_or_else(|_| panic!("{key}: {:?}", bus.configs()));
    }

    #[tokio::test]
    async fn an_edit_between_the_first_reading_and_the_following_is_applied_through_links_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = |name: &str| {
            let path = folder.path().join(format!("{name}.yaml"));
            std::fs::write(&path, format!("{name}: {{ id: not/here }}\n")).expect("writing");
            path
        };
        let link = folder.path().join("config.yaml");
        let point_to = |path: &Path| {
            let new = folder.path().join("new");
            std::os::unix::fs::symlink(path, &new).and_then(|()| std::fs::rename(&new, &link)).expect("a link");
        };
        point_to(&config("one"));
        let bus = Bus::new();
        let mut file = ConfigFile::new(&link);
        let set = file.read().expect("a config set");
        file.apply(&bus, set).await.expect("applying");
        has_only(&bus, "one").await;
        // Plugins are built meanwhile, which can take minutes.
        point_to(&config("two"));
        let watcher = Watcher::new();
        let following = tokio::spawn({
            let bus = bus.clone();
            async move { file.follow(bus, &watcher).await }
        });
        has_only(&bus, "two").await;
        point_to(&config("three"));
        has_only(&bus, "three").await;
        following.abort();
        bus.close().await;
    }
}
