//! File events of a plugin's sources, as one stream of changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::build::inputs::{ignored, is_nobodys};
use crate::error::{Error, Result};

/// Something changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// What.
    pub paths: Vec<PathBuf>,
    /// When the event came.
    pub at: Instant,
}

/// Watches folders (with all that is in them) and single files. Dropping it ends the stream.
pub struct Watcher {
    inner: Mutex<RecommendedWatcher>,
    wanted: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Watcher {
    /// Starts to watch. The receiver gets a change for each event that is not of an editor's own files.
    ///
    /// # Errors
    /// [`Error::Watch`] with the path that cannot be watched.
    pub fn new(paths: Vec<PathBuf>) -> Result<(Self, mpsc::UnboundedReceiver<Change>)> {
        Self::ignoring(is_nobodys, paths)
    }

    /// Starts to watch crates' folders: neither artifacts nor what is in folders of outputs are changes, either.
    ///
    /// # Errors
    /// [`Error::Watch`] with the path that cannot be watched.
    pub fn of_sources(paths: Vec<PathBuf>) -> Result<(Self, mpsc::UnboundedReceiver<Change>)> {
        Self::ignoring(ignored, paths)
    }

    fn ignoring(ignored: fn(&Path) -> bool, paths: Vec<PathBuf>) -> Result<(Self, mpsc::UnboundedReceiver<Change>)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let wanted: Arc<Mutex<BTreeSet<PathBuf>>> = Arc::default();
        let filter = Arc::clone(&wanted);
        let handler = move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            if matches!(event.kind, EventKind::Access(_)) {
                return;
            }
            let wanted = filter.lock().unwrap_or_else(PoisonError::into_inner);
            let paths: Vec<_> = event.paths.into_iter().filter(|path| is_wanted(path, &wanted, ignored)).collect();
            if !paths.is_empty() {
                let _ = sender.send(Change { paths, at: Instant::now() });
            }
        };
        let inner = notify::recommended_watcher(handler)
            .map_err(|error| Error::Watch { path: PathBuf::new(), message: error.to_string() })?;
        let watcher = Self { inner: Mutex::new(inner), wanted };
        watcher.set_paths(paths)?;
        Ok((watcher, receiver))
    }

    /// Watches these paths from now on, and no others.
    ///
    /// # Errors
    /// [`Error::Watch`] with the path that cannot be watched.
    pub fn set_paths(&self, paths: Vec<PathBuf>) -> Result<()> {
        let new: BTreeSet<PathBuf> = paths.into_iter().map(|path| path.canonicalize().unwrap_or(path)).collect();
        let old = {
            let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            if *wanted == new {
                return Ok(());
            }
            std::mem::replace(&mut *wanted, new.clone())
        };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, new) = (places(&old), places(&new));
        for (gone, _) in old.difference(&new) {
            let _ = inner.unwatch(gone);
        }
        for (path, recursive) in new.difference(&old) {
            let mode = if *recursive { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            inner.watch(path, mode).map_err(|error| Error::Watch { path: path.clone(), message: error.to_string() })?;
        }
        Ok(())
    }
}

/// What to ask the system to watch: a file's folder, because a save by rename replaces the file itself.
fn places(paths: &BTreeSet<PathBuf>) -> BTreeSet<(PathBuf, bool)> {
    let folders: BTreeSet<_> = paths.iter().filter(|path| path.is_dir()).map(|path| (path.clone(), true)).collect();
    let parents = paths.iter().filter(|path| !path.is_dir()).filter_map(|path| path.parent());
    let parents: Vec<_> =
        parents.filter(|parent| !paths.contains(*parent)).map(|parent| (parent.to_owned(), false)).collect();
    folders.into_iter().chain(parents).collect()
}

fn is_wanted(path: &Path, wanted: &BTreeSet<PathBuf>, ignored: fn(&Path) -> bool) -> bool {
    wanted.iter().any(|root| {
        let Ok(inside) = path.strip_prefix(root) else { return false };
        let mut path = root.clone();
        !inside.iter().any(|part| {
            path.push(part);
            ignored(&path)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::inputs::mark_as_outputs;
    use std::time::Duration;

    async fn next(changes: &mut mpsc::UnboundedReceiver<Change>, file: &str) {
        let found = async {
            while let Some(change) = changes.recv().await {
                if change.paths.iter().any(|path| path.ends_with(file)) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), found).await.expect("an event");
    }

    #[tokio::test]
    async fn a_save_by_rename_is_seen_and_an_editors_own_files_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a path");
        std::fs::write(root.join("lib.rs"), "one").expect("writing");
        let (_watcher, mut changes) = Watcher::of_sources(vec![root.clone()]).expect("watching");
        std::fs::create_dir(root.join("made")).expect("a folder");
        mark_as_outputs(&root.join("made")).expect("marking");
        std::fs::write(root.join("made/lib.rs"), "output").expect("writing");
        std::fs::write(root.join("a.cbus.so"), "artifact").expect("writing");
        std::fs::write(root.join(".lib.rs.swp"), "swap").expect("writing");
        std::fs::write(root.join("lib.rs~"), "two").expect("writing");
        std::fs::rename(root.join("lib.rs~"), root.join("lib.rs")).expect("renaming");
        next(&mut changes, "lib.rs").await;
        while let Ok(change) = changes.try_recv() {
            assert!(change.paths.iter().all(|path| *path == root.join("lib.rs")), "{change:?}");
        }
    }
}
