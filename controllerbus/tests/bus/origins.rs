//! What came from the fleet is not told to the fleet: who is told what, and who is asked for whom.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use controllerbus::Routes;
use controllerbus::bus::{Bus, ControllerId, Origin, Source};
use controllerbus::directive::Supersede;
use controllerbus::prelude::*;
use futures_core::Stream;

use crate::kit::{Words, answers, factory, resolver, resolver_from, resolver_of, soon};

pub fn edge() -> Origin {
    Origin::fleet("edge-7")
}

pub fn words(bus: &Bus, origin: Origin) -> Request<Words> {
    bus.handle_from(origin).request(Words { number: 1 }).expect("the bus is open")
}

/// A controller that passes directives on to another host, which answers at once.
pub fn proxy(bus: &Bus, text: &'static str) -> ControllerId {
    resolver_from(bus, Origin::fleet("hub-1"), move |words: Words, values| {
        values.add(format!("{text} {}", words.number));
        std::future::ready(Ok(()))
    })
}

/// All that there is to read now.
pub fn read<D: Directive>(request: &mut Request<D>) -> Vec<Event<D::Value>> {
    let mut context = TaskContext::from_waker(Waker::noop());
    let mut read = Vec::new();
    while let Poll::Ready(Some(event)) = std::pin::Pin::new(&mut *request).poll_next(&mut context) {
        read.push(event);
    }
    read
}

pub fn standing<D: Directive<Value = String>>(request: &Request<D>) -> Vec<String> {
    let mut all: Vec<String> = request.standing().map(ToString::to_string).collect();
    all.sort();
    all
}

/// Reads until these values stand.
pub async fn until_stands<D: Directive<Value = String>>(request: &mut Request<D>, expected: &[&str]) {
    read(request);
    while standing(request) != expected {
        assert!(soon(request.next()).await.is_some(), "it has ended with {:?}", standing(request));
    }
}

async fn until_idle<D: Directive>(request: &mut Request<D>) {
    read(request);
    while !request.is_idle() {
        assert!(soon(request.next()).await.is_some(), "it has ended");
    }
}

#[tokio::test]
async fn another_host_is_told_what_is_answered_here_and_not_what_the_fleet_answers() {
    let bus = Bus::new();
    answers(&bus, "own");
    proxy(&bus, "remote");
    let (mut here, mut far) = (words(&bus, Origin::HERE), words(&bus, edge()));
    until_stands(&mut here, &["own 1", "remote 1"]).await;
    assert_eq!(read(&mut far).len(), 2, "a value, and that it is all");
    assert_eq!(standing(&far), ["own 1"]);
    assert_eq!(far.resolvers().unwrap().len(), 1);
    assert_eq!(here.resolvers().unwrap().len(), 2);
    let mut late = words(&bus, edge());
    read(&mut late);
    assert_eq!(standing(&late), ["own 1"]);

    let (mut weak, mut strong) = (far.weak().unwrap(), far.strong().unwrap());
    read(&mut weak);
    read(&mut strong);
    assert_eq!((standing(&weak), standing(&strong)), (vec!["own 1".to_owned()], vec!["own 1".to_owned()]));
}

/// The handles of a resolver's runs.
type Handles = Arc<Mutex<Vec<Values<String>>>>;

/// A proxy that counts its runs, and keeps their handles.
fn counted_proxy(bus: &Bus) -> (Arc<AtomicUsize>, Handles) {
    let (runs, handles) = (Arc::<AtomicUsize>::default(), Handles::default());
    let (counted, kept) = (Arc::clone(&runs), Arc::clone(&handles));
    resolver_from(bus, Origin::fleet("hub-1"), move |_: Words, values: Values<String>| {
        let run = counted.fetch_add(1, Ordering::SeqCst);
        values.add(format!("run {run}"));
        kept.lock().unwrap().push(values);
        std::future::pending()
    });
    (runs, handles)
}

#[tokio::test]
async fn the_fleet_is_asked_while_somebody_here_asks_and_no_longer() {
    let bus = Bus::new();
    let (runs, handles) = counted_proxy(&bus);
    let mut far = words(&bus, edge());
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    until_idle(&mut far).await;

    let mut here = words(&bus, Origin::HERE);
    let other = words(&bus, Origin::HERE);
    until_stands(&mut here, &["run 0"]).await;
    drop(here);
    assert!(!handles.lock().unwrap()[0].is_cancelled(), "somebody here still asks");
    drop(other);
    assert!(handles.lock().unwrap()[0].is_cancelled());
    assert!(bus.directives()[0].resolvers.is_empty());

    let mut again = words(&bus, Origin::HERE);
    until_stands(&mut again, &["run 1"]).await;
    let old = handles.lock().unwrap()[0].clone();
    assert!(old.add("late".to_owned()).is_none(), "a run that is over adds nothing");
    old.idle();
    assert_eq!(standing(&again), ["run 1"]);
    assert!(!again.is_idle());
    assert!(read(&mut far).is_empty(), "the other host hears of none of it");
}

