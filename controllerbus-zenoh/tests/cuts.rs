//! What happens when a connection is cut, a hub restarts, or one of two hubs goes: on the loopback device, with a relay that cuts.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zenoh_tests::harness::Host;
use zenoh_tests::places::free_address;
use zenoh_tests::relay::Relay;

const HOST: &str = env!("CARGO_BIN_EXE_host");

fn hub(name: &str, listen: &str, connect: &[&str]) -> Host {
    let mut host = Host::start(HOST, name);
    host.join(json!({ "name": "shop", "listen": [listen], "connect": connect }));
    host
}

fn asks(name: &str, connect: &[&str]) -> Host {
    let mut host = Host::start(HOST, name);
    host.join(json!({ "name": "shop", "connect": connect, "asks": ["test/greet"] }));
    host
}

fn offers(connect: &[&str], more: Value) -> Host {
    let mut config = json!({ "name": "shop", "connect": connect, "offers": ["test/**"] });
    for (name, value) in more.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    Host::joined(HOST, "b", config)
}

#[test]
fn two_machines_need_no_hub_beside_them() {
    let place = free_address();
    let mut b = Host::joined(
        HOST,
        "b",
        json!({ "name": "shop", "listen": [place], "offers": ["test/**"], "asks": ["test/lamp"] }),
    );
    let mut a = asks("a", &[&place]);
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    // The hub that is killed here is the host itself.
    b.kill();
    a.until_values(ask, &[]);
}

#[test]
fn a_cut_shorter_than_resume_within_runs_nothing_again() {
    let place = free_address();
    let _hub = hub("hub", &place, &[]);
    let relay = Relay::to(&place);
    let (mut a, mut b) = (asks("a", &[&place]), offers(&[relay.address()], json!({})));
    let (ask, at_work) = (a.greet("Ada"), a.greet("never"));
    a.until_values(ask, &["b: hello Ada"]);
    relay.hold();
    a.until_values(ask, &[]);
    let state = a.until(at_work, "the error", |state| !state.failed.is_empty());
    assert_eq!(state.failed, ["Unreachable"]);
    relay.heal();
    let state = a.until_values(ask, &["b: hello Ada"]);
    assert_eq!(state.told, (2, 1));
    assert_eq!(b.runs(), 2);
}

#[test]
fn after_a_cut_longer_than_resume_within_resolvers_run_again() {
    let place = free_address();
    let _hub = hub("hub", &place, &[]);
    let relay = Relay::to(&place);
    let mut a = asks("a", &[&place]);
    let mut b = offers(&[relay.address()], json!({ "resume_within_ms": 300 }));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    relay.hold();
    a.until_values(ask, &[]);
    b.until_stats("what was asked is released", |stats| stats["directives"] == 0);
    relay.heal();
    a.until_values(ask, &["b: hello Ada"]);
    assert_eq!(b.runs(), 2);
}

#[test]
fn a_connection_that_is_dropped_comes_back() {
    let place = free_address();
    let _hub = hub("hub", &place, &[]);
    let relay = Relay::to(&place);
    let (mut a, mut b) = (asks("a", &[&place]), offers(&[relay.address()], json!({})));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    relay.refuse();
    a.until_values(ask, &[]);
    relay.heal();
    a.until_values(ask, &["b: hello Ada"]);
    assert_eq!(b.runs(), 1);
}

#[test]
fn who_is_cut_off_from_everybody_goes_on_alone() {
    let place = free_address();
    let _hub = hub("hub", &place, &[]);
    let relay = Relay::to(&place);
    let (mut a, mut b) = (asks("a", &[relay.address()]), offers(&[&place], json!({})));
    a.answer("a");
    let ask = a.greet("Ada");
    a.until_values(ask, &["a: hello Ada", "b: hello Ada"]);
    relay.hold();
    a.until_values(ask, &["a: hello Ada"]);
    let own = a.greet("Bob");
    a.until_values(own, &["a: hello Bob"]);
    relay.heal();
    a.until_values(ask, &["a: hello Ada", "b: hello Ada"]);
    a.until_values(own, &["a: hello Bob", "b: hello Bob"]);
    assert_eq!(b.runs(), 2);
}

