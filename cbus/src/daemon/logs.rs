//! The log of the daemon and its plugins: kept in the journal, and printed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::str::FromStr;
use std::sync::Arc;

use hot_runtime::text::{coloured_lines, escaped, escaped_lines};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::Journal;
use super::journal::now_ms;
use crate::api::proto::LogLine;
use crate::text::json_escaped;

/// The target under which the boundary forwards the logs of plugins.
const GUEST: &str = "controllerbus::guest";

/// Which lines are kept: such as `info`, or `warn,greeter=debug`.
#[derive(Clone)]
pub struct Filter(Targets);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A module's name alone would enable all of its lines; usually it is a mistyped level.
        let help = "use a level (error, warn, info, debug, trace) or MODULE=LEVEL, separated by commas";
        for part in text.split(',').filter(|part| !part.contains('=')) {
            part.trim().parse::<LevelFilter>().map_err(|_| format!("`{part}` is not a log level; {help}"))?;
        }
        text.parse().map(Self).map_err(|error| format!("{error}; {help}"))
    }
}

/// How log lines are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Sends log lines to a journal, and to the standard error if a format is given.
pub fn set_up(filter: Filter, journal: &Arc<Journal>, print: Option<Format>) {
    // Plugins' modules are filtered in the layer, where their names are known.
    let most = filter.0.iter().map(|(_, level)| level).chain(filter.0.default_level()).max();
    let outer = filter.0.clone().with_target(GUEST, most.unwrap_or(LevelFilter::INFO));
    let layer =
        Lines { filter, journal: Arc::clone(journal), print, colour: crate::text::has_colours(&std::io::stderr()) };
    let _ = tracing_subscriber::registry().with(layer.with_filter(outer)).try_init();
}

struct Lines {
    filter: Filter,
    journal: Arc<Journal>,
    print: Option<Format>,
    colour: bool,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut line = LogLine {
            at_ms: now_ms(),
            level: level.to_string(),
            target: event.metadata().target().to_owned(),
            ..LogLine::default()
        };
        let guest = line.target == GUEST;
        event.record(&mut Fields { line: &mut line, guest });
        if guest && !self.filter.0.would_enable(&line.target, &level) {
            return;
        }
        let line = self.journal.shown_line(line);
        let text = match self.print {
            None => None,
            Some(Format::Text) => Some(render(&line, self.colour)),
            Some(Format::Json) => serde_json::to_string(&json(&line)).ok().map(|text| json_escaped(&text)),
        };
        if let Some(text) = text {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
        self.journal.line(line);
    }
}

/// A log line as text. Whatever a plugin has written, it cannot control the terminal, and its further lines cannot be
/// mistaken for other log lines.
pub fn render(line: &LogLine, colour: bool) -> String {
    let level = match line.level.parse::<Level>() {
        Ok(level) if colour => {
            let code = match level {
                Level::ERROR => "31",
                Level::WARN => "33",
                Level::INFO => "32",
                Level::DEBUG => "34",
                Level::TRACE => "35",
            };
            format!("\x1b[{code}m{level:>5}\x1b[0m")
        }
        _ => format!("{:>5}", line.level),
    };
    let who = match (line.plugin.as_str(), line.generation) {
        ("", _) => line.target.clone(),
        (plugin, 0) => plugin.to_owned(),
        (plugin, generation) => format!("{plugin}#{generation}"),
    };
    // Only the daemon's own lines may be coloured, with the compiler's colours.
    let message = if line.generation == 0 && line.target == "cbus" {
        coloured_lines(&line.message, colour)
    } else {
        escaped_lines(&line.message)
    };
    let mut text = format!("{} {level} {}: {message}", crate::text::time(line.at_ms), escaped(&who));
    if !line.fields.is_empty() {
        // Writing to a String does not fail.
        let _ = write!(text, "  {}", escaped(&line.fields));
    }
    text
}

/// A log line for machines, without empty fields.
fn json(line: &LogLine) -> serde_json::Value {
    let all = serde_json::json!({
        "time": crate::text::time(line.at_ms),
        "level": line.level.to_lowercase(),
        "target": line.target,
        "message": hot_runtime::text::coloured_text(&line.message, false),
        "fields": line.fields,
        "plugin": line.plugin,
        "generation": line.generation,
    });
    let serde_json::Value::Object(members) = all else { return all };
    members.into_iter().filter(|(_, value)| *value != "" && *value != 0).collect()
}

/// Collects an event's fields.
struct Fields<'a> {
    line: &'a mut LogLine,
    guest: bool,
}

impl Fields<'_> {
    fn add(&mut self, name: &str, value: &str) {
        match name {
            "message" => self.line.message = value.to_owned(),
            "plugin" => self.line.plugin = value.to_owned(),
            "module" if self.guest => self.line.target = value.to_owned(),
            "fields" if self.guest => self.line.fields = value.to_owned(),
            "file" | "line" if self.guest => {}
            _ => {
                let space = if self.line.fields.is_empty() { "" } else { " " };
                let _ = write!(self.line.fields, "{space}{name}={value}");
            }
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field.name(), &format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "generation" => self.line.generation = value,
            name => self.add(name, &value.to_string()),
        }
    }
}
