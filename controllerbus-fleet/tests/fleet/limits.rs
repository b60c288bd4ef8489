//! What is too much, too long, not offered, of another fleet, or not understood: both hosts know why, and nothing panics.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use controllerbus::directive::wire;
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;
use controllerbus_fleet::carrier::{Carrier, Lane, Presence, Seen, Which};
use controllerbus_fleet::memory::Network;
use controllerbus_fleet::status::{Hosts, LinkState};
use controllerbus_fleet::{FleetEvent, FleetOptions};

use crate::kit::{Answers, Host, Lamp, Requester, after, asks, lamp, offers};
use crate::raw::{Hello, Raw, hello, linked, number};

async fn problem(host: &Host, of: &str) -> (LinkState, String) {
    let all = host.bus.resolve_all(Hosts {}).await.expect("it is answered");
    let found = all.iter().find(|status| status.host == of).expect("it is there");
    (found.link, found.problem.clone().unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn a_host_that_asks_too_much_is_refused_with_a_reason_that_both_see() {
    let network = Network::new(1);
    let bus = Bus::new();
    crate::kit::lamps(&bus, "one");
    let one = Host::with_bus(&network, "one", bus, offers().most_asks(10)).await;
    let asker = Host::join(&network, "asker", asks()).await;
    let mut events = one.fleet.events();
    let mut all: Vec<_> = (0..10).map(|room| Requester::of(&asker.bus, lamp(&room.to_string()))).collect();
    for requester in &mut all {
        while requester.standing().is_empty() {
            requester.next().await;
        }
    }
    let mut one_more = Requester::of(&asker.bus, lamp("one more"));
    while !one_more.next().await.starts_with("! ") {}
    assert!(
        one_more.told.iter().any(|told| told.contains("has 10 requests open, which is its limit")),
        "{:?}",
        one_more.told
    );
    for requester in &mut all {
        requester.stands(&[]).await;
    }
    let why = "has 10 requests open, which is its limit";
    for (host, of) in [(&one, "asker"), (&asker, "one")] {
        let (link, problem) = problem(host, of).await;
        assert!(link == LinkState::Refused && problem.contains(why), "{problem}");
    }
    loop {
        if let FleetEvent::Refused { why: told, .. } = events.recv().await.expect("an event") {
            assert!(told.contains(why), "{told}");
            break;
        }
    }
    assert!(one.bus.directives().iter().all(|standing| standing.id != "house/lamp"), "they are released");
    // After a while it is tried again.
    drop(one_more);
    all.truncate(3);
    for requester in &mut all {
        let first = requester.told[0][1..].to_owned();
        requester.stands(&[&first]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_whose_values_are_too_many_bytes_is_refused() {
    let network = Network::new(1);
    let bus = Bus::new();
    let (answers, _) = Answers::on(&bus, |_: &Lamp, _| {});
    let one = Host::with_bus(&network, "one", bus, offers()).await;
    let asker = Host::join(&network, "asker", asks().most_standing(100_000)).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    while answers.runs() == 0 {
        after(Duration::from_millis(1)).await;
    }
    let mut slot = answers.last().slot();
    // One after the other they may be more.
    for _ in 0..10 {
        slot.set("x".repeat(40_000));
        hall.next().await;
        after(Duration::from_millis(10)).await;
    }
    answers.last().add("x".repeat(40_000));
    answers.last().add("x".repeat(40_000));
    while !hall.next().await.starts_with("! ") {}
    let (link, told) = problem(&asker, "one").await;
    assert!(link == LinkState::Refused && told.contains("would be more than 100000 bytes"), "{told}");
    assert_eq!(problem(&one, "asker").await.0, LinkState::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_too_long_is_an_error_of_its_request_and_one_larger_than_the_window_goes_alone() {
    let network = Network::new(1);
    let bus = Bus::new();
    let (answers, _) = Answers::on(&bus, |_: &Lamp, _| {});
    let _one = Host::with_bus(&network, "one", bus, offers().longest_message(2 << 20)).await;
    let asker = Host::join(&network, "asker", asks()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    while answers.runs() == 0 {
        after(Duration::from_millis(1)).await;
    }
    for _ in 0..4 {
        answers.last().add("x".repeat(1 << 20));
    }
    answers.last().add("x".repeat(3 << 20));
    while hall.standing().len() < 4 || !hall.told.iter().any(|told| told.starts_with("! ")) {
        hall.next().await;
    }
    let error = hall.told.iter().find(|told| told.starts_with("! ")).expect("it was told");
    assert!(error.contains("is longer than the limit of 2097152 bytes"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn thousands_of_asks_and_values_pass_the_windows() {
    let network = Network::new(1);
    let (_one, answers) = Host::with_lamps(&network, "one").await;
    let asker = Host::join(&network, "asker", asks()).await;
    let pad = "x".repeat(200);
    let mut all: Vec<_> = (0..5000).map(|room| Requester::of(&asker.bus, lamp(&format!("{room} {pad}")))).collect();
    for requester in &mut all {
        while requester.standing().is_empty() {
            requester.next().await;
        }
    }
    assert_eq!((answers.runs(), asker.fleet.counts().asks), (5000, 5000));
    assert!(asker.fleet.counts().window_waits > 0);
    let values = answers.last();
    for number in 0..1000 {
        values.add(number.to_string());
    }
    let last = all.last_mut().expect("there are some");
    while last.standing().len() < 1001 {
        last.next().await;
    }
}

#[tokio::test(start_paused = true)]
async fn asks_that_wait_for_room_are_sent_only_as_far_as_there_is_room() {
    let network = Network::new(1);
    let asker = Host::join(&network, "asker", asks()).await;
    let raw = Raw::join(&network, "raw");
    let _offer =
        raw.carrier.announce(Presence::Offer(raw.carrier.own(), "house/lamp".into())).expect("it is announced");
    linked(&raw, asker.fleet.own(), &hello(1, 1)).await;
    let pad = "x".repeat(1000);
    let _all: Vec<_> = (0..2000).map(|room| Requester::of(&asker.bus, lamp(&format!("{room} {pad}")))).collect();
    // It answers pings, and sees nothing.
    let arrived = || {
        let received = raw.received.lock().unwrap();
        let frames: Vec<_> =
            received.iter().filter(|(lane, _)| *lane != Lane::Link).map(|(_, frame)| frame.clone()).collect();
        (frames.iter().map(Bytes::len).sum::<usize>(), frames.first().cloned())
    };
    after(Duration::from_millis(500)).await;
    let (before, first) = arrived();
    assert!((150_000..300_000).contains(&before), "{before}");
    // It sees the first frame.
    let era = u64::from_le_bytes(first.expect("there is one")[..8].try_into().expect("a number"));
    let seen = [vec![4, 10], b"house/lamp".to_vec(), number(era), vec![0]].concat();
    raw.say(asker.fleet.own(), Lane::Link, &seen);
    after(Duration::from_millis(500)).await;
    let more = arrived().0 - before;
    assert!((30_000..100_000).contains(&more), "{more}");
}

#[tokio::test(start_paused = true)]
async fn a_host_of_a_later_version_is_understood_and_what_it_may_say_in_vain_is_passed_over() {
    let network = Network::new(1);
    let (one, answers) = Host::with_lamps(&network, "one").await;
    let raw = Raw::join(&network, "later");
    let to = one.fleet.own().clone();
    linked(&raw, &to, &hello(1, 7)).await;
    assert_eq!(one.fleet.counts().links, 1);
    // A link message and a lane message that are not known, and an ask with a field too many.
    raw.say(&to, Lane::Link, &[200, 1, 2, 3]);
    let lamp = wire::encode(&lamp("hall")).expect("encoding");
    let ask = [vec![1, 5, lamp.len() as u8], lamp, vec![0, 42, 42]].concat();
    let head = [9_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    let frame = [head, vec![2, 199, 1, ask.len() as u8], ask].concat();
    raw.say(&to, Lane::Directive("house/lamp".into()), &frame);
    after(Duration::from_millis(100)).await;
    assert_eq!((answers.runs(), one.fleet.counts().links), (1, 1));
    let values = raw.received.lock().unwrap().iter().filter(|(lane, _)| *lane != Lane::Link).count();
    assert!(values > 0, "it is answered");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_and_who_belongs_elsewhere_is_refused_with_a_reason() {
    let lane = || Lane::Directive("house/lamp".into());
    let head = [9_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    let garbage: Vec<(Lane, Vec<u8>, &str)> = vec![
        (Lane::Link, vec![99], "a message that is not known here"),
        (Lane::Link, vec![], "it ends within a number"),
        (Lane::Link, vec![4, 200], "it ends within a number"),
        (lane(), vec![1, 2, 3], "it ends within its head"),
        (lane(), [head.clone(), vec![2, 77, 1]].concat(), "a message that is not known here"),
        (lane(), [head.clone(), vec![200, 1]].concat(), "it ends within its bytes"),
        // A length that no frame has.
        (lane(), [head, vec![0xff; 10]].concat(), "a number has more than 64 bits"),
    ];
    for (lane, frame, why) in garbage {
        let network = Network::new(1);
        let (one, _) = Host::with_lamps(&network, "one").await;
        let raw = Raw::join(&network, "garbled");
        let to = one.fleet.own().clone();
        linked(&raw, &to, &hello(1, 1)).await;
        raw.heard();
        raw.say(&to, lane, &frame);
        let told = raw.bye().await;
        assert!(told.contains(why), "{told}");
        assert_eq!(one.fleet.counts().refused, 1);
    }
    let strangers = [
        (Hello { fleet: "other".to_owned(), ..hello(1, 1) }, "it belongs to the fleet `other`"),
        (hello(8, 9), "it speaks protocols 8 to 9, and this host 1 to 1; update this host"),
        (hello(0, 0), "it speaks protocols 0 to 0, and this host 1 to 1; update that host"),
    ];
    for (hello, why) in strangers {
        let network = Network::new(1);
        let (one, _) = Host::with_lamps(&network, "one").await;
        let raw = Raw::join(&network, "stranger");
        raw.greet(one.fleet.own(), &hello);
        let told = raw.bye().await;
        assert!(told.contains(why), "{told}");
        let (link, problem) = problem(&one, "stranger").await;
        assert!(link == LinkState::Refused && problem.contains(why), "{problem}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_host_does_not_offer_is_refused_by_name_whatever_the_other_one_believes() {
    let network = Network::new(1);
    let bus = Bus::new();
    let (answers, _) = Answers::on(&bus, |_: &Lamp, _| {});
    let one = Host::with_bus(&network, "one", bus, FleetOptions::new("shop").offers("house/door")).await;
    let raw = Raw::join(&network, "raw");
    let to = one.fleet.own().clone();
    linked(&raw, &to, &hello(1, 1)).await;
    let lamp = wire::encode(&lamp("hall")).expect("encoding");
    let ask = [vec![1, 5, lamp.len() as u8], lamp, vec![0]].concat();
    let head = [9_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    raw.say(&to, Lane::Directive("house/lamp".into()), &[head, vec![ask.len() as u8], ask].concat());
    after(Duration::from_millis(100)).await;
    assert_eq!(answers.runs(), 0);
    let all = raw.received.lock().unwrap().clone();
    let text: String = all.iter().map(|(_, frame)| String::from_utf8_lossy(frame).into_owned()).collect();
    assert!(text.contains("host `one` does not offer `house/lamp` to others"), "{text}");
    assert_eq!(one.fleet.counts().links, 1, "the link goes on");
}

#[tokio::test(start_paused = true)]
async fn the_error_with_which_a_host_ends_a_directive_is_told_once() {
    let network = Network::new(1);
    let asker = Host::join(&network, "asker", asks()).await;
    let raw = Raw::join(&network, "raw");
    let to = asker.fleet.own().clone();
    let offer = Presence::Offer(raw.carrier.own(), "house/lamp".into());
    let _offer = raw.carrier.announce(offer).expect("it is announced");
    linked(&raw, &to, &hello(1, 1)).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    after(Duration::from_millis(100)).await;
    // Its failure, that it is idle, and its end, as a host says that does not offer it.
    let error = wire::encode(&Error::new(ErrorKind::NotFound, "there is no such lamp").permanent()).expect("encoding");
    let failed = [vec![9, 1], number(error.len() as u64), error].concat();
    let messages = [failed, vec![7, 1], vec![10, 1]].map(|message| [number(message.len() as u64), message].concat());
    let head = [9_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    raw.say(&to, Lane::Directive("house/lamp".into()), &[head, messages.concat()].concat());
    while !hall.told.iter().any(|told| told.starts_with("! ")) || !hall.request.is_idle() {
        hall.next().await;
    }
    // Sooner than the other host, which answers no pings, is lost.
    after(Duration::from_secs(1)).await;
    hall.stands(&[]).await;
    let told: Vec<_> = hall.told.iter().filter(|told| told.starts_with("! ")).collect();
    assert_eq!(told, ["! NotFound there is no such lamp"]);
    let failures: u64 = asker.bus.counts().iter().map(|one| one.counts.failures).sum();
    assert_eq!(failures, 1, "it counts once");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_has_many_incarnations_has_few_links_and_is_told_why() {
    let network = Network::new(1);
    let (one, _) = Host::with_lamps(&network, "one").await;
    let to = one.fleet.own().clone();
    let mut all = Vec::new();
    for _ in 0..12 {
        let raw = Raw::join(&network, "leaf");
        after(Duration::from_millis(10)).await;
        if all.len() < 8 {
            linked(&raw, &to, &hello(1, 1)).await;
        } else {
            raw.greet(&to, &hello(1, 1));
            let why = raw.bye().await;
            assert!(why.contains("there are links to 8 other hosts that are called `leaf`"), "{why}");
        }
        all.push(raw);
    }
    assert_eq!(one.fleet.counts().links, 8);
    let statuses = one.bus.resolve_all(Hosts {}).await.expect("it is answered");
    let refused = statuses.iter().filter(|status| status.link == LinkState::Refused);
    let whys: Vec<_> = refused.filter_map(|status| status.problem.clone()).collect();
    assert!(whys.len() == 4 && whys.iter().all(|why| why.contains("give each host a name of its own")), "{whys:?}");
    // Hosts of other names do not feel it.
    linked(&Raw::join(&network, "other"), &to, &hello(1, 1)).await;
    // What is gone, and held for a while, makes room for what is there.
    network.crash(&all[0].carrier.own(), true);
    after(Duration::from_millis(10)).await;
    let next = Raw::join(&network, "leaf");
    after(Duration::from_millis(10)).await;
    linked(&next, &to, &hello(1, 1)).await;
    // Nor are all of them known that say that they are there, or greet.
    let more: Vec<_> = (0..100).map(|_| Raw::join(&network, "leaf")).collect();
    after(Duration::from_secs(1)).await;
    assert_eq!(one.fleet.counts().hosts, 1 + 64);
    for raw in &more {
        raw.greet(&to, &hello(1, 1));
    }
    after(Duration::from_secs(60)).await;
    assert!(one.fleet.counts().links <= 9 && one.fleet.counts().hosts <= 65, "{:?}", one.fleet.counts());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_crashes_again_and_again_is_linked_each_time() {
    // More often than its links are held.
    let network = Network::new(1);
    let asker = Host::join(&network, "asker", asks()).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    for _ in 0..100 {
        let (one, _) = Host::with_lamps(&network, "one").await;
        let mut of_asker = Requester::of(&one.bus, lamp("own"));
        of_asker.stands(&["own by one"]).await;
        hall.stands(&["hall by one"]).await;
        one.crash(&network);
        hall.stands(&[]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_or_offered_is_refused_when_a_host_joins() {
    let network = Network::new(1);
    for (options, why) in [
        (FleetOptions::new("shop").asks("controllerbus/fleet/hosts"), "the framework's own"),
        (FleetOptions::new("shop").asks("house/**"), "is not a directive's id"),
        (FleetOptions::new("shop").offers("house/*"), "`*` can only be used as `/**` at the end"),
    ] {
        let bus = Bus::new();
        let error =
            controllerbus_fleet::Fleet::join(&bus, network.host("one"), options).await.expect_err("it is refused");
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(why), "{error}");
        assert!(bus.controllers().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_told_who_is_there_and_once_that_this_was_all() {
    let network = Network::new(1);
    let _raw = Raw::join(&network, "one");
    let watcher = network.host("two");
    let told = Arc::<Mutex<Vec<Seen>>>::default();
    let into = Arc::clone(&told);
    let _watch = watcher.watch(Which::Up, Arc::new(move |seen| into.lock().unwrap().push(seen))).expect("it watches");
    after(Duration::from_millis(10)).await;
    let told = told.lock().unwrap().clone();
    assert_eq!(told.len(), 2);
    assert!(matches!(&told[0], Seen::Present(Presence::Up(peer)) if &*peer.host == "one") && told[1] == Seen::All);
}
