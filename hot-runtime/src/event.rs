//! What the runtime reports: events, and how swaps, unloads and its own end went.

use std::time::Duration;

use controllerbus::error::Code;
use serde::Serialize;

use crate::message::CompilerMessage;
use crate::phase::{BuildPhase, BuiltBy, PhaseTime};
use crate::text::{coloured_lines, duration, escaped};

/// How long each phase took. In JSON, times are numbers of milliseconds, and their names end in `_ms`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Timeline {
    /// From the file event until the new code serves; `None` if nothing was edited.
    #[serde(rename = "edit_to_live_ms", with = "crate::util::millis_if_any")]
    pub edit_to_live: Option<Duration>,
    /// The build; 0 for a ready-made artifact.
    #[serde(rename = "build_ms", with = "crate::util::millis")]
    pub build: Duration,
    /// Reading, hashing and checking the artifact.
    #[serde(rename = "verify_ms", with = "crate::util::millis")]
    pub verify: Duration,
    /// Writing the private copy, opening the library and starting its guest.
    #[serde(rename = "load_ms", with = "crate::util::millis")]
    pub load: Duration,
    /// From constructing the new controllers to the one step that makes them serve.
    #[serde(rename = "swap_ms", with = "crate::util::millis")]
    pub swap: Duration,
}

impl std::fmt::Display for Timeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let Self { edit_to_live, build, verify, load, swap } = *self;
        if let Some(time) = edit_to_live {
            write!(f, "live {:.0} ms after the edit: ", ms(time))?;
        }
        let (build, verify, load, swap) = (ms(build), ms(verify), ms(load), ms(swap));
        write!(f, "build {build:.0} ms, verify {verify:.1} ms, load {load:.1} ms, swap {swap:.2} ms")
    }
}

/// The result of a swap or a first load.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SwapReport {
    /// The plugin's id.
    pub plugin: String,
    /// The generation that served before, if any.
    pub from: Option<u64>,
    /// The generation that serves now.
    pub to: u64,
    /// How long each phase took.
    pub timeline: Timeline,
}

/// The result of an unload.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct UnloadReport {
    /// The plugin's id.
    pub plugin: String,
    /// The generation that was unloaded.
    pub generation: u64,
    /// From taking it off the bus to closing its library.
    #[serde(rename = "unload_ms", with = "crate::util::millis")]
    pub took: Duration,
    /// Whether the process's maps confirm that it is unmapped; `None` where the system does not say.
    pub unmapped: Option<bool>,
    /// How many of its thread-local values were left behind on the host's threads.
    pub leaked_thread_locals: u64,
    /// What still keeps it loaded after the time limits. It is off the bus, and is unloaded in the background as soon
    /// as that ends.
    pub left: Option<String>,
}

/// The result of a shutdown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// The generations that are still loaded because something in them did not end within the time limits.
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
    /// What keeps it loaded.
    pub why: String,
}

/// Why a generation was rolled back, in one word of few. The event's `reason` says it in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RollBackCause {
    /// Somebody asked for it.
    Requested,
    /// Its process crashed.
    Crashed,
    /// Its resolvers, or `execute` of one of its controllers, failed too often.
    Failing,
    /// A health check reported an error.
    Unhealthy,
    /// It was not read, verified or opened.
    NotLoaded,
    /// Its controllers did not become ready.
    NotReady,
    /// Its build was rolled back before.
    TakenBackBefore,
}

impl std::fmt::Display for RollBackCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Requested => "requested",
            Self::Crashed => "crashed",
            Self::Failing => "failing",
            Self::Unhealthy => "unhealthy",
            Self::NotLoaded => "not_loaded",
            Self::NotReady => "not_ready",
            Self::TakenBackBefore => "taken_back_before",
        })
    }
}

