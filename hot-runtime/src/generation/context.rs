//! What all generations of a runtime share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::Bus;
use tokio::sync::{broadcast, watch};
use tokio_util::task::TaskTracker;

use crate::artifact::Checks;
use crate::event::RuntimeEvent;
use crate::generation::builds::Builds;
use crate::generation::history::Keep;
use crate::generation::probation::Probation;
use crate::generation::registry::Registry;
use crate::host::placement::PlacementRules;
use crate::host::{ProcessEvent, Tell};
use crate::sys::scratch::ScratchDir;
use crate::timings::Keeper;

/// Called with every event.
pub(crate) type Listener = Arc<dyn Fn(&RuntimeEvent) + Send + Sync>;

/// Asked with a plugin's id before a build of it is swapped in.
pub(crate) type Check = Arc<dyn Fn(&str) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// The settings for all plugins of a runtime.
pub(crate) struct Settings {
    pub(crate) workers: u32,
    pub(crate) grace: Duration,
    pub(crate) drain: Duration,
    pub(crate) hand_over: Duration,
    pub(crate) probation: Probation,
    pub(crate) keep: Keep,
    pub(crate) checks: Checks,
    /// Asked before each build is swapped in, and how long that may take.
    pub(crate) before_swap: Option<(Check, Duration)>,
}

/// What all plugins' tasks share.
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) registry: Registry,
    /// Held while what serves is compared.
    pub(crate) comparing: Mutex<()>,
    pub(crate) builds: Builds,
    pub(crate) timings: Keeper,
    pub(crate) settings: Settings,
    /// The directory of the private copies.
    pub(crate) private_dir: ScratchDir,
    pub(crate) placements: PlacementRules,
    /// When the processes of plugins end themselves.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) deadlines: crate::host::process::deadline::Deadlines,
    pub(crate) events: broadcast::Sender<RuntimeEvent>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) retiring: TaskTracker,
    /// Whether changes are built later.
    pub(crate) paused: watch::Sender<bool>,
}

/// Generation numbers are unique in the process, so that a `Source` identifies one of them on any bus.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

impl Shared {
    pub(crate) fn next_generation(&self) -> u64 {
        GENERATIONS.fetch_add(1, Ordering::Relaxed)
    }

    /// How long to wait for a generation to end.
    pub(crate) fn end_limit(&self) -> Duration {
        let limits = self.bus.limits();
        limits.cancel + limits.close + self.settings.drain * 2
    }

    pub(crate) fn emit(&self, event: RuntimeEvent) {
        if tracing::enabled!(tracing::Level::DEBUG) {
            // What the compiler says is data of the event; here the first line is enough.
            let text = event.text();
            tracing::debug!(plugin = event.plugin(), "{}", text.lines().next().unwrap_or_default());
        }
        self.builds.note(&event);
        self.timings.note(&event);
        for listener in &self.listeners {
            // A panic of one listener must not affect the others, nor the caller.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| listener(&event))) {
                let error = controllerbus::Error::from_panic(payload);
                tracing::error!(?event, %error, "a listener of the runtime's events panicked");
            }
        }
        let _ = self.events.send(event);
    }

    /// Reports what happens to a generation's process to the registry and as events.
    pub(super) fn process_listener(self: &Arc<Self>, plugin: &str, generation: u64) -> Tell {
        let (shared, plugin) = (Arc::downgrade(self), plugin.to_owned());
        Arc::new(move |event| {
            let Some(shared) = shared.upgrade() else { return };
            let plugin = plugin.clone();
            match event {
                ProcessEvent::Crashed { reason, last_lines, restart_in } => {
                    tracing::error!(plugin, generation, reason, "a plugin's process crashed");
                    shared.registry.set_process(generation, None, Some(&reason));
                    shared.emit(RuntimeEvent::Crashed { plugin, generation, reason, last_lines, restart_in });
                }
                ProcessEvent::Restarted { pid, took } => {
                    shared.registry.set_process(generation, Some(pid), None);
                    shared.emit(RuntimeEvent::Restarted { plugin, generation, pid, took });
                }
            }
        })
    }
}
