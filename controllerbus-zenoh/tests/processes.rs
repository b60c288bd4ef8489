//! What happens when: hosts as processes, which die, freeze, withdraw, flood and do not read.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use zenoh_tests::harness::Host;
use zenoh_tests::places::socket;

const HOST: &str = env!("CARGO_BIN_EXE_host");

const ASKS: [&str; 4] = ["test/greet", "test/lamp", "test/capped", "test/many"];

/// A fleet of one hub and hosts that ask and offer everything.
struct Fleet {
    _folder: TempDir,
    place: String,
    _hub: Host,
}

impl Fleet {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = socket(folder.path());
        let mut hub = Host::start(HOST, "hub");
        hub.join(json!({ "name": "shop", "listen": [place] }));
        Self { _folder: folder, place, _hub: hub }
    }

    /// A host that asks, and answers nothing.
    fn asks(&self, name: &str) -> Host {
        let mut host = Host::start(HOST, name);
        let asks: Vec<Value> =
            ASKS.map(Value::from).into_iter().chain([json!({ "id": "test/stock", "of": "one" })]).collect();
        host.join(json!({ "name": "shop", "connect": [self.place], "asks": asks }));
        host
    }

    /// A host that answers, in its own name.
    fn answers(&self, name: &str) -> Host {
        Host::joined(HOST, name, self.offers())
    }

    fn offers(&self) -> Value {
        json!({ "name": "shop", "connect": [self.place], "offers": ["test/**"] })
    }
}

#[test]
fn a_directive_that_is_added_here_is_answered_there_by_all_that_offer_it() {
    let fleet = Fleet::new();
    let (mut a, mut b) = (fleet.asks("a"), fleet.answers("b"));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    let mut c = fleet.answers("c");
    let state = a.until_values(ask, &["b: hello Ada", "c: hello Ada"]);
    assert_eq!(state.told, (2, 0));
    assert_eq!((b.runs(), c.runs()), (1, 1));
    a.release(ask);
    b.until_stats("nothing stands", |stats| stats["directives"] == 0);
}

#[test]
fn a_value_that_is_withdrawn_there_is_withdrawn_here() {
    let fleet = Fleet::new();
    let (mut a, mut b) = (fleet.asks("a"), fleet.answers("b"));
    let ask = a.ask("test/lamp", json!({}));
    a.until_values(ask, &["b: light"]);
    b.tell(json!({ "do": "lamp", "on": false }));
    a.until_values(ask, &[]);
    b.tell(json!({ "do": "lamp", "on": true }));
    let state = a.until_values(ask, &["b: light"]);
    assert_eq!((state.told, state.failed), ((2, 1), vec![]));
}

#[test]
fn a_controller_that_is_replaced_has_its_successors_value_follow() {
    let fleet = Fleet::new();
    let (mut a, mut b) = (fleet.asks("a"), fleet.answers("b"));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    b.answer("b2");
    let state = a.until_values(ask, &["b2: hello Ada"]);
    assert_eq!((state.told, state.failed), ((2, 1), vec![]));
}

#[test]
fn a_host_that_does_not_answer_an_id_any_more_takes_its_values_with_it_and_is_no_error() {
    let fleet = Fleet::new();
    let (mut a, mut b) = (fleet.asks("a"), fleet.answers("b"));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    b.tell(json!({ "do": "remove", "key": "answerer" }));
    let state = a.until_values(ask, &[]);
    assert_eq!(state.failed, Vec::<String>::new());
    b.answer("b");
    a.until_values(ask, &["b: hello Ada"]);
}

#[test]
fn a_killed_host_is_withdrawn_at_once_and_what_it_worked_on_is_unreachable() {
    let fleet = Fleet::new();
    let (mut a, mut b, _c) = (fleet.asks("a"), fleet.answers("b"), fleet.answers("c"));
    let (ask, at_work) = (a.greet("Ada"), a.greet("never"));
    a.until_values(ask, &["b: hello Ada", "c: hello Ada"]);
    let killed = Instant::now();
    b.kill();
    a.until_values(ask, &["c: hello Ada"]);
    // Not the lease of 3 s: the connection is closed by the system.
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    let state = a.until(at_work, "the error", |state| !state.failed.is_empty());
    assert_eq!(state.failed, ["Unreachable"]);
    let _b = fleet.answers("b");
    a.until_values(ask, &["b: hello Ada", "c: hello Ada"]);
}

