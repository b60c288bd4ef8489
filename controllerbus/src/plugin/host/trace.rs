//! Gives a guest's events and spans to the host's `tracing` subscriber, with plugin and generation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::Span;

use crate::plugin::abi::TraceRecord;
use crate::plugin::traces::{Inside, Origin, Record};
use crate::spans::RUN;

/// The spans of one generation that are open.
pub(super) struct Traces {
    origin: Origin,
    next: AtomicU64,
    /// With how many refer to each.
    spans: Mutex<HashMap<u64, (Span, usize)>>,
}

impl Traces {
    pub(super) fn new(plugin: String, generation: u64) -> Self {
        Self { origin: Origin::new(plugin, generation), next: AtomicU64::new(1), spans: Mutex::default() }
    }

    pub(super) fn event(&self, record: &TraceRecord) {
        self.origin.event(Inside::Entered, &of(record));
    }

    pub(super) fn open(&self, record: &TraceRecord) -> u64 {
        let span = match record.target.as_str() {
            // A call of this plugin: a child of the span in which it is called.
            RUN => tracing::error_span!(target: RUN, "guest", fields = record.fields.as_str()),
            _ => self.origin.span(Inside::Entered, &of(record)),
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

fn of(record: &TraceRecord) -> Record<'_> {
    Record {
        level: record.level,
        module: record.target.as_str(),
        text: record.message.as_str(),
        fields: record.fields.as_str(),
        file: record.file.as_str(),
        line: record.line,
    }
}
