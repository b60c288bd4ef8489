//! Bridges keep what came from the fleet apart, on both of their buses.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Waker};

use controllerbus::bus::{Across, Bridge, Bus, Origin};
use controllerbus::directive::Held;
use controllerbus::prelude::*;

use crate::kit::{Words, answers, resolver_from, resolver_of, soon};
use crate::origins::{CallOnce, Wish, edge, grants_wishes, proxy, read, standing, until_stands, words};

fn bridge(from: &Bus, to: &Bus) -> Bridge {
    from.bridge(to, Across::types(["test/words", "test/wish", "test/call-once"])).expect("it is no circle")
}

async fn until_gone(bus: &Bus) {
    let mut changes = bus.directive_changes();
    while !bus.directives().is_empty() {
        soon(changes.changed()).await.expect("the bus is there");
    }
}

#[tokio::test]
async fn what_the_fleet_answers_beyond_a_bridge_is_told_to_this_process_and_to_no_other_host() {
    for fleet_is_first in [true, false] {
        let (here, there) = (Bus::new(), Bus::new());
        answers(&there, "own");
        if fleet_is_first {
            proxy(&there, "remote");
        }
        let bridge = bridge(&here, &there);
        if !fleet_is_first {
            proxy(&there, "remote");
        }
        let (mut far, mut near) = (words(&here, edge()), words(&here, Origin::HERE));
        until_stands(&mut near, &["own 1", "remote 1"]).await;
        until_stands(&mut far, &["own 1"]).await;
        read(&mut far);
        assert_eq!(standing(&far), ["own 1"]);
        bridge.close().await;
        until_stands(&mut near, &[]).await;
        until_gone(&there).await;
    }
}

#[tokio::test]
async fn what_stands_for_another_host_only_is_asked_beyond_a_bridge_as_of_that_host() {
    let (here, middle, there) = (Bus::new(), Bus::new(), Bus::new());
    answers(&there, "own");
    let runs = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&runs);
    let _bridges = [bridge(&here, &middle), bridge(&middle, &there)];
    resolver_from(&there, Origin::fleet("hub-1"), move |_: Words, values: Values<String>| {
        values.add(format!("run {}", counted.fetch_add(1, Ordering::SeqCst)));
        std::future::ready(Ok(()))
    });
    let mut far = words(&here, edge());
    until_stands(&mut far, &["own 1"]).await;
    assert_eq!(runs.load(Ordering::SeqCst), 0, "the fleet is not asked for the fleet");
    let mut near = words(&here, Origin::HERE);
    until_stands(&mut near, &["own 1", "run 0"]).await;
    until_stands(&mut far, &["own 1"]).await;
    drop(near);
    let mut changes = there.directive_changes();
    while there.directives()[0].resolvers.len() > 1 {
        soon(changes.changed()).await.unwrap();
    }
    let mut near = words(&here, Origin::HERE);
    until_stands(&mut near, &["own 1", "run 1"]).await;
    drop((near, far));
    until_gone(&there).await;
}

#[tokio::test]
async fn superseding_directives_of_two_buses_do_not_take_turns_on_a_third() {
    for in_fleet in [false, true] {
        superseding_directives_do_not_take_turns(in_fleet).await;
    }
}

async fn superseding_directives_do_not_take_turns(in_fleet: bool) {
    let (one, two, both) = (Bus::new(), Bus::new(), Bus::new());
    let (runs, of_fleet) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (counted, asked) = (Arc::clone(&runs), Arc::clone(&of_fleet));
    resolver_of::<Wish, _>(&both, move |wish, values| {
        counted.fetch_add(1, Ordering::SeqCst);
        values.add(format!("wish {}", wish.revision));
        std::future::ready(Ok(()))
    });
    if in_fleet {
        resolver_from(&both, Origin::fleet("hub-1"), move |_: Wish, _: Values<String>| {
            asked.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok(()))
        });
    }
    let _bridges = [bridge(&one, &both), bridge(&two, &both)];
    let mut first = one.request(Wish::new(1)).unwrap();
    until_stands(&mut first, &["wish 1"]).await;
    let mut second = two.request(Wish::new(2)).unwrap();
    until_stands(&mut second, &["wish 2"]).await;
    let mut third = both.request(Wish::new(3)).unwrap();
    until_stands(&mut third, &["wish 3"]).await;
    for (request, stands) in [(&mut first, "wish 1"), (&mut second, "wish 2"), (&mut third, "wish 3")] {
        assert!(read(request).iter().all(|event| !matches!(event, Event::Removed(_) | Event::Failed(_))));
        assert_eq!(standing(request), [stands]);
    }
    assert_eq!((both.directives().len(), runs.load(Ordering::SeqCst)), (3, 3));
    assert_eq!(of_fleet.load(Ordering::SeqCst), if in_fleet { 3 } else { 0 }, "each of this process is asked there");

    // On its own bus a newer one supersedes as ever, and so it does beyond the bridge.
    let mut newer = one.request(Wish::new(4)).unwrap();
    until_stands(&mut newer, &["wish 4"]).await;
    let mut changes = both.directive_changes();
    while both.directives().len() > 3 {
        soon(changes.changed()).await.unwrap();
    }
    assert_eq!(standing(&second), ["wish 2"]);
}

/// Each that asks has one of its own.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/own-words", value = String, unmerged)]
struct OwnWords {}