#[test]
fn a_resolver_that_aborts_its_process_is_an_error_of_who_asked() {
    let fleet = Fleet::new();
    let (mut a, mut b) = (fleet.asks("a"), fleet.answers("b"));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    let fatal = a.greet("abort");
    let state = a.until(fatal, "the error", |state| !state.failed.is_empty());
    assert_eq!(state.failed, ["Unreachable"]);
    a.until_values(ask, &[]);
    b.wait_for_end();
}

#[test]
fn an_error_there_is_an_error_here_and_takes_nothing_with_it() {
    let fleet = Fleet::new();
    let (mut a, _b) = (fleet.asks("a"), fleet.answers("b"));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    let wrong = a.greet("wrong");
    let state = a.until(wrong, "the error", |state| !state.failed.is_empty());
    assert_eq!(state.failed, ["Failed"]);
    assert_eq!(a.state(ask).texts(), ["b: hello Ada"]);
}

#[test]
fn a_frozen_host_is_withdrawn_within_the_lease_and_back_when_it_goes_on() {
    let fleet = Fleet::new();
    let (mut a, mut b, _c) = (fleet.asks("a"), fleet.answers("b"), fleet.answers("c"));
    let (ask, at_work) = (a.greet("Ada"), a.greet("never"));
    a.until_values(ask, &["b: hello Ada", "c: hello Ada"]);
    b.freeze();
    a.until_values(ask, &["c: hello Ada"]);
    let state = a.until(at_work, "the error", |state| !state.failed.is_empty());
    assert_eq!(state.failed, ["Unreachable"]);
    b.thaw();
    a.until_values(ask, &["b: hello Ada", "c: hello Ada"]);
    // It was away for less than `resume_within`: nothing runs again.
    assert_eq!(b.runs(), 2);
}

#[test]
fn a_host_whose_tasks_hang_is_withdrawn_though_its_engine_goes_on_and_is_back_afterwards() {
    let fleet = Fleet::new();
    let (mut a, mut b, _c) = (fleet.asks("a"), fleet.answers("b"), fleet.answers("c"));
    let (ask, at_work) = (a.greet("Ada"), a.greet("never"));
    a.until_values(ask, &["b: hello Ada", "c: hello Ada"]);
    b.tell(json!({ "do": "hang", "ms": 6000 }));
    a.until_values(ask, &["c: hello Ada"]);
    let state = a.until(at_work, "the error", |state| !state.failed.is_empty());
    assert_eq!(state.failed, ["Unreachable"]);
    a.until_values(ask, &["b: hello Ada", "c: hello Ada"]);
    assert_eq!(b.runs(), 2, "nothing runs again");
}

#[test]
fn what_a_dead_requester_asked_is_released_after_its_time() {
    let fleet = Fleet::new();
    let mut b = fleet.answers("b");
    b.tell(json!({ "do": "leave" }));
    let mut config = fleet.offers();
    config["resume_within_ms"] = 500.into();
    b.join(config);
    let mut a = fleet.asks("a");
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    a.kill();
    b.until_stats("nothing stands", |stats| stats["directives"] == 0);
}

#[test]
fn what_a_leaving_requester_asked_is_released_at_once() {
    let fleet = Fleet::new();
    let (mut a, mut b) = (fleet.asks("a"), fleet.answers("b"));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    let begun = Instant::now();
    a.tell(json!({ "do": "leave" }));
    b.until_stats("nothing stands", |stats| stats["directives"] == 0);
    // Sooner than `resume_within`.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let state = a.until_values(ask, &[]);
    assert_eq!(state.told, (1, 1));
}

#[test]
fn a_hard_cap_is_the_requesters_over_all_hosts() {
    let fleet = Fleet::new();
    let (mut a, _b, _c) = (fleet.asks("a"), fleet.answers("b"), fleet.answers("c"));
    let both = a.greet("Ada");
    a.until_values(both, &["b: hello Ada", "c: hello Ada"]);
    let ask = a.ask("test/capped", json!({}));
    let state = a.until(ask, "one value and nobody at work", |state| state.idle && state.values.len() == 1);
    assert_eq!(state.told, (1, 0));
}

#[test]
fn one_of_all_hosts_is_asked_and_the_next_one_when_it_is_gone() {
    let fleet = Fleet::new();
    let (mut a, mut b, mut c) = (fleet.asks("a"), fleet.answers("b"), fleet.answers("c"));
    let both = a.greet("Ada");
    a.until_values(both, &["b: hello Ada", "c: hello Ada"]);
    let asks: Vec<_> = (0..20).map(|item| a.ask("test/stock", json!({ "item": item }))).collect();
    let values: Vec<_> = asks.iter().map(|ask| a.until(*ask, "a value", |state| state.values.len() == 1)).collect();
    let by_b = values.iter().filter(|state| state.texts()[0].starts_with("b: ")).count();
    // By chance of the hash, but not all by one in a thousand thousand times.
    assert!(by_b > 0 && by_b < 20, "{by_b} of 20 are asked of b");
    assert_eq!((b.runs(), c.runs()), (1 + by_b as u64, 21 - by_b as u64));
    b.kill();
    for (item, ask) in asks.iter().enumerate() {
        let state = a.until_values(*ask, &[&format!("c: {item}")]);
        assert_eq!(state.failed, Vec::<String>::new());
    }
}

