//! Forwards the guest's `tracing` events and spans, and its `log` records, to the host's subscriber.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Dispatch, Event, Metadata, Subscriber};

use crate::plugin::abi::{HostPtr, HostSideDyn, Text, TraceRecord};
use crate::plugin::level;
use crate::plugin::traces::Fields;

static HOST: RwLock<Option<Arc<HostPtr>>> = RwLock::new(None);

/// From now on this library's events go to `host`.
pub(super) fn forward_to(host: Arc<HostPtr>) {
    *HOST.write().unwrap_or_else(PoisonError::into_inner) = Some(host);
    // Never given back by tracing: an allocation without content, once a generation.
    let _ = tracing_core::dispatcher::set_global_default(Dispatch::new(Forward));
    if log::set_logger(&Forward).is_ok() {
        // What is not wanted the host says, each time: it may change its mind.
        log::set_max_level(log::LevelFilter::Trace);
    }
}

/// From now on they go nowhere.
pub(super) fn stop() {
    HOST.write().unwrap_or_else(PoisonError::into_inner).take();
}

fn host() -> Option<Arc<HostPtr>> {
    HOST.read().unwrap_or_else(PoisonError::into_inner).clone()
}

struct Forward;

fn record(metadata: &Metadata<'_>, message: &str, fields: &str) -> TraceRecord {
    TraceRecord {
        target: Text::from(metadata.target()),
        message: Text::from(message),
        fields: Text::from(fields),
        file: Text::from(metadata.file().unwrap_or_default()),
        line: metadata.line().unwrap_or(0),
        level: level::number(metadata.level()),
    }
}

impl Subscriber for Forward {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing_core::Interest {
        tracing_core::Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        host().is_some_and(|host| level::number(metadata.level()) <= host.trace_level())
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let id = host().map_or(0, |host| {
            let metadata = span.metadata();
            host.span_new(record(metadata, metadata.name(), &fields.others))
        });
        // Ids must not be zero: u64::MAX stands for a span that the host does not keep.
        Id::from_u64(if id == 0 { u64::MAX } else { id })
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if let Some(host) = host() {
            let mut fields = Fields::default();
            event.record(&mut fields);
            host.trace_event(record(event.metadata(), &fields.message, &fields.others));
        }
    }

    fn enter(&self, id: &Id) {
        if let Some(host) = host() {
            host.span_enter(id.into_u64());
        }
    }

    fn exit(&self, id: &Id) {
        if let Some(host) = host() {
            host.span_exit(id.into_u64());
        }
    }

    fn clone_span(&self, id: &Id) -> Id {
        if let Some(host) = host() {
            host.span_clone(id.into_u64());
        }
        id.clone()
    }

    /// The host counts.
    fn try_close(&self, id: Id) -> bool {
        if let Some(host) = host() {
            host.span_close(id.into_u64());
        }
        true
    }
}

impl log::Log for Forward {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        host().is_some_and(|host| level_of(metadata.level()) <= host.trace_level())
    }

    fn log(&self, record: &log::Record<'_>) {
        let Some(host) = host().filter(|host| level_of(record.level()) <= host.trace_level()) else { return };
        let mut message = String::new();
        // As for events: what a value's Debug does must not cross.
        let written = catch_unwind(AssertUnwindSafe(|| write!(message, "{}", record.args())));
        if let Err(payload) = written {
            drop(crate::Error::from_panic(payload));
        }
        host.trace_event(TraceRecord {
            target: Text::from(record.target()),
            message: Text::from(message.as_str()),
            fields: Text::from(""),
            file: Text::from(record.file().unwrap_or_default()),
            line: record.line().unwrap_or(0),
            level: level_of(record.level()),
        });
    }

    fn flush(&self) {}
}

/// A level as the boundary has it: 1 for errors, 5 for the finest.
fn level_of(level: log::Level) -> u8 {
    level as u8
}