#[tokio::test]
async fn what_is_not_merged_runs_once_beyond_a_bridge_for_each_that_asks_in_a_fleet_too() {
    let (here, there) = (Bus::new(), Bus::new());
    let runs = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&runs);
    resolver_of::<OwnWords, _>(&there, move |_, values| {
        counted.fetch_add(1, Ordering::SeqCst);
        values.add("own".to_owned());
        std::future::ready(Ok(()))
    });
    resolver_from(&there, Origin::fleet("hub-1"), |_: OwnWords, values| {
        values.add("remote".to_owned());
        std::future::ready(Ok(()))
    });
    let _bridge = here.bridge(&there, Across::types(["test/own-words"])).unwrap();
    let mut far = here.handle_from(edge()).request(OwnWords {}).unwrap();
    until_stands(&mut far, &["own"]).await;
    let mut near = here.request(OwnWords {}).unwrap();
    until_stands(&mut near, &["own", "remote"]).await;
    read(&mut far);
    assert_eq!((standing(&far).len(), runs.load(Ordering::SeqCst), there.directives().len()), (1, 2, 2));
}

#[tokio::test]
async fn a_bridge_whose_close_is_not_waited_for_goes_with_all_its_parts() {
    let (here, there) = (Bus::new(), Bus::new());
    proxy(&there, "remote");
    let bridge = bridge(&here, &there);
    assert_eq!(here.controllers().len(), 2);
    let mut changes = here.changes();
    {
        let mut close = std::pin::pin!(bridge.close());
        let _ = close.as_mut().poll(&mut TaskContext::from_waker(Waker::noop()));
    }
    while !here.controllers().is_empty() {
        soon(changes.changed()).await.unwrap();
    }
}

/// Three values, whoever answers.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/few-words", value = String, max_values = 3, hard_cap)]
struct FewWords {}

#[tokio::test]
async fn what_waits_beyond_a_bridge_for_room_under_a_cap_comes_when_others_make_room() {
    let (here, there) = (Bus::new(), Bus::new());
    let held = Arc::<Mutex<Option<Held>>>::default();
    let holds = Arc::clone(&held);
    resolver_of::<FewWords, _>(&here, move |_, values: Values<String>| {
        *holds.lock().unwrap() = values.hold("near".to_owned());
        std::future::ready(Ok(()))
    });
    resolver_of::<FewWords, _>(&there, |_, values| {
        values.add("own".to_owned());
        std::future::ready(Ok(()))
    });
    resolver_from(&there, Origin::fleet("hub-1"), |_: FewWords, values: Values<String>| {
        values.add("remote 1".to_owned());
        values.add("remote 2".to_owned());
        std::future::ready(Ok(()))
    });
    let _bridge = here.bridge(&there, Across::types(["test/few-words"])).unwrap();
    let mut request = here.request(FewWords {}).unwrap();
    until_stands(&mut request, &["near", "own", "remote 1"]).await;
    drop(held.lock().unwrap().take());
    until_stands(&mut request, &["own", "remote 1", "remote 2"]).await;
}

#[tokio::test]
async fn superseding_directives_of_two_hosts_are_kept_apart_beyond_a_bridge_too() {
    let (here, there) = (Bus::new(), Bus::new());
    grants_wishes(&there);
    let _bridge = bridge(&here, &there);
    let ask = |origin, revision| here.handle_from(origin).request(Wish::new(revision)).unwrap();
    let mut wishes = [ask(Origin::HERE, 1), ask(edge(), 2), ask(Origin::fleet("edge-8"), 3)];
    for (at, stands) in ["wish 1", "wish 2", "wish 3"].into_iter().enumerate() {
        until_stands(&mut wishes[at], &[stands]).await;
    }
    assert_eq!(there.directives().len(), 3);
}

#[tokio::test]
async fn a_call_of_this_process_is_answered_by_the_fleet_beyond_a_bridge_and_another_hosts_call_is_not() {
    let (here, there) = (Bus::new(), Bus::new());
    let calls = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&calls);
    let _bridge = bridge(&here, &there);
    resolver_from(&there, Origin::fleet("hub-1"), move |_: CallOnce, values: Values<String>| {
        values.add(format!("call {}", counted.fetch_add(1, Ordering::SeqCst)));
        std::future::ready(Ok(()))
    });
    assert_eq!(*soon(here.resolve(CallOnce {})).await.unwrap(), "call 0");
    assert_eq!(soon(here.handle_from(edge()).try_resolve(CallOnce {})).await.unwrap(), None);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_bridge_over_a_controllers_handle_keeps_them_apart_as_well() {
    let (here, there) = (Bus::new(), Bus::new());
    answers(&there, "own");
    proxy(&there, "remote");
    let _bridge = here.bridge(&there.handle(), Across::types(["test/words"])).unwrap();
    let (mut far, mut near) = (words(&here, edge()), words(&here, Origin::HERE));
    until_stands(&mut near, &["own 1", "remote 1"]).await;
    until_stands(&mut far, &["own 1"]).await;
    assert!(there.bridge(&here.handle(), Across::types(["test/words"])).is_err(), "a circle, over a handle too");
}

#[tokio::test]
async fn over_a_handle_whose_bus_is_not_known_nothing_is_told_to_another_host() {
    let (here, there) = (Bus::new(), Bus::new());
    answers(&there, "own");
    // What is behind this one is not known, as with a plugin's.
    let handle = there.handle_from(Origin::HERE);
    let _bridge = here.bridge(&handle, Across::types(["test/words"])).unwrap();
    let (mut far, mut near) = (words(&here, edge()), words(&here, Origin::HERE));
    until_stands(&mut near, &["own 1"]).await;
    read(&mut far);
    assert!(standing(&far).is_empty() && far.is_idle());
}
