//! Resolvers: values that come and go, retries, callbacks, helpers, children.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use controllerbus::bus::Bus;
use controllerbus::directive::{Shared, SharedMap};
use controllerbus::prelude::*;
use tokio::sync::{mpsc, oneshot, watch};

use crate::kit::{Words, answers, resolver, resolver_of, soon};

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/length", value = usize)]
struct Length {
    number: u64,
}

async fn next_value(request: &mut Request<Words>) -> String {
    soon(request.value()).await.expect("a value").to_string()
}

#[tokio::test]
async fn a_controller_that_comes_later_is_offered_what_stands_and_one_that_goes_takes_its_values_along() {
    let bus = Bus::new();
    let mut request = bus.request(Words { number: 1 }).unwrap();
    let id = answers(&bus, "late");
    let added = loop {
        if let Some(Event::Added(id, value)) = soon(request.next()).await {
            assert_eq!(*value, "late 1");
            break id;
        }
    };
    bus.remove_controller(id).await;
    soon(async { while !matches!(request.next().await, Some(Event::Removed(id)) if id == added) {} }).await;
    assert_eq!(request.standing().count(), 0);
    assert!(bus.directives()[0].resolvers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_fails_or_panics_is_tried_again_with_backoff() {
    let bus = Bus::new();
    let tries = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&tries);
    let begun = tokio::time::Instant::now();
    resolver(&bus, move |_, values| {
        let count = {
            let mut times = times.lock().unwrap();
            times.push(begun.elapsed());
            times.len()
        };
        async move {
            values.add(format!("try {count}"));
            match count {
                1 | 2 => Err(Error::msg("not yet")),
                3 => panic!("not yet either"),
                _ => Ok(()),
            }
        }
    });
    let mut request = bus.request(Words { number: 1 }).unwrap();
    let mut failures = Vec::new();
    loop {
        match request.next().await.expect("it stands") {
            Event::Failed(error) => failures.push(error.to_string()),
            Event::Idle if request.standing().next().is_some() => break,
            _ => {}
        }
    }
    assert_eq!(failures, ["not yet", "not yet", "panicked: not yet either"]);
    // What a failed try had added is gone.
    assert_eq!(request.standing().map(|value| value.as_str()).collect::<Vec<_>>(), ["try 4"]);
    let times = tries.lock().unwrap().clone();
    let waits: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    for (wait, full) in waits.iter().zip([100, 200, 400]) {
        assert!((full / 2..=full + 10).contains(wait), "{waits:?}");
    }
}

#[tokio::test]
async fn a_held_value_is_withdrawn_when_its_guard_is_dropped_and_a_slot_holds_one_at_a_time() {
    let bus = Bus::new();
    let (steps, step) = mpsc::unbounded_channel::<()>();
    let step = Mutex::new(Some(step));
    resolver(&bus, move |_, values| {
        let mut step = step.lock().unwrap().take().expect("it is asked once");
        async move {
            let held = values.hold("held".to_owned());
            step.recv().await;
            drop(held);
            let mut slot = values.slot();
            slot.set("first".to_owned());
            slot.set("second".to_owned());
            step.recv().await;
            slot.clear();
            std::future::pending().await
        }
    });
    let mut request = bus.request(Words { number: 1 }).unwrap();
    assert_eq!(next_value(&mut request).await, "held");
    steps.send(()).unwrap();
    while next_value(&mut request).await != "second" {}
    while request.standing().count() > 1 {
        soon(request.next()).await;
    }
    assert_eq!(request.standing().map(|value| value.as_str()).collect::<Vec<_>>(), ["second"]);
    steps.send(()).unwrap();
    while request.standing().count() > 0 {
        soon(request.next()).await;
    }
}

#[tokio::test]
async fn whoever_asks_is_called_once_when_a_value_or_a_resolver_is_gone() {
    let bus = Bus::new();
    let (told, mut heard) = mpsc::unbounded_channel();
    let handle = Arc::new(Mutex::new(None));
    let place = Arc::clone(&handle);
    let id = resolver(&bus, move |request, values| {
        let (one, two, gone) = (told.clone(), told.clone(), told.clone());
        let number = request.number;
        let first = values.add_watched("one".to_owned(), move || drop(one.send(format!("value 1 of {number}"))));
        values.add_watched("two".to_owned(), move || drop(two.send(format!("value 2 of {number}"))));
        values.on_gone(move || drop(gone.send(format!("resolver of {number}"))));
        *place.lock().unwrap() = Some((values, first.expect("wanted")));
        std::future::ready(Ok(()))
    });
    let first = bus.request(Words { number: 1 }).unwrap();
    let (values, value) = handle.lock().unwrap().take().unwrap();
    values.remove(value);
    assert_eq!(soon(heard.recv()).await.unwrap(), "value 1 of 1");
    drop(first);
    let mut rest = [soon(heard.recv()).await.unwrap(), soon(heard.recv()).await.unwrap()];
    rest.sort();
    assert_eq!(rest, ["resolver of 1", "value 2 of 1"]);
    // Of a directive that has gone it is told at once.
    let (sender, receiver) = oneshot::channel();
    values.on_gone(move || sender.send(()).unwrap());
    soon(receiver).await.unwrap();

    let _second = bus.request(Words { number: 2 }).unwrap();
    bus.remove_controller(id).await;
    let mut all: Vec<String> = Vec::new();
    for _ in 0..3 {
        all.push(soon(heard.recv()).await.unwrap());
    }
    all.sort();
    assert_eq!(all, ["resolver of 2", "value 1 of 2", "value 2 of 2"]);
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn a_watched_value_is_shown_one_at_a_time_and_its_last_one_stays() {
    let bus = Bus::new();
    let (sender, receiver) = watch::channel("one".to_owned());
    resolver(&bus, move |_, values| {
        let receiver = receiver.clone();
        async move { values.follow(receiver).await }
    });
    let mut request = bus.request(Words { number: 1 }).unwrap();
    assert_eq!(next_value(&mut request).await, "one");
    sender.send_replace("two".to_owned());
    assert_eq!(next_value(&mut request).await, "two");
    while request.standing().count() != 1 {
        soon(request.next()).await;
    }
    drop(sender);
    let mut late = bus.request(Words { number: 1 }).unwrap();
    assert_eq!(next_value(&mut late).await, "two");
}

#[tokio::test]
async fn another_directives_values_are_mapped_and_go_with_those() {
    let bus = Bus::new();
    let words = answers(&bus, "some words about");
    let (inner, outer) = (bus.clone(), bus.clone());
    resolver_of::<Length, _>(&outer, move |length, values| {
        let request = inner.request(Words { number: length.number });
        async move { values.map(request?, |words| Some(words.len())).await }
    });
    let mut request = bus.request(Length { number: 12 }).unwrap();
    assert_eq!(*soon(request.value()).await.unwrap(), "some words about 12".len());
    assert_eq!(soon(request.values()).await.unwrap().len(), 1);
    bus.remove_controller(words).await;
    while request.standing().count() > 0 {
        soon(request.next()).await;
    }
    drop(request);
    // The inner directive is held by the mapping only.
    let mut changes = bus.directive_changes();
    while !bus.directives().is_empty() {
        soon(changes.changed()).await.unwrap();
    }
}

#[tokio::test]
async fn a_streams_items_are_mapped_one_at_a_time() {
    let bus = Bus::new();
    let (inner, outer) = (bus.clone(), bus.clone());
    answers(&bus, "a");
    resolver_of::<Length, _>(&outer, move |length, values| {
        let stream = inner.request(Words { number: length.number });
        async move {
            values
                .follow_stream(stream?, |event| match event {
                    Event::Added(_, words) => Some(words.len()),
                    Event::Idle => Some(0),
                    _ => None,
                })
                .await
        }
    });
    let mut request = bus.request(Length { number: 1 }).unwrap();
    // First the words, then that the other directive is idle.
    while *soon(request.value()).await.unwrap() != 0 {}
    while request.standing().count() > 1 {
        soon(request.next()).await;
    }
}

#[tokio::test]
async fn there_is_one_value_for_each_key() {
    let bus = Bus::new();
    resolver(&bus, |_, values| async move {
        let mut keyed = values.keyed();
        keyed.set("a", "a1".to_owned());
        keyed.set("b", "b1".to_owned());
        keyed.set("a", "a2".to_owned());
        assert!(keyed.remove(&"b") && !keyed.remove(&"b"));
        keyed.set("c", "c1".to_owned());
        keyed.set("d", "d1".to_owned());
        keyed.retain(|key| *key != "d");
        assert_eq!(keyed.len(), 2);
        values.idle();
        std::future::pending().await
    });
    let mut request = bus.request(Words { number: 1 }).unwrap();
    let mut all: Vec<_> = soon(request.values()).await.unwrap().iter().map(ToString::to_string).collect();
    all.sort();
    assert_eq!(all, ["a2", "c1"]);
}

#[tokio::test]
async fn what_is_shared_is_made_once_and_dropped_when_the_last_value_of_it_is_gone() {
    struct Costly(Option<oneshot::Sender<()>>);
    impl Drop for Costly {
        fn drop(&mut self) {
            let _ = self.0.take().map(|told| told.send(()));
        }
    }
    let bus = Bus::new();
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let (told, mut dropped) = oneshot::channel();
    let told = Mutex::new(Some(told));
    let shared = Arc::new(Shared::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(Costly(told.lock().unwrap().take())))
    }));
    resolver(&bus, move |request, values| {
        let shared = Arc::clone(&shared);
        async move { values.share(&shared, |_| format!("view {}", request.number)).await }
    });
    let mut one = bus.request(Words { number: 1 }).unwrap();
    let mut two = bus.request(Words { number: 2 }).unwrap();
    assert_eq!(next_value(&mut one).await, "view 1");
    assert_eq!(next_value(&mut two).await, "view 2");
    assert_eq!(made.load(Ordering::Relaxed), 1);
    drop(one);
    assert!(dropped.try_recv().is_err());
    drop(two);
    soon(dropped).await.unwrap();
    soon(bus.resolve(Words { number: 3 })).await.unwrap();
    assert_eq!(made.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_is_shared_is_made_anew_once_it_is_invalidated_and_its_values_are_replaced() {
    let bus = Bus::new();
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let shared = Arc::new(Shared::new(move || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(if number == 1 { Err(Error::msg("the network is down")) } else { Ok(number) })
    }));
    let source = Arc::clone(&shared);
    resolver(&bus, move |_, values| {
        let shared = Arc::clone(&source);
        async move { values.share(&shared, |number| format!("made {number}")).await }
    });
    let mut request = bus.request(Words { number: 1 }).unwrap();
    assert_eq!(next_value(&mut request).await, "made 0");
    shared.invalidate();
    // An error to make it anew is the resolver's, which is tried again.
    loop {
        match soon(request.next()).await.expect("it stands") {
            Event::Failed(error) => assert_eq!(error.to_string(), "the network is down"),
            Event::Added(_, value) => break assert_eq!(*value, "made 2"),
            _ => {}
        }
    }
    shared.invalidate();
    assert_eq!(next_value(&mut request).await, "made 3");
    assert_eq!(soon(request.values()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_shared_by_key_is_made_once_for_each_key_and_unused_keys_are_forgotten() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let map = SharedMap::new(move |key: u64| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(key * 10))
    });
    let one = map.of(1).get().await.unwrap();
    assert!(Arc::ptr_eq(&one, &map.of(1).get().await.unwrap()));
    assert_eq!((*one, *map.of(2).get().await.unwrap()), (10, 20));
    assert_eq!(made.load(Ordering::Relaxed), 2);
    map.of(1).invalidate();
    assert!(!Arc::ptr_eq(&one, &map.of(1).get().await.unwrap()));
    // However many keys there were, what is held stays shared.
    let held = map.of(3).get().await.unwrap();
    for key in 4..1_000 {
        map.of(key).get().await.unwrap();
    }
    assert!(Arc::ptr_eq(&held, &map.of(3).get().await.unwrap()));
}