/// Something that happened to a plugin. In JSON, times are numbers of milliseconds, and their names end in `_ms`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RuntimeEvent {
    /// A build started.
    BuildStarted {
        /// The plugin's id.
        plugin: String,
    },
    /// A build failed; the loaded generation keeps serving.
    BuildFailed {
        /// The plugin's id.
        plugin: String,
        /// The error's code.
        code: Code,
        /// The compiler's errors as cargo renders them, with colours, or why else the build failed.
        rendered: String,
        /// All of the compiler's messages, as data.
        messages: Vec<CompilerMessage>,
        /// The generation that keeps serving, if any.
        serving: Option<u64>,
    },
    /// A build reached a step.
    BuildProgress {
        /// The plugin's id.
        plugin: String,
        /// The step.
        phase: BuildPhase,
        /// The crate that was just compiled, if one was.
        compiled: Option<String>,
        /// Since the start of the build.
        #[serde(rename = "elapsed_ms", with = "crate::util::millis")]
        elapsed: Duration,
    },
    /// The compiler emitted a message; sent at once, while the build continues.
    CompilerSays {
        /// The plugin's id.
        plugin: String,
        /// The message.
        message: CompilerMessage,
    },
    /// A build succeeded.
    Built {
        /// The plugin's id.
        plugin: String,
        /// How long it took.
        #[serde(rename = "build_ms", with = "crate::util::millis")]
        took: Duration,
        /// Who compiled.
        by: BuiltBy,
        /// Whether its dependencies are optimised although its profile does not say so; see
        /// [`BuildOptions::optimize_dependencies`](crate::compile::BuildOptions::optimize_dependencies).
        optimized: bool,
        /// Why cargo built it, if it did.
        why_cargo: Option<String>,
        /// Why the plugin was linked in full, if its dependencies could not be prelinked: then each link takes longer.
        why_full_link: Option<String>,
        /// How long each step took.
        phases: Vec<PhaseTime>,
        /// How many warnings there were.
        warnings: usize,
        /// The compiler's messages about what was compiled, as data.
        messages: Vec<CompilerMessage>,
    },
    /// A build gave what is already loaded.
    Unchanged {
        /// The plugin's id.
        plugin: String,
        /// The generation that keeps serving, if any.
        serving: Option<u64>,
    },
    /// A plugin's crates are no longer built, because the config that said so was removed. It is being unloaded.
    SourceRemoved {
        /// The plugin's id.
        plugin: String,
    },
    /// The file of a plugin is no longer in a followed directory. What was loaded from it is being unloaded.
    FileRemoved {
        /// The plugin's id.
        plugin: String,
    },
    /// A verified artifact is about to be loaded.
    Loading {
        /// The plugin's id.
        plugin: String,
        /// The generation that it will be.
        generation: u64,
        /// The JSON schemas of its factories' configs.
        schemas: Vec<serde_json::Value>,
    },
    /// A new generation took over.
    Swapped {
        /// The plugin's id.
        plugin: String,
        /// The generation that served before, if any.
        from: Option<u64>,
        /// The generation that serves now.
        to: u64,
        /// How long each phase took.
        timeline: Timeline,
    },
    /// A file in a plugins directory, or the directory itself, was refused. None of its code ran; loaded plugins keep
    /// serving.
    Refused {
        /// The file or directory.
        path: std::path::PathBuf,
        /// The code of what is wrong.
        code: Code,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A plugin that began to serve means something else by an id than another plugin, or than this program. It serves all the
    /// same.
    Conflict {
        /// The plugin's id.
        plugin: String,
        /// The other plugin's id; `None` for this program.
        with: Option<String>,
        /// The id of the directive or the config.
        id: String,
        /// What differs, and what to do.
        what: String,
    },
    /// A new generation did not become ready and was rolled back; the previous one keeps serving.
    RolledBack {
        /// The plugin's id.
        plugin: String,
        /// Why, in one word.
        cause: RollBackCause,
        /// The error's code.
        code: Code,
        /// Why.
        reason: String,
        /// The generation that keeps serving, if any.
        serving: Option<u64>,
    },
    /// An earlier generation serves again, because the one that had taken over was unhealthy or on request. Its build
    /// is not swapped in again until its content changes.
    TakenBack {
        /// The plugin's id.
        plugin: String,
        /// The generation that was rolled back.
        from: u64,
        /// The generation that serves now, with the same build as `was`.
        to: u64,
        /// The earlier generation.
        was: u64,
        /// Why, in one word.
        cause: RollBackCause,
        /// Why.
        reason: String,
        /// What went differently than usual, such as a state that the earlier code rejected.
        notes: Vec<String>,
    },
    /// The process of a process-hosted plugin ended unexpectedly. Its values are withdrawn, and it is restarted.
    Crashed {
        /// The plugin's id.
        plugin: String,
        /// The generation.
        generation: u64,
        /// How it ended: the signal, the exit code, or why it was killed.
        reason: String,
        /// The last lines that it printed.
        last_lines: Vec<String>,
        /// Time until it is restarted.
        #[serde(rename = "restart_in_ms", with = "crate::util::millis")]
        restart_in: Duration,
    },
    /// A process-hosted plugin serves again after a crash.
    Restarted {
        /// The plugin's id.
        plugin: String,
        /// The generation.
        generation: u64,
        /// The new process's id.
        pid: u32,
        /// How long it took to start.
        #[serde(rename = "start_ms", with = "crate::util::millis")]
        took: Duration,
    },
    /// A replaced generation is still in use after the drain time.
    Draining {
        /// The plugin's id.
        plugin: String,
        /// The generation.
        generation: u64,
        /// The number of leases on it.
        leases: usize,
    },
    /// Code of a replaced generation does not end, or it cannot be known whether it has: it stays loaded.
    Stuck {
        /// The plugin's id.
        plugin: String,
        /// The generation.
        generation: u64,
        /// The number of its threads that do not end.
        threads: usize,
        /// What does not end: the threads, by name, or a signal handler; or why the library is never closed.
        reason: String,
    },
    /// A generation was unloaded.
    Unloaded {
        /// The plugin's id.
        plugin: String,
        /// The generation.
        generation: u64,
        /// From taking it off the bus to closing its library.
        #[serde(rename = "unload_ms", with = "crate::util::millis")]
        took: Duration,
        /// Whether the process's maps confirm it; `None` where the system does not say.
        unmapped: Option<bool>,
    },
}

