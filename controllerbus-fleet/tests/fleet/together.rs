//! What is asked here is answered there.

use std::time::Duration;

use controllerbus::bus::Across;
use controllerbus::controller::Closures;
use controllerbus::directive::Supersede;
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;
use controllerbus_fleet::FleetOptions;
use controllerbus_fleet::carrier::{Carrier, Presence};
use controllerbus_fleet::memory::{Faults, Network};
use tokio::time::Instant;

use crate::kit::{Answers, Host, Lamp, Requester, after, asks, info, lamp, lamps, offers, until};

#[tokio::test(start_paused = true)]
async fn a_directive_is_answered_by_every_host_that_offers_it() {
    let network = Network::new(1);
    let (_one, _) = Host::with_lamps(&network, "one").await;
    let (_two, _) = Host::with_lamps(&network, "two").await;
    let asker = Host::join(&network, "asker", asks()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    hall.stands(&["hall by one", "hall by two"]).await;
    assert_eq!(hall.news().len(), 2);
    // Each by the controller of its host.
    let names: Vec<_> = hall.request.resolvers().expect("they are known").into_iter().map(|by| by.name).collect();
    assert_eq!(names, ["fleet host one", "fleet host two"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_when_a_host_has_just_joined_is_not_idle_too_early() {
    let network = Network::new(1);
    network.set_faults(Faults { delay: Duration::from_millis(50), ..Faults::default() });
    let (_one, _) = Host::with_lamps(&network, "one").await;
    let asker = Host::join(&network, "asker", asks()).await;
    let found = asker.bus.try_resolve(lamp("hall")).await.expect("it is asked");
    assert_eq!(found.as_deref().map(String::as_str), Some("hall by one"));
}

/// An offer of a host that is never linked.
struct Silent(#[allow(dead_code)] Vec<controllerbus_fleet::carrier::Guard>);

impl Silent {
    fn offers(network: &Network, id: &str) -> Self {
        let carrier = network.host("silent");
        let says = [Presence::Up(carrier.own()), Presence::Offer(carrier.own(), id.into())];
        Self(says.map(|what| carrier.announce(what).expect("it is announced")).into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_joins_within_a_second_though_nobody_answers_it() {
    let network = Network::new(1);
    let _silent = Silent::offers(&network, "house/lamp");
    let begun = Instant::now();
    let asker = Host::join(&network, "asker", asks()).await;
    let took = begun.elapsed().as_millis();
    assert!((900..=1100).contains(&took), "{took} ms");
    assert!(asker.bus.try_resolve(lamp("hall")).await.expect("it is asked").is_none());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_offers_is_idle_and_a_resolve_of_it_waits_for_a_host_that_does() {
    let network = Network::new(1);
    let asker = Host::join(&network, "asker", asks()).await;
    assert!(asker.bus.try_resolve(lamp("hall")).await.expect("it is asked").is_none());
    let bus = asker.bus.clone();
    let waits = tokio::spawn(async move { bus.resolve(lamp("hall")).await });
    after(Duration::from_secs(5)).await;
    assert!(!waits.is_finished());
    let (_late, _) = Host::with_lamps(&network, "late").await;
    assert_eq!(*waits.await.expect("it ends").expect("a value"), "hall by late");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_named_on_both_sides_does_not_cross() {
    let network = Network::new(1);
    let (one, lamps) = Host::with_lamps(&network, "one").await;
    let silent = Host::join(&network, "silent", controllerbus_fleet::FleetOptions::new("shop")).await;
    assert!(silent.bus.try_resolve(lamp("hall")).await.expect("it is asked").is_none());
    // Two hosts of which neither asks what the other one offers are not linked.
    after(Duration::from_secs(2)).await;
    assert_eq!((lamps.runs(), one.fleet.counts().links, one.fleet.counts().hosts), (0, 0, 1));
    let other = Host::join(&network, "other", controllerbus_fleet::FleetOptions::new("shop").asks("house/door")).await;
    assert_eq!(other.fleet.counts().links, 0);
}

#[tokio::test(start_paused = true)]
async fn equal_directives_of_hosts_and_of_the_own_bus_are_resolved_once_and_released_one_by_one() {
    let network = Network::new(1);
    let (one, lamps) = Host::with_lamps(&network, "one").await;
    let first = Host::join(&network, "first", asks()).await;
    let second = Host::join(&network, "second", asks()).await;
    let mut own = Requester::of(&one.bus, lamp("hall"));
    let mut here = Requester::of(&first.bus, lamp("hall"));
    let mut there = Requester::of(&second.bus, lamp("hall"));
    for requester in [&mut own, &mut here, &mut there] {
        requester.stands(&["hall by one"]).await;
    }
    assert_eq!(lamps.runs(), 1);
    assert_eq!(one.bus.directives().iter().filter(|standing| standing.id == "house/lamp").count(), 1);
    drop(own);
    drop(here);
    after(Duration::from_secs(1)).await;
    assert_eq!(one.bus.directives().len(), 1);
    drop(there);
    until("it is released", || one.bus.directives().is_empty()).await;
    assert_eq!((first.fleet.counts().asks, one.fleet.counts().asked), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_swap_there_is_added_before_removed_here_and_a_failure_is_told_without_asking_again() {
    let network = Network::new(1);
    let (one, lamps) = Host::with_lamps(&network, "one").await;
    let asker = Host::join(&network, "asker", asks()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    hall.stands(&["hall by one"]).await;
    let mut slot = lamps.last().slot();
    slot.set("first".to_owned());
    hall.stands(&["first", "hall by one"]).await;
    hall.news();
    slot.set("second".to_owned());
    hall.stands(&["hall by one", "second"]).await;
    assert_eq!(hall.news(), ["+second", "-first"]);

    // One that fails once, then answers: its bus tries it again.
    let tries = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&tries);
    let fails = Closures::new().resolves(move |_: Lamp, values: Values<String>| {
        let first = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        async move {
            values.add("mended".to_owned());
            if first { Err(Error::new(ErrorKind::Crashed, "it crashed")) } else { std::future::pending().await }
        }
    });
    one.bus.add_controller(std::sync::Arc::new(fails), info("test/fails"));
    while hall.standing().len() < 3 || !hall.told.iter().any(|told| told.starts_with('!')) {
        hall.next().await;
    }
    let told = hall.news();
    assert!(told.contains(&"! Crashed it crashed".to_owned()), "{told:?}");
    assert_eq!((lamps.runs(), tries.load(std::sync::atomic::Ordering::SeqCst)), (1, 2), "nothing is asked again");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_offers_an_id_no_more_takes_its_values_without_an_error() {
    let network = Network::new(1);
    let bus = Bus::new();
    let (_, id) = Answers::on(&bus, |_: &Lamp, values| {
        values.add("on".to_owned());
        values.idle();
    });
    let one = Host::with_bus(&network, "one", bus, offers()).await;
    let asker = Host::join(&network, "asker", asks()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    hall.stands(&["on"]).await;
    hall.news();
    one.bus.remove_controller(id).await;
    hall.stands(&[]).await;
    assert_eq!(hall.news(), ["-on"]);
    until("it is not asked any more", || one.fleet.counts().asked == 0).await;
    assert!(asker.bus.controllers().iter().all(|controller| controller.info.id != "fleet host one"));
    // It is offered again when another one resolves it.
    lamps(&one.bus, "one");
    hall.stands(&["hall by one"]).await;
    assert_eq!(hall.news(), ["+hall by one"]);
}

#[tokio::test(start_paused = true)]
async fn hosts_that_ask_and_offer_the_same_id_both_ways_are_told_each_value_once_and_leave_nothing() {
    let network = Network::new(1);
    let mut hosts = Vec::new();
    for name in ["one", "two", "three"] {
        let bus = Bus::new();
        let answers = lamps(&bus, name);
        hosts.push((Host::with_bus(&network, name, bus, offers().asks("house/lamp")).await, answers));
    }
    after(Duration::from_secs(2)).await;
    let mut requesters: Vec<_> = hosts.iter().map(|(host, _)| Requester::of(&host.bus, lamp("hall"))).collect();
    for requester in &mut requesters {
        requester.stands(&["hall by one", "hall by three", "hall by two"]).await;
    }
    after(Duration::from_secs(2)).await;
    for requester in &mut requesters {
        requester.stands(&["hall by one", "hall by three", "hall by two"]).await;
        assert_eq!(requester.news().len(), 3);
    }
    assert!(hosts.iter().all(|(_, answers)| answers.runs() == 1));
    drop(requesters);
    for (host, _) in &hosts {
        until("no directive keeps itself", || host.bus.directives().is_empty()).await;
    }
}

/// Asks for the newest plan.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "house/plan", value = String, key = house, supersede = Plan::supersede)]
struct Plan {
    house: String,
    by: String,
}

impl Plan {
    fn supersede(&self) -> Supersede {
        Supersede::Always
    }
}

#[tokio::test(start_paused = true)]
async fn superseding_directives_of_two_hosts_do_not_take_turns() {
    let network = Network::new(1);
    let bus = Bus::new();
    let (plans, _) = Answers::on(&bus, |plan: &Plan, values| {
        values.add(format!("for {}", plan.by));
        values.idle();
    });
    let one = Host::with_bus(&network, "one", bus, offers()).await;
    let options = || controllerbus_fleet::FleetOptions::new("shop").asks("house/plan");
    let first = Host::join(&network, "first", options()).await;
    let second = Host::join(&network, "second", options()).await;
    let plan = |by: &str| Plan { house: "red".to_owned(), by: by.to_owned() };
    let mut here = Requester::of(&first.bus, plan("first"));
    let mut there = Requester::of(&second.bus, plan("second"));
    here.stands(&["for first"]).await;
    there.stands(&["for second"]).await;
    after(Duration::from_secs(30)).await;
    assert_eq!((plans.runs(), one.bus.directives().len()), (2, 2));
    // On one bus the newer one takes the older one's place, there too.
    let mut newer = Requester::of(&first.bus, plan("newer"));
    newer.stands(&["for newer"]).await;
    while here.next().await != "end" {}
    until("the older one is gone", || one.bus.directives().len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn superseding_directives_of_buses_that_ask_through_one_host_do_not_take_turns() {
    let network = Network::new(1);
    let bus = Bus::new();
    let (plans, _) = Answers::on(&bus, |plan: &Plan, values| {
        values.add(format!("for {}", plan.by));
        values.idle();
    });
    let there = Host::with_bus(&network, "there", bus, offers()).await;
    for options in [FleetOptions::new("shop").asks("house/plan"), FleetOptions::new("shop").asks_one("house/plan")] {
        let before = plans.runs();
        let through = Host::join(&network, "through", options).await;
        let (one, two) = (Bus::new(), Bus::new());
        let across = || Across::types([Plan::ID]);
        let _bridges = [&one, &two].map(|bus| bus.bridge(&through.bus, across()).expect("a bridge"));
        let plan = |by: &str| Plan { house: "red".to_owned(), by: by.to_owned() };
        let mut all = [("one", &one), ("two", &two), ("through", &through.bus)]
            .map(|(by, bus)| (format!("for {by}"), Requester::of(bus, plan(by))));
        for (stands, requester) in &mut all {
            requester.stands(&[stands]).await;
        }
        after(Duration::from_secs(30)).await;
        assert_eq!((plans.runs(), there.bus.directives().len()), (before + 3, 3));
        // Each goes on with its own after a cut.
        network.part("there", "through");
        for (_, requester) in &mut all {
            requester.stands(&[]).await;
        }
        network.heal_all();
        for (stands, requester) in &mut all {
            requester.stands(&[stands]).await;
        }
        assert_eq!((plans.runs(), there.bus.directives().len()), (before + 3, 3), "nothing runs again");
        // A newer one takes the place of that of its bus, and of no other.
        let mut newer = Requester::of(&one, plan("newer"));
        newer.stands(&["for newer"]).await;
        until("the older one is gone", || there.bus.directives().len() == 3).await;
        for (stands, requester) in &mut all[1..] {
            requester.stands(&[stands]).await;
        }
        assert_eq!(plans.runs(), before + 4);
        drop((all, newer));
        until("they are released", || there.bus.directives().is_empty()).await;
        through.fleet.leave().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_joins_by_the_name_of_a_host_does_not_take_turns_with_it() {
    let network = Network::new(1);
    let bus = Bus::new();
    let (plans, _) = Answers::on(&bus, |plan: &Plan, values| {
        values.add(format!("for {}", plan.by));
        values.idle();
    });
    let one = Host::with_bus(&network, "one", bus, offers()).await;
    let options = || controllerbus_fleet::FleetOptions::new("shop").asks("house/plan");
    let daemon = Host::join(&network, "edge", options()).await;
    let plan = |by: &str| Plan { house: "red".to_owned(), by: by.to_owned() };
    let mut standing = Requester::of(&daemon.bus, plan("daemon"));
    standing.stands(&["for daemon"]).await;
    let command = Host::join(&network, "edge", options()).await;
    let mut short = Requester::of(&command.bus, plan("command"));
    short.stands(&["for command"]).await;
    after(Duration::from_secs(30)).await;
    assert_eq!((plans.runs(), one.bus.directives().len()), (2, 2));
}

/// Switches a lamp on, once.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "house/switch", value = String, once)]
struct Switch {}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_host_that_has_just_joined_is_answered_by_who_offers_it() {
    let network = Network::new(1);
    network.set_faults(Faults { delay: Duration::from_millis(50), ..Faults::default() });
    let bus = Bus::new();
    let (answers, _) = Answers::on(&bus, |_: &Switch, values| {
        values.add("on".to_owned());
    });
    let _one = Host::with_bus(&network, "one", bus, offers()).await;
    for options in [FleetOptions::new("shop").asks("house/switch"), FleetOptions::new("shop").asks_one("house/switch")]
    {
        let before = answers.runs();
        let asker = Host::join(&network, "asker", options).await;
        let found = asker.bus.try_resolve(Switch {}).await.expect("it is asked");
        assert_eq!((found.as_deref().map(String::as_str), answers.runs()), (Some("on"), before + 1));
        asker.fleet.leave().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_answered_by_one_host_once() {
    let network = Network::new(1);
    let mut calls = Vec::new();
    let mut hosts = Vec::new();
    for name in ["one", "two"] {
        let bus = Bus::new();
        let (answers, _) = Answers::on(&bus, move |_: &Switch, values| {
            values.add(format!("by {name}"));
        });
        calls.push(answers);
        hosts.push(Host::with_bus(&network, name, bus, offers()).await);
    }
    let options = controllerbus_fleet::FleetOptions::new("shop").asks("house/switch");
    let asker = Host::join(&network, "asker", options).await;
    for _ in 0..10 {
        asker.bus.resolve(Switch {}).await.expect("it is answered");
    }
    after(Duration::from_secs(1)).await;
    assert_eq!(calls.iter().map(Answers::runs).sum::<usize>(), 10);
}

/// One lamp of a room.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "house/any", value = String, max_values = 1, hard_cap)]
struct AnyLamp {}

#[tokio::test(start_paused = true)]
async fn the_hard_cap_is_the_requesters() {
    let network = Network::new(1);
    let mut hosts = Vec::new();
    for name in ["one", "two"] {
        let bus = Bus::new();
        let (answers, _) = Answers::on(&bus, move |_: &AnyLamp, values| {
            values.add(format!("by {name}"));
        });
        hosts.push((Host::with_bus(&network, name, bus, offers()).await, answers));
    }
    let options = controllerbus_fleet::FleetOptions::new("shop").asks("house/any");
    let asker = Host::join(&network, "asker", options).await;
    let mut any = Requester::of(&asker.bus, AnyLamp {});
    any.next().await;
    after(Duration::from_secs(1)).await;
    while any.standing().is_empty() {
        any.next().await;
    }
    assert_eq!(any.standing().len(), 1);
    // When the one goes, another one has room.
    let gone = any.standing()[0].clone();
    let at = hosts.iter().position(|(host, _)| gone.ends_with(&*host.fleet.own().host)).expect("it is one of them");
    hosts.remove(at).0.crash(&network);
    let left = format!("by {}", hosts[0].0.fleet.own().host);
    while any.standing() != [left.clone()] {
        any.next().await;
    }
}
