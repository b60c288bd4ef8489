//! A plugin's spans are the host's, for as long as the plugin has them.

use std::cell::RefCell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Event, Metadata, Subscriber};

use crate::ties::Host;

/// A subscriber that notes each event's text, and in how many spans it happened.
#[derive(Default)]
struct Noted {
    next: AtomicU64,
    events: Mutex<Vec<(String, usize)>>,
}

thread_local! {
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{value:?} ");
    }
}

impl Subscriber for &'static Noted {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "controllerbus::guest"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1 + self.next.fetch_add(1, Ordering::Relaxed))
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let spans = ENTERED.with_borrow(Vec::len);
        self.events.lock().expect("the list").push((text.0, spans));
    }
    fn enter(&self, id: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(id.into_u64()));
    }
    fn exit(&self, id: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.retain(|known| *known != id.into_u64()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_lives_until_the_last_clone_of_it_is_dropped() {
    let noted: &'static Noted = Box::leak(Box::default());
    tracing_core::dispatcher::set_global_default(tracing_core::Dispatch::new(noted)).expect("the only one");
    let host = Host::new("spans").await;
    assert_eq!(crate::ask(&host.bus, "span").await, "told");
    let events = noted.events.lock().expect("the list").clone();
    let told = events.iter().find(|(text, _)| text.contains("in a span that was cloned"));
    assert_eq!(told.map(|(_, spans)| *spans), Some(1), "{events:?}");
    host.end().await;
}