#[tokio::test]
async fn a_weak_reference_does_not_ask_the_fleet_and_one_that_becomes_strong_does() {
    let bus = Bus::new();
    let (runs, _handles) = counted_proxy(&bus);
    let here = words(&bus, Origin::HERE);
    let far = words(&bus, edge());
    let mut weak = here.weak().unwrap();
    until_stands(&mut weak, &["run 0"]).await;
    drop(here);
    until_stands(&mut weak, &[]).await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let mut strong = weak.strong().unwrap();
    until_stands(&mut strong, &["run 1"]).await;
    until_stands(&mut weak, &["run 1"]).await;
    drop(far);
}

#[tokio::test]
async fn a_controller_of_the_fleet_that_comes_later_is_asked_only_if_somebody_here_asks() {
    let bus = Bus::new();
    let (far, mut here) = (words(&bus, edge()), words(&bus, Origin::HERE));
    let id = proxy(&bus, "remote");
    until_stands(&mut here, &["remote 1"]).await;
    bus.remove_controller(id).await;
    until_stands(&mut here, &[]).await;
    drop(here);
    proxy(&bus, "again");
    assert!(bus.directives()[0].resolvers.is_empty());
    drop(far);
    assert!(bus.directives().is_empty());
}

#[tokio::test(start_paused = true)]
async fn another_host_hears_nothing_of_the_fleets_failures_and_work() {
    let bus = Bus::new();
    answers(&bus, "own");
    let handles = Handles::default();
    let kept = Arc::clone(&handles);
    let (fail, failed) = tokio::sync::watch::channel(false);
    resolver_from(&bus, Origin::fleet("hub-1"), move |_: Words, values| {
        kept.lock().unwrap().push(values);
        let mut failed = failed.clone();
        async move {
            let _ = failed.wait_for(|failed| *failed).await;
            Err(Error::msg("the hub has failed"))
        }
    });
    let (mut here, mut far) = (words(&bus, Origin::HERE), words(&bus, edge()));
    read(&mut far);
    assert!(far.is_idle(), "the work of the fleet is none of its business");
    read(&mut here);
    assert!(!here.is_idle());
    handles.lock().unwrap()[0].idle();
    until_idle(&mut here).await;
    handles.lock().unwrap()[0].busy();
    fail.send_replace(true);
    while !soon(here.next()).await.is_some_and(|event| matches!(event, Event::Failed(_))) {}
    assert!(read(&mut far).is_empty());
    let mut late = words(&bus, edge());
    assert!(!read(&mut late).iter().any(|event| matches!(event, Event::Failed(_))));
    assert!(late.is_idle() && late.errors().unwrap().is_empty());
}

#[tokio::test]
async fn whoever_asks_here_after_another_host_waits_for_the_fleet_before_it_is_idle() {
    let bus = Bus::new();
    let (give, given) = tokio::sync::watch::channel(false);
    resolver_from(&bus, Origin::fleet("hub-1"), move |_: Words, values| {
        let mut given = given.clone();
        async move {
            let _ = given.wait_for(|given| *given).await;
            values.add("remote".to_owned());
            Ok(())
        }
    });
    let mut far = words(&bus, edge());
    until_idle(&mut far).await;
    let mut here = words(&bus, Origin::HERE);
    read(&mut here);
    assert!(!here.is_idle(), "the fleet has not answered yet");
    let waits = tokio::spawn(bus.try_resolve(Words { number: 1 }).into_future());
    give.send_replace(true);
    assert_eq!(soon(waits).await.unwrap().unwrap().as_deref().map(String::as_str), Some("remote"));
    let all = soon(bus.resolve_all(Words { number: 1 })).await.unwrap();
    assert_eq!(all.len(), 1);
    let none = soon(bus.handle_from(edge()).try_resolve(Words { number: 1 })).await.unwrap();
    assert_eq!(none, None);
    let none = soon(bus.handle_from(edge()).resolve_all(Words { number: 1 })).await.unwrap();
    assert!(none.is_empty());
}

