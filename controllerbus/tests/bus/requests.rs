//! Requests: events, strong and weak references, the ways to wait, cancellation, errors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use controllerbus::bus::Bus;
use controllerbus::directive::Values;
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;

use crate::kit::{Words, answers, resolver, soon};

/// A controller whose values the test adds and withdraws.
fn by_hand(bus: &Bus) -> Arc<Mutex<Option<Values<String>>>> {
    let handle = Arc::new(Mutex::new(None));
    let place = Arc::clone(&handle);
    resolver(bus, move |_, values| {
        *place.lock().unwrap() = Some(values);
        std::future::pending()
    });
    handle
}

#[tokio::test]
async fn a_request_reads_values_that_come_and_go_and_when_it_is_idle() {
    let bus = Bus::new();
    let handle = by_hand(&bus);
    let mut request = bus.request(Words { number: 1 }).unwrap();
    let values = handle.lock().unwrap().clone().unwrap();
    let one = values.add("one".to_owned()).unwrap();
    assert!(matches!(soon(request.next()).await, Some(Event::Added(id, value)) if id == one && *value == "one"));
    assert!(values.remove(one));
    assert!(!values.remove(one));
    assert!(matches!(soon(request.next()).await, Some(Event::Removed(id)) if id == one));
    values.idle();
    assert!(matches!(soon(request.next()).await, Some(Event::Idle)));
    values.busy();
    assert!(matches!(soon(request.next()).await, Some(Event::Busy)));
}

#[tokio::test]
async fn a_request_is_a_stream() {
    let bus = Bus::new();
    answers(&bus, "number");
    let mut request = bus.request(Words { number: 1 }).unwrap();
    let mut stream = std::pin::pin!(&mut request);
    let event = soon(std::future::poll_fn(|cx| futures_core::Stream::poll_next(stream.as_mut(), cx))).await;
    assert!(matches!(event, Some(Event::Added(_, value)) if *value == "number 1"));
}

#[tokio::test]
async fn a_weak_reference_reads_the_same_and_does_not_keep_the_directive() {
    let bus = Bus::new();
    answers(&bus, "number");
    let strong = bus.request(Words { number: 1 }).unwrap();
    let mut weak = strong.weak().unwrap();
    assert_eq!(*soon(weak.value()).await.unwrap(), "number 1");
    let shown = bus.directives().remove(0);
    assert_eq!((shown.references, shown.weak_references), (1, 1));

    let again = weak.strong().unwrap();
    drop(strong);
    assert_eq!(bus.directives().len(), 1);
    drop(again);
    assert!(bus.directives().is_empty());
    soon(async { while weak.next().await.is_some() {} }).await;
    assert_eq!(weak.strong().expect_err("it does not stand").kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn resolve_waits_for_a_controller_that_comes_later() {
    let bus = Bus::new();
    let waiting = tokio::spawn({
        let bus = bus.clone();
        async move { bus.resolve(Words { number: 4 }).await }
    });
    let mut changes = bus.directive_changes();
    while bus.directives().is_empty() {
        soon(changes.changed()).await.unwrap();
    }
    answers(&bus, "late");
    assert_eq!(*soon(waiting).await.unwrap().unwrap(), "late 4");
}

#[tokio::test]
async fn resolve_all_gives_what_stands_when_it_is_idle_and_try_resolve_gives_none_without_values() {
    let bus = Bus::new();
    assert_eq!(soon(bus.try_resolve(Words { number: 1 })).await.unwrap(), None);
    assert!(soon(bus.resolve_all(Words { number: 1 })).await.unwrap().is_empty());
    answers(&bus, "a");
    resolver(&bus, |_, values| async move {
        let gone = values.add("gone".to_owned()).unwrap();
        tokio::task::yield_now().await;
        values.remove(gone);
        values.add("b".to_owned());
        Ok(())
    });
    let mut all: Vec<_> =
        soon(bus.resolve_all(Words { number: 1 })).await.unwrap().iter().map(ToString::to_string).collect();
    all.sort();
    assert_eq!(all, ["a 1", "b"]);
    assert!(soon(bus.try_resolve(Words { number: 1 })).await.unwrap().is_some());
}

#[tokio::test]
async fn a_wait_that_is_cancelled_loses_nothing() {
    let bus = Bus::new();
    let handle = by_hand(&bus);
    let mut request = bus.request(Words { number: 1 }).unwrap();
    for round in 0..3 {
        {
            let mut wait = std::pin::pin!(request.value());
            let polled = std::future::poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx).is_pending())).await;
            assert!(polled);
        }
        let values = handle.lock().unwrap().clone().unwrap();
        values.add(format!("value {round}"));
        assert_eq!(*soon(request.value()).await.unwrap(), format!("value {round}"));
    }
    {
        let mut all = std::pin::pin!(request.values());
        assert!(std::future::poll_fn(|cx| Poll::Ready(all.as_mut().poll(cx).is_pending())).await);
    }
    handle.lock().unwrap().clone().unwrap().idle();
    // What was read by the cancelled wait still stands, and is among the values.
    assert_eq!(soon(request.values()).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_resolvers_error_is_told_and_does_not_hide_another_resolvers_value() {
    let bus = Bus::new();
    resolver(&bus, |_, _| std::future::ready(Err(Error::msg("the shop is shut"))));
    let error = soon(bus.resolve(Words { number: 1 })).await.expect_err("an error");
    assert_eq!(error.to_string(), "the shop is shut");
    assert!(soon(bus.try_resolve(Words { number: 1 })).await.is_err());
    answers(&bus, "number");
    assert_eq!(*soon(bus.resolve(Words { number: 1 })).await.unwrap(), "number 1");
    assert_eq!(soon(bus.resolve_all(Words { number: 1 })).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_value_of_another_type_is_an_error_that_names_the_directive() {
    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "test/words", value = u64)]
    struct Numbers {
        number: u64,
    }
    let bus = Bus::new();
    answers(&bus, "number");
    let error = soon(bus.resolve(Numbers { number: 1 })).await.expect_err("no number");
    assert_eq!(error.kind(), ErrorKind::Encoding);
    assert!(error.to_string().contains("test/words"), "{error}");
}

#[tokio::test]
async fn dropping_the_last_reference_ends_the_directive_and_its_resolver() {
    struct Dropped(Option<tokio::sync::oneshot::Sender<()>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.take().map(|told| told.send(()));
        }
    }
    let bus = Bus::new();
    let (told, dropped) = tokio::sync::oneshot::channel();
    let guard = Mutex::new(Some(Dropped(Some(told))));
    resolver(&bus, move |_, _| {
        let guard = guard.lock().unwrap().take();
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok(())
        }
    });
    drop(bus.request(Words { number: 1 }).unwrap());
    assert!(bus.directives().is_empty());
    soon(dropped).await.unwrap();
}

