//! A `tracing` subscriber that records what the test's thread logs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::dispatcher::{DefaultGuard, Dispatch, get_default, set_default};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::NoSubscriber;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_core::field::{Field, Visit};
use tracing_core::span::Current;

use super::event::{LogLine, TestEvent};
use super::recorder::Recorder;
use crate::plugin::traces::Fields;

/// Numbers spans of all subscribers, so that the thread's list of entered ones can be shared.
static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// What records log lines.
pub(super) struct Logs {
    recorder: Arc<Recorder>,
    spans: Mutex<HashMap<u64, Span>>,
}

struct Span {
    metadata: &'static Metadata<'static>,
    /// Whose code runs in it.
    controller: Option<String>,
    references: usize,
}

impl Logs {
    /// Records what this thread logs until the guard is dropped; not if the test has a subscriber of its own, which keeps all.
    pub(super) fn record_to(recorder: &Arc<Recorder>) -> Option<DefaultGuard> {
        let is_free = get_default(Dispatch::is::<NoSubscriber>);
        let logs = || Self { recorder: Arc::clone(recorder), spans: Mutex::default() };
        is_free.then(|| set_default(&Dispatch::new(logs())))
    }

    fn spans(&self) -> MutexGuard<'_, HashMap<u64, Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose code runs in a span.
    fn controller_of(&self, span: Option<u64>) -> Option<String> {
        self.spans().get(&span?)?.controller.clone()
    }
}

fn innermost() -> Option<u64> {
    ENTERED.with_borrow(|entered| entered.last().copied())
}

/// The field that says whose code runs in a span.
#[derive(Default)]
struct Controller(Option<String>);

impl Visit for Controller {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "controller" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

impl Subscriber for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The bus tells of every directive, which is much and no news to a test.
        let most = if metadata.target().starts_with("controllerbus::") { Level::INFO } else { Level::DEBUG };
        *metadata.level() <= most
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = if span.is_contextual() { innermost() } else { span.parent().map(Id::into_u64) };
        let mut own = Controller::default();
        span.record(&mut own);
        let controller = own.0.or_else(|| self.controller_of(parent));
        self.spans().insert(id, Span { metadata: span.metadata(), controller, references: 1 });
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let span = if event.is_contextual() { innermost() } else { event.parent().map(Id::into_u64) };
        let line = LogLine {
            level: *event.metadata().level(),
            target: event.metadata().target().to_owned(),
            message: fields.message,
            fields: fields.others,
            controller: self.controller_of(span),
        };
        self.recorder.push([TestEvent::Logged(line)]);
    }

    fn enter(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| {
            let last = entered.iter().rposition(|entered| *entered == span.into_u64());
            last.map(|at| entered.remove(at))
        });
    }

    fn clone_span(&self, span: &Id) -> Id {
        if let Some(span) = self.spans().get_mut(&span.into_u64()) {
            span.references += 1;
        }
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        let mut spans = self.spans();
        let Some(found) = spans.get_mut(&span.into_u64()) else { return false };
        found.references -= 1;
        let is_over = found.references == 0;
        if is_over {
            spans.remove(&span.into_u64());
        }
        is_over
    }

    fn current_span(&self) -> Current {
        let inside = innermost();
        let found = inside.and_then(|id| Some((id, self.spans().get(&id)?.metadata)));
        found.map_or_else(Current::none, |(id, metadata)| Current::new(Id::from_u64(id), metadata))
    }
}
