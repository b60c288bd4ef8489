//! Forwards this process's `tracing` events and spans to the runtime's subscriber.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Debug;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Event, Metadata, Subscriber};

use controllerbus::plugin::{level, traces};

use crate::host::process::outbox::Outbox;
use crate::host::process::protocol::{ToParent, TraceEvent};

/// The most verbose level that the runtime listens to: 0 none to 5 trace.
static LEVEL: AtomicU8 = AtomicU8::new(0);

thread_local! {
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Forwards events to the runtime from now on.
pub(super) fn forward_to(outbox: Arc<Outbox>, level: u8) {
    LEVEL.store(level, Ordering::Relaxed);
    let forward = Forward { outbox, next: AtomicU64::new(1), lost: AtomicU64::new(0), spans: Mutex::default() };
    let _ = tracing::subscriber::set_global_default(forward);
}

/// Sets the level that the runtime listens to.
pub(super) fn set_level(level: u8) {
    if LEVEL.swap(level, Ordering::Relaxed) != level {
        tracing_core::callsite::rebuild_interest_cache();
    }
}

/// Does work in a span of the runtime's.
pub(super) async fn within<T>(span: u64, work: impl Future<Output = T>) -> T {
    struct Entered(u64);
    impl Drop for Entered {
        fn drop(&mut self) {
            leave(self.0);
        }
    }
    let mut work = pin!(work);
    poll_fn(|cx| {
        ENTERED.with_borrow_mut(|entered| entered.push(span));
        let _entered = Entered(span);
        work.as_mut().poll(cx)
    })
    .await
}

fn leave(span: u64) {
    ENTERED.with_borrow_mut(|entered| {
        if let Some(at) = entered.iter().rposition(|entered| *entered == span) {
            entered.remove(at);
        }
    });
}

struct Forward {
    outbox: Arc<Outbox>,
    next: AtomicU64,
    lost: AtomicU64,
    spans: Mutex<HashMap<u64, Open>>,
}

/// An open span: how many references it has, and whether the runtime knows it.
#[derive(Default)]
struct Open {
    references: usize,
    told: bool,
}

/// The fields of an event: a guest's are already formatted, this process's own are not.
#[derive(Default)]
struct Fields {
    text: traces::Fields,
    name: String,
    module: String,
    file: String,
    line: u64,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.text.message.push_str(value),
            "module" => self.module.push_str(value),
            "fields" => self.text.others.push_str(value),
            "file" => self.file.push_str(value),
            "name" => self.name.push_str(value),
            "plugin" => {}
            _ => self.text.record_str(field, value),
        }
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "line" => self.line = value,
            "generation" => {}
            _ => self.text.record_u64(field, value),
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text.record_debug(field, value);
    }
}

impl Forward {
    fn spans(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Open>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn current() -> u64 {
    ENTERED.with_borrow(|entered| entered.last().copied().unwrap_or(0))
}

impl Subscriber for Forward {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing_core::Interest {
        tracing_core::Interest::sometimes()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match LEVEL.load(Ordering::Relaxed) {
            0 => LevelFilter::OFF,
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        level::number(metadata.level()) <= LEVEL.load(Ordering::Relaxed)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut found = Fields::default();
        span.record(&mut found);
        let metadata = span.metadata();
        let parent = match span.parent() {
            Some(parent) => parent.into_u64(),
            None if span.is_contextual() => current(),
            None => 0,
        };
        let name = if found.name.is_empty() { metadata.name() } else { &found.name };
        let module = if found.module.is_empty() { metadata.target() } else { &found.module };
        let level = level::number(metadata.level());
        let opened = ToParent::SpanOpened { span: id, parent, level, name, module, fields: &found.text.others };
        let told = self.outbox.try_send(&opened).unwrap_or(false);
        self.spans().insert(id, Open { references: 1, told });
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut found = Fields::default();
        event.record(&mut found);
        let metadata = event.metadata();
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let sent = self.outbox.try_send(&ToParent::Trace(TraceEvent {
            level: level::number(metadata.level()),
            span: event.parent().map_or_else(current, Id::into_u64),
            module: if found.module.is_empty() { metadata.target() } else { &found.module },
            message: &found.text.message,
            fields: &found.text.others,
            file: if found.file.is_empty() { metadata.file().unwrap_or_default() } else { &found.file },
            line: if found.line == 0 { metadata.line().unwrap_or(0) } else { found.line as u32 },
            lost,
        }));
        if !sent.unwrap_or(false) {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    fn enter(&self, id: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(id.into_u64()));
    }

    fn exit(&self, id: &Id) {
        leave(id.into_u64());
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.spans().entry(id.into_u64()).or_default().references += 1;
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let id = id.into_u64();
        let told = {
            let mut spans = self.spans();
            let Some(open) = spans.get_mut(&id) else { return false };
            open.references -= 1;
            if open.references > 0 {
                return false;
            }
            spans.remove(&id).is_some_and(|open| open.told)
        };
        if told {
            let _ = self.outbox.push(&ToParent::SpanClosed { span: id });
        }
        true
    }
}