#[test]
fn hosts_find_each_other_again_when_their_hub_restarts() {
    let place = free_address();
    let mut first = hub("hub", &place, &[]);
    let (mut a, mut b) = (asks("a", &[&place]), offers(&[&place], json!({})));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    first.kill();
    a.until_values(ask, &[]);
    let _second = hub("hub", &place, &[]);
    a.until_values(ask, &["b: hello Ada"]);
    assert_eq!(b.runs(), 1);
}

#[test]
fn hosts_of_two_hubs_ask_each_other_and_a_cut_between_the_hubs_withdraws() {
    let (one, two) = (free_address(), free_address());
    let _hub_1 = hub("hub-1", &one, &[]);
    let relay = Relay::to(&one);
    let _hub_2 = hub("hub-2", &two, &[relay.address()]);
    let (mut a, mut b) = (asks("a", &[&one]), offers(&[&two], json!({})));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    relay.hold();
    a.until_values(ask, &[]);
    relay.heal();
    a.until_values(ask, &["b: hello Ada"]);
    assert_eq!(b.runs(), 1);
}

#[test]
fn a_host_whose_hub_is_killed_goes_on_at_the_other_one() {
    let (one, two) = (free_address(), free_address());
    let mut hub_1 = hub("hub-1", &one, &[&two]);
    let _hub_2 = hub("hub-2", &two, &[&one]);
    let (mut a, mut b) = (asks("a", &[&one, &two]), offers(&[&two, &one], json!({})));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    hub_1.kill();
    // It may be so quick that nothing is withdrawn: the values are the same in the end.
    a.until(ask, "the value, at the other hub", |state| state.texts() == ["b: hello Ada"]);
    std::thread::sleep(Duration::from_millis(100));
    let other = a.greet("Bob");
    a.until_values(other, &["b: hello Bob"]);
    a.until_values(ask, &["b: hello Ada"]);
    assert_eq!(b.runs(), 2);
}

/// Has a host leave; how long that took.
fn leaves(mut host: Host) -> Duration {
    let begun = Instant::now();
    host.tell(json!({ "do": "leave" }));
    begun.elapsed()
}

/// The limit of leaving, and some time for a busy machine.
const LEAVING: Duration = Duration::from_secs(5 + 3);

#[test]
fn a_host_leaves_in_time_whatever_has_become_of_its_hub() {
    let place = free_address();
    let mut hub = hub("hub", &place, &[]);
    let b = offers(&[&place], json!({}));
    let relay = Relay::to(&place);
    let linked = |name: &str, connect: &str| {
        let mut host = asks(name, &[connect]);
        let ask = host.greet(name);
        host.until_values(ask, &[&format!("b: hello {name}")]);
        host
    };
    let [well, held, cut, frozen, orphan] = [
        ("well", &*place),
        ("held", relay.address()),
        ("cut", relay.address()),
        ("frozen", &place),
        ("orphan", &place),
    ]
    .map(|(name, connect)| linked(name, connect));
    let took = leaves(well);
    assert!(took < LEAVING, "{took:?}");
    relay.hold();
    let took = leaves(held);
    assert!(took < LEAVING, "what is sent is swallowed: {took:?}");
    relay.refuse();
    let took = leaves(cut);
    assert!(took < LEAVING, "the connection is closed: {took:?}");
    hub.freeze();
    let took = leaves(frozen);
    assert!(took < LEAVING, "the hub is frozen: {took:?}");
    hub.thaw();
    hub.kill();
    let took = leaves(orphan);
    assert!(took < LEAVING, "the hub is gone: {took:?}");
    drop(b);
}

#[test]
fn a_host_that_never_reaches_its_hub_leaves_at_once() {
    // Whoever connects is let in, and never told anything.
    let swallows = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = swallows.local_addr().expect("an address").to_string();
    for place in [place, free_address()] {
        let took = leaves(asks("a", &[&place]));
        assert!(took < LEAVING, "{took:?}");
    }
}
