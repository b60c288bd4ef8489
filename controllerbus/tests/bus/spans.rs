//! What a subscriber of the traces may do when a span of the bus's ends.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use controllerbus::bus::{Across, Bus};
use controllerbus::controller::Closures;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::kit::{Words, answers, info};

#[derive(Default)]
struct Asking {
    bus: Mutex<Option<Bus>>,
    is_inside: AtomicBool,
    spans: AtomicU64,
    asked: AtomicUsize,
}

/// Puts a controller on the bus whenever a span ends.
struct Asks(Arc<Asking>);

impl Subscriber for Asks {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.0.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
    fn try_close(&self, _: Id) -> bool {
        let bus = self.0.bus.lock().unwrap().clone();
        if let Some(bus) = bus
            && !self.0.is_inside.swap(true, Ordering::Relaxed)
        {
            bus.add_controller(Arc::new(Closures::new()), info("test/asked"));
            self.0.asked.fetch_add(1, Ordering::Relaxed);
            self.0.is_inside.store(false, Ordering::Relaxed);
        }
        true
    }
}

#[test]
fn a_subscriber_that_asks_the_bus_when_a_span_ends_does_not_block_it() {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let asking = Arc::<Asking>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let work = async {
            let (bus, other) = (Bus::new(), Bus::new());
            let id = answers(&bus, "word");
            let bridge = bus.bridge(&other, Across::when(|_| true)).unwrap();
            bus.resolve(Words { number: 1 }).await.unwrap();
            *asking.bus.lock().unwrap() = Some(bus.clone());
            bus.remove_controller(id).await;
            bridge.close().await;
            asking.bus.lock().unwrap().take();
        };
        tracing::subscriber::with_default(Asks(Arc::clone(&asking)), || runtime.block_on(work));
        done.send(asking.asked.load(Ordering::Relaxed)).unwrap();
    });
    let asked = ended.recv_timeout(Duration::from_secs(20)).expect("the bus is not blocked");
    assert!(asked > 0);
}
