//! Bridges between buses.

use controllerbus::bus::{Across, Bus};
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;

use crate::kit::{Words, answers, resolver, soon};

#[tokio::test]
async fn a_directive_goes_across_a_bridge_and_its_values_come_back_and_go() {
    let (here, there) = (Bus::new(), Bus::new());
    let id = answers(&there, "from there");
    let bridge = here.bridge(&there, Across::types(["test/words"])).unwrap();
    let mut request = here.request(Words { number: 1 }).unwrap();
    assert_eq!(*soon(request.value()).await.unwrap(), "from there 1");
    assert_eq!(soon(request.values()).await.unwrap().len(), 1);
    assert_eq!(there.directives()[0].references, 1);

    there.remove_controller(id).await;
    soon(async {
        while request.standing().count() > 0 {
            request.next().await;
        }
    })
    .await;
    answers(&there, "again");
    assert_eq!(*soon(request.value()).await.unwrap(), "again 1");

    bridge.close().await;
    soon(async {
        while request.standing().count() > 0 {
            request.next().await;
        }
    })
    .await;
    let mut changes = there.directive_changes();
    while !there.directives().is_empty() {
        soon(changes.changed()).await.unwrap();
    }
}

/// Has a bus of its own, on which it asks for what is answered on the one that it is on.
struct WithOwnBus {
    own: Bus,
    _bridge: controllerbus::bus::Bridge,
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/with-own-bus")]
struct OwnConfig {}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/asked-on-own-bus", value = String)]
struct OnOwnBus {}

#[hot_plugin(id = "test/with-own-bus", version = "1.0.0")]
impl Controller for WithOwnBus {
    type Config = OwnConfig;

    async fn construct(_: OwnConfig, context: &Context) -> Result<Self> {
        let own = Bus::new();
        let _bridge = own.bridge(context.bus(), Across::types(["test/words"]))?;
        Ok(Self { own, _bridge })
    }

    #[resolves]
    async fn asked(&self, _: OnOwnBus) -> Result<String> {
        Ok(self.own.resolve(Words { number: 3 }).await?.to_string())
    }
}

#[tokio::test]
async fn a_controller_bridges_a_bus_of_its_own_to_the_one_that_it_is_on() {
    let bus = Bus::new();
    answers(&bus, "outside");
    bus.apply(ConfigSet::from_yaml("own: { id: test/with-own-bus }").unwrap()).await.unwrap().all_running().unwrap();
    assert_eq!(*soon(bus.resolve(OnOwnBus {})).await.unwrap(), "outside 3");
}

#[tokio::test]
async fn only_what_the_filter_wants_goes_across() {
    let (here, there) = (Bus::new(), Bus::new());
    answers(&there, "from there");
    let _bridge = here
        .bridge(
            &there,
            Across::when(|directive| directive.as_any().downcast_ref::<Words>().is_some_and(|words| words.number > 10)),
        )
        .unwrap();
    assert_eq!(*soon(here.resolve(Words { number: 11 })).await.unwrap(), "from there 11");
    assert_eq!(soon(here.try_resolve(Words { number: 9 })).await.unwrap(), None);
    let request = here.request(Words { number: 9 }).unwrap();
    assert!(here.directives()[0].resolvers.is_empty());
    drop(request);
}

#[tokio::test]
async fn an_error_beyond_the_bridge_is_told_on_this_side() {
    let (here, there) = (Bus::new(), Bus::new());
    resolver(&there, |_, _| std::future::ready(Err(Error::msg("the other shop is shut"))));
    let _bridge = here.bridge(&there, Across::types(["test/words"])).unwrap();
    let error = soon(here.resolve(Words { number: 1 })).await.expect_err("an error");
    assert_eq!(error.to_string(), "the other shop is shut");
}

#[tokio::test]
async fn bridges_that_would_lead_in_a_circle_are_refused() {
    let (a, b, c) = (Bus::new(), Bus::new(), Bus::new());
    let refused = |bridge: Result<controllerbus::bus::Bridge, BusError>| {
        assert_eq!(bridge.expect_err("a circle").kind(), ErrorKind::Invalid);
    };
    refused(a.bridge(&a, Across::types(["x"])));
    let _ab = a.bridge(&b, Across::types(["x", "y"])).unwrap();
    let bc = b.bridge(&c, Across::types(["y", "z"])).unwrap();
    refused(c.bridge(&a, Across::types(["y"])));
    refused(c.bridge(&a, Across::when(|_| true)));
    let _ca = c.bridge(&a, Across::types(["q"])).unwrap();
    // What does not go all the way around is no circle.
    let _other = b.bridge(&a, Across::types(["w"])).unwrap();
    bc.close().await;
    let _ok = c.bridge(&a, Across::types(["y"])).unwrap();
}

#[tokio::test]
async fn of_two_bridges_that_are_made_at_once_and_would_be_a_circle_one_is_refused() {
    for _ in 0..200 {
        let (a, b) = (Bus::new(), Bus::new());
        let begin = std::sync::Barrier::new(2);
        let runtime = tokio::runtime::Handle::current();
        let made = |from: &Bus, to: &Bus| {
            let _inside = runtime.enter();
            begin.wait();
            from.bridge(to, Across::types(["x"]))
        };
        let bridges = std::thread::scope(|scope| {
            let (one, other) = (scope.spawn(|| made(&a, &b)), scope.spawn(|| made(&b, &a)));
            [one.join().expect("no panic"), other.join().expect("no panic")]
        });
        assert_eq!(bridges.iter().filter(|bridge| bridge.is_ok()).count(), 1);
    }
}
