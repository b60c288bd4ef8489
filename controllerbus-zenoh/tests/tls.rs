//! Certificates and access rules, each allowed and refused.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use zenoh_tests::certificates::Authority;
use zenoh_tests::harness::Host;
use zenoh_tests::places::free_address;

const HOST: &str = env!("CARGO_BIN_EXE_host");

/// How long it is looked whether something that must not happen does.
const A_WHILE: Duration = Duration::from_millis(1500);

struct Fleet {
    folder: TempDir,
    authority: Authority,
    place: String,
    _hub: Host,
}

impl Fleet {
    fn new(policy: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new(folder.path(), "shop");
        let place = free_address();
        let mut config = json!({ "name": "shop", "listen": [place], "tls": authority.host("hub", "127.0.0.1") });
        if let Some(policy) = policy {
            let path = folder.path().join("policy.yaml");
            std::fs::write(&path, policy).expect("a file");
            config["access"] = json!(path);
        }
        let mut hub = Host::start(HOST, "hub");
        hub.join(config);
        Self { folder, authority, place, _hub: hub }
    }

    fn config(&self, tls: Value) -> Value {
        json!({ "name": "shop", "connect": [self.place], "tls": tls, "asks": ["test/greet", "test/lamp"], "offers": ["test/**"] })
    }

    /// A host that asks.
    fn asks(&self, name: &str) -> Host {
        let mut host = Host::start(HOST, name);
        host.join(self.config(self.authority.host(name, "127.0.0.1")));
        host
    }

    /// A host that answers.
    fn answers(&self, name: &str) -> Host {
        Host::joined(HOST, name, self.config(self.authority.host(name, "127.0.0.1")))
    }

    /// A host with these certificates joins, and is not seen.
    fn is_kept_out(&self, tls: Value) {
        let mut a = self.asks("a");
        let _stranger = Host::joined(HOST, "b", self.config(tls));
        let ask = a.greet("Ada");
        std::thread::sleep(A_WHILE);
        assert!(a.state(ask).values.is_empty(), "{:?}", a.state(ask));
        let _c = self.answers("c");
        a.until_values(ask, &["c: hello Ada"]);
    }
}

#[test]
fn hosts_with_certificates_of_one_authority_ask_each_other() {
    let fleet = Fleet::new(None);
    let (mut a, _b) = (fleet.asks("a"), fleet.answers("b"));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
}

#[test]
fn a_certificate_of_another_authority_is_kept_out() {
    let fleet = Fleet::new(None);
    let other = Authority::new(fleet.folder.path(), "other");
    let mut tls = other.host("b", "127.0.0.1");
    // It even trusts the right one.
    tls["ca"] = fleet.authority.host("b", "127.0.0.1")["ca"].clone();
    fleet.is_kept_out(tls);
}

#[test]
fn a_host_without_a_certificate_is_kept_out() {
    fleet_without(|fleet| json!({ "name": "shop", "connect": [fleet.place], "offers": ["test/**"] }));
}

fn fleet_without(config: impl FnOnce(&Fleet) -> Value) {
    let fleet = Fleet::new(None);
    let mut a = fleet.asks("a");
    let _b = Host::joined(HOST, "b", config(&fleet));
    let ask = a.greet("Ada");
    std::thread::sleep(A_WHILE);
    assert!(a.state(ask).values.is_empty());
    let _c = fleet.answers("c");
    a.until_values(ask, &["c: hello Ada"]);
}

#[test]
fn a_hub_that_is_not_who_was_dialled_is_not_joined() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new(folder.path(), "shop");
    let place = free_address();
    // Its certificate is for another name than it is reached by.
    let mut hub = Host::joined(
        HOST,
        "hub",
        json!({ "name": "shop", "listen": [place], "tls": authority.host("hub", "hub.shop"), "offers": ["test/**"] }),
    );
    let mut a = Host::start(HOST, "a");
    a.join(
        json!({ "name": "shop", "connect": [place], "tls": authority.host("a", "127.0.0.1"), "asks": ["test/greet"] }),
    );
    let ask = a.greet("Ada");
    std::thread::sleep(A_WHILE);
    assert!(a.state(ask).values.is_empty());
    // With the right one it is: certificates are read when a host joins.
    hub.tell(json!({ "do": "leave" }));
    hub.join(
        json!({ "name": "shop", "listen": [place], "tls": authority.host("hub", "127.0.0.1"), "offers": ["test/**"] }),
    );
    a.until_values(ask, &["hub: hello Ada"]);
}

