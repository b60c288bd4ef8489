//! What happened: the last events and log lines, and notes about each plugin and generation.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use controllerbus::error::Code;
use hot_runtime::RuntimeEvent;
use hot_runtime::compile::{CompilerMessage, MessageLevel};
use hot_runtime::timings::{KEPT, Recorder};
use serde::Serialize;
use tokio::sync::broadcast;

use super::metrics::Metrics;
use super::secrets::{hide, names_in};
use crate::proto::{Event, LogLine, Reload, Timeline};

/// How many events are kept.
const EVENTS: usize = 1000;
/// How many log lines are kept.
const LINES: usize = 5000;
/// The limit of the log lines' texts together, in bytes.
const BYTES: usize = 16 << 20;
/// How many events or lines a reader can fall behind before it loses the oldest.
const BEHIND: usize = 512;
/// How many bytes of one text are kept: a log line's message or fields, an event's text, an error.
const LONGEST: usize = 16 << 10;

/// The journal of a daemon. It is bounded; readers that fall behind lose the oldest entries.
pub struct Journal {
    inner: Mutex<Inner>,
    events: broadcast::Sender<Event>,
    lines: broadcast::Sender<LogLine>,
    /// The names of the configs' secret fields.
    secrets: RwLock<BTreeSet<String>>,
    /// The metrics for Prometheus.
    pub(crate) metrics: Metrics,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<Event>,
    lines: VecDeque<LogLine>,
    /// The size of the lines' texts.
    bytes: usize,
    last_event: u64,
    last_line: u64,
    plugins: BTreeMap<String, PluginNotes>,
    timelines: HashMap<u64, Timeline>,
    recorder: Recorder,
    reloads: VecDeque<Reload>,
}

/// What is known about a plugin and is not in the registry.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PluginNotes {
    /// When the running build started, if one is running.
    pub building_since: Option<SystemTime>,
    /// What the running build is doing.
    pub phase: String,
    /// Why the last build or swap failed; empty if it did not.
    pub error: String,
    /// The code of that error.
    pub code: Option<Code>,
    /// The compiler's errors, if it was the build that failed; the first ones, if there are many.
    pub problems: Vec<Problem>,
    /// Whether it is built here, of sources.
    pub sources: bool,
}

impl PluginNotes {
    /// The last build or swap is over, and did not fail.
    fn settle(&mut self) {
        *self = Self { sources: self.sources, ..Self::default() };
    }

    /// The last build or swap has failed.
    fn fail(&mut self, error: String, code: Option<Code>, problems: Vec<Problem>) {
        *self = Self { error, code, problems, sources: self.sources, ..Self::default() };
    }
}

/// An error of the compiler's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// Such as `E0308`; empty if it has none.
    pub code: String,
    /// What is wrong, in one line.
    pub text: String,
    /// The absolute path of the file that it is about; empty if that is not known.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

/// How many errors of one build are kept.
const PROBLEMS: usize = 50;

impl Problem {
    /// The errors among a compiler's messages.
    fn of(messages: &[CompilerMessage], show: impl Fn(&mut String)) -> Vec<Self> {
        let errors = messages.iter().filter(|message| message.level == MessageLevel::Error);
        let problem = |message: &CompilerMessage| {
            let place = message.spans.iter().find(|span| span.primary && span.file.is_absolute());
            let mut problem = Self {
                code: message.code.clone().unwrap_or_default(),
                text: message.text.clone(),
                file: place.map(|span| span.file.to_string_lossy().into_owned()).unwrap_or_default(),
                line: place.map_or(0, |span| span.line),
                column: place.map_or(0, |span| span.column),
            };
            show(&mut problem.text);
            problem
        };
        errors.take(PROBLEMS).map(problem).collect()
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            events: broadcast::channel(BEHIND).0,
            lines: broadcast::channel(BEHIND).0,
            secrets: RwLock::default(),
            metrics: Metrics::new(),
        }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.lock();
        let (events, lines) = (inner.last_event, inner.last_line);
        f.debug_struct("Journal").field("events", &events).field("lines", &lines).finish_non_exhaustive()
    }
}

