//! Directives: equivalence, validation, names, caps, keep times, superseding.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::{Bus, FactorySnapshot, Source};
use controllerbus::directive::{Directive as _, Supersede};
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;

use crate::kit::{Fails, Words, answers, counted, resolver, resolver_of, soon};

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Debug)]
#[directive(
    id = "test/room",
    value = String,
    key = name,
    supersede = Room::supersede,
    validate = Room::check,
    name = Room::title,
    debug_values = Room::facts
)]
struct Room {
    name: String,
    revision: u64,
}

impl Room {
    fn new(name: &str, revision: u64) -> Self {
        Self { name: name.to_owned(), revision }
    }
    fn supersede(&self) -> Supersede {
        Supersede::Revision(self.revision)
    }
    fn check(&self) -> Result<()> {
        if self.name.is_empty() { Err(Error::msg("the room has no name")) } else { Ok(()) }
    }
    fn title(&self) -> String {
        format!("the room {}", self.name)
    }
    fn facts(&self) -> Vec<(String, String)> {
        vec![("painted".to_owned(), self.revision.to_string())]
    }
}

fn rooms(bus: &Bus) {
    resolver_of::<Room, _>(bus, |room, values| {
        values.add(format!("{} as of {}", room.name, room.revision));
        std::future::ready(Ok(()))
    });
}

#[tokio::test]
async fn an_equivalent_directive_shares_the_standing_one_and_another_does_not() {
    let bus = Bus::new();
    let calls = counted(&bus);
    let mut one = bus.request(Words { number: 1 }).unwrap();
    let mut again = bus.request(Words { number: 1 }).unwrap();
    let mut other = bus.request(Words { number: 2 }).unwrap();
    for request in [&mut one, &mut again, &mut other] {
        soon(request.value()).await.unwrap();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let mut references: Vec<_> = bus.directives().iter().map(|directive| directive.references).collect();
    references.sort_unstable();
    assert_eq!(references, [1, 2]);
}

#[test]
fn a_key_of_some_fields_makes_directives_equivalent_that_differ_in_others() {
    assert!(Room::new("blue", 1).key_eq(&Room::new("blue", 2)));
    assert!(!Room::new("blue", 1).key_eq(&Room::new("red", 1)));
}

#[tokio::test]
async fn a_directive_that_refuses_itself_is_told_why_and_does_not_stand() {
    let bus = Bus::new();
    let error = bus.request(Room::new("", 1)).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.to_string(), "directive test/room is not valid: the room has no name");
    assert!(bus.directives().is_empty());
}

#[tokio::test]
async fn people_read_a_directives_own_name_and_debug_values() {
    let bus = Bus::new();
    let _request = bus.request(Room::new("blue", 3)).unwrap();
    let shown = bus.directives().remove(0);
    assert_eq!(shown.name, "the room blue");
    assert_eq!(shown.debug, [("painted".to_owned(), "3".to_owned())]);
}

