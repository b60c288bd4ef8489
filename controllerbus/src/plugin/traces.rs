//! What a plugin has traced, as records: written down where the plugin is, and given to the host's `tracing` subscriber there.
//!
//! They cross either the boundary (`guest/trace.rs` to `host/trace.rs`) or a process's socket.

use std::fmt::{Debug, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use tracing::{Level, Span};
use tracing_core::field::{Field, Visit};
use tracing_core::span::Id;

/// An event or a span of a plugin.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// From 1, an error, to 5, a trace; see [`level`](super::level).
    pub level: u8,
    /// The module that it is of.
    pub module: &'a str,
    /// An event's message, or a span's name.
    pub text: &'a str,
    /// Its fields, as text.
    pub fields: &'a str,
    /// The file that it is in; empty if that is not known.
    pub file: &'a str,
    /// The line in that, from 1.
    pub line: u32,
}

/// Which span a record is in.
#[derive(Clone, Debug)]
pub enum Inside {
    /// The one that this thread has entered.
    Entered,
    /// This one, or none.
    Span(Option<Id>),
}

/// What prints the warnings and errors of plugins in a program that has no `tracing` subscriber.
static UNHEARD: OnceLock<fn(String)> = OnceLock::new();

/// Has the warnings and errors of plugins printed for as long as the program has no `tracing` subscriber. The first call counts.
pub fn print_unheard(print: fn(String)) {
    let _ = UNHEARD.set(print);
}

/// What prints them, while there is no subscriber.
pub(super) fn unheard() -> Option<fn(String)> {
    UNHEARD.get().copied().filter(|_| !tracing::dispatcher::has_been_set())
}

/// The level from which on they are printed.
pub(super) const UNHEARD_LEVEL: u8 = 2;

/// Whose records they are: a generation of a plugin.
#[derive(Debug)]
pub struct Origin {
    plugin: String,
    generation: u64,
}

// A callsite's level is a constant, so there is one callsite for each.
macro_rules! at_each_level {
    ($level:expr, $make:ident) => {
        match $level {
            1 => $make!(Level::ERROR),
            2 => $make!(Level::WARN),
            3 => $make!(Level::INFO),
            4 => $make!(Level::DEBUG),
            _ => $make!(Level::TRACE),
        }
    };
}

impl Origin {
    /// A generation of a plugin.
    pub fn new(plugin: impl Into<String>, generation: u64) -> Self {
        Self { plugin: plugin.into(), generation }
    }

    /// Gives an event to the subscriber.
    pub fn event(&self, inside: Inside, record: &Record<'_>) {
        let (plugin, generation) = (self.plugin.as_str(), self.generation);
        let Record { level, module, text, fields, file, line } = *record;
        if let Some(print) = unheard() {
            if level <= UNHEARD_LEVEL {
                let kind = if level == 1 { "error" } else { "warning" };
                let gap = if fields.is_empty() { "" } else { " " };
                print(format!("{plugin}: {kind}: {text}{gap}{fields}"));
            }
            return;
        }
        macro_rules! entered {
            ($level:expr) => {
                tracing::event!(target: "controllerbus::guest", $level, plugin, generation, module, fields, file, line, "{text}")
            };
        }
        match inside {
            Inside::Entered => at_each_level!(level, entered),
            Inside::Span(span) => {
                macro_rules! within {
                    ($level:expr) => {
                        tracing::event!(target: "controllerbus::guest", parent: span, $level, plugin, generation, module, fields, file, line, "{text}")
                    };
                }
                at_each_level!(level, within);
            }
        }
    }

    /// Opens a span at the subscriber, until it is dropped.
    pub fn span(&self, inside: Inside, record: &Record<'_>) -> Span {
        let (plugin, generation) = (self.plugin.as_str(), self.generation);
        let Record { level, module, text: name, fields, .. } = *record;
        macro_rules! entered {
            ($level:expr) => {
                tracing::span!(target: "controllerbus::guest", $level, "guest", name, plugin, generation, module, fields)
            };
        }
        match inside {
            Inside::Entered => at_each_level!(level, entered),
            Inside::Span(span) => {
                macro_rules! within {
                    ($level:expr) => {
                        tracing::span!(target: "controllerbus::guest", parent: span, $level, "guest", name, plugin, generation, module, fields)
                    };
                }
                at_each_level!(level, within)
            }
        }
    }

    /// Says that events of the plugin were dropped, because they came faster than they were read.
    pub fn lost(&self, events: u64) {
        let (plugin, generation) = (self.plugin.as_str(), self.generation);
        tracing::warn!(target: "controllerbus::guest", plugin, generation, "{events} events of the plugin were lost");
    }
}

/// The fields of an event or a span, as text.
#[derive(Debug, Default)]
pub struct Fields {
    /// The message.
    pub message: String,
    /// The others.
    pub others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String does not fail; a panic in the value's Debug must not cross.
        let written = catch_unwind(AssertUnwindSafe(|| {
            if field.name() == "message" {
                let _ = write!(self.message, "{value:?}");
            } else {
                let gap = if self.others.is_empty() { "" } else { " " };
                let _ = write!(self.others, "{gap}{}={value:?}", field.name());
            }
        }));
        if let Err(payload) = written {
            drop(crate::Error::from_panic(payload));
        }
    }
}
