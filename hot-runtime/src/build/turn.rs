//! Whose turn it is to build a plugin in a target folder, which two processes may share.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::build::progress::{BuildPhase, Progress};
use crate::error::{Error, Result};
use crate::overlay::PluginSpec;
use crate::own_folder::has_no_locks;

/// The right to build one plugin in a target folder. Released on drop, and when the process ends.
pub(crate) struct Turn {
    _file: std::fs::File,
}

impl Turn {
    /// Waits until nobody else builds this plugin there.
    pub(crate) async fn take(
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
                // Nobody can take turns there; cargo, which locks too, goes on without as well.
                Err(std::fs::TryLockError::Error(error)) if has_no_locks(&error) => return Ok(Self { _file: file }),
                Err(std::fs::TryLockError::Error(error)) => return Err(Error::io("locking the build", &path)(error)),
            }
            if !std::mem::replace(&mut told, true) {
                progress.phase(BuildPhase::Waiting);
            }
            // Another process's end cannot be awaited without a thread that could not be cancelled.
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
                () = cancel.cancelled() => return Err(Error::Cancelled { plugin: spec.id.clone() }),
            }
        }
    }
}
