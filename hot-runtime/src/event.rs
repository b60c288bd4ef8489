//! What the runtime tells those who watch it.

use serde::Serialize;

use crate::message::CompilerMessage;
use crate::phase::{BuildPhase, BuiltBy, PhaseTime};

/// How long each phase took, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Timeline {
    /// From the file event to the new code serving; `None` when nothing was edited.
    pub edit_to_live_ms: Option<f64>,
    /// The build; 0 for a ready-made artifact.
    pub build_ms: f64,
    /// Reading, hashing and checking the artifact.
    pub verify_ms: f64,
    /// The private copy, opening the library, and starting its guest.
    pub load_ms: f64,
    /// From construction of the new controllers to the one step that made them serve.
    pub swap_ms: f64,
}

impl std::fmt::Display for Timeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { edit_to_live_ms, build_ms, verify_ms, load_ms, swap_ms } = self;
        if let Some(ms) = edit_to_live_ms {
            write!(f, "live {ms:.0} ms after the edit: ")?;
        }
        write!(f, "build {build_ms:.0} ms, verify {verify_ms:.1} ms, load {load_ms:.1} ms, swap {swap_ms:.2} ms")
    }
}

/// How a swap, or a first load, ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SwapReport {
    /// The plugin's id.
    pub plugin: String,
    /// The generation that served before.
    pub from: Option<u64>,
    /// The one that serves now.
    pub to: u64,
    /// How long each phase took.
    pub timeline: Timeline,
}

/// How an unload ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct UnloadReport {
    /// The plugin's id.
    pub plugin: String,
    /// The generation that was unloaded.
    pub generation: u64,
    /// From its withdrawal to the closed library, in milliseconds.
    pub unload_ms: f64,
    /// Whether the process's maps confirm that it is gone; `None` where the system does not say.
    pub unmapped: Option<bool>,
    /// Thread-local values of it that were left behind on the host's threads.
    pub leaked_thread_locals: u64,
    /// What keeps it loaded still, where that has not ended within the limits. It is off the bus, and unloaded in the
    /// background once that ends.
    pub left: Option<String>,
}

/// How the end of a runtime went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// The generations that are still loaded, because something of them has not ended within the limits.
    pub left: Vec<StillLoaded>,
}

/// A generation that cannot be unloaded yet.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StillLoaded {
    /// The plugin's id.
    pub plugin: String,
    /// The generation.
    pub generation: u64,
    /// What keeps it.
    pub why: String,
}

/// What happens to plugins.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RuntimeEvent {
    /// A build began.
    BuildStarted {
        /// The plugin's id.
        plugin: String,
    },
    /// A build failed; what is loaded goes on.
    BuildFailed {
        /// The plugin's id.
        plugin: String,
        /// The compiler's errors as cargo renders them, with colours, or what else kept the build from ending.
        rendered: String,
        /// Everything that the compiler said, as data.
        messages: Vec<CompilerMessage>,
        /// The last good generation, which goes on serving.
        serving: Option<u64>,
    },
    /// A build has come to a step.
    BuildProgress {
        /// The plugin's id.
        plugin: String,
        /// The step.
        phase: BuildPhase,
        /// The crate that has just been compiled.
        compiled: Option<String>,
        /// Since the build's begin, in milliseconds.
        elapsed_ms: f64,
    },
    /// The compiler says something; told at once, while the build goes on.
    CompilerSays {
        /// The plugin's id.
        plugin: String,
        /// What.
        message: CompilerMessage,
    },
    /// A build ended well.
    Built {
        /// The plugin's id.
        plugin: String,
        /// How long it took.
        build_ms: f64,
        /// Who compiled.
        by: BuiltBy,
        /// How long each step took.
        phases: Vec<PhaseTime>,
        /// How many warnings there were.
        warnings: usize,
    },
    /// A build gave what is loaded already.
    Unchanged {
        /// The plugin's id.
        plugin: String,
        /// The generation that goes on serving.
        serving: Option<u64>,
    },
    /// A verified artifact is about to be loaded.
    Loading {
        /// The plugin's id.
        plugin: String,
        /// The generation that it becomes.
        generation: u64,
        /// The JSON schemas of its factories' configs.
        schemas: Vec<serde_json::Value>,
    },
    /// A new generation serves.
    Swapped {
        /// The plugin's id.
        plugin: String,
        /// The generation before.
        from: Option<u64>,
        /// The one that serves now.
        to: u64,
        /// How long each phase took.
        timeline: Timeline,
    },
    /// A file of the plugins folder, or the folder itself, was refused. Nothing of it ran; what is loaded goes on.
    Refused {
        /// The file or folder.
        path: std::path::PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A generation did not make it; the one before goes on.
    RolledBack {
        /// The plugin's id.
        plugin: String,
        /// Why.
        reason: String,
        /// The generation that goes on serving.
        serving: Option<u64>,
    },
    /// A generation that had taken over was not well, or somebody asked for it: an earlier one serves again. Its build is not
    /// swapped in again until its content changes.
    TakenBack {
        /// The plugin's id.
        plugin: String,
        /// The generation that was taken back.
        from: u64,
        /// The one that serves now, of the same build as `was`.
        to: u64,
        /// The generation that has served before.
        was: u64,
        /// Why.
        reason: String,
        /// What was done otherwise than usual, such as a state that the earlier code refused.
        notes: Vec<String>,
    },
    /// The process of a process-hosted plugin ended without being told to. Its values are withdrawn; it is started again.
    Crashed {
        /// The plugin's id.
        plugin: String,
        /// The generation.
        generation: u64,
        /// How it ended: the signal, the exit code, or why it was killed.
        reason: String,
        /// What it printed last.
        last_lines: Vec<String>,
        /// When it is started again, in milliseconds from now.
        restart_in_ms: f64,
    },
    /// A process-hosted plugin serves again after a crash.
    Restarted {
        /// The plugin's id.
        plugin: String,
        /// The generation.
        generation: u64,
        /// The new process.
        pid: u32,
        /// How long it took to start.
        start_ms: f64,
    },
    /// A replaced generation is still held after the drain time.
    Draining {
        /// The plugin's id.
        plugin: String,
        /// The generation.
        generation: u64,
        /// How many hold it.
        leases: usize,
    },
    /// Some code of a replaced generation does not end, or the system cannot tell whether it has: it stays loaded.
    Stuck {
        /// The plugin's id.
        plugin: String,
        /// The generation.
        generation: u64,
        /// How many threads of it do not end.
        threads: usize,
        /// What does not end: the threads' names, or a signal handler. Or why the library is never closed.
        reason: String,
    },
    /// A generation is closed.
    Unloaded {
        /// The plugin's id.
        plugin: String,
        /// The generation.
        generation: u64,
        /// From its withdrawal to the closed library.
        unload_ms: f64,
        /// Whether the process's maps confirm it; `None` where the system does not say.
        unmapped: Option<bool>,
    },
}
