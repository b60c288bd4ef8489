//! A directive that several hosts ask for at once: what a cap leaves of it, who keeps it, and what supersedes it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Waker};

use controllerbus::bus::{Across, Bus, Origin, Source};
use controllerbus::controller::{AnyController, BoxFuture};
use controllerbus::directive::{ANY_DIRECTIVE, AnyDirective, RawEvent, RawRequest, ValueSink};
use controllerbus::prelude::*;

use crate::kit::{AskedBy, Words, info, resolver, resolver_from, resolver_of, soon};
use crate::origins::{CallOnce, Wish, edge, grants_wishes, read, standing, until_stands, words};

/// Three values, whoever answers.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/three-words", value = String, max_values = 3, hard_cap)]
struct ThreeWords {}

#[tokio::test]
async fn a_value_that_needs_room_under_a_cap_takes_none_from_the_fleet_that_fits_beside_it() {
    for returns in [true, false] {
        let bus = Bus::new();
        let ask = |origin| bus.handle_from(origin).request(ThreeWords {}).unwrap();
        resolver_from(&bus, Origin::fleet("hub-1"), move |_: ThreeWords, values| async move {
            for number in 1..=3 {
                values.add(format!("remote {number}"));
            }
            if returns { Ok(()) } else { std::future::pending().await }
        });
        let mut here = ask(Origin::HERE);
        until_stands(&mut here, &["remote 1", "remote 2", "remote 3"]).await;
        resolver_of::<ThreeWords, _>(&bus, move |_, values| {
            values.add("own".to_owned());
            std::future::pending()
        });
        let mut far = ask(edge());
        until_stands(&mut far, &["own"]).await;
        until_stands(&mut here, &["own", "remote 1", "remote 2"]).await;
        read(&mut far);
        assert_eq!(standing(&far), ["own"]);
    }
}

/// A controller here that keeps each directive that it answers.
fn keeps(bus: &Bus) -> Arc<Mutex<Vec<Request<Words>>>> {
    let requests = Arc::<Mutex<Vec<Request<Words>>>>::default();
    let kept = Arc::clone(&requests);
    resolver(bus, move |_, values: Values<String>| {
        let strong = values.directive::<Words>().and_then(|weak| Ok(weak.strong()?));
        values.add("own".to_owned());
        kept.lock().unwrap().extend(strong);
        std::future::pending()
    });
    requests
}

#[tokio::test]
async fn a_controller_that_keeps_what_another_host_asks_does_not_ask_the_fleet_for_it() {
    let bus = Bus::new();
    let runs = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&runs);
    resolver_from(&bus, Origin::fleet("hub-1"), move |_: Words, values: Values<String>| {
        values.add(format!("run {}", counted.fetch_add(1, Ordering::SeqCst)));
        std::future::ready(Ok(()))
    });
    let kept = keeps(&bus);
    let far = words(&bus, edge());
    let mut keeper = kept.lock().unwrap().pop().expect("it has been asked");
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    drop(far);
    until_stands(&mut keeper, &["own"]).await;

    // What it is told is as ever.
    let mut here = words(&bus, Origin::HERE);
    until_stands(&mut here, &["own", "run 0"]).await;
    until_stands(&mut keeper, &["own", "run 0"]).await;
    drop(here);
    until_stands(&mut keeper, &["own"]).await;
    assert!(bus.directives()[0].resolvers.iter().all(|resolver| resolver.host.is_none()));
    drop(keeper);
    assert!(bus.directives().is_empty());
}

/// One value, whoever answers.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/any-word", value = String, max_values = 1, hard_cap)]
struct AnyWord {}

#[tokio::test]
async fn a_controller_that_keeps_its_directive_is_no_host_that_a_cap_makes_room_for() {
    let bus = Bus::new();
    let ask = |origin| bus.handle_from(origin).request(AnyWord {}).unwrap();
    let kept = Arc::<Mutex<Vec<(Request<AnyWord>, Values<String>)>>>::default();
    let keeper = Arc::clone(&kept);
    resolver_of::<AnyWord, _>(&bus, move |_, values: Values<String>| {
        let strong = values.directive::<AnyWord>().and_then(|weak| Ok(weak.strong()?));
        keeper.lock().unwrap().extend(strong.map(|strong| (strong, values)));
        std::future::pending()
    });
    let mut here = ask(Origin::HERE);
    assert_eq!(kept.lock().unwrap().len(), 1);
    resolver_from(&bus, Origin::fleet("hub-1"), |_: AnyWord, values| {
        values.add("remote".to_owned());
        std::future::ready(Ok(()))
    });
    until_stands(&mut here, &["remote"]).await;
    assert!(kept.lock().unwrap()[0].1.add("own".to_owned()).is_none(), "there is one already");
    let mut far = ask(edge());
    assert!(kept.lock().unwrap().len() > 1, "now it is wanted, and begins again");
    kept.lock().unwrap()[1].1.add("own".to_owned()).expect("there is room");
    until_stands(&mut far, &["own"]).await;
    until_stands(&mut here, &["own"]).await;
    kept.lock().unwrap().clear();
}

