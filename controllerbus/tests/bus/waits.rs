//! Waits with a deadline or a condition, following the latest value, an effect for each value, and the errors of now.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::{Bus, ResolverState};
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;
use tokio::sync::{mpsc, watch};

use crate::kit::{Words, answers, resolver, soon};

/// A controller that shows what a watch channel holds, or nothing.
fn shows(bus: &Bus, first: Option<&str>) -> watch::Sender<Option<String>> {
    let (sender, receiver) = watch::channel(first.map(str::to_owned));
    resolver(bus, move |_, values| {
        let receiver = receiver.clone();
        async move { values.follow(receiver).await }
    });
    sender
}

#[tokio::test(start_paused = true)]
async fn a_wait_with_a_deadline_says_who_was_at_work_on_it() {
    let bus = Bus::new();
    let limit = Duration::from_secs(2);
    let error = bus.resolve(Words { number: 1 }).within(limit).await.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "no value of test/words within 2s: no controller resolves it");

    resolver(&bus, |_, _| std::future::pending());
    let error = bus.resolve(Words { number: 1 }).within(limit).await.expect_err("it takes longer");
    assert!(error.to_string().contains("`test/closure` (controller 1) is still working on it"), "{error}");

    resolver(&bus, |_, _| std::future::ready(Err(Error::msg("the shop is shut"))));
    let mut request = bus.request(Words { number: 1 }).unwrap();
    let error = request.value().within(limit).await.expect_err("one fails");
    assert!(error.to_string().contains("`test/closure` (controller 2) failed: the shop is shut"), "{error}");
    let error = request.values().within(limit).await.expect_err("one is at work");
    assert_eq!(error.kind(), ErrorKind::TimedOut);

    answers(&bus, "in time");
    assert_eq!(*bus.resolve(Words { number: 1 }).within(limit).await.unwrap(), "in time 1");
}

#[tokio::test]
async fn a_wait_with_a_condition_passes_over_what_does_not_match_and_ends_with_the_conditions_error() {
    let bus = Bus::new();
    let shown = shows(&bus, Some("one"));
    let three = bus.resolve(Words { number: 1 }).matching(|words| words == "three");
    let waiting = tokio::spawn(three);
    for words in ["two", "three"] {
        shown.send_replace(Some(words.to_owned()));
        tokio::task::yield_now().await;
    }
    assert_eq!(*soon(waiting).await.unwrap().unwrap(), "three");

    let check = |words: &String| if words == "three" { Err(Error::msg("three is too many")) } else { Ok(true) };
    let error = soon(bus.resolve(Words { number: 1 }).matching(check)).await.expect_err("refused");
    assert_eq!(error.to_string(), "three is too many");

    // The others take a condition, too, and it may borrow.
    let wanted = "three".to_owned();
    let all = soon(bus.resolve_all(Words { number: 1 }).matching(|words| *words == wanted)).await.unwrap();
    assert_eq!(all.len(), 1);
    assert!(soon(bus.resolve_all(Words { number: 1 }).matching(|_| false)).await.unwrap().is_empty());
    assert!(soon(bus.try_resolve(Words { number: 1 }).matching(|_| false)).await.unwrap().is_none());
}

#[tokio::test]
async fn the_latest_value_is_followed_and_what_came_in_between_is_skipped() {
    let bus = Bus::new();
    let shown = shows(&bus, None);
    let mut latest = bus.request(Words { number: 1 }).unwrap().latest();
    for words in ["one", "two"] {
        shown.send_replace(Some(words.to_owned()));
        assert_eq!(soon(latest.next()).await.unwrap().as_deref().map(String::as_str), Some(words));
    }
    shown.send_replace(None);
    assert_eq!(soon(latest.next()).await, Some(None));
    bus.close().await;
    assert_eq!(soon(latest.next()).await, None);
}

#[tokio::test]
async fn an_effect_runs_for_each_value_until_that_is_gone_and_its_error_ends_all() {
    struct Told(String, mpsc::UnboundedSender<String>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.1.send(format!("-{}", self.0));
        }
    }
    let bus = Bus::new();
    let shown = shows(&bus, Some("one"));
    let (told, mut heard) = mpsc::unbounded_channel();
    let mut request = bus.request(Words { number: 1 }).unwrap();
    let following = tokio::spawn(async move {
        request
            .for_each(|words| {
                let told = told.clone();
                async move {
                    told.send(format!("+{words}")).unwrap();
                    let _clean_up = Told(words.to_string(), told);
                    if *words == "bad" {
                        return Err(Error::msg("a bad word"));
                    }
                    std::future::pending().await
                }
            })
            .await
    });
    assert_eq!(soon(heard.recv()).await.unwrap(), "+one");
    shown.send_replace(Some("two".to_owned()));
    let mut both = [soon(heard.recv()).await.unwrap(), soon(heard.recv()).await.unwrap()];
    both.sort();
    assert_eq!(both, ["+two", "-one"]);
    shown.send_replace(Some("bad".to_owned()));
    assert_eq!(soon(following).await.unwrap().expect_err("it ends").to_string(), "a bad word");
    let mut rest = Vec::new();
    while let Some(word) = soon(heard.recv()).await {
        rest.push(word);
    }
    rest.sort();
    assert_eq!(rest, ["+bad", "-bad", "-two"]);
}