#[tokio::test]
async fn nobody_is_told_that_it_is_idle_before_each_host_of_the_fleet_has_been_asked() {
    let bus = Bus::new();
    let (asking, idle) = (bus.clone(), Arc::<Mutex<Vec<bool>>>::default());
    let told = Arc::clone(&idle);
    for host in ["hub-1", "hub-2"] {
        let (asking, told) = (asking.clone(), Arc::clone(&told));
        resolver_from(&bus, Origin::fleet(host), move |_: Words, values| {
            values.idle();
            let mut meanwhile = words(&asking, Origin::HERE);
            read(&mut meanwhile);
            told.lock().unwrap().push(meanwhile.is_idle());
            std::future::ready(Ok(()))
        });
    }
    let mut far = words(&bus, edge());
    until_idle(&mut far).await;
    let mut here = words(&bus, Origin::HERE);
    assert_eq!(*idle.lock().unwrap(), [false, false]);
    until_idle(&mut here).await;
}

/// Kept for an hour after it was last asked for, as long as there are values.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/kept-words", value = String, keep_for_ms = 3_600_000, drop_if_empty)]
struct KeptWords {}

#[tokio::test(start_paused = true)]
async fn what_is_kept_asks_the_fleet_on_until_its_time_is_over_or_only_another_host_asks() {
    let bus = Bus::new();
    let ask = |origin| bus.handle_from(origin).request(KeptWords {}).unwrap();
    let runs = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&runs);
    resolver_from(&bus, Origin::fleet("hub-1"), move |_: KeptWords, values| {
        values.add(format!("run {}", counted.fetch_add(1, Ordering::SeqCst)));
        std::future::ready(Ok(()))
    });
    drop(ask(Origin::HERE));
    let mut here = ask(Origin::HERE);
    until_stands(&mut here, &["run 0"]).await;
    drop(here);
    assert_eq!(bus.directives()[0].values.len(), 1, "it is kept with what the fleet has answered");

    // Another host that asks is told nothing of it, and so nobody asks the fleet any more.
    let mut far = ask(edge());
    read(&mut far);
    assert_eq!((standing(&far).len(), bus.directives()[0].values.len()), (0, 0));
    drop(far);
    assert!(bus.directives().is_empty(), "it has no values");

    drop(ask(Origin::HERE));
    assert_eq!((bus.directives().len(), runs.load(Ordering::SeqCst)), (1, 2));
    tokio::time::sleep(Duration::from_secs(3_601)).await;
    assert!(bus.directives().is_empty());
}

/// The newest one stands.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/wish", value = String, key = name, supersede = Wish::supersede)]
pub struct Wish {
    pub name: String,
    pub revision: u64,
}

impl Wish {
    pub fn new(revision: u64) -> Self {
        Self { name: "one".to_owned(), revision }
    }
    fn supersede(&self) -> Supersede {
        Supersede::Revision(self.revision)
    }
}

pub fn grants_wishes(bus: &Bus) {
    resolver_of::<Wish, _>(bus, |wish, values| {
        values.add(format!("wish {}", wish.revision));
        std::future::ready(Ok(()))
    });
}

#[tokio::test]
async fn a_directive_supersedes_those_of_its_own_host_and_none_of_others() {
    let bus = Bus::new();
    grants_wishes(&bus);
    let ask = |origin, revision| bus.handle_from(origin).request(Wish::new(revision)).unwrap();
    let mut wishes = [ask(Origin::HERE, 1), ask(edge(), 2), ask(Origin::fleet("edge-8"), 3)];
    assert_eq!(bus.directives().len(), 3);
    let mut newer = ask(edge(), 4);
    until_stands(&mut newer, &["wish 4"]).await;
    until_stands(&mut wishes[0], &["wish 1"]).await;
    until_stands(&mut wishes[2], &["wish 3"]).await;
    soon(async { while wishes[1].next().await.is_some() {} }).await;
    let mut same = ask(edge(), 4);
    until_stands(&mut same, &["wish 4"]).await;
    assert_eq!(bus.directives().len(), 3, "equal ones of a host are merged");
}

/// One value, whoever answers.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/one-word", value = String, max_values = 1, hard_cap)]
struct OneWord {}