#[tokio::test]
async fn an_error_of_what_maps_a_value_reaches_whoever_asks() {
    let bus = Bus::new();
    answers(&bus, "words about");
    let (inner, outer) = (bus.clone(), bus.clone());
    resolver_of::<Length, _>(&outer, move |length, values| {
        let request = inner.request(Words { number: length.number });
        async move {
            let map = |words: &String| match words.len() {
                12 => Ok(None),
                13 => Err(Error::msg("thirteen is not served")),
                length => Ok(Some(length)),
            };
            values.map(request?, map).await
        }
    });
    assert!(soon(bus.try_resolve(Length { number: 1 })).await.is_err());
    let error = soon(bus.resolve(Length { number: 2 })).await.expect_err("it cannot be mapped");
    assert_eq!(error.to_string(), "thirteen is not served");
    assert_eq!(*soon(bus.resolve(Length { number: 100 })).await.unwrap(), "words about 100".len());
}

#[tokio::test]
async fn a_child_resolvers_values_go_with_the_child_or_with_its_parent() {
    let bus = Bus::new();
    let (steps, step) = mpsc::unbounded_channel::<()>();
    let step = Mutex::new(Some(step));
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let id = resolver(&bus, move |_, values| {
        let mut step = step.lock().unwrap().take().expect("it is asked once");
        let count = Arc::clone(&count);
        async move {
            values.add("parent".to_owned());
            let child = values.child(move |values| {
                let run = count.fetch_add(1, Ordering::Relaxed);
                async move {
                    values.add(format!("child {run}"));
                    if run == 0 { Err(Error::msg("not yet")) } else { std::future::pending().await }
                }
            })?;
            let other = values.child(|values| async move {
                values.add("other".to_owned());
                Ok(())
            })?;
            other.idle().await;
            step.recv().await;
            drop(child);
            step.recv().await;
            std::future::pending::<()>().await;
            drop(other);
            Ok(())
        }
    });
    let mut request = bus.request(Words { number: 1 }).unwrap();
    let sorted = |request: &Request<Words>| {
        let mut all: Vec<_> = request.standing().map(ToString::to_string).collect();
        all.sort();
        all
    };
    while sorted(&request) != ["child 1", "other", "parent"] {
        soon(request.next()).await;
    }
    steps.send(()).unwrap();
    while sorted(&request) != ["other", "parent"] {
        soon(request.next()).await;
    }
    bus.remove_controller(id).await;
    while !sorted(&request).is_empty() {
        soon(request.next()).await;
    }
    assert_eq!(runs.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_handle_of_a_try_that_failed_adds_nothing_any_more() {
    let bus = Bus::new();
    let handles = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&handles);
    resolver(&bus, move |_, values| {
        let mut kept = kept.lock().unwrap();
        kept.push(values);
        let first = kept.len() == 1;
        std::future::ready(if first { Err(Error::msg("not yet")) } else { Ok(()) })
    });
    let mut request = bus.request(Words { number: 1 }).unwrap();
    assert!(soon(request.value()).await.is_err());
    let late = handles.lock().unwrap()[0].clone();
    assert!(late.add("too late".to_owned()).is_none() && late.is_cancelled());
    let mut changes = bus.directive_changes();
    while handles.lock().unwrap().len() < 2 {
        soon(changes.changed()).await.unwrap();
    }
    assert!(late.add("too late".to_owned()).is_none());
    let good = handles.lock().unwrap()[1].clone();
    good.add("in time".to_owned());
    assert_eq!(next_value(&mut request).await, "in time");
}
