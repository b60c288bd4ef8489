//! The config file of a daemon, or its config files: read, applied, and reapplied on every change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use controllerbus::bus::ConfigOwner;
use controllerbus::{Bus, ConfigSet};
use hot_runtime::watch::{Watched, Watcher};
use miette::Result;

use crate::report::{explain_bus, io, report};

/// A save causes several file events in a row: how long there must be no further one.
const QUIET: Duration = Duration::from_millis(20);

/// How long to wait for quiet at most.
const SETTLED: Duration = Duration::from_millis(500);

/// A config set in a file, YAML or JSON, or in several files that have different keys.
#[derive(Clone)]
pub struct ConfigFile {
    paths: Vec<PathBuf>,
    /// The keys that came from the files.
    keys: BTreeSet<String>,
    /// The files as an owner of configs: keys that they lose are removed even if others applied them too, and their revisions
    /// can go back.
    owner: Option<Arc<ConfigOwner>>,
    /// The texts that were last read.
    texts: Vec<String>,
}

impl ConfigFile {
    /// A file that has not been read yet.
    pub fn new(path: &Path) -> Self {
        Self::of(vec![path.to_owned()])
    }

    /// Several files, which have not been read yet.
    pub fn of(paths: Vec<PathBuf>) -> Self {
        Self { paths, keys: BTreeSet::new(), owner: None, texts: Vec::new() }
    }

    /// Reads the files. A key that two of them have is an error.
    pub fn read(&mut self) -> Result<ConfigSet> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(io("reading the config", path));
        self.texts = self.paths.iter().map(read).collect::<Result<_>>()?;
        let (mut all, mut of) = (ConfigSet::new(), BTreeMap::new());
        for (path, text) in self.paths.iter().zip(&self.texts) {
            let set = parse(text, &path.to_string_lossy())?;
            for (key, _) in set.iter() {
                if let Some(other) = of.insert(key.to_owned(), path) {
                    return Err(report(
                        format!("both {} and {} have the key `{key}`", other.display(), path.display()),
                        "rename one of them",
                    ));
                }
            }
            all.merge(set);
        }
        Ok(all)
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
        following.set(self.paths.iter().cloned().map(Watched::File));
        loop {
            following.changed().await;
            following.settle(QUIET, SETTLED).await;
            let texts: Option<Vec<String>> = self.paths.iter().map(|path| std::fs::read_to_string(path).ok()).collect();
            // A missing file is being replaced, or will come back.
            let Some(texts) = texts.filter(|texts| *texts != self.texts) else { continue };
            let changed = self.paths.iter().enumerate().filter(|(at, _)| self.texts.get(*at) != texts.get(*at));
            let files = changed.map(|(_, path)| path.display().to_string()).collect::<Vec<_>>().join(", ");
            match self.read() {
                Ok(set) => match self.apply(&bus, set).await {
                    Ok(()) => {
                        let verb = if files.contains(", ") { "were" } else { "was" };
                        tracing::info!(target: "cbus", "{files} {verb} reapplied");
                        self.tell_problems(&bus);
                    }
                    Err(error) => tracing::error!(target: "cbus", "{files}: {error}"),
                },
                Err(error) => {
                    tracing::error!(target: "cbus", "{files} has errors; the running configuration is unchanged:\n{error:?}");
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

    #[tokio::test]
    async fn crates_bring_their_configs_together_and_a_key_that_two_have_is_an_error_that_names_both() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a.yaml"), "one: { id: not/here }\n").expect("writing");
        std::fs::write(path("b.yaml"), "two: { id: not/here }\n").expect("writing");
        let mut files = ConfigFile::of(vec![path("a.yaml"), path("b.yaml")]);
        let set = files.read().expect("a config set");
        assert_eq!(set.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["one", "two"]);
        let bus = Bus::new();
        files.apply(&bus, set).await.expect("applying");
        let watcher = Watcher::new();
        let following = tokio::spawn({
            let (bus, files) = (bus.clone(), files.clone());
            async move { files.follow(bus, &watcher).await }
        });
        std::fs::write(path("a.yaml"), "").expect("writing");
        has_only(&bus, "two").await;
        following.abort();
        std::fs::write(path("a.yaml"), "two: { id: not/here }\n").expect("writing");
        let error = format!("{:?}", files.read().expect_err("one key in two files"));
        assert!(error.contains("a.yaml") && error.contains("b.yaml") && error.contains("`two`"), "{error}");
        bus.close().await;
    }
}
