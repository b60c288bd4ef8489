//! Local directives: live values, of any type, within one library.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use controllerbus::controller::Closures;
use controllerbus::directive::AnyValue;
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;

use crate::kit::{info, soon};

trait Store: Send + Sync {
    fn take(&self) -> usize;
}

/// It does not serialize, nor can it be cloned or compared.
struct Counting(AtomicUsize);

impl Store for Counting {
    fn take(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/store", value = Arc<dyn Store>, local)]
struct OpenStore {
    name: String,
}

fn open(name: &str) -> OpenStore {
    OpenStore { name: name.to_owned() }
}

#[tokio::test]
async fn a_live_value_is_the_very_object_for_everybody_who_asks_until_the_last_one_lets_go() {
    let bus = Bus::new();
    let all = Arc::new(Counting(AtomicUsize::new(0)));
    let kept = Arc::clone(&all);
    let stores = Closures::new().resolves(move |request: OpenStore, values| {
        let store = Arc::clone(&kept);
        async move {
            let mut slot = values.slot();
            slot.set(store.clone() as Arc<dyn Store>);
            if request.name == "another" {
                slot.set(store);
            }
            slot.leave();
            Ok(())
        }
    });
    let id = bus.add_controller(Arc::new(stores), info("test/stores"));
    let one = soon(bus.resolve(open("users"))).await.unwrap();
    let two = soon(bus.resolve(open("users"))).await.unwrap();
    assert_eq!((one.take(), two.take(), all.take()), (0, 1, 2));
    let mut request = bus.request(open("another")).unwrap();
    assert_eq!(soon(request.values()).await.unwrap().len(), 1);
    // Tools see what it is, and no content.
    let shown = bus.directives().remove(0).values.remove(0).value;
    assert!(shown.to_string().contains("dyn") && shown.to_string().contains("stays in the library"), "{shown}");
    bus.remove_controller(id).await;
    while request.standing().count() > 0 {
        soon(request.next()).await;
    }
    drop((one, two, request));
    assert_eq!(Arc::strong_count(&all), 1, "nobody holds it any more");
}

#[tokio::test]
async fn live_values_are_mapped_and_cross_a_bridge_within_the_library() {
    let (bus, other) = (Bus::new(), Bus::new());
    let stores = Closures::new().resolves(|_: OpenStore, values| {
        values.add(Arc::new(Counting(AtomicUsize::new(7))));
        std::future::ready(Ok(()))
    });
    other.add_controller(Arc::new(stores), info("test/stores"));
    let _bridge = bus.bridge(&other, controllerbus::bus::Across::types(["test/store"])).unwrap();
    assert_eq!(soon(bus.resolve(open("far"))).await.unwrap().take(), 7);
}

#[test]
fn a_live_value_has_no_encoding_and_is_found_again_only_as_what_it_is() {
    let value = AnyValue::local(Counting(AtomicUsize::new(3)));
    assert_eq!(value.encode().expect_err("none").kind(), ErrorKind::Encoding);
    assert!(value.get::<u64>().is_err() && value.get_local::<u64>().is_err());
    // Over the boundary goes the object alone, and back.
    let (bytes, objects) = value.encode_with_objects().unwrap();
    let back = AnyValue::encoded_with(&bytes, objects);
    assert_eq!(back.get_local::<Counting>().unwrap().take(), 3);
    assert_eq!(value.get_local::<Counting>().unwrap().take(), 4);
    assert!(back.get_local::<String>().is_err());
    assert!(AnyValue::native(7_u64).get_local::<u64>().is_err());
    assert!(AnyValue::encoded(&bytes).get_local::<Counting>().is_err());
}