#[tokio::test]
async fn a_request_shows_the_errors_of_now_and_who_has_added_how_many_values() {
    let bus = Bus::new();
    answers(&bus, "a");
    resolver(&bus, |_, _| std::future::ready(Err(Error::msg("shut").permanent())));
    let mut request = bus.request(Words { number: 1 }).unwrap();
    soon(request.values()).await.unwrap();
    let errors: Vec<_> = request.errors().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(errors, ["shut"]);
    let resolvers = request.resolvers().unwrap();
    assert_eq!(resolvers.iter().map(|resolver| resolver.values).collect::<Vec<_>>(), [1, 0]);
    assert_eq!((&resolvers[0].state, resolvers[0].name.as_str()), (&ResolverState::Idle, "test/closure"));
}

#[tokio::test]
async fn a_request_whose_directive_is_gone_shows_no_values_any_more() {
    let bus = Bus::new();
    answers(&bus, "a");
    let mut request = bus.request(Words { number: 1 }).unwrap();
    soon(request.value()).await.unwrap();
    bus.close().await;
    while soon(request.next()).await.is_some() {}
    assert_eq!(request.standing().count(), 0);
}

#[tokio::test]
async fn unmerged_directives_stand_side_by_side() {
    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "test/ticket", value = u64, unmerged)]
    struct Ticket {}
    let bus = Bus::new();
    let next = Mutex::new(0);
    crate::kit::resolver_of::<Ticket, _>(&bus, move |_, values| {
        let mut next = next.lock().unwrap();
        *next += 1;
        values.add(*next);
        std::future::ready(Ok(()))
    });
    let mut one = bus.request(Ticket {}).unwrap();
    let mut two = bus.request(Ticket {}).unwrap();
    assert_eq!((*soon(one.value()).await.unwrap(), *soon(two.value()).await.unwrap()), (1, 2));
    // Another reference to one of them is to the same.
    assert_eq!(*soon(one.strong().unwrap().value()).await.unwrap(), 1);
    drop(one);
    assert_eq!(bus.directives().len(), 1);
    assert_eq!(*soon(two.weak().unwrap().value()).await.unwrap(), 2);
    drop(two);
    assert!(bus.directives().is_empty());
}

/// A controller that hands its handles over.
fn handles(bus: &Bus) -> mpsc::UnboundedReceiver<Values<String>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    resolver(bus, move |_, values| {
        sender.send(values).unwrap();
        std::future::pending()
    });
    receiver
}

#[tokio::test]
async fn a_resolver_can_hold_its_directive_open_and_count_its_values() {
    let bus = Bus::new();
    let mut handles = handles(&bus);
    answers(&bus, "another");
    let request = bus.request(Words { number: 1 }).unwrap();
    let values = soon(handles.recv()).await.unwrap();
    values.add("own".to_owned());
    assert_eq!(values.count().unwrap(), 2);
    let weak = values.directive::<Words>().unwrap();
    let strong = weak.strong().unwrap();
    drop(request);
    assert_eq!(bus.directives().len(), 1);
    drop(strong);
    assert!(bus.directives().is_empty());
    assert_eq!(values.directive::<Words>().expect_err("it is gone").kind(), ErrorKind::Closed);
    assert!(values.count().is_err());
}

#[tokio::test]
async fn a_resolver_can_end_its_directive_for_everybody_or_if_nobody_refers_to_it() {
    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "test/link", value = String, keep_for_ms = 3_600_000)]
    struct Link {}
    let bus = Bus::new();
    let place = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&place);
    crate::kit::resolver_of::<Link, _>(&bus, move |_, values| {
        values.add("a link".to_owned());
        *kept.lock().unwrap() = Some(values);
        std::future::pending()
    });
    let request = bus.request(Link {}).unwrap();
    let values = place.lock().unwrap().take().unwrap();
    assert!(!values.close_unless_referred().unwrap());
    drop(request);
    assert_eq!(bus.directives().len(), 1, "it is kept for an hour");
    assert!(values.close_unless_referred().unwrap());
    assert!(bus.directives().is_empty());
    assert!(!values.close().unwrap(), "it has ended already");

    let mut request = bus.request(Link {}).unwrap();
    let values = place.lock().unwrap().take().unwrap();
    assert!(values.close().unwrap());
    soon(async { while request.next().await.is_some() {} }).await;
    assert!(bus.directives().is_empty());
    // A handle of an earlier directive ends none.
    let _next = bus.request(Link {}).unwrap();
    assert!(!values.close().unwrap());
    assert_eq!(bus.directives().len(), 1);
}