#[tokio::test]
async fn under_a_cap_the_fleets_value_makes_room_for_one_that_another_host_is_told() {
    let bus = Bus::new();
    let ask = |origin| bus.handle_from(origin).request(OneWord {}).unwrap();
    let of_fleet = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&of_fleet);
    resolver_from(&bus, Origin::fleet("hub-1"), move |_: OneWord, values| {
        values.add(format!("remote {}", counted.fetch_add(1, Ordering::SeqCst)));
        std::future::ready(Ok(()))
    });
    let mut here = ask(Origin::HERE);
    until_stands(&mut here, &["remote 0"]).await;
    let own = Arc::<Mutex<Option<Values<String>>>>::default();
    let kept = Arc::clone(&own);
    resolver_of::<OneWord, _>(&bus, move |_, values| {
        values.add("own".to_owned());
        *kept.lock().unwrap() = Some(values);
        std::future::pending()
    });
    assert!(own.lock().unwrap().is_none(), "there is no room, and nobody who would be told of it");

    let mut far = ask(edge());
    until_stands(&mut far, &["own"]).await;
    until_stands(&mut here, &["own"]).await;
    assert_eq!(bus.directives()[0].values.len(), 1, "and never more than one");
    drop(far);
    until_stands(&mut here, &["own"]).await;
    drop(own.lock().unwrap().take());
    let id = bus.controllers().iter().find(|found| found.host.is_none()).map(|found| found.id).expect("it is there");
    bus.remove_controller(id).await;
    until_stands(&mut here, &["remote 1"]).await;
}

#[tokio::test]
async fn what_the_fleet_has_answered_is_not_enough_for_another_host() {
    let bus = Bus::new();
    let ask = |origin| bus.handle_from(origin).request(OneWord {}).unwrap();
    resolver_from(&bus, Origin::fleet("hub-1"), |_: OneWord, values| {
        values.add("remote".to_owned());
        std::future::ready(Ok(()))
    });
    let mut here = ask(Origin::HERE);
    until_stands(&mut here, &["remote"]).await;
    until_idle(&mut here).await;
    let own = Arc::<Mutex<Option<Values<String>>>>::default();
    let kept = Arc::clone(&own);
    resolver_of::<OneWord, _>(&bus, move |_, values| {
        *kept.lock().unwrap() = Some(values);
        std::future::pending()
    });
    let mut far = ask(edge());
    read(&mut far);
    assert!(!far.is_idle(), "the controller here is at work for it");
    read(&mut here);
    assert!(here.is_idle(), "it has a value");
    own.lock().unwrap().as_ref().expect("it is asked").add("own".to_owned()).expect("there is room");
    until_stands(&mut far, &["own"]).await;
    until_idle(&mut far).await;
    until_stands(&mut here, &["own"]).await;
}

/// Asks for an answer that one controller gives once.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/call-once", value = String, once)]
pub struct CallOnce {}

#[tokio::test]
async fn a_call_is_answered_here_before_the_fleet_and_another_hosts_call_never_by_the_fleet() {
    let bus = Bus::new();
    resolver_from(&bus, Origin::fleet("hub-1"), |_: CallOnce, values| {
        values.add("remote".to_owned());
        std::future::ready(Ok(()))
    });
    assert_eq!(*soon(bus.resolve(CallOnce {})).await.unwrap(), "remote");
    assert_eq!(soon(bus.handle_from(edge()).try_resolve(CallOnce {})).await.unwrap(), None);
    resolver_of::<CallOnce, _>(&bus, |_, values| {
        values.add("own".to_owned());
        std::future::ready(Ok(()))
    });
    assert_eq!(*soon(bus.resolve(CallOnce {})).await.unwrap(), "own");
    assert_eq!(*soon(bus.handle_from(edge()).resolve(CallOnce {})).await.unwrap(), "own");
}

