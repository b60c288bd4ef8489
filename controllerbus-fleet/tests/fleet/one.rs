//! Directives that are asked of one host.

use std::time::Duration;

use controllerbus::prelude::*;
use controllerbus_fleet::FleetOptions;
use controllerbus_fleet::memory::Network;

use crate::kit::{Answers, Host, Lamp, Requester, after, lamp, offers, until};

fn asks_one() -> FleetOptions {
    FleetOptions::new("shop").asks_one("house/lamp")
}

#[tokio::test(start_paused = true)]
async fn each_directive_is_asked_of_one_host_and_all_hosts_ask_the_same_one() {
    let network = Network::new(1);
    let mut hosts: Vec<(Host, Answers<Lamp>)> = Vec::new();
    for name in ["one", "two", "three"] {
        hosts.push(Host::with_lamps(&network, name).await);
    }
    let first = Host::join(&network, "first", asks_one()).await;
    let second = Host::join(&network, "second", asks_one()).await;
    let rooms: Vec<String> = (0..60).map(|room| format!("room {room}")).collect();
    let mut all = Vec::new();
    for asker in [&first, &second] {
        for room in &rooms {
            let mut requester = Requester::of(&asker.bus, lamp(room));
            while requester.standing().len() != 1 || !requester.request.is_idle() {
                requester.next().await;
            }
            all.push(requester);
        }
    }
    let runs: Vec<_> = hosts.iter().map(|(_, answers)| answers.runs()).collect();
    assert_eq!(runs.iter().sum::<usize>(), 60, "each is merged with the equal one of the other host");
    assert!(runs.iter().all(|runs| *runs > 5), "{runs:?}");
}

#[tokio::test(start_paused = true)]
async fn the_next_host_is_asked_when_one_is_gone_without_an_error_and_nothing_moves_back() {
    let network = Network::new(1);
    let mut hosts: Vec<(Host, Answers<Lamp>)> = Vec::new();
    for name in ["one", "two"] {
        hosts.push(Host::with_lamps(&network, name).await);
    }
    let asker = Host::join(&network, "asker", asks_one()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    while hall.standing().len() != 1 || !hall.request.is_idle() {
        hall.next().await;
    }
    let first = hall.standing()[0].clone();
    let at = hosts.iter().position(|(host, _)| first.ends_with(&*host.fleet.own().host)).expect("it is one of them");
    let (gone, _) = hosts.remove(at);
    let name = gone.fleet.own().host.clone();
    gone.crash(&network);
    let left = format!("hall by {}", hosts[0].0.fleet.own().host);
    hall.stands(&[&left]).await;
    assert_eq!(hall.news(), [format!("+{first}"), format!("-{first}"), format!("+{left}")]);
    // The better one is back.
    let (_back, answers) = Host::with_lamps(&network, &name).await;
    after(Duration::from_secs(3)).await;
    hall.stands(&[&left]).await;
    assert_eq!((hall.news().len(), answers.runs()), (0, 0));
    // What is asked from now on is asked of it.
    drop(hall);
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    hall.stands(&[&first]).await;
}

#[tokio::test(start_paused = true)]
async fn a_directive_that_no_host_offers_is_idle_until_one_does() {
    let network = Network::new(1);
    let asker = Host::join(&network, "asker", asks_one()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    hall.stands(&[]).await;
    let (one, _) = Host::with_lamps(&network, "one").await;
    hall.stands(&["hall by one"]).await;
    one.crash(&network);
    hall.stands(&[]).await;
    assert_eq!(hall.news(), ["+hall by one", "-hall by one"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_host_that_is_lost_at_work_is_an_error_and_one_that_leaves_is_not() {
    for crashes in [true, false] {
        let network = Network::new(1);
        let bus = Bus::new();
        let (answers, _) = Answers::on(&bus, |lamp: &Lamp, values| {
            values.add(lamp.room.clone());
        });
        let one = Host::with_bus(&network, "one", bus, offers()).await;
        let asker = Host::join(&network, "asker", asks_one()).await;
        let mut hall = Requester::of(&asker.bus, lamp("hall"));
        while hall.standing().is_empty() {
            hall.next().await;
        }
        hall.news();
        if crashes {
            one.crash(&network);
        } else {
            one.fleet.leave().await;
        }
        hall.stands(&[]).await;
        let told = hall.news();
        let error = told.iter().filter(|told| told.starts_with("! Unreachable host `one` is out of reach (")).count();
        assert_eq!((error, told.len()), (usize::from(crashes), 1 + usize::from(crashes)), "{told:?}");
        assert_eq!(answers.runs(), 1);
    }
}

/// Switches a lamp on, once.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "house/switch", value = String, once)]
struct Switch {}

#[tokio::test(start_paused = true)]
async fn a_call_that_no_host_offers_is_answered_by_a_controller_here_that_comes_later() {
    let network = Network::new(1);
    let asker = Host::join(&network, "asker", FleetOptions::new("shop").asks_one("house/switch")).await;
    after(Duration::from_secs(2)).await;
    let mut call = Requester::of(&asker.bus, Switch {});
    after(Duration::from_secs(2)).await;
    let (answers, _) = Answers::on(&asker.bus, |_: &Switch, values| {
        values.add("here".to_owned());
    });
    until("it is called", || answers.runs() == 1).await;
    while call.standing() != ["here"] {
        call.next().await;
    }
}
