//! Forwards the guest's `tracing` events and spans, and its `log` records, to the host's subscriber.

use std::cell::Cell;
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

/// What a call runs for, which its events say.
pub(super) struct Logged {
    controller: String,
    config_key: String,
    directive: String,
}

thread_local! {
    /// What the call that is polled on this thread runs for; null outside of calls. Without a destructor, so that it ties no library
    /// to a thread.
    static POLLED: Cell<*const Logged> = const { Cell::new(std::ptr::null()) };
}

impl Logged {
    pub(super) fn of(controller: &str, config_key: &str) -> Self {
        Self { controller: controller.to_owned(), config_key: config_key.to_owned(), directive: String::new() }
    }

    /// The same for one of its resolvers.
    pub(super) fn resolving(&self, directive: &str) -> Self {
        let Self { controller, config_key, .. } = self;
        Self { controller: controller.clone(), config_key: config_key.clone(), directive: directive.to_owned() }
    }

    /// Runs a call whose events say what it runs for. That costs nothing but where one is logged.
    pub(super) fn within<T, F: Future<Output = T>>(self: &Arc<Self>, work: F) -> impl Future<Output = T> + use<T, F> {
        struct Before(*const Logged);
        impl Drop for Before {
            fn drop(&mut self) {
                POLLED.set(self.0);
            }
        }
        let logged = Arc::clone(self);
        async move {
            let mut work = std::pin::pin!(work);
            std::future::poll_fn(move |cx| {
                let _before = Before(POLLED.replace(Arc::as_ptr(&logged)));
                work.as_mut().poll(cx)
            })
            .await
        }
    }

    /// Adds what the call on this thread runs for to an event's fields.
    fn add_to(fields: &mut String) {
        // SAFETY: null, or what a `within` that is on this thread's stack keeps.
        let Some(logged) = (unsafe { POLLED.get().as_ref() }) else { return };
        let all =
            [("controller", &logged.controller), ("config_key", &logged.config_key), ("directive", &logged.directive)];
        for (name, value) in all.into_iter().filter(|(_, value)| !value.is_empty()) {
            let gap = if fields.is_empty() { "" } else { " " };
            // Writing to a String does not fail.
            let _ = write!(fields, "{gap}{name}={value:?}");
        }
    }
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
            Logged::add_to(&mut fields.others);
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
        let mut fields = String::new();
        Logged::add_to(&mut fields);
        host.trace_event(TraceRecord {
            target: Text::from(record.target()),
            message: Text::from(message.as_str()),
            fields: Text::from(fields.as_str()),
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
