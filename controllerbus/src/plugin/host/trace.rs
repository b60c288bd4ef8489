//! Gives a guest's events and spans to the host's `tracing` subscriber, with plugin and generation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::{Level, Span};

use crate::plugin::abi::TraceRecord;
use crate::spans::RUN;

/// The spans of one generation that are open.
pub(super) struct Traces {
    plugin: String,
    generation: u64,
    next: AtomicU64,
    /// With how many refer to each.
    spans: Mutex<HashMap<u64, (Span, usize)>>,
}

impl Traces {
    pub(super) fn new(plugin: String, generation: u64) -> Self {
        Self { plugin, generation, next: AtomicU64::new(1), spans: Mutex::default() }
    }

    pub(super) fn event(&self, record: &TraceRecord) {
        let (plugin, generation) = (self.plugin.as_str(), self.generation);
        let (module, message, fields) = (record.target.as_str(), record.message.as_str(), record.fields.as_str());
        let (file, line) = (record.file.as_str(), record.line);
        // A callsite's level is a constant, so there is one for each.
        macro_rules! emit {
            ($level:expr) => {
                tracing::event!(target: "controllerbus::guest", $level, plugin, generation, module, fields, file, line, "{message}")
            };
        }
        match record.level {
            1 => emit!(Level::ERROR),
            2 => emit!(Level::WARN),
            3 => emit!(Level::INFO),
            4 => emit!(Level::DEBUG),
            _ => emit!(Level::TRACE),
        }
    }

    pub(super) fn open(&self, record: &TraceRecord) -> u64 {
        let (plugin, generation) = (self.plugin.as_str(), self.generation);
        let (name, module, fields) = (record.message.as_str(), record.target.as_str(), record.fields.as_str());
        macro_rules! open {
            ($level:expr) => {
                tracing::span!(target: "controllerbus::guest", $level, "guest", name, plugin, generation, module, fields)
            };
        }
        let span = match record.level {
            // A call of this plugin: a child of the span in which it is called.
            _ if module == RUN => tracing::error_span!(target: RUN, "guest", fields),
            1 => open!(Level::ERROR),
            2 => open!(Level::WARN),
            3 => open!(Level::INFO),
            4 => open!(Level::DEBUG),
            _ => open!(Level::TRACE),
        };
        if span.is_disabled() {
            return 0;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, (span, 1));
        id
    }

    /// Enters or leaves a span on this thread.
    pub(super) fn switch(&self, id: u64, enter: bool) {
        let span = self.lock().get(&id).map(|(span, _)| span.clone());
        if let Some(span) = span {
            let _ =
                span.with_subscriber(|(id, subscriber)| if enter { subscriber.enter(id) } else { subscriber.exit(id) });
        }
    }

    /// One more refers to it.
    pub(super) fn refer(&self, id: u64) {
        if let Some((_, references)) = self.lock().get_mut(&id) {
            *references += 1;
        }
    }

    /// One less refers to it; the last ends it.
    pub(super) fn close(&self, id: u64) {
        let mut spans = self.lock();
        let last = spans.get_mut(&id).is_some_and(|(_, references)| {
            *references -= 1;
            *references == 0
        });
        let span = last.then(|| spans.remove(&id));
        drop(spans);
        // It tells the subscriber.
        drop(span);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, (Span, usize)>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
