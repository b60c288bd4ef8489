//! Locks for builds in a target folder, which processes may share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::compile::progress::Progress;
use crate::error::{Error, Result};
use crate::phase::BuildPhase;
use crate::source::spec::PluginSpec;
use crate::sys::scratch::has_no_locks;

/// How many cargos run at once in one target folder. Only one of them builds at a time, but the next one can find out
/// meanwhile what there is to do.
const CARGOS: usize = 2;

/// Waits for a permit to run cargo in a target folder. If many builds waited for cargo's own lock instead, they would
/// time out.
pub(crate) async fn cargo_permit(
    target_dir: &Path,
    spec: &PluginSpec,
    progress: &mut Progress<'_>,
    cancel: &CancellationToken,
) -> Result<OwnedSemaphorePermit> {
    static PLACES: Mutex<BTreeMap<PathBuf, Arc<Semaphore>>> = Mutex::new(BTreeMap::new());
    let places = {
        let mut all = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(target_dir.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(CARGOS))))
    };
    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
        return Ok(place);
    }
    progress.phase(BuildPhase::Waiting);
    tokio::select! {
        place = places.acquire_owned() => place.map_err(|_| Error::Closed),
        () = cancel.cancelled() => Err(Error::Cancelled { plugin: spec.id.clone() }),
    }
}

/// The exclusive right to build one plugin in a target folder. Released on drop, and when the process ends.
pub(crate) struct BuildLock {
    _file: std::fs::File,
}

impl BuildLock {
    /// Waits until no other process builds this plugin there.
    pub(crate) async fn acquire(
        target_dir: &Path,
        spec: &PluginSpec,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let path = target_dir.join(format!(".cbus-{}.lock", spec.slug()));
        std::fs::create_dir_all(target_dir).map_err(Error::io("creating the target folder", target_dir))?;
        let open = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(Error::io("opening the build's lock file", &path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(std::fs::TryLockError::WouldBlock) => {}
                // Without locks, builds cannot exclude each other; cargo, which locks too, goes on without them as
                // well.
                Err(std::fs::TryLockError::Error(error)) if has_no_locks(&error) => return Ok(Self { _file: file }),
                Err(std::fs::TryLockError::Error(error)) => return Err(Error::io("locking the build", &path)(error)),
            }
            if !std::mem::replace(&mut told, true) {
                progress.phase(BuildPhase::Waiting);
            }
            // A blocking lock would need a thread that cannot be cancelled.
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
                () = cancel.cancelled() => return Err(Error::Cancelled { plugin: spec.id.clone() }),
            }
        }
    }
}
