//! The engine's bugs that would break what a fleet promises, provoked on purpose: short here, longer with `--ignored`.

use std::time::{Duration, Instant};

use serde_json::json;
use zenoh_tests::harness::Host;
use zenoh_tests::places::{free_address, socket};
use zenoh_tests::relay::Relay;

const HOST: &str = env!("CARGO_BIN_EXE_host");

fn hub(name: &str, listen: &str, connect: &[&str]) -> Host {
    let mut host = Host::start(HOST, name);
    host.join(json!({ "name": "shop", "listen": [listen], "connect": connect }));
    host
}

fn asks(name: &str, place: &str) -> Host {
    let mut host = Host::start(HOST, name);
    host.join(json!({ "name": "shop", "connect": [place], "asks": ["test/greet", "test/many"] }));
    host
}

fn answers(name: &str, place: &str) -> Host {
    Host::joined(
        HOST,
        name,
        json!({ "name": "shop", "connect": [place], "offers": ["test/**"], "resume_within_ms": 500 }),
    )
}

/// Residents, and waves of hosts that come and are killed: a session that does not open any more, or a host that stays, is the bug.
fn waves(residents: usize, waves: usize, size: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let place = socket(folder.path());
    let _hub = hub("hub", &place, &[]);
    let mut a = asks("a", &place);
    let _residents: Vec<_> = (0..residents).map(|number| answers(&format!("r{number}"), &place)).collect();
    let ask = a.greet("Ada");
    a.until(ask, "all residents", |state| state.values.len() == residents);
    for wave in 0..waves {
        let hosts: Vec<_> = (0..size).map(|number| answers(&format!("w{wave}-{number}"), &place)).collect();
        a.until(ask, "the wave", |state| state.values.len() == residents + size);
        drop(hosts);
        let state = a.until(ask, "the residents alone", |state| state.values.len() == residents);
        assert!(state.texts().iter().all(|text| text.starts_with('r')), "{:?}", state.texts());
    }
}

#[test]
fn waves_of_hosts_come_and_go() {
    waves(4, 3, 4);
}

#[test]
#[ignore = "70 processes; minutes on two cores"]
fn large_waves_of_hosts_come_and_go() {
    waves(40, 10, 30);
}

/// A host freezes while much is sent to it: others are answered as before, and it is back when it goes on.
fn freezes(rounds: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let place = socket(folder.path());
    let _hub = hub("hub", &place, &[]);
    let (mut a, mut frozen, mut b) = (asks("a", &place), asks("frozen", &place), answers("b", &place));
    for round in 0..rounds {
        // What it reads: 64 MiB, of which most is still to be sent when it freezes.
        let fields = json!({ "values": 1024 + round, "bytes": 64 << 10 });
        let large = frozen.ask_with("test/many", fields, json!({ "lengths": true }));
        frozen.until(large, "the first value", |state| !state.values.is_empty());
        frozen.freeze();
        let until = Instant::now() + Duration::from_secs(5);
        let mut slowest = Duration::ZERO;
        let mut number = 0;
        while Instant::now() < until {
            let begun = Instant::now();
            let name = format!("{round}-{number}");
            let ask = a.greet(&name);
            a.until_values(ask, &[&format!("b: hello {name}")]);
            a.release(ask);
            slowest = slowest.max(begun.elapsed());
            number += 1;
        }
        eprintln!("round {round}: {number} asks beside a frozen host, the slowest in {slowest:?}");
        // The engine blocks for a second before it gives such a connection up.
        assert!(slowest < Duration::from_secs(10), "{slowest:?}");
        frozen.thaw();
        frozen.until(large, "all values", |state| state.values.len() == 1024 + round);
        frozen.release(large);
        b.until_stats("it is released", |stats| stats["directives"] == 0);
    }
}

#[test]
fn a_host_that_freezes_under_load_hinders_nobody_else() {
    freezes(1);
}

#[test]
#[ignore = "minutes"]
fn hosts_that_freeze_again_and_again_hinder_nobody_else() {
    freezes(20);
}

/// The connection of two hubs is cut cold: each withdraws what is behind the other one, and has it again.
fn cold_cuts(rounds: usize) {
    let (one, two) = (free_address(), free_address());
    let _hub_1 = hub("hub-1", &one, &[]);
    let relay = Relay::to(&one);
    let _hub_2 = hub("hub-2", &two, &[relay.address()]);
    let (mut a, _b) = (asks("a", &one), answers("b", &two));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    for _ in 0..rounds {
        relay.hold();
        a.until_values(ask, &[]);
        relay.heal();
        a.until_values(ask, &["b: hello Ada"]);
    }
}