#[test]
fn a_certificate_that_has_ended_or_is_anothers_is_refused_by_the_host_itself() {
    let fleet = Fleet::new(None);
    let join = |tls: Value| {
        let mut config = fleet.config(tls);
        config["host"] = "b".into();
        Host::start(HOST, "b").try_tell(json!({ "do": "join", "config": config })).expect_err("it is refused")
    };
    let error = join(fleet.authority.ended("b", "127.0.0.1"));
    assert!(error.contains("b.pem") && error.contains("2020") && error.contains("make a new one"), "{error}");
    let error = join(fleet.authority.host("c", "127.0.0.1"));
    assert!(error.contains("it is `c`'s, and this host is `b`"), "{error}");
}

const POLICY: &str = "
hosts: [b, c]
askers: { hosts: [a], ask: [test/greet] }
answerers: { hosts: ['*'], offer: [test/greet] }
nobody: { hosts: [d] }
";

#[test]
fn a_host_asks_what_its_role_may_ask_and_nothing_else() {
    let fleet = Fleet::new(Some(POLICY));
    let (mut a, mut b) = (fleet.asks("a"), fleet.answers("b"));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    // Nobody may offer it, and nobody may ask it.
    let lamp = a.ask("test/lamp", json!({}));
    std::thread::sleep(A_WHILE);
    assert!(a.state(lamp).values.is_empty());
    assert_eq!(b.runs(), 1);
}

#[test]
fn a_host_without_rights_is_neither_seen_nor_answered() {
    let fleet = Fleet::new(Some(POLICY));
    let (mut a, mut b, mut d, mut stranger) =
        (fleet.asks("a"), fleet.answers("b"), fleet.answers("d"), fleet.answers("stranger"));
    let (of_d, of_stranger) = (d.greet("Dan"), stranger.greet("Eve"));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
    std::thread::sleep(A_WHILE);
    assert_eq!(a.state(ask).texts(), ["b: hello Ada"]);
    assert_eq!(
        (d.state(of_d).texts(), stranger.state(of_stranger).texts()),
        (vec!["d: hello Dan"], vec!["stranger: hello Eve"])
    );
    assert_eq!(b.runs(), 1);
}

#[test]
fn hubs_with_rules_let_each_other_speak_for_the_hosts_behind_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new(folder.path(), "shop");
    let (one, two) = (free_address(), free_address());
    let path = folder.path().join("policy.yaml");
    let policy =
        "hubs: { hosts: [hub-1, hub-2], hub: true }\nall: { hosts: [a, b], ask: [test/greet], offer: [test/greet] }\n";
    std::fs::write(&path, policy).expect("a file");
    let hub = |name: &str, listen: &str, connect: &[&str]| {
        let tls = authority.host(name, "127.0.0.1");
        let mut hub = Host::start(HOST, name);
        hub.join(json!({ "name": "shop", "listen": [listen], "connect": connect, "tls": tls, "access": path }));
        hub
    };
    let (_hub_1, _hub_2) = (hub("hub-1", &one, &[]), hub("hub-2", &two, &[&one]));
    let config = |name: &str, at: &str| {
        let tls = authority.host(name, "127.0.0.1");
        json!({ "name": "shop", "connect": [at], "tls": tls, "asks": ["test/greet"], "offers": ["test/**"] })
    };
    let mut a = Host::start(HOST, "a");
    a.join(config("a", &one));
    let _b = Host::joined(HOST, "b", config("b", &two));
    let ask = a.greet("Ada");
    a.until_values(ask, &["b: hello Ada"]);
}

#[test]
fn rules_without_certificates_are_refused() {
    let config = json!({ "name": "shop", "listen": [free_address()], "access": "policy.yaml", "host": "a" });
    let error = Host::start(HOST, "a").try_tell(json!({ "do": "join", "config": config })).expect_err("it is refused");
    assert!(error.contains("set `listen` and `tls`"), "{error}");
}
