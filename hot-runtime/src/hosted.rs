//! Where a generation runs, for the swap, to which it makes no difference.

use std::sync::Arc;
use std::time::Duration;

use controllerbus::controller::factory::Factory;
use controllerbus::plugin::Leases;

use crate::artifact::{PrivateCopy, Verified};
use crate::build::unmap;
use crate::error::{Error, Result};
use crate::load::{LoadOptions, Loaded, Unload};
use crate::placing::Placement;
use crate::process::Isolation;
use crate::runtime::Shared;
use crate::swap::blocking;

/// A started generation.
pub(crate) enum Hosted {
    /// A library of this process.
    InProcess(Loaded),
    /// A process of its own.
    #[cfg(unix)]
    Process(crate::process::plugin::ProcessPlugin),
}

impl Hosted {
    /// Writes the artifact's private copy and starts it. On an error the copy is gone again.
    pub(crate) async fn open(
        artifact: Verified,
        shared: &Arc<Shared>,
        placement: &Placement,
        options: LoadOptions,
    ) -> Result<(Self, PrivateCopy)> {
        let folder = shared.private_dir.path().to_owned();
        match placement.isolation {
            Isolation::None => {
                let opening = move || {
                    if let Some(reason) = unmap::wears_out_a_process(artifact.library()) {
                        return Err(Error::Load { path: artifact.path.clone(), reason: reason.to_owned() });
                    }
                    let private = artifact.write_private(&folder)?;
                    match Loaded::open(&private, options) {
                        Ok(loaded) => Ok((loaded, private)),
                        Err(error) => {
                            let _ = std::fs::remove_file(private.path());
                            Err(error)
                        }
                    }
                };
                let (loaded, private) = blocking(opening).await?;
                Ok((Self::InProcess(loaded), private))
            }
            #[cfg(unix)]
            Isolation::Process => {
                let private = blocking(move || artifact.write_private(&folder)).await?;
                let start = crate::process::plugin::Start {
                    tell: tell(shared, &options),
                    load: options,
                    options: placement.process.clone(),
                    host: shared.placing.plugin_host().map(std::path::Path::to_owned),
                    library: private.clone(),
                };
                match crate::process::plugin::ProcessPlugin::open(start).await {
                    Ok(hosted) => Ok((Self::Process(hosted), private)),
                    Err(reason) => {
                        let _ = std::fs::remove_file(private.path());
                        Err(Error::Load { path: private.shown().to_owned(), reason })
                    }
                }
            }
            #[cfg(not(unix))]
            Isolation::Process => {
                let reason = "there is no process isolation on this system yet; use `isolation: none`".to_owned();
                Err(Error::Load { path: artifact.path.clone(), reason })
            }
        }
    }

    /// Its factories; each holds a lease.
    pub(crate) fn factories(&self) -> Vec<Arc<dyn Factory>> {
        match self {
            Self::InProcess(loaded) => loaded.factories(),
            #[cfg(unix)]
            Self::Process(hosted) => hosted.factories(),
        }
    }

    /// Who holds it.
    pub(crate) fn leases(&self) -> &Arc<Leases> {
        match self {
            Self::InProcess(loaded) => loaded.leases(),
            #[cfg(unix)]
            Self::Process(hosted) => hosted.leases(),
        }
    }

    /// Its process, if it has one that runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::InProcess(_) => None,
            #[cfg(unix)]
            Self::Process(hosted) => hosted.pid(),
        }
    }

    /// What confines it, in words.
    pub(crate) fn layers(&self, capabilities: bool) -> Vec<String> {
        let mut layers = match self {
            Self::InProcess(_) => Vec::new(),
            #[cfg(unix)]
            Self::Process(hosted) => hosted.layers.clone(),
        };
        if capabilities {
            layers.push("capabilities".to_owned());
        }
        layers
    }

    /// Waits for what needs the guest to end its work. A library cannot be hurried; a process that takes longer than
    /// `patience` is ended.
    pub(crate) async fn patiently<T>(&self, patience: Duration, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        match self {
            Self::InProcess(_) => work.await,
            #[cfg(unix)]
            Self::Process(hosted) => match tokio::time::timeout(patience, &mut work).await {
                Ok(done) => done,
                Err(_) => {
                    hosted.kill();
                    work.await
                }
            },
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
            #[cfg(unix)]
            Self::Process(mut hosted) => Ok((hosted.unload().await, Self::Process(hosted))),
        }
    }
}

/// Tells the registry and those who watch the runtime what happens to a generation's process.
#[cfg(unix)]
fn tell(shared: &Arc<Shared>, options: &LoadOptions) -> Arc<dyn Fn(crate::process::plugin::Told) + Send + Sync> {
    use crate::event::RuntimeEvent;
    use crate::process::plugin::Told;
    let (shared, plugin, generation) = (Arc::downgrade(shared), options.plugin.clone(), options.generation);
    Arc::new(move |told| {
        let Some(shared) = shared.upgrade() else { return };
        let plugin = plugin.clone();
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        match told {
            Told::Crashed { reason, last_lines, restart_in } => {
                tracing::error!(plugin, generation, reason, "the process of a plugin has crashed");
                shared.registry.process(generation, None, Some(&reason));
                let restart_in_ms = millis(restart_in);
                shared.emit(RuntimeEvent::Crashed { plugin, generation, reason, last_lines, restart_in_ms });
            }
            Told::Restarted { pid, took } => {
                shared.registry.process(generation, Some(pid), None);
                shared.emit(RuntimeEvent::Restarted { plugin, generation, pid, start_ms: millis(took) });
            }
        }
    })
}