#[tokio::test]
async fn a_superseding_directive_replaces_the_standing_one_whose_requesters_read_an_end() {
    let bus = Bus::new();
    rooms(&bus);
    let mut old = bus.request(Room::new("blue", 1)).unwrap();
    assert_eq!(*soon(old.value()).await.unwrap(), "blue as of 1");
    let mut new = bus.request(Room::new("blue", 2)).unwrap();
    assert_eq!(*soon(new.value()).await.unwrap(), "blue as of 2");
    soon(async { while old.next().await.is_some() {} }).await;
    // An older one that comes late shares what stands.
    let mut late = bus.request(Room::new("blue", 1)).unwrap();
    assert_eq!(*soon(late.value()).await.unwrap(), "blue as of 2");
    assert_eq!(bus.directives().len(), 1);
    drop((old, new, late));
    assert!(bus.directives().is_empty());
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/two", value = u32, max_values = 2, hard_cap)]
struct HardTwo;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/soft-two", value = u32, max_values = 2)]
struct SoftTwo;

#[tokio::test]
async fn a_hard_cap_refuses_further_values() {
    let bus = Bus::new();
    resolver_of::<HardTwo, _>(&bus, |_, values| {
        assert!(values.add(1).is_some() && values.add(2).is_some());
        assert!(values.is_cancelled());
        assert!(values.add(3).is_none());
        std::future::ready(Ok(()))
    });
    let values = soon(bus.resolve_all(HardTwo)).await.unwrap();
    assert_eq!(values.iter().map(|value| **value).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_resolver_that_a_hard_cap_stopped_is_started_again_when_there_is_room() {
    let bus = Bus::new();
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    resolver_of::<HardTwo, _>(&bus, move |_, values| {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_first {
                // It is still at work when there are values enough.
                std::future::pending::<()>().await;
            }
            values.add(7);
            Ok(())
        }
    });
    let first = resolver_of::<HardTwo, _>(&bus, |_, values| {
        values.add(1);
        values.add(2);
        std::future::ready(Ok(()))
    });
    let mut request = bus.request(HardTwo).unwrap();
    assert_eq!(soon(request.values()).await.unwrap().len(), 2);
    assert_eq!(tries.load(Ordering::Relaxed), 1);
    bus.remove_controller(first).await;
    assert_eq!(*soon(request.value()).await.unwrap(), 7);
    assert_eq!(tries.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_soft_cap_tells_resolvers_to_stop_and_takes_what_they_add_all_the_same() {
    let bus = Bus::new();
    resolver_of::<SoftTwo, _>(&bus, |_, values| {
        values.add(1);
        assert!(!values.is_cancelled());
        values.add(2);
        assert!(values.is_cancelled());
        assert!(values.add(3).is_some());
        std::future::ready(Ok(()))
    });
    assert_eq!(soon(bus.resolve_all(SoftTwo)).await.unwrap().len(), 3);
}

/// What the bus itself answers, with room for one value.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/list-factories", value = FactorySnapshot, max_values = 1, hard_cap)]
struct OneFactory {}

#[tokio::test]
async fn what_the_bus_itself_answers_counts_towards_a_cap_like_any_other_value() {
    let bus = Bus::new();
    bus.add_factories(Source(1), vec![Arc::new(Fails::default())]);
    bus.add_factories(Source(2), vec![Arc::new(Fails::default())]);
    let mut request = bus.request(OneFactory {}).unwrap();
    while !matches!(soon(request.next()).await, Some(Event::Idle)) {}
    assert_eq!(request.standing().count(), 1);

    let (asked, snapshot) = (Arc::new(AtomicUsize::new(0)), bus.factories().swap_remove(0));
    let count = Arc::clone(&asked);
    resolver_of::<OneFactory, _>(&bus, move |_, values| {
        count.fetch_add(1, Ordering::Relaxed);
        values.add(snapshot.clone());
        std::future::ready(Ok(()))
    });
    assert_eq!((asked.load(Ordering::Relaxed), request.standing().count()), (0, 1), "there is one already");
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/kept", value = String, keep_for_ms = 60_000)]
struct Kept;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/kept-if-any", value = String, keep_for_ms = 60_000, drop_if_empty)]
struct KeptIfAny;

#[tokio::test(start_paused = true)]
async fn a_directive_is_kept_for_its_time_and_its_values_are_there_for_who_comes_back() {
    let bus = Bus::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    resolver_of::<Kept, _>(&bus, move |_, values| {
        values.add(format!("answer {}", count.fetch_add(1, Ordering::Relaxed)));
        std::future::ready(Ok(()))
    });
    assert_eq!(*bus.resolve(Kept).await.unwrap(), "answer 0");
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(*bus.resolve(Kept).await.unwrap(), "answer 0");
    // The time counts from the last release.
    tokio::time::advance(Duration::from_secs(59)).await;
    tokio::task::yield_now().await;
    assert_eq!(bus.directives().len(), 1);
    let mut changes = bus.directive_changes();
    tokio::time::advance(Duration::from_secs(2)).await;
    while !bus.directives().is_empty() {
        changes.changed().await.unwrap();
    }
    assert_eq!(*bus.resolve(Kept).await.unwrap(), "answer 1");
}

#[tokio::test]
async fn a_directive_without_values_goes_at_once_if_it_says_so_and_when_it_loses_its_last_one() {
    let bus = Bus::new();
    drop(bus.request(KeptIfAny).unwrap());
    assert!(bus.directives().is_empty());

    let held = Arc::new(Mutex::new(None));
    let place = Arc::clone(&held);
    resolver_of::<KeptIfAny, _>(&bus, move |_, values| {
        *place.lock().unwrap() = values.hold("one".to_owned());
        std::future::ready(Ok(()))
    });
    bus.resolve(KeptIfAny).await.unwrap();
    assert_eq!(bus.directives().len(), 1);
    drop(held.lock().unwrap().take());
    assert!(bus.directives().is_empty());
}

#[tokio::test]
async fn a_closed_bus_ends_directives_and_refuses_new_ones() {
    let bus = Bus::new();
    answers(&bus, "number");
    let mut request = bus.request(Words { number: 1 }).unwrap();
    bus.close().await;
    soon(async { while request.next().await.is_some() {} }).await;
    assert_eq!(bus.request(Words { number: 2 }).expect_err("closed").kind(), ErrorKind::Closed);
    assert_eq!(bus.resolve(Room::new("blue", 1)).await.expect_err("closed").kind(), ErrorKind::Closed);
    assert!(bus.controllers().is_empty() && bus.directives().is_empty());
}

#[tokio::test]
async fn code_of_a_directive_that_panics_harms_nobody_else() {
    let bus = Bus::new();
    resolver(&bus, |request, values| async move {
        assert!(request.number != 13, "13 brings bad luck");
        values.add("fine".to_owned());
        Ok(())
    });
    let error = soon(bus.resolve(Words { number: 13 })).await.expect_err("a panic");
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert_eq!(*soon(bus.resolve(Words { number: 1 })).await.unwrap(), "fine");
}