impl RuntimeEvent {
    /// The id of the plugin that it is about; `None` for a file or directory that was refused.
    pub fn plugin(&self) -> Option<&str> {
        match self {
            Self::Refused { .. } => None,
            Self::BuildStarted { plugin }
            | Self::BuildFailed { plugin, .. }
            | Self::BuildProgress { plugin, .. }
            | Self::CompilerSays { plugin, .. }
            | Self::Built { plugin, .. }
            | Self::Unchanged { plugin, .. }
            | Self::SourceRemoved { plugin }
            | Self::FileRemoved { plugin }
            | Self::Loading { plugin, .. }
            | Self::Swapped { plugin, .. }
            | Self::Conflict { plugin, .. }
            | Self::RolledBack { plugin, .. }
            | Self::TakenBack { plugin, .. }
            | Self::Crashed { plugin, .. }
            | Self::Restarted { plugin, .. }
            | Self::Draining { plugin, .. }
            | Self::Stuck { plugin, .. }
            | Self::Unloaded { plugin, .. } => Some(plugin),
        }
    }

    /// The code of what was refused or has failed, if this is about that.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::BuildFailed { code, .. } | Self::Refused { code, .. } | Self::RolledBack { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// What happened, for people, without the plugin's name. It has several lines where a compiler or a crashed process has
    /// said something, and may contain anything that these have said: [`crate::text`] makes it safe to print, as this
    /// event's `Display` does.
    pub fn text(&self) -> String {
        let kept = |serving: &Option<u64>| match serving {
            Some(serving) => format!("generation {serving} is still serving"),
            None => "none is serving".to_owned(),
        };
        match self {
            Self::BuildStarted { .. } => "building".to_owned(),
            Self::BuildFailed { rendered, serving, .. } => {
                format!("does not build; {}:\n{}", kept(serving), rendered.trim_end())
            }
            Self::BuildProgress { phase, compiled: Some(package), .. } => format!("{phase}, {package} done"),
            Self::BuildProgress { phase, .. } => phase.to_string(),
            Self::CompilerSays { message, .. } => message.rendered.trim_end().to_owned(),
            Self::Built { took, warnings: 0, .. } => format!("built in {}", duration(*took)),
            Self::Built { took, warnings, messages, .. } => {
                let rendered: String = messages.iter().map(|message| message.rendered.as_str()).collect();
                let s = if *warnings == 1 { "" } else { "s" };
                format!("built in {}, with {warnings} warning{s}:\n{}", duration(*took), rendered.trim_end())
            }
            Self::Unchanged { .. } => "the build produced what is already loaded".to_owned(),
            Self::SourceRemoved { .. } => "its crates are no longer built".to_owned(),
            Self::FileRemoved { .. } => "its file is no longer there".to_owned(),
            Self::Loading { generation, .. } => format!("loading generation {generation}"),
            Self::Swapped { from: Some(from), to, timeline, .. } => {
                format!("generation {to} serves, after {from}: {timeline}")
            }
            Self::Swapped { to, timeline, .. } => format!("generation {to} serves: {timeline}"),
            Self::Conflict { what, .. } => what.clone(),
            Self::Refused { path, code, reason } => format!("{}: {reason} [{code}]", path.display()),
            Self::RolledBack { code, reason, serving: Some(serving), .. } => {
                format!("not swapped; generation {serving} is still serving: {reason} [{code}]")
            }
            Self::RolledBack { code, reason, .. } => format!("not loaded: {reason} [{code}]"),
            Self::TakenBack { from, to, was, reason, notes, .. } => {
                let notes = notes.iter().map(|note| format!("; {note}")).collect::<String>();
                format!("rolled back generation {from}; {was} is serving again, as {to}: {reason}{notes}")
            }
            Self::Crashed { generation, reason, last_lines, restart_in, .. } => {
                let said = match last_lines.as_slice() {
                    [] => String::new(),
                    lines => format!("; its last output:\n{}", lines.join("\n")),
                };
                format!("generation {generation} crashed ({reason}), restarting in {}{said}", duration(*restart_in))
            }
            Self::Restarted { generation, pid, took, .. } => {
                format!("generation {generation} serves again, in process {pid}, after {}", duration(*took))
            }
            Self::Draining { generation, leases, .. } => {
                format!("generation {generation} is still held by {leases} and stays loaded")
            }
            Self::Stuck { generation, reason, .. } => format!("generation {generation} stays loaded: {reason}"),
            Self::Unloaded { generation, took, unmapped, .. } => {
                let seen = if *unmapped == Some(true) { "and unmapped " } else { "" };
                format!("generation {generation} unloaded {seen}in {}", duration(*took))
            }
        }
    }
}

