//! Forwards a plugin host's events and spans to the host's `tracing` subscriber, as for a library.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use controllerbus::plugin::traces::{Inside, Origin, Record};
use tracing::Span;

use super::protocol::{TraceEvent, span_of};

/// The most open spans of one process; events in further ones come without their span.
const SPANS: usize = 10_000;

/// The open spans of one process, by its numbers.
pub(super) struct Traces {
    origin: Origin,
    spans: Mutex<HashMap<u64, Span>>,
}

impl Traces {
    pub(super) fn new(plugin: &str, generation: u64) -> Self {
        Self { origin: Origin::new(plugin, generation), spans: Mutex::default() }
    }

    fn spans(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn event(&self, event: &TraceEvent<'_>) {
        let TraceEvent { level, span, module, message, fields, file, line, lost } = *event;
        if lost > 0 {
            self.origin.lost(lost);
        }
        let span = self.spans().get(&span).and_then(Span::id);
        self.origin.event(Inside::Span(span), &Record { level, module, text: message, fields, file, line });
    }

    pub(super) fn open(&self, id: u64, parent: u64, level: u8, name: &str, module: &str, fields: &str) {
        let parent = {
            let spans = self.spans();
            if spans.len() >= SPANS {
                return;
            }
            spans.get(&parent).and_then(Span::id)
        };
        let record = Record { level, module, text: name, fields, file: "", line: 0 };
        let span = self.origin.span(Inside::Span(parent), &record);
        if !span.is_disabled() {
            // Not dropped under the lock: it tells the subscriber.
            let before = self.spans().insert(id, span);
            drop(before);
        }
    }

    /// The span in which a controller's code runs, until it is closed: it is the bus's.
    pub(super) fn know(&self, controller: u64, span: &Span) {
        if !span.is_disabled() {
            let before = self.spans().insert(span_of(controller), span.clone());
            drop(before);
        }
    }

    pub(super) fn forget(&self, controller: u64) {
        self.close(span_of(controller));
    }

    pub(super) fn close(&self, id: u64) {
        let span = self.spans().remove(&id);
        drop(span);
    }
}