impl Journal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records an event of the runtime.
    pub fn runtime_event(&self, event: &RuntimeEvent) {
        self.metrics.count(event);
        if let RuntimeEvent::Loading { schemas, .. } = event {
            // Before any of its code runs and could log anything.
            return self.note_secrets(schemas);
        }
        let mut inner = self.lock();
        inner.time(event);
        let Some(event) = inner.take_in(event, |text| *text = self.shown(text)) else { return };
        // Before another is numbered, so that readers get them in their order.
        let _ = self.events.send(event.clone());
        drop(inner);
        log(&event);
    }

    /// Records a log line and numbers it.
    pub fn line(&self, mut line: LogLine) {
        self.metrics.line(&line.level);
        texts(&mut line).for_each(cut);
        let mut inner = self.lock();
        inner.last_line += 1;
        line.number = inner.last_line;
        inner.bytes += size(&mut line);
        inner.lines.push_back(line.clone());
        while inner.lines.len() > LINES || inner.bytes > BYTES {
            let Some(mut oldest) = inner.lines.pop_front() else { break };
            inner.bytes -= size(&mut oldest);
        }
        // Before another is numbered, so that readers get them in their order.
        let _ = self.lines.send(line);
        drop(inner);
    }

    /// A text fit to be shown: without credentials, and cut to what is kept.
    pub fn shown(&self, text: &str) -> String {
        let secrets = self.secrets.read().unwrap_or_else(PoisonError::into_inner);
        // Cut first, so that long texts do not take longer.
        let mut text = text.to_owned();
        cut(&mut text);
        hide(&text, &secrets).into_owned()
    }

    /// A log line fit to be shown.
    pub fn shown_line(&self, mut line: LogLine) -> LogLine {
        line.message = self.shown(&line.message);
        line.fields = self.shown(&line.fields);
        line
    }

    /// Collects the names of the configs' secret fields from their schemas.
    pub fn note_secrets<'a>(&self, schemas: impl IntoIterator<Item = &'a serde_json::Value>) {
        let mut names = BTreeSet::new();
        schemas.into_iter().for_each(|schema| names_in(schema, &mut names));
        self.secrets.write().unwrap_or_else(PoisonError::into_inner).extend(names);
    }

    /// The kept events, and a receiver of those to come. No event is in both, and none is missing.
    pub fn events(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let inner = self.lock();
        (inner.events.iter().cloned().collect(), self.events.subscribe())
    }

    /// The kept log lines, and a receiver of those to come. No line is in both, and none is missing.
    pub fn lines(&self) -> (Vec<LogLine>, broadcast::Receiver<LogLine>) {
        let inner = self.lock();
        (inner.lines.iter().cloned().collect(), self.lines.subscribe())
    }

    /// The notes about each plugin.
    pub fn plugins(&self) -> BTreeMap<String, PluginNotes> {
        self.lock().plugins.clone()
    }

    /// How a generation came to serve.
    pub fn timeline(&self, generation: u64) -> Option<Timeline> {
        self.lock().timelines.get(&generation).copied()
    }

    /// Where the time of the last reloads went, the latest last.
    pub fn reloads(&self) -> Vec<Reload> {
        self.lock().reloads.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Keeps the reload that has ended with an event, if one has.
    fn time(&mut self, event: &RuntimeEvent) {
        let Some(reload) = self.recorder.note(event) else { return };
        if self.reloads.len() == KEPT {
            self.reloads.pop_front();
        }
        self.reloads.push_back(Reload::from(&reload));
    }

    fn take_in(&mut self, event: &RuntimeEvent, show: impl Fn(&mut String)) -> Option<Event> {
        let code = event.code();
        let code_text = code.map(|code| code.to_string()).unwrap_or_default();
        let mut told = Event { at_ms: now_ms(), code: code_text, ..Event::default() };
        let about = |told: &mut Event, kind: &str, plugin: &str, generation: u64, text: String| {
            (told.kind, told.plugin, told.generation, told.text) =
                (kind.to_owned(), plugin.to_owned(), generation, text);
        };
        match event {
            RuntimeEvent::BuildStarted { plugin } => {
                let notes = self.notes(plugin);
                (notes.building_since, notes.sources) = (Some(SystemTime::now()), true);
                about(&mut told, "build_started", plugin, 0, event.text());
            }
            RuntimeEvent::BuildFailed { plugin, rendered, messages, .. } => {
                self.notes(plugin).fail(rendered.clone(), code, Problem::of(messages, &show));
                about(&mut told, "build_failed", plugin, 0, rendered.clone());
            }
            RuntimeEvent::Built { plugin, .. } => {
                self.notes(plugin).settle();
                about(&mut told, "built", plugin, 0, event.text());
            }
            RuntimeEvent::Unchanged { plugin, .. } => {
                self.notes(plugin).settle();
                about(&mut told, "unchanged", plugin, 0, event.text());
            }
            RuntimeEvent::SourceRemoved { plugin } => {
                self.plugins.remove(plugin);
                about(&mut told, "source_removed", plugin, 0, event.text());
            }
            RuntimeEvent::FileRemoved { plugin } => {
                if self.plugins.get(plugin).is_some_and(|notes| !notes.sources) {
                    self.plugins.remove(plugin);
                }
                about(&mut told, "file_removed", plugin, 0, event.text());
            }
            RuntimeEvent::Swapped { plugin, from, to, timeline } => {
                self.notes(plugin).settle();
                let timeline = Timeline::from(timeline);
                self.timelines.insert(*to, timeline);
                if self.timelines.len() > EVENTS
                    && let Some(oldest) = self.timelines.keys().min().copied()
                {
                    self.timelines.remove(&oldest);
                }
                told.timeline = Some(timeline);
                let text = match from {
                    Some(from) => format!("generation {to} serves, after {from}: {timeline}"),
                    None => format!("generation {to} serves: {timeline}"),
                };
                about(&mut told, "swapped", plugin, *to, text);
            }
            RuntimeEvent::RolledBack { plugin, reason, serving, .. } => {
                self.notes(plugin).fail(reason.clone(), code, Vec::new());
                about(&mut told, "rolled_back", plugin, serving.unwrap_or_default(), event.text());
            }
            RuntimeEvent::Conflict { plugin, .. } => about(&mut told, "conflict", plugin, 0, event.text()),
            RuntimeEvent::TakenBack { plugin, from, to, reason, .. } => {
                let notes = self.notes(plugin);
                (notes.error, notes.problems) = (format!("generation {from} was rolled back: {reason}"), Vec::new());
                notes.code = Some(Code::TAKEN_BACK);
                about(&mut told, "taken_back", plugin, *to, event.text());
            }
            RuntimeEvent::Draining { plugin, generation, .. } => {
                about(&mut told, "draining", plugin, *generation, event.text());
            }
            RuntimeEvent::Stuck { plugin, generation, .. } => {
                about(&mut told, "stuck", plugin, *generation, event.text());
            }
            RuntimeEvent::Unloaded { plugin, generation, .. } => {
                about(&mut told, "unloaded", plugin, *generation, event.text());
            }
            RuntimeEvent::BuildProgress { plugin, .. } => {
                self.notes(plugin).phase = event.text();
                // The state tells it; as events these would push out what matters.
                return None;
            }
            // They all come with the end of the build.
            RuntimeEvent::CompilerSays { .. } => return None,
            RuntimeEvent::Crashed { plugin, generation, .. } => {
                about(&mut told, "crashed", plugin, *generation, event.text());
            }
            RuntimeEvent::Restarted { plugin, generation, .. } => {
                about(&mut told, "restarted", plugin, *generation, event.text());
            }
            RuntimeEvent::Refused { .. } => about(&mut told, "refused", "", 0, event.text()),
            other => self.take_in_other(&mut told, other)?,
        }
        show(&mut told.text);
        if let Some(notes) = self.plugins.get_mut(&told.plugin) {
            show(&mut notes.error);
        }
        self.last_event += 1;
        told.number = self.last_event;
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(told.clone());
        Some(told)
    }

    /// An event without a text of its own: its fields are shown as they are.
    fn take_in_other(&mut self, told: &mut Event, event: &RuntimeEvent) -> Option<()> {
        let serde_json::Value::Object(mut fields) = serde_json::to_value(event).ok()? else { return None };
        let mut take = |name: &str| match fields.remove(name) {
            Some(serde_json::Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        told.kind = take("event");
        told.plugin = take("plugin");
        told.generation = take("generation").parse().unwrap_or_default();
        let parts: Vec<String> = ["path", "reason"].map(take).into_iter().filter(|part| !part.is_empty()).collect();
        told.text = parts.join(": ");
        if told.text.is_empty() {
            told.text = told.kind.replace('_', " ");
            let rest = serde_json::to_string(&fields).unwrap_or_default();
            if rest != "{}" {
                told.text.push_str(&format!(" {rest}"));
            }
        }
        Some(())
    }

    fn notes(&mut self, plugin: &str) -> &mut PluginNotes {
        self.plugins.entry(plugin.to_owned()).or_default()
    }
}

/// The event as a log line.
fn log(event: &Event) {
    let (plugin, text) = (event.plugin.as_str(), event.text.trim_end());
    match event.kind.as_str() {
        "build_failed" => tracing::error!(target: "cbus", plugin, "does not build:\n{text}"),
        "rolled_back" | "crashed" => tracing::error!(target: "cbus", plugin, "{text}"),
        "draining" | "stuck" | "refused" | "conflict" => tracing::warn!(target: "cbus", plugin, "{text}"),
        // With what the compiler warns of.
        "built" if text.contains('\n') => tracing::warn!(target: "cbus", plugin, "{text}"),
        "build_started" | "built" => tracing::debug!(target: "cbus", plugin, "{text}"),
        _ => tracing::info!(target: "cbus", plugin, "{text}"),
    }
}

/// All texts of a log line.
fn texts(line: &mut LogLine) -> impl Iterator<Item = &mut String> {
    let LogLine {
        number: _,
        at_ms: _,
        level,
        target,
        message,
        fields,
        plugin,
        generation: _,
        controller,
        config_key,
        directive,
    } = line;
    [level, target, message, fields, plugin, controller, config_key, directive].into_iter()
}

fn size(line: &mut LogLine) -> usize {
    texts(line).map(|text| text.len()).sum()
}

/// Shortens a text that is longer than what is kept.
fn cut(text: &mut String) {
    if text.len() > LONGEST {
        *text = hot_runtime::text::shortened(text, LONGEST).into_owned();
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    millis(SystemTime::now())
}

/// A time as milliseconds since 1970.
pub fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_of_any_length_and_number_take_a_bounded_amount_of_memory() {
        let journal = Journal::new();
        let long = "ä".repeat(5 << 20);
        let line = LogLine { message: long.clone(), fields: long.clone(), config_key: long, ..LogLine::default() };
        for _ in 0..2000 {
            journal.line(LogLine { config_key: "k".repeat(LONGEST), ..LogLine::default() });
        }
        journal.line(line);
        for _ in 0..LINES {
            journal.line(LogLine { message: "a line".to_owned(), ..LogLine::default() });
        }
        let (mut lines, _) = journal.lines();
        assert!(lines.len() <= LINES, "{}", lines.len());
        assert!(lines.iter_mut().map(size).sum::<usize>() <= BYTES);
        journal.line(LogLine { message: "m".repeat(10 << 20), ..LogLine::default() });
        let (lines, _) = journal.lines();
        let last = &lines.last().expect("a line").message;
        assert!(last.len() < LONGEST + 100 && last.ends_with("more bytes)"), "{} bytes", last.len());
    }
}
