//! Local directives: live values, of any type, within one library.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use controllerbus::bus::{Across, Source};
use controllerbus::controller::Closures;
use controllerbus::directive::{AnyValue, RawEvent};
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;

use crate::kit::{AskedBy, factory, info, next_of, soon};

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

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/stores")]
struct StoresConfig {}

struct Stores;

impl Controller for Stores {
    type Config = StoresConfig;
    async fn construct(_: StoresConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }
    fn routes(routes: &mut controllerbus::Routes<Self>) {
        routes.add::<OpenStore>(|_, _, values| {
            values.add(Arc::new(Counting(AtomicUsize::new(5))));
            Box::pin(std::future::ready(Ok(())))
        });
    }
}

async fn with_stores(bus: &Bus) {
    soon(bus.apply(ConfigSet::from_yaml("stores: { id: test/stores }").unwrap())).await.unwrap();
}

#[tokio::test]
async fn a_bridge_for_everything_leaves_a_plugins_local_directives_alone() {
    let (bus, other) = (Bus::new(), Bus::new());
    let _bridge = bus.bridge(&other, Across::when(|_| true)).unwrap();
    let asked = AskedBy { library: Source(7), directive: open("users") };
    let mut request = bus.handle().raw(Arc::new(asked)).unwrap();
    let first = next_of(&mut request).await;
    assert!(matches!(first, RawEvent::Idle), "{first:?}");
    with_stores(&bus).await;
    bus.add_factories(Source(7), vec![factory::<Stores>("stores", "1.0.0")]);
    loop {
        match next_of(&mut request).await {
            RawEvent::Added(..) => break,
            RawEvent::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
    assert!(other.directives().is_empty());
}

#[tokio::test]
async fn a_refusal_goes_with_the_controller_that_it_was_about() {
    let bus = Bus::new();
    with_stores(&bus).await;
    bus.add_factories(Source(7), vec![factory::<Stores>("stores", "1.0.0")]);
    soon(bus.watch_config("stores").running()).await.unwrap();
    let error = soon(bus.resolve(open("users"))).await.err().expect("it is a plugin's");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let mut early = bus.request(open("users")).unwrap();
    assert!(matches!(soon(early.next()).await, Some(Event::Failed(_))));
    soon(bus.remove_source(Source(7))).await;
    // It is the same directive, and nobody refuses it any more.
    let mut late = bus.request(open("users")).unwrap();
    let first = soon(late.next()).await;
    assert!(matches!(first, Some(Event::Idle)), "an error that is over");
    bus.add_controller(controllerbus::controller::factory::erase(Stores), info("test/stores"));
    assert_eq!(soon(late.value()).await.unwrap().take(), 5);
}

#[tokio::test]
async fn a_controller_of_a_factory_that_was_added_by_hand_answers_local_directives() {
    let bus = Bus::new();
    let _added = bus.handle().add_factories(vec![factory::<Stores>("stores", "1.0.0")]).unwrap();
    with_stores(&bus).await;
    assert_eq!(soon(bus.resolve(open("users"))).await.unwrap().take(), 5);
}