#[test]
fn two_hubs_that_are_cut_cold_withdraw_each_others_hosts() {
    cold_cuts(2);
}

#[test]
#[ignore = "minutes"]
fn two_hubs_that_are_cut_cold_again_and_again_withdraw_each_others_hosts() {
    cold_cuts(30);
}

/// Two hubs lose each other while they are busy, for a while.
fn busy_reconnects(rounds: usize, away: Duration) {
    let (one, two) = (free_address(), free_address());
    let _hub_1 = hub("hub-1", &one, &[]);
    let relay = Relay::to(&one);
    let _hub_2 = hub("hub-2", &two, &[relay.address()]);
    let (mut a, _b) = (asks("a", &one), answers("b", &two));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    for round in 0..rounds {
        let large =
            a.ask_with("test/many", json!({ "values": 200 + round, "bytes": 64 << 10 }), json!({ "lengths": true }));
        a.until(large, "the first value", |state| !state.values.is_empty());
        relay.refuse();
        std::thread::sleep(away);
        relay.heal();
        a.until(large, "all values", |state| state.values.len() == 200 + round);
        a.until_values(ask, &["b: hello Ada"]);
        a.release(large);
    }
}

#[test]
fn hubs_that_reconnect_while_they_are_busy_lose_nothing() {
    busy_reconnects(3, Duration::from_millis(250));
}

/// Within a tenth of a second, the engine does not tell again what it has told.
#[test]
fn hubs_that_reconnect_at_once_while_they_are_busy_lose_nothing() {
    busy_reconnects(10, Duration::ZERO);
}

#[test]
#[ignore = "minutes"]
fn hubs_that_reconnect_again_and_again_while_they_are_busy_lose_nothing() {
    busy_reconnects(100, Duration::from_millis(250));
    busy_reconnects(100, Duration::ZERO);
}

#[test]
#[ignore = "as long as FLEET_CHURN_SECONDS says, an hour unless set"]
fn memory_stays_flat_while_hosts_come_and_go() {
    let seconds = std::env::var("FLEET_CHURN_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3600);
    let folder = tempfile::tempdir().expect("a folder");
    let place = socket(folder.path());
    let (mut hub, mut a) = (hub("hub", &place, &[]), asks("a", &place));
    let ask = a.greet("Ada");
    let (until, mut round, mut at_first) = (Instant::now() + Duration::from_secs(seconds), 0, None);
    while Instant::now() < until || round < 20 {
        let hosts: Vec<_> = (0..4).map(|number| answers(&format!("c{number}"), &place)).collect();
        a.until(ask, "four hosts", |state| state.values.len() == 4);
        drop(hosts);
        a.until_values(ask, &[]);
        round += 1;
        if round == 10 {
            at_first = Some([&mut hub, &mut a].map(|host| host.stats()["rss_kib"].as_u64().expect("a number")));
        }
    }
    let at_last = [&mut hub, &mut a].map(|host| host.stats()["rss_kib"].as_u64().expect("a number"));
    let at_first = at_first.expect("ten rounds");
    eprintln!("{round} rounds of four hosts: hub and host had {at_first:?} KiB after ten, and have {at_last:?} KiB");
    // The harness's own ask keeps what it said, not the hosts.
    assert!(
        at_last[0] < at_first[0] + (32 << 10) && at_last[1] < at_first[1] + (32 << 10),
        "{at_first:?} {at_last:?} KiB"
    );
}

#[test]
#[ignore = "a minute, and a gigabyte"]
fn a_hundred_thousand_asks_stand_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = socket(folder.path());
    let _hub = hub("hub", &place, &[]);
    let (mut a, mut b) = (asks("a", &place), answers("b", &place));
    let before = [&mut a, &mut b].map(|host| host.stats()["rss_kib"].as_u64().expect("a number"));
    // A command waits for at most 30 s.
    for part in 0..20 {
        let done = a.tell(json!({ "do": "many", "count": 5000, "from": part * 5000, "ask": 1_000_000 + part }));
        assert_eq!(done["answered"], 5000);
    }
    let after = [&mut a, &mut b].map(|host| host.stats()["rss_kib"].as_u64().expect("a number"));
    eprintln!("100,000 asks: requester and responder had {before:?} KiB, and have {after:?} KiB");
    assert_eq!(b.runs(), 100_000);
}