#[tokio::test]
async fn each_of_many_directives_is_found_in_whichever_order_they_come_and_go() {
    let bus = Bus::new();
    answers(&bus, "number");
    const ALL: u64 = 600;
    // Each order goes through all of them, because it and their number have no divisor.
    let order = |step: u64| (0..ALL).map(move |at| at * step % ALL);
    let mut first: HashMap<u64, _> = order(7).map(|number| (number, bus.request(Words { number }).unwrap())).collect();
    assert_eq!(bus.directives().len() as u64, ALL);
    let mut again: HashMap<u64, _> = HashMap::new();
    for (gone, number) in order(11).enumerate() {
        let mut request = bus.request(Words { number }).unwrap();
        assert_eq!(*soon(request.value()).await.unwrap(), format!("number {number}"));
        again.insert(number, request);
        // The other reference keeps it where there is one.
        drop(first.remove(&number));
        assert_eq!(first.len() as u64, ALL - 1 - gone as u64);
    }
    assert_eq!(bus.directives().len() as u64, ALL, "they are merged, and none has gone");
    for (gone, number) in order(13).enumerate() {
        drop(again.remove(&number));
        let left = bus.directives();
        assert_eq!(left.len() as u64, ALL - 1 - gone as u64);
    }
    // What comes after many have gone.
    let mut request = bus.request(Words { number: 1 }).unwrap();
    assert_eq!(*soon(request.value()).await.unwrap(), "number 1");
}

#[tokio::test]
async fn a_handle_that_is_kept_keeps_no_controller_and_says_nothing_after_its_run() {
    struct Dropped(Arc<Mutex<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = true;
        }
    }
    let bus = Bus::new();
    let (dropped, kept) = (Arc::new(Mutex::new(false)), Arc::new(Mutex::new(Vec::new())));
    let (of_controller, handles) = (Dropped(Arc::clone(&dropped)), Arc::clone(&kept));
    let id = resolver(&bus, move |_, values| {
        let _held = &of_controller;
        let run = {
            let mut handles = handles.lock().unwrap();
            handles.push(values);
            handles.len()
        };
        // The first run fails, and the second one stays.
        async move { if run == 1 { Err(Error::msg("no tea")) } else { std::future::pending().await } }
    });
    let mut request = bus.request(Words { number: 1 }).unwrap();
    let runs = || kept.lock().unwrap().len();
    soon(async {
        while runs() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let [first, second] = [0, 1].map(|run| kept.lock().unwrap()[run].clone());
    assert!(first.is_cancelled() && first.add("first".to_owned()).is_none());
    assert!(!second.is_cancelled() && second.add("second".to_owned()).is_some());
    assert_eq!(*soon(request.value()).await.unwrap(), "second");
    bus.remove_controller(id).await;
    assert!(*dropped.lock().unwrap(), "the handles are still there");
    assert!(second.is_cancelled() && second.add("late".to_owned()).is_none());
}