#[tokio::test]
async fn tools_see_for_which_hosts_is_asked_and_answered() {
    let bus = Bus::new();
    answers(&bus, "own");
    let running = {
        let closures =
            controllerbus::controller::Closures::new().resolves(|_: Words, values: Values<String>| async move {
                values.add("remote".to_owned());
                Ok(())
            });
        bus.handle_from(Origin::fleet("hub-1"))
            .add_controller(Arc::new(closures), crate::kit::info("test/proxy"))
            .unwrap()
    };
    let (_here, _far, _again) = (words(&bus, Origin::HERE), words(&bus, edge()), words(&bus, edge()));
    let found = bus.directives().remove(0);
    let asked: HashMap<_, _> = found.asked_by.into_iter().map(|asker| (asker.host, asker.references)).collect();
    assert_eq!(asked, HashMap::from([(None, 1), (Some("edge-7".to_owned()), 2)]));
    let hosts: Vec<_> = found.resolvers.into_iter().map(|resolver| resolver.host).collect();
    assert_eq!(hosts, [None, Some("hub-1".to_owned())]);
    let of = |id| bus.controllers().into_iter().find(|found| found.id == id).and_then(|found| found.host);
    assert_eq!(of(running.id()).as_deref(), Some("hub-1"));
    running.close().await;
    assert_eq!(bus.directives()[0].resolvers.len(), 1);
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/speaker")]
struct SpeakerConfig {}

/// Says of which generation it is.
struct Speaker<const GENERATION: u64>;

impl<const GENERATION: u64> Controller for Speaker<GENERATION> {
    type Config = SpeakerConfig;

    async fn construct(_: SpeakerConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    fn routes(routes: &mut Routes<Self>) {
        routes.add::<Words>(|_, _, values| {
            values.add(format!("generation {GENERATION}"));
            Box::pin(std::future::ready(Ok(())))
        });
    }
}

#[tokio::test]
async fn a_swap_replaces_what_another_host_is_told_and_leaves_what_the_fleet_answers() {
    let bus = Bus::new();
    let (one, two) = (Source(1), Source(2));
    bus.add_factories(one, vec![factory::<Speaker<1>>("test/speaker", "1.0.0")]);
    bus.apply(ConfigSet::from_yaml("s: { id: test/speaker }").unwrap()).await.unwrap().all_running().unwrap();
    let (runs, _handles) = counted_proxy(&bus);
    let (mut here, mut far) = (words(&bus, Origin::HERE), words(&bus, edge()));
    until_stands(&mut here, &["generation 1", "run 0"]).await;
    until_stands(&mut far, &["generation 1"]).await;

    let factories = vec![factory::<Speaker<2>>("test/speaker", "2.0.0")];
    let staged = soon(bus.stage(one, two, factories, Duration::from_secs(10))).await.unwrap();
    soon(staged.commit(Duration::from_secs(1))).await.unwrap().drained().await;
    until_stands(&mut here, &["generation 2", "run 0"]).await;
    until_stands(&mut far, &["generation 2"]).await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_controller_counts_all_values_and_a_proxy_only_those_that_its_host_is_told() {
    let bus = Bus::new();
    let counts = Arc::<Mutex<Vec<(&str, Values<String>)>>>::default();
    let (of_own, of_proxy) = (Arc::clone(&counts), Arc::clone(&counts));
    resolver(&bus, move |_, values| {
        values.add("own".to_owned());
        of_own.lock().unwrap().push(("own", values));
        std::future::pending()
    });
    resolver_from(&bus, Origin::fleet("hub-1"), move |_: Words, values| {
        values.add("remote".to_owned());
        of_proxy.lock().unwrap().push(("proxy", values));
        std::future::pending()
    });
    let _here = words(&bus, Origin::HERE);
    let counted: Vec<_> = counts.lock().unwrap().iter().map(|(who, values)| (*who, values.count().unwrap())).collect();
    assert_eq!(counted, [("own", 2), ("proxy", 1)]);
    counts.lock().unwrap().clear();
}

/// Passes words on to another bus, as the fleet does.
fn link(from: (&Bus, &'static str), to: (&Bus, &'static str)) {
    let (far, me) = (to.0.clone(), from.1);
    resolver_from(from.0, Origin::fleet(to.1), move |words: Words, values: Values<String>| {
        let request = far.handle_from(Origin::fleet(me)).request(words);
        async move {
            let (mut request, mut held) = (request?, HashMap::new());
            while let Some(event) = request.next().await {
                match event {
                    Event::Added(id, value) => drop(held.insert(id, values.hold(value.to_string()))),
                    Event::Removed(id) => drop(held.remove(&id)),
                    Event::Idle => values.idle(),
                    Event::Busy => values.busy(),
                    _ => {}
                }
            }
            Err(Error::msg("the other bus has closed"))
        }
    });
}

#[tokio::test]
async fn three_hosts_that_ask_each_other_are_told_each_value_once_and_keep_nothing_of_each_other() {
    let names = ["host-a", "host-b", "host-c"];
    let buses: Vec<Bus> = names.iter().map(|_| Bus::new()).collect();
    for (at, name) in names.iter().enumerate() {
        answers(&buses[at], name);
        for (to, other) in names.iter().enumerate().filter(|(to, _)| *to != at) {
            link((&buses[at], name), (&buses[to], other));
        }
    }
    let mut requests: Vec<_> = buses.iter().map(|bus| words(bus, Origin::HERE)).collect();
    for request in &mut requests {
        until_stands(request, &["host-a 1", "host-b 1", "host-c 1"]).await;
        until_idle(request).await;
    }
    requests.truncate(1);
    until_stands(&mut requests[0], &["host-a 1", "host-b 1", "host-c 1"]).await;
    requests.clear();
    for bus in &buses {
        let mut changes = bus.directive_changes();
        while !bus.directives().is_empty() {
            soon(changes.changed()).await.unwrap();
        }
    }
}
