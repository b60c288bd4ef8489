//! Follows a plugins folder: loads what is in it, what comes, and what changes; survives that it goes.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::event::RuntimeEvent;
use crate::runtime::Inner;
use crate::watch::{Change, Watcher};

/// A copied file is many events in a row: how long no further one must come before it is read.
const QUIET: Duration = Duration::from_millis(20);

/// How long to wait for quiet at most. A file that is still being written then is refused, and read again later.
const SETTLED: Duration = Duration::from_millis(500);

/// What was loaded from which file.
#[derive(Default)]
struct Seen {
    by_path: HashMap<PathBuf, (String, String)>,
}

/// Loads what is in a folder, and then, in the background, each artifact that comes or changes there. A file that
/// goes leaves its plugin loaded.
pub(crate) async fn follow(inner: &Arc<Inner>, dir: PathBuf) -> Result<()> {
    std::fs::create_dir_all(&dir).map_err(Error::io("creating the plugins folder", &dir))?;
    let dir = dir.canonicalize().map_err(Error::io("finding the plugins folder", &dir))?;
    inner.shared.settings.checks.check_folder(&dir)?;
    let (watcher, mut changes) = Watcher::new(vec![dir.clone()])?;
    let mut seen = Seen::default();
    for path in artifacts_in(&dir)? {
        seen.load_or_tell(inner, &path).await;
    }
    let weak = Arc::downgrade(inner);
    let stop = inner.stop.clone();
    inner.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            ended = go_on(&weak, &dir, &watcher, &mut changes, seen) => {
                if let (Err(error), Some(inner)) = (ended, weak.upgrade()) {
                    tell(&inner, &dir, &error);
                }
            }
        }
    });
    Ok(())
}

async fn go_on(
    inner: &Weak<Inner>,
    dir: &Path,
    watcher: &Watcher,
    changes: &mut mpsc::UnboundedReceiver<Change>,
    mut seen: Seen,
) -> Result<()> {
    let mut there = true;
    while let Some(change) = changes.recv().await {
        let mut paths: BTreeSet<PathBuf> = change.paths.into_iter().collect();
        let settled = async {
            while let Ok(Some(change)) = tokio::time::timeout(QUIET, changes.recv()).await {
                paths.extend(change.paths);
            }
        };
        let _ = tokio::time::timeout(SETTLED, settled).await;
        let Some(inner) = inner.upgrade() else { return Ok(()) };
        let was_there = std::mem::replace(&mut there, dir.is_dir());
        if there != was_there || paths.contains(dir) {
            // It went, or came back, or is another folder of the same name: the system's watch is of the old one.
            watcher.set_paths(Vec::new())?;
            watcher.set_paths(vec![dir.to_owned()])?;
        }
        if !there {
            if was_there {
                let reason = "the plugins folder is gone; what is loaded goes on, and the folder is followed again \
                              when it is back";
                let help = "make it again, or end the host";
                tell(&inner, dir, &Error::Folder { path: dir.to_owned(), reason: reason.into(), help: help.into() });
            }
            continue;
        }
        if !was_there || paths.contains(dir) {
            if let Err(error) = inner.shared.settings.checks.check_folder(dir) {
                tell(&inner, dir, &error);
                continue;
            }
            paths.extend(artifacts_in(dir).unwrap_or_default());
        }
        // A signature may come after what it signs.
        let artifacts: BTreeSet<PathBuf> =
            paths.iter().map(|path| without_signature_ending(path)).filter(|path| is_artifact(path)).collect();
        for path in artifacts {
            if path.exists() {
                seen.load_or_tell(&inner, &path).await;
            } else {
                seen.by_path.remove(&path);
            }
        }
    }
    Ok(())
}

impl Seen {
    async fn load_or_tell(&mut self, inner: &Arc<Inner>, path: &Path) {
        if let Err(error) = self.load(inner, path).await {
            // What the plugin's task rolled back, it has told of.
            if !matches!(error, Error::Swap { .. } | Error::Load { .. }) {
                tell(inner, path, &error);
            }
        }
    }

    async fn load(&mut self, inner: &Arc<Inner>, path: &Path) -> Result<()> {
        let (artifact, timeline) = inner.read(path).await?;
        let (id, hash) = (artifact.bundle.id.clone(), artifact.hash.clone());
        if self.by_path.get(path).is_some_and(|(_, last)| *last == hash) {
            return Ok(());
        }
        let other = self.by_path.iter().find(|(other, (loaded, _))| *loaded == id && *other != path && other.exists());
        if let Some((other, _)) = other {
            return Err(Error::Artifact {
                path: path.to_owned(),
                reason: format!("it is the plugin `{id}`, which {} is already", other.display()),
                help: "remove one of them; to replace a plugin, write over its file".to_owned(),
            });
        }
        inner.load(artifact, timeline).await?;
        self.by_path.insert(path.to_owned(), (id, hash));
        Ok(())
    }
}

fn tell(inner: &Inner, path: &Path, error: &Error) {
    tracing::warn!(path = %path.display(), %error, "a plugin file was not loaded");
    inner.shared.emit(RuntimeEvent::Refused { path: path.to_owned(), reason: error.to_string() });
}

fn without_signature_ending(path: &Path) -> PathBuf {
    let text = path.to_string_lossy();
    text.strip_suffix(".minisig").map_or_else(|| path.to_owned(), PathBuf::from)
}

fn is_artifact(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".cbus.so", ".cbus.dylib", ".cbus.dll"].iter().any(|ending| name.ends_with(ending))
}

fn artifacts_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut found: Vec<_> = std::fs::read_dir(dir)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| is_artifact(path))
            .collect();
        found.sort();
        Ok(found)
    };
    list().map_err(Error::io("listing the plugins folder", dir))
}