/// The plugin's name and what happened, safe to print on a terminal. With `{:#}` the compiler's colours are kept.
impl std::fmt::Display for RuntimeEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(plugin) = self.plugin() {
            write!(f, "{}: ", escaped(plugin))?;
        }
        f.write_str(&coloured_lines(&self.text(), f.alternate()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_milliseconds_in_json() {
        let timeline = Timeline {
            edit_to_live: Some(Duration::from_millis(250)),
            swap: Duration::from_micros(1500),
            ..Timeline::default()
        };
        let written = serde_json::to_value(&timeline).expect("it is written");
        let expected = json!({
            "edit_to_live_ms": 250.0, "build_ms": 0.0, "verify_ms": 0.0, "load_ms": 0.0, "swap_ms": 1.5,
        });
        assert_eq!(written, expected);
        let event = RuntimeEvent::Restarted {
            plugin: "one".to_owned(),
            generation: 1,
            pid: 2,
            took: Duration::from_micros(2250),
        };
        let written = serde_json::to_value(&event).expect("it is written");
        let expected = json!({ "event": "restarted", "plugin": "one", "generation": 1, "pid": 2, "start_ms": 2.25 });
        assert_eq!(written, expected);
        assert_eq!(event.to_string(), "one: generation 1 serves again, in process 2, after 2.2 ms");
    }
    #[test]
    fn an_event_is_told_in_a_sentence_that_no_plugin_can_forge() {
        let failed = RuntimeEvent::BuildFailed {
            plugin: "one\u{1b}[2K".to_owned(),
            code: Code::BUILD,
            rendered: "\u{1b}[31merror\u{1b}[0m: no\nWARN all is well\u{7}\n".to_owned(),
            messages: Vec::new(),
            serving: Some(3),
        };
        assert_eq!(
            failed.to_string(),
            "one\\u{1b}[2K: does not build; generation 3 is still serving:\n    | error: no\n    | WARN all is well\\u{7}"
        );
        assert!(format!("{failed:#}").contains("\u{1b}[31merror"));
        let swapped = RuntimeEvent::Swapped {
            plugin: "one".to_owned(),
            from: Some(1),
            to: 2,
            timeline: Timeline { swap: Duration::from_micros(1500), ..Timeline::default() },
        };
        assert!(swapped.to_string().starts_with("one: generation 2 serves, after 1: build"), "{swapped}");
        let refused = RuntimeEvent::Refused {
            path: "plugins/a.so".into(),
            code: Code::DAMAGED,
            reason: "it is empty".to_owned(),
        };
        assert_eq!(refused.to_string(), "plugins/a.so: it is empty [CB0013]");
    }
}
