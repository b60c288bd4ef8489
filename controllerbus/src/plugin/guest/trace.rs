//! Forwards the guest's `tracing` events and spans to the host's subscriber.

use std::fmt::{Debug, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Dispatch, Event, Metadata, Subscriber};

use crate::plugin::abi::{HostPtr, HostSideDyn, Text, TraceRecord};
use crate::plugin::level;

static HOST: RwLock<Option<Arc<HostPtr>>> = RwLock::new(None);

/// From now on this library's events go to `host`.
pub(super) fn forward_to(host: Arc<HostPtr>) {
    *HOST.write().unwrap_or_else(PoisonError::into_inner) = Some(host);
    // Never given back by tracing: an allocation without content, once a generation.
    let _ = tracing_core::dispatcher::set_global_default(Dispatch::new(Forward));
}

/// From now on they go nowhere.
pub(super) fn stop() {
    HOST.write().unwrap_or_else(PoisonError::into_inner).take();
}

fn host() -> Option<Arc<HostPtr>> {
    HOST.read().unwrap_or_else(PoisonError::into_inner).clone()
}

struct Forward;

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
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

    /// Who counts is the host.
    fn try_close(&self, id: Id) -> bool {
        if let Some(host) = host() {
            host.span_close(id.into_u64());
        }
        true
    }
}