/// Passes wishes on to another bus as the fleet does, with what keeps them apart here.
struct PassesOn(Bus);

impl AnyController for PassesOn {
    fn resolves(&self) -> Vec<String> {
        vec![Wish::ID.to_owned()]
    }
    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        let handle = self.0.handle_from(Origin::fleet("host-a").keyed(sink.origin().key()));
        Some(Box::pin(async move {
            let mut request = handle.raw(directive)?;
            while let Some(event) = std::future::poll_fn(|cx| request.poll_event(cx)).await {
                if let RawEvent::Added(_, value) = event {
                    sink.add(value);
                }
            }
            Err(Error::msg("it was superseded"))
        }))
    }
}

#[tokio::test]
async fn superseding_directives_that_a_host_keeps_apart_are_kept_apart_on_the_next_host_by_their_key() {
    let (one, two, here, there) = (Bus::new(), Bus::new(), Bus::new(), Bus::new());
    grants_wishes(&there);
    here.add_controller_from(Origin::fleet("host-b"), Arc::new(PassesOn(there.clone())), info("test/passes-on"));
    let _bridges = [&one, &two].map(|bus| bus.bridge(&here, Across::types([Wish::ID])).unwrap());
    let mut wishes =
        [(&one, 1), (&two, 2), (&here, 3)].map(|(bus, revision)| bus.request(Wish::new(revision)).unwrap());
    for (at, stands) in ["wish 1", "wish 2", "wish 3"].into_iter().enumerate() {
        until_stands(&mut wishes[at], &[stands]).await;
    }
    assert_eq!(there.directives().len(), 3);
    let mut newer = one.request(Wish::new(4)).unwrap();
    until_stands(&mut newer, &["wish 4"]).await;
    let mut changes = there.directive_changes();
    while there.directives().len() > 3 {
        soon(changes.changed()).await.unwrap();
    }
    assert_eq!(standing(&wishes[1]), ["wish 2"]);
}

/// Answers every call.
struct AnswersAll(&'static str);

impl AnyController for AnswersAll {
    fn resolves(&self) -> Vec<String> {
        vec![ANY_DIRECTIVE.to_owned()]
    }
    fn resolve(
        self: Arc<Self>,
        _: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        sink.add(controllerbus::directive::AnyValue::native(self.0.to_owned()));
        Some(Box::pin(std::future::ready(Ok(()))))
    }
}

#[tokio::test]
async fn a_call_that_nobody_names_is_answered_here_before_the_fleet_whoever_came_first() {
    let bus = Bus::new();
    bus.add_controller_from(Origin::fleet("hub-1"), Arc::new(AnswersAll("remote")), info("test/remote"));
    bus.add_controller(Arc::new(AnswersAll("own")), info("test/own"));
    assert_eq!(*soon(bus.resolve(CallOnce {})).await.unwrap(), "own");
}

/// Its values stay in the library that makes them.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/local-word", value = String, local)]
struct LocalWord {}

#[tokio::test]
async fn that_the_fleet_is_not_asked_for_what_is_local_is_no_failure() {
    let bus = Bus::new();
    resolver_from(&bus, Origin::fleet("hub-1"), |_: LocalWord, _: Values<String>| std::future::ready(Ok(())));
    let ask = |origin| {
        bus.handle_from(origin).raw(Arc::new(AskedBy { library: Source(7), directive: LocalWord {} })).unwrap()
    };
    for origin in [Origin::HERE, edge()] {
        assert!(!has_failed(&mut ask(origin)));
    }
    // Of a controller here it is.
    resolver_of::<LocalWord, _>(&bus, |_, _| std::future::ready(Ok(())));
    assert!(has_failed(&mut ask(Origin::HERE)));
}

/// Whether a failure is there to read.
fn has_failed(request: &mut Box<dyn RawRequest>) -> bool {
    let mut context = TaskContext::from_waker(Waker::noop());
    while let Poll::Ready(Some(event)) = request.poll_event(&mut context) {
        if matches!(event, RawEvent::Failed(_)) {
            return true;
        }
    }
    false
}
