//! Machines with cables: what happens when one is pulled, or leads one way only. Needs root and iproute2 for namespaces; without them
//! the same runs on the loopback device.

use serde_json::{Value, json};
use tempfile::TempDir;
use zenoh_tests::certificates::Authority;
use zenoh_tests::harness::Host;
use zenoh_tests::network::{Cut, Network};

const HOST: &str = env!("CARGO_BIN_EXE_host");

/// A fleet with certificates, because its hub is reached from other machines.
struct Fleet {
    network: Network,
    authority: Authority,
    _folder: TempDir,
}

impl Fleet {
    fn new(others: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new(folder.path(), "shop");
        Self { network: Network::new(others), authority, _folder: folder }
    }

    /// A hub on machine 0, which others reach from their machines.
    fn hub(&self) -> Host {
        let listen = self.network.hub(1).0;
        let reached: Vec<_> =
            (1..4).map(|machine| format!("10.77.{machine}.1")).chain(["127.0.0.1".to_owned()]).collect();
        let reached: Vec<_> = reached.iter().map(String::as_str).collect();
        let mut hub = self.network.start(0, HOST, "hub");
        hub.join(json!({ "name": "shop", "listen": [listen], "tls": self.authority.host_at("hub", &reached) }));
        hub
    }

    fn config(&self, name: &str, hub: &str) -> Value {
        let tls = self.authority.host(name, "127.0.0.1");
        json!({ "name": "shop", "connect": [hub], "tls": tls })
    }

    fn asks(&self, machine: usize) -> Host {
        let mut config = self.config("a", &self.network.hub(machine).1);
        config["asks"] = json!(["test/greet"]);
        let mut a = self.network.start(machine, HOST, "a");
        a.join(config);
        a
    }

    fn answers(&self, machine: usize, more: &[(&str, Value)]) -> Host {
        self.answers_at(machine, &self.network.hub(machine).1, more)
    }

    fn answers_at(&self, machine: usize, hub: &str, more: &[(&str, Value)]) -> Host {
        let mut config = self.config("b", hub);
        config["offers"] = json!(["test/**"]);
        for (name, value) in more {
            config[name] = value.clone();
        }
        let mut b = self.network.start(machine, HOST, "b");
        b.answer("b");
        b.join(config);
        b
    }
}

fn a_cut_of_the_one_who_answers(how: Cut) {
    let fleet = Fleet::new(2);
    let _hub = fleet.hub();
    let (mut a, mut b) = (fleet.asks(1), fleet.answers(2, &[]));
    let (ask, at_work) = (a.greet("Ada"), a.greet("never"));
    a.until_values(ask, &["b: hello Ada"]);
    fleet.network.cut(2, how);
    a.until_values(ask, &[]);
    let state = a.until(at_work, "the error", |state| !state.failed.is_empty());
    assert_eq!(state.failed, ["Unreachable"]);
    fleet.network.heal(2, how);
    let state = a.until_values(ask, &["b: hello Ada"]);
    assert_eq!(state.told, (2, 1));
    assert_eq!(b.runs(), 2);
}

#[test]
fn a_cable_that_is_pulled_and_put_back_runs_nothing_again() {
    a_cut_of_the_one_who_answers(Cut::Pulled);
}

#[test]
fn a_cable_that_leads_one_way_only_is_a_cut() {
    a_cut_of_the_one_who_answers(Cut::OneWay);
}

#[test]
fn a_requester_whose_cable_is_pulled_goes_on_alone() {
    let fleet = Fleet::new(2);
    let _hub = fleet.hub();
    let (mut a, mut b) = (fleet.asks(1), fleet.answers(2, &[]));
    a.answer("a");
    let ask = a.greet("Ada");
    a.until_values(ask, &["a: hello Ada", "b: hello Ada"]);
    fleet.network.cut(1, Cut::Pulled);
    a.until_values(ask, &["a: hello Ada"]);
    fleet.network.heal(1, Cut::Pulled);
    a.until_values(ask, &["a: hello Ada", "b: hello Ada"]);
    assert_eq!(b.runs(), 1);
}

#[test]
fn after_a_longer_cut_resolvers_run_again() {
    let fleet = Fleet::new(2);
    let _hub = fleet.hub();
    let (mut a, mut b) = (fleet.asks(1), fleet.answers(2, &[("resume_within_ms", 300.into())]));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    fleet.network.cut(1, Cut::Pulled);
    a.until_values(ask, &[]);
    b.until_stats("what was asked is released", |stats| stats["directives"] == 0);
    fleet.network.heal(1, Cut::Pulled);
    a.until_values(ask, &["b: hello Ada"]);
    assert_eq!(b.runs(), 2);
}

#[test]
fn a_hub_that_restarts_is_found_again() {
    let fleet = Fleet::new(2);
    let mut hub = fleet.hub();
    let (mut a, mut b) = (fleet.asks(1), fleet.answers(2, &[]));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    hub.kill();
    a.until_values(ask, &[]);
    let _hub = fleet.hub();
    a.until_values(ask, &["b: hello Ada"]);
    assert_eq!(b.runs(), 1);
}

#[test]
fn a_cable_between_two_hubs_is_a_cut_between_the_hosts_behind_them() {
    let fleet = Fleet::new(2);
    let _hub = fleet.hub();
    // The second hub is on b's machine.
    let local = fleet.network.local();
    let mut config = fleet.config("hub-2", &fleet.network.hub(2).1);
    config["listen"] = json!([local]);
    let mut hub_2 = fleet.network.start(2, HOST, "hub-2");
    hub_2.join(config);
    let (mut a, mut b) = (fleet.asks(1), fleet.answers_at(2, &local, &[]));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    fleet.network.cut(2, Cut::Pulled);
    a.until_values(ask, &[]);
    fleet.network.heal(2, Cut::Pulled);
    a.until_values(ask, &["b: hello Ada"]);
    assert_eq!(b.runs(), 1);
}

#[test]
fn a_hub_needs_no_ipv6() {
    let fleet = Fleet::new(2);
    fleet.network.without_ipv6();
    let _hub = fleet.hub();
    let (mut a, _b) = (fleet.asks(1), fleet.answers(2, &[]));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
}
