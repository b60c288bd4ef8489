//! Hosts that die, are cut off, and come back: the table of the design, row by row.

use std::time::Duration;

use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;
use controllerbus_fleet::memory::{Faults, Network};
use controllerbus_fleet::{FleetEvent, FleetOptions};
use tokio::time::Instant;

use crate::kit::{Answers, Host, Lamp, Requester, after, asks, lamp, offers, until};

/// A host whose lamps have a value, and go on being at work.
async fn busy_host(network: &Network, name: &str) -> (Host, Answers<Lamp>) {
    let bus = Bus::new();
    let (answers, _) = Answers::on(&bus, |lamp: &Lamp, values| {
        values.add(lamp.room.clone());
    });
    (Host::with_bus(network, name, bus, offers()).await, answers)
}

fn is_unreachable(told: &str) -> bool {
    told.starts_with("! Unreachable host `one` is out of reach (")
}

#[tokio::test(start_paused = true)]
async fn where_a_host_was_at_work_when_it_died_that_is_an_error_and_then_its_values_go() {
    let network = Network::new(1);
    let (one, _) = busy_host(&network, "one").await;
    let (two, _) = Host::with_lamps(&network, "two").await;
    let asker = Host::join(&network, "asker", asks()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    while hall.standing().len() < 2 {
        hall.next().await;
    }
    hall.news();
    one.crash(&network);
    hall.stands(&["hall by two"]).await;
    let told = hall.news();
    assert!(told.len() == 2 && is_unreachable(&told[0]) && told[1] == "-hall", "{told:?}");
    // One that had answered takes only its values.
    two.crash(&network);
    hall.stands(&[]).await;
    assert_eq!(hall.news(), ["-hall by two"]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_answer_is_lost_after_three_pings_though_its_presence_stands() {
    let network = Network::new(1);
    network.set_lease(Duration::from_secs(1000));
    let (_one, _) = busy_host(&network, "one").await;
    let asker = Host::join(&network, "asker", asks()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    hall.next().await;
    network.part("one", "asker");
    let begun = Instant::now();
    while !hall.told.iter().any(|told| is_unreachable(told)) {
        hall.next().await;
    }
    assert!((2..=4).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(hall.told.last().expect("it was told").contains("has not answered 3 pings"));
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_again_for_a_host_that_is_back_in_time_and_its_values_are_there_again() {
    for (parted, name) in [(1, "short"), (9, "long")] {
        let network = Network::new(1);
        let (one, lamps) = Host::with_lamps(&network, "one").await;
        let asker = Host::join(&network, "asker", asks()).await;
        let mut hall = Requester::of(&asker.bus, lamp("hall"));
        hall.stands(&["hall by one"]).await;
        hall.news();
        network.part("one", "asker");
        after(Duration::from_secs(parted)).await;
        // What came and went meanwhile is not told, and what came is.
        let gone = lamps.last().hold("gone".to_owned()).expect("it is wanted");
        lamps.last().add("new".to_owned());
        drop(gone);
        network.heal_all();
        hall.stands(&["hall by one", "new"]).await;
        let told = hall.news();
        let expected: &[&str] = if name == "short" { &["+new"] } else { &["-hall by one", "+hall by one", "+new"] };
        assert_eq!(told, expected, "{name}");
        assert_eq!(lamps.runs(), 1);
        // What is released now is released there.
        drop(hall);
        after(Duration::from_secs(11)).await;
        assert!(one.bus.directives().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn resolvers_run_again_for_a_host_that_is_back_too_late() {
    let network = Network::new(1);
    let (one, lamps) = Host::with_lamps(&network, "one").await;
    let asker = Host::join(&network, "asker", asks()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    hall.stands(&["hall by one"]).await;
    network.part("one", "asker");
    after(Duration::from_secs(12)).await;
    assert_eq!(one.bus.directives().len(), 1, "it is kept for ten seconds after it is known to be lost");
    after(Duration::from_secs(5)).await;
    assert!(one.bus.directives().is_empty());
    hall.stands(&[]).await;
    hall.told.clear();
    network.heal_all();
    hall.stands(&["hall by one"]).await;
    assert_eq!(hall.told, ["busy", "+hall by one", "idle"]);
    assert_eq!(lamps.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_restarted_is_another_one_and_is_asked_anew() {
    let network = Network::new(1);
    let (one, _) = Host::with_lamps(&network, "one").await;
    let asker = Host::join(&network, "asker", asks()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    hall.stands(&["hall by one"]).await;
    one.crash(&network);
    hall.stands(&[]).await;
    let (_again, lamps) = Host::with_lamps(&network, "one").await;
    hall.stands(&["hall by one"]).await;
    assert_eq!(lamps.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_host_has_asked_is_released_some_time_after_it_died_and_at_once_when_it_leaves() {
    let network = Network::new(1);
    let (one, _) = Host::with_lamps(&network, "one").await;
    let dies = Host::join(&network, "dies", asks()).await;
    let leaves = Host::join(&network, "leaves", asks()).await;
    let mut dying = Requester::of(&dies.bus, lamp("hall"));
    let mut leaving = Requester::of(&leaves.bus, lamp("attic"));
    dying.stands(&["hall by one"]).await;
    leaving.stands(&["attic by one"]).await;
    leaves.fleet.leave().await;
    until("it is released", || one.bus.directives().len() == 1).await;
    leaving.stands(&[]).await;
    assert_eq!(leaving.news(), ["+attic by one", "-attic by one"], "it has no error");
    let begun = Instant::now();
    dies.crash(&network);
    until("it is released", || one.bus.directives().is_empty()).await;
    assert!((9..12).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    until("nothing is left of the links", || one.fleet.counts().links == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_leaves_takes_its_values_without_an_error() {
    let network = Network::new(1);
    let (one, _) = busy_host(&network, "one").await;
    let asker = Host::join(&network, "asker", asks()).await;
    let mut events = asker.fleet.events();
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    while hall.standing().is_empty() {
        hall.next().await;
    }
    let peer = one.fleet.own().clone();
    one.fleet.leave().await;
    hall.stands(&[]).await;
    assert_eq!(hall.news(), ["+hall", "-hall"]);
    assert_eq!(events.recv().await, Ok(FleetEvent::Left(peer)));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_cut_off_from_everybody_says_so_once_and_goes_on() {
    let network = Network::new(1);
    let (_one, _) = Host::with_lamps(&network, "one").await;
    let (_two, _) = Host::with_lamps(&network, "two").await;
    let bus = Bus::new();
    crate::kit::lamps(&bus, "here");
    let asker = Host::with_bus(&network, "asker", bus, asks()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    hall.stands(&["hall by here", "hall by one", "hall by two"]).await;
    let mut events = asker.fleet.events();
    network.part("asker", "one");
    network.part("asker", "two");
    hall.stands(&["hall by here"]).await;
    after(Duration::from_secs(30)).await;
    network.heal_all();
    hall.stands(&["hall by here", "hall by one", "hall by two"]).await;
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.push(event);
    }
    assert_eq!(told.iter().filter(|event| **event == FleetEvent::CutOff).count(), 1, "{told:?}");
    assert_eq!(told.iter().filter(|event| matches!(event, FleetEvent::Lost { .. })).count(), 2, "{told:?}");
    assert_eq!(told.iter().filter(|event| matches!(event, FleetEvent::Up(_))).count(), 2, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn both_sides_of_a_partition_go_on_alone() {
    let network = Network::new(1);
    let mut hosts = Vec::new();
    for name in ["one", "two", "three", "four"] {
        let bus = Bus::new();
        crate::kit::lamps(&bus, name);
        hosts.push(Host::with_bus(&network, name, bus, offers().asks("house/lamp")).await);
    }
    let mut requesters: Vec<_> = hosts.iter().map(|host| Requester::of(&host.bus, lamp("a"))).collect();
    for requester in &mut requesters {
        requester.stands(&["a by four", "a by one", "a by three", "a by two"]).await;
    }
    for here in ["one", "two"] {
        ["three", "four"].iter().for_each(|there| network.part(here, there));
    }
    for requester in &mut requesters[..2] {
        requester.stands(&["a by one", "a by two"]).await;
    }
    for requester in &mut requesters[2..] {
        requester.stands(&["a by four", "a by three"]).await;
    }
    network.heal_all();
    for requester in &mut requesters {
        requester.stands(&["a by four", "a by one", "a by three", "a by two"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_resolve_that_only_a_lost_host_is_at_work_on_is_unreachable() {
    let network = Network::new(1);
    let bus = Bus::new();
    let (answers, _) = Answers::on(&bus, |_: &Lamp, _| {});
    let one = Host::with_bus(&network, "one", bus, offers()).await;
    let asker = Host::join(&network, "asker", asks()).await;
    let resolving = tokio::spawn({
        let bus = asker.bus.clone();
        async move { bus.resolve(lamp("hall")).await }
    });
    until("it is asked", || answers.runs() == 1).await;
    one.crash(&network);
    let error = resolving.await.expect("it ends").expect_err("the host is lost");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("host `one` is out of reach"), "{error}");
}

/// Does something once.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "house/ring", value = String, once)]
struct Ring {}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_lost_host_had_is_an_error_and_is_not_made_again_by_another_or_when_it_is_back() {
    for one_only in [false, true] {
        let network = Network::new(1);
        let mut hosts = Vec::new();
        for name in ["one", "two"] {
            let bus = Bus::new();
            let (answers, _) = Answers::on(&bus, |_: &Ring, _| {});
            hosts.push((Host::with_bus(&network, name, bus, offers()).await, answers));
        }
        let options = FleetOptions::new("shop");
        let options = if one_only { options.asks_one("house/ring") } else { options.asks("house/ring") };
        let asker = Host::join(&network, "asker", options).await;
        let calling = tokio::spawn({
            let bus = asker.bus.clone();
            async move { bus.resolve(Ring {}).await }
        });
        let runs = || hosts.iter().map(|(_, answers)| answers.runs()).sum::<usize>();
        until("it is asked", || runs() == 1).await;
        network.part("asker", "one");
        network.part("asker", "two");
        let error = calling.await.expect("it ends").expect_err("the host is lost");
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        network.heal_all();
        after(Duration::from_secs(20)).await;
        assert_eq!(runs(), 1);
        assert!(hosts.iter().all(|(host, _)| host.bus.directives().is_empty()), "it is released there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_frame_costs_traffic_but_no_value_and_no_run() {
    let network = Network::new(7);
    let (_one, lamps) = Host::with_lamps(&network, "one").await;
    let asker = Host::join(&network, "asker", asks()).await;
    let rooms: Vec<String> = (0..50).map(|room| format!("room {room}")).collect();
    let mut all: Vec<_> = rooms.iter().map(|room| Requester::of(&asker.bus, lamp(room))).collect();
    for (requester, room) in all.iter_mut().zip(&rooms) {
        requester.stands(&[&format!("{room} by one")]).await;
        requester.news();
    }
    let before = asker.fleet.counts().resyncs;
    network.set_faults(Faults { lost: 300, repeated: 100, reordered: 100, delay: Duration::from_millis(20) });
    for number in 0..20 {
        lamps.last().add(format!("number {number}"));
        after(Duration::from_millis(100)).await;
    }
    network.set_faults(Faults::default());
    let last: Vec<String> =
        (0..20).map(|number| format!("number {number}")).chain([format!("{} by one", rooms[49])]).collect();
    all[49].stands(&last.iter().map(String::as_str).collect::<Vec<_>>()).await;
    after(Duration::from_secs(5)).await;
    for requester in &mut all[..49] {
        requester.stands(&[&requester.standing()[0].clone()]).await;
        assert_eq!(requester.news(), Vec::<String>::new());
    }
    assert_eq!(all[49].news().len(), 20);
    assert_eq!(lamps.runs(), 50);
    assert!(asker.fleet.counts().resyncs + _one.fleet.counts().resyncs > before, "something was lost");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_alone_has_lost_the_other_one_asks_again_and_the_other_one_is_told_nothing_twice() {
    for (from, to) in [("asker", "one"), ("one", "asker")] {
        let network = Network::new(1);
        // Presence stands: only the pings notice.
        network.set_lease(Duration::from_secs(1000));
        let (_one, lamps) = Host::with_lamps(&network, "one").await;
        let asker = Host::join(&network, "asker", asks()).await;
        let mut hall = Requester::of(&asker.bus, lamp("hall"));
        hall.stands(&["hall by one"]).await;
        network.cut(from, to);
        after(Duration::from_secs(6)).await;
        network.heal_all();
        after(Duration::from_secs(20)).await;
        hall.stands(&["hall by one"]).await;
        assert_eq!(lamps.runs(), 1);
        lamps.last().add("more".to_owned());
        hall.stands(&["hall by one", "more"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_host_asks_that_hears_nothing_is_not_kept_for_as_long_as_the_cut_lasts() {
    let network = Network::new(1);
    network.set_lease(Duration::from_secs(1000));
    let (one, lamps) = Host::with_lamps(&network, "one").await;
    let asker = Host::join(&network, "asker", asks().pings(Duration::from_secs(3), 3)).await;
    let mut all = vec![Requester::of(&asker.bus, lamp("hall"))];
    all[0].stands(&["hall by one"]).await;
    network.cut("one", "asker");
    until("the asker is lost", || one.fleet.counts().lost == 1).await;
    // The asker does not know it yet.
    all.push(Requester::of(&asker.bus, lamp("attic")));
    until("it is asked", || lamps.runs() == 2).await;
    until("the other one is lost too", || asker.fleet.counts().lost == 1).await;
    after(Duration::from_secs(30)).await;
    assert!(one.bus.directives().is_empty(), "nobody could be told of it");
    network.heal_all();
    for (requester, expected) in all.iter_mut().zip(["hall by one", "attic by one"]) {
        requester.stands(&[expected]).await;
    }
}