#[test]
fn a_value_of_many_mib_arrives_whole_and_one_above_64_mib_is_an_error() {
    let fleet = Fleet::new();
    let (mut a, _b) = (fleet.asks("a"), fleet.answers("b"));
    let lengths = json!({ "lengths": true });
    let ask = a.ask_with("test/many", json!({ "values": 1, "bytes": 60 << 20 }), lengths.clone());
    a.until(ask, "60 MiB", |state| state.values.values().eq([&json!(60 << 20)]));
    a.release(ask);
    let ask = a.ask_with("test/many", json!({ "values": 1, "bytes": 65 << 20 }), lengths);
    let state = a.until(ask, "an error", |state| !state.failed.is_empty());
    assert_eq!(state.values.len(), 0);
    // The link goes on.
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
}

#[test]
fn a_reader_that_does_not_read_costs_bounded_memory_and_hinders_nobody() {
    let fleet = Fleet::new();
    let (mut a, mut b, mut c) = (fleet.asks("a"), fleet.answers("b"), fleet.asks("c"));
    let first = a.greet("Ada");
    a.until_values(first, &["b: hello Ada"]);
    let before = [&mut a, &mut b].map(|host| host.stats()["rss_kib"].as_u64().expect("a number"));
    // 200 MiB in values that come one after the other; none is read here.
    let paused = a.ask_with("test/many", json!({ "values": 200, "bytes": 1 << 20 }), json!({ "paused": true }));
    for round in 0..20 {
        for host in [&mut a, &mut c] {
            let name = format!("{round} {}", host.name());
            let ask = host.greet(&name);
            host.until_values(ask, &[&format!("b: hello {name}")]);
        }
    }
    let after = [&mut a, &mut b].map(|host| host.stats()["rss_kib"].as_u64().expect("a number"));
    // What stands, stands at b, which made it. The requester has the window and what its own bus keeps unread.
    assert!(after[0] < before[0] + (100 << 10), "a: {before:?}, {after:?} KiB");
    assert!(after[1] < before[1] + (500 << 10), "b: {before:?}, {after:?} KiB");
    a.release(paused);
    b.until_stats("only greetings stand", |stats| stats["directives"] == 41);
}

#[test]
fn many_asks_stand_at_a_time() {
    let fleet = Fleet::new();
    let (mut a, mut b) = (fleet.asks("a"), fleet.answers("b"));
    let done = a.tell(json!({ "do": "many", "count": 2000, "from": 0, "ask": 1_000_000 }));
    assert_eq!(done["answered"], 2000);
    assert_eq!(b.runs(), 2000);
    a.tell(json!({ "do": "release", "ask": 1_000_000 }));
    b.until_stats("nothing stands", |stats| stats["directives"] == 0);
}

#[test]
fn an_entry_of_a_config_set_joins_and_a_changed_one_joins_anew() {
    let fleet = Fleet::new();
    let mut b = fleet.answers("b");
    let mut a = Host::start(HOST, "a");
    let entry = |revision: u64, asks: &[&str]| {
        let config = json!({ "name": "shop", "host": "a", "connect": [fleet.place], "asks": asks });
        json!({ "fleet": { "id": "controllerbus/fleet", "revision": revision, "config": config } })
    };
    a.tell(json!({ "do": "apply", "set": entry(1, &["test/greet"]) }));
    let (greeting, light) = (a.greet("Ada"), a.ask("test/lamp", json!({})));
    a.until_values(greeting, &["b: hello Ada"]);
    a.tell(json!({ "do": "apply", "set": entry(2, &["test/lamp"]) }));
    a.until_values(light, &["b: light"]);
    a.until_values(greeting, &[]);
    a.tell(json!({ "do": "remove", "key": "fleet" }));
    a.until_values(light, &[]);
    b.until_stats("nothing stands", |stats| stats["directives"] == 0);
    let error = a.try_tell(
        json!({ "do": "apply", "set": { "fleet": { "id": "controllerbus/fleet", "config": { "name": "shop" } } } }),
    );
    assert!(error.as_ref().is_err_and(|error| error.contains("name the hubs in `connect`")), "{error:?}");
}
