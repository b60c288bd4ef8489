//! How the log is printed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use controllerbus_api::Journal;
use controllerbus_api::logs::{Filter, FilterHandle, reloadable_layer};
use controllerbus_api::proto::LogLine;
use hot_runtime::text::{coloured_lines, escaped, escaped_lines};
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::text::json_escaped;

/// How log lines are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Where log lines are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Standard output, for who asked for them.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Told when nobody reads standard output any more.
pub static UNREAD: tokio::sync::Notify = tokio::sync::Notify::const_new();

/// Sends log lines to a journal, and prints them if a format is given. Returns what changes the filter later.
pub fn set_up(filter: Filter, journal: &Arc<Journal>, print: Option<Format>, to: To) -> FilterHandle {
    let colour = match to {
        To::Stdout => crate::text::has_colours(&std::io::stdout()),
        To::Stderr => crate::text::has_colours(&std::io::stderr()),
    };
    let print = move |line: &LogLine| {
        let text = match print {
            None => None,
            Some(Format::Text) => Some(render(line, colour)),
            Some(Format::Json) => serde_json::to_string(&json(line)).ok().map(|text| json_escaped(&text)),
        };
        match (text, to) {
            (None, _) => {}
            (Some(text), To::Stdout) => {
                // What runs is ended in order, and not from wherever something is logged.
                if writeln!(std::io::stdout().lock(), "{text}").is_err() {
                    UNREAD.notify_one();
                }
            }
            (Some(text), To::Stderr) => drop(writeln!(std::io::stderr().lock(), "{text}")),
        }
    };
    let (layer, handle) = reloadable_layer(journal, filter, print);
    let _ = tracing_subscriber::registry().with(layer).try_init();
    handle
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
    // Writing to a String does not fail.
    if !line.fields.is_empty() {
        let _ = write!(text, "  {}", escaped(&line.fields));
    }
    let origin = [("controller", &line.controller), ("config_key", &line.config_key), ("directive", &line.directive)];
    for (name, said) in origin.into_iter().filter(|(_, said)| !said.is_empty()) {
        let _ = write!(text, "  {name}={}", escaped(said));
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
        "controller": line.controller,
        "config_key": line.config_key,
        "directive": line.directive,
    });
    let serde_json::Value::Object(members) = all else { return all };
    members.into_iter().filter(|(_, value)| *value != "" && *value != 0).collect()
}
