//! Where a generation runs: in this process or in one of its own. To the swap it makes no difference.

mod answers_only;
pub(crate) mod capability;
pub(crate) mod config;
mod factory;
pub(crate) mod library;
pub(crate) mod moment;
mod options;
pub(crate) mod placement;
#[cfg(all(unix, feature = "process"))]
pub(crate) mod process;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use controllerbus::controller::factory::Factory;
use controllerbus::plugin::Leases;

use crate::artifact::unmap;
use crate::artifact::{PrivateCopy, Verified};
use crate::error::{Error, Result};
use crate::host::library::{LoadOptions, Loaded, Unload};
use crate::host::placement::Placement;
use crate::util::blocking;

pub(crate) use factory::with_value_types;
pub use options::{Isolation, Limits, ProcessOptions, Sandbox};

/// Process isolation is not available on this system or in this build: returns at once.
#[cfg(not(all(unix, feature = "process")))]
pub fn plugin_host() {}

/// Something that happened to a generation's process.
pub(crate) enum ProcessEvent {
    /// It ended unexpectedly.
    Crashed {
        /// How, and the last lines that it printed.
        reason: String,
        last_lines: Vec<String>,
        restart_in: Duration,
    },
    /// A new one serves in its place.
    Restarted { pid: u32, took: Duration },
}

/// Called with what happens to a generation's process.
pub(crate) type Tell = Arc<dyn Fn(ProcessEvent) + Send + Sync>;

/// What a generation is started with.
pub(crate) struct Opening<'a> {
    pub(crate) placement: &'a Placement,
    pub(crate) load: LoadOptions,
    /// Where its private copy is written.
    pub(crate) folder: PathBuf,
    /// The plugin host's executable, if one was set.
    pub(crate) plugin_host: Option<PathBuf>,
    pub(crate) tell: Tell,
    /// When the plugin's processes end themselves.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) deadline: Arc<process::deadline::Deadline>,
}

/// A started generation.
pub(crate) enum Instance {
    /// A library in this process.
    InProcess(Loaded),
    /// A process of its own.
    #[cfg(all(unix, feature = "process"))]
    Process(crate::host::process::plugin::ProcessPlugin),
}

impl Instance {
    /// Writes the artifact's private copy and starts it. The copy is removed on an error.
    pub(crate) async fn open(artifact: Verified, opening: Opening<'_>) -> Result<(Self, PrivateCopy)> {
        #[cfg(all(unix, feature = "process"))]
        let deadline = Arc::clone(&opening.deadline);
        let Opening { placement, load, folder, plugin_host, tell, .. } = opening;
        match placement.isolation {
            Isolation::None => {
                let opening = move || {
                    if let Some(reason) = unmap::wears_out_a_process(artifact.library()) {
                        return Err(Error::Load { path: artifact.path.clone(), reason: reason.to_owned() });
                    }
                    let private = artifact.into_private(&folder)?.kept_here();
                    private.provide_symbols_for_backtraces();
                    match Loaded::open(&private, load) {
                        Ok(loaded) => Ok((loaded, private)),
                        Err(error) => {
                            let _ = std::fs::remove_file(private.path());
                            Err(error)
                        }
                    }
                };
                let (loaded, private) = blocking(opening).await?;
                // From a task, because that wakes no other thread.
                private.provide_symbols_for_debuggers();
                Ok((Self::InProcess(loaded), private))
            }
            #[cfg(all(unix, feature = "process"))]
            Isolation::Process => {
                let private = blocking(move || artifact.into_private(&folder)).await?;
                private.provide_symbols_for_backtraces();
                private.provide_symbols_for_debuggers();
                let start = crate::host::process::plugin::Start {
                    tell,
                    deadline,
                    load,
                    options: placement.process.clone(),
                    host: plugin_host,
                    library: private.clone(),
                };
                match crate::host::process::plugin::ProcessPlugin::open(start).await {
                    Ok(instance) => Ok((Self::Process(instance), private)),
                    Err(reason) => {
                        let _ = std::fs::remove_file(private.path());
                        Err(Error::Load { path: private.shown().to_owned(), reason })
                    }
                }
            }
            #[cfg(not(all(unix, feature = "process")))]
            Isolation::Process => {
                let reason = if cfg!(unix) {
                    "this host was built without hot-runtime's feature `process`; enable it, or use `isolation: none`"
                } else {
                    "process isolation is not available on this system; use `isolation: none`"
                };
                let reason = reason.to_owned();
                Err(Error::Load { path: artifact.path.clone(), reason })
            }
        }
    }

    /// Its factories; each holds a lease.
    pub(crate) fn factories(&self) -> Vec<Arc<dyn Factory>> {
        match self {
            Self::InProcess(loaded) => loaded.factories(),
            #[cfg(all(unix, feature = "process"))]
            Self::Process(instance) => instance.factories(),
        }
    }

    /// Who uses it.
    pub(crate) fn leases(&self) -> &Arc<Leases> {
        match self {
            Self::InProcess(loaded) => loaded.leases(),
            #[cfg(all(unix, feature = "process"))]
            Self::Process(instance) => instance.leases(),
        }
    }

    /// Its process's id, if it has one that runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::InProcess(_) => None,
            #[cfg(all(unix, feature = "process"))]
            Self::Process(instance) => instance.pid(),
        }
    }

    /// What confines it, in words.
    pub(crate) fn layers(&self, capabilities: bool) -> Vec<String> {
        let mut layers = match self {
            Self::InProcess(_) => Vec::new(),
            #[cfg(all(unix, feature = "process"))]
            Self::Process(instance) => instance.layers.clone(),
        };
        if capabilities {
            layers.push("capabilities".to_owned());
        }
        layers
    }

    /// Waits for work that depends on the guest. A process that takes longer than `patience` is killed; a library
    /// cannot be.
    pub(crate) async fn with_kill_after<T>(&self, patience: Duration, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        match self {
            Self::InProcess(_) => work.await,
            #[cfg(all(unix, feature = "process"))]
            Self::Process(instance) => match tokio::time::timeout(patience, &mut work).await {
                Ok(done) => done,
                Err(_) => {
                    instance.kill();
                    work.await
                }
            },
        }
    }

    /// Unloads it within about `timeout`, provided that nothing uses it.
    ///
    /// # Errors
    /// A panic while unloading; the library then stays mapped.
    pub(crate) async fn unload(self, timeout: Duration) -> Result<(Unload, Self), tokio::task::JoinError> {
        match self {
            Self::InProcess(mut loaded) => {
                let unloading = move || (loaded.unload(timeout), loaded);
                let (outcome, loaded) = tokio::task::spawn_blocking(unloading).await?;
                Ok((outcome, Self::InProcess(loaded)))
            }
            #[cfg(all(unix, feature = "process"))]
            Self::Process(mut instance) => Ok((instance.unload().await, Self::Process(instance))),
        }
    }
}
