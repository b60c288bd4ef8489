//! Which directory or crate each plugin comes from, so that two of them do not keep replacing each other's, and so that one
//! that takes another's place takes over its plugins as they run.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Identifies whoever loads plugins: a followed directory, or a crate that is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Loader(u64);

/// What all loaders of a runtime have.
#[derive(Default)]
pub(crate) struct Claims {
    state: Mutex<State>,
    /// Changes when a plugin is given up, for directories with another file of it.
    given_up: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    next: u64,
    folders: BTreeMap<Loader, PathBuf>,
    /// By plugin: the file that it was loaded from.
    files: HashMap<String, Claim>,
    /// By plugin: those that build it, or want to. The first one does.
    crates: HashMap<String, Vec<Loader>>,
}

/// A directory's claim to a plugin.
#[derive(Clone)]
pub(crate) struct Claim {
    loader: Loader,
    pub(crate) file: PathBuf,
    /// The hash of what was loaded.
    hash: String,
    pub(crate) build_hash: String,
}

impl State {
    fn loader(&mut self) -> Loader {
        self.next += 1;
        Loader(self.next)
    }
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes when a plugin is given up.
    pub(crate) fn given_up(&self) -> watch::Receiver<()> {
        self.given_up.subscribe()
    }

    /// A directory is followed.
    pub(crate) fn add_folder(&self, dir: &Path) -> Loader {
        let mut state = self.lock();
        let loader = state.loader();
        state.folders.insert(loader, dir.to_owned());
        loader
    }

    /// The file in another directory that has a plugin, if it is still there.
    pub(crate) fn rival(&self, loader: Loader, plugin: &str, file: &Path) -> Option<PathBuf> {
        let claimed = self.lock().files.get(plugin).cloned();
        claimed.filter(|it| it.loader != loader && it.file != file && it.file.is_file()).map(|it| it.file)
    }

    /// Whether a plugin was loaded from this file when it had this hash.
    pub(crate) fn has(&self, plugin: &str, file: &Path, hash: &str) -> bool {
        self.lock().files.get(plugin).is_some_and(|claim| claim.file == file && claim.hash == hash)
    }

    /// A plugin was loaded from a file with this hash.
    pub(crate) fn take(&self, loader: Loader, plugin: &str, file: &Path, hash: &str, build_hash: &str) {
        let (hash, build_hash) = (hash.to_owned(), build_hash.to_owned());
        let claim = Claim { loader, file: file.to_owned(), hash, build_hash };
        self.lock().files.insert(plugin.to_owned(), claim);
    }

    /// A file is gone.
    pub(crate) fn give_up(&self, loader: Loader, plugin: &str, file: &Path) {
        let given_up = {
            let mut state = self.lock();
            let is_its = state.files.get(plugin).is_some_and(|claim| claim.loader == loader && claim.file == file);
            is_its && state.files.remove(plugin).is_some()
        };
        if given_up {
            self.given_up.send_replace(());
        }
    }

    /// A directory is not followed any more. Returns the plugins that nobody else has, with their claims: those of a directory that
    /// another loader follows as well are that one's from now on, as long as their files are there.
    pub(crate) fn remove_folder(&self, loader: Loader) -> Vec<(String, Claim)> {
        let its: Vec<(String, Claim)> = {
            let state = self.lock();
            let its = state.files.iter().filter(|(_, claim)| claim.loader == loader);
            its.map(|(plugin, claim)| (plugin.clone(), claim.clone())).collect()
        };
        let its: Vec<_> = its.into_iter().map(|(plugin, claim)| (claim.file.is_file(), plugin, claim)).collect();
        let mut given_up = Vec::new();
        {
            let mut state = self.lock();
            let dir = state.folders.remove(&loader);
            let heir = state.folders.iter().find(|(_, other)| Some(*other) == dir.as_ref()).map(|(heir, _)| *heir);
            for (is_there, plugin, claim) in its {
                let Some(known) = state.files.get_mut(&plugin).filter(|known| known.loader == loader) else { continue };
                match heir.filter(|_| is_there) {
                    Some(heir) => known.loader = heir,
                    None => {
                        state.files.remove(&plugin);
                        given_up.push((plugin, claim));
                    }
                }
            }
        }
        if !given_up.is_empty() {
            self.given_up.send_replace(());
        }
        given_up
    }

    /// Somebody wants to build a plugin.
    pub(crate) fn add_crate(&self, plugin: &str) -> Loader {
        let mut state = self.lock();
        let loader = state.loader();
        state.crates.entry(plugin.to_owned()).or_default().push(loader);
        loader
    }

    /// Whether it is this one that builds a plugin.
    pub(crate) fn builds(&self, loader: Loader, plugin: &str) -> bool {
        self.lock().crates.get(plugin).is_some_and(|loaders| loaders.first() == Some(&loader))
    }

    /// One that builds a plugin, or wants to, goes. Returns whether it was the one that did, and nobody comes after it.
    pub(crate) fn remove_crate(&self, loader: Loader, plugin: &str) -> bool {
        let mut state = self.lock();
        let Some(loaders) = state.crates.get_mut(plugin) else { return false };
        let built = loaders.first() == Some(&loader);
        loaders.retain(|other| *other != loader);
        let is_last = loaders.is_empty();
        if is_last {
            state.crates.remove(plugin);
        }
        built && is_last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_followed_twice_keeps_its_plugins_when_one_of_them_ends_unless_their_files_are_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |inside: &str| folder.path().join(inside);
        for inside in ["plugins", "elsewhere"] {
            std::fs::create_dir(at(inside)).expect("a folder");
        }
        std::fs::write(at("plugins/one.cbus.so"), "").expect("writing");
        let claims = Claims::default();
        let (first, second) = (claims.add_folder(&at("plugins")), claims.add_folder(&at("plugins")));
        let elsewhere = claims.add_folder(&at("elsewhere"));
        claims.take(first, "one", &at("plugins/one.cbus.so"), "1", "build");
        claims.take(first, "gone", &at("plugins/gone.cbus.so"), "1", "build");
        claims.take(elsewhere, "two", &at("elsewhere/two.cbus.so"), "2", "build");
        let removed = |loader| claims.remove_folder(loader).into_iter().map(|(plugin, _)| plugin).collect::<Vec<_>>();
        assert_eq!(removed(first), ["gone"]);
        assert!(claims.has("one", &at("plugins/one.cbus.so"), "1"));
        assert_eq!(removed(second), ["one"]);
        assert_eq!(removed(elsewhere), ["two"]);
    }

    #[test]
    fn a_plugin_is_built_by_the_first_that_asks_and_then_by_the_next() {
        let claims = Claims::default();
        let (first, second) = (claims.add_crate("one"), claims.add_crate("one"));
        assert!(claims.builds(first, "one") && !claims.builds(second, "one"));
        assert!(!claims.remove_crate(first, "one"), "somebody else wants it");
        assert!(claims.builds(second, "one"));
        let third = claims.add_crate("one");
        assert!(!claims.remove_crate(third, "one"), "it never built it");
        assert!(claims.remove_crate(second, "one"));
    }
}
