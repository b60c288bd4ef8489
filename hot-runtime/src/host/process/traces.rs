//! Forwards a plugin host's events and spans to the host's `tracing` subscriber, as for a library.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tracing::{Level, Span};

use super::protocol::TraceEvent;

/// The most open spans of one process; events in further ones come without their span.
const SPANS: usize = 10_000;

/// The open spans of one process.
pub(super) struct Traces {
    plugin: String,
    generation: u64,
    spans: Mutex<HashMap<u64, Span>>,
}

impl Traces {
    pub(super) fn new(plugin: String, generation: u64) -> Self {
        Self { plugin, generation, spans: Mutex::default() }
    }

    fn spans(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn event(&self, event: &TraceEvent<'_>) {
        let (plugin, generation) = (self.plugin.as_str(), self.generation);
        let TraceEvent { level, span, module, message, fields, file, line, lost } = *event;
        if lost > 0 {
            tracing::warn!(target: "controllerbus::guest", plugin, generation, "{lost} events of the plugin were lost");
        }
        let span = self.spans().get(&span).and_then(Span::id);
        // A callsite's level is a constant, so there is one callsite for each.
        macro_rules! emit {
            ($level:expr) => {
                tracing::event!(target: "controllerbus::guest", parent: span, $level, plugin, generation, module, fields, file, line, "{message}")
            };
        }
        match level {
            1 => emit!(Level::ERROR),
            2 => emit!(Level::WARN),
            3 => emit!(Level::INFO),
            4 => emit!(Level::DEBUG),
            _ => emit!(Level::TRACE),
        }
    }

    pub(super) fn open(&self, id: u64, parent: u64, level: u8, name: &str, module: &str, fields: &str) {
        let (plugin, generation) = (self.plugin.as_str(), self.generation);
        let parent = {
            let spans = self.spans();
            if spans.len() >= SPANS {
                return;
            }
            spans.get(&parent).and_then(Span::id)
        };
        macro_rules! open {
            ($level:expr) => {
                tracing::span!(target: "controllerbus::guest", parent: parent, $level, "guest", name, plugin, generation, module, fields)
            };
        }
        let span = match level {
            1 => open!(Level::ERROR),
            2 => open!(Level::WARN),
            3 => open!(Level::INFO),
            4 => open!(Level::DEBUG),
            _ => open!(Level::TRACE),
        };
        if !span.is_disabled() {
            self.spans().insert(id, span);
        }
    }

    pub(super) fn close(&self, id: u64) {
        let span = self.spans().remove(&id);
        drop(span);
    }
}
