//! Where a generation runs, for the swap, to which it makes no difference.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use controllerbus::controller::factory::Factory;
use controllerbus::plugin::Leases;

use crate::artifact::Artifact;
use crate::error::Result;
use crate::load::{LoadOptions, Loaded, Unload};

/// A started generation.
pub(crate) enum Hosted {
    /// A library of this process.
    InProcess(Loaded),
}

impl Hosted {
    /// Writes the artifact's private copy and starts it. On an error the copy is gone again.
    pub(crate) async fn open(artifact: Artifact, folder: PathBuf, options: LoadOptions) -> Result<(Self, PathBuf)> {
        let opening = move || {
            let private = artifact.write_private(&folder)?;
            match Loaded::open(&artifact, &private, options) {
                Ok(loaded) => Ok((loaded, private)),
                Err(error) => {
                    let _ = std::fs::remove_file(&private);
                    Err(error)
                }
            }
        };
        let (loaded, private) = crate::swap::blocking(opening).await?;
        Ok((Self::InProcess(loaded), private))
    }

    /// Its factories; each holds a lease.
    pub(crate) fn factories(&self) -> Vec<Arc<dyn Factory>> {
        match self {
            Self::InProcess(loaded) => loaded.factories(),
        }
    }

    /// Who holds it.
    pub(crate) fn leases(&self) -> &Arc<Leases> {
        match self {
            Self::InProcess(loaded) => loaded.leases(),
        }
    }

    /// Ends it, provided that nothing holds it, within about `timeout`.
    ///
    /// # Errors
    /// A panic while it was unloaded; the library stays mapped then.
    pub(crate) async fn unload(self, timeout: Duration) -> Result<(Unload, Self), tokio::task::JoinError> {
        match self {
            Self::InProcess(mut loaded) => {
                let unloading = move || (loaded.unload(timeout), loaded);
                let (outcome, loaded) = tokio::task::spawn_blocking(unloading).await?;
                Ok((outcome, Self::InProcess(loaded)))
            }
        }
    }
}
