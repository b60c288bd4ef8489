//! `cbus fleet doctor`: what is wrong, and what to do.

use std::path::Path;

use serde_json::Value;

use crate::init::fits;
use crate::{fine, run};

/// What is found about a config; no daemon is asked.
fn found(at: &Path, config: &str) -> Vec<Value> {
    let said = run(at, &["fleet", "doctor", config, "--json", "--connect", "unix:none.sock"]);
    let found: Value =
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}{}", said.out, said.err));
    fits(at, &["fleet", "doctor"], &found);
    found.as_array().cloned().unwrap_or_default()
}

/// That something about a subject is found, with what to do about it.
fn finds(at: &Path, config: &str, what: &str, level: &str, text: &str) {
    let all = found(at, config);
    let is = |one: &&Value| {
        one["what"] == what && one["level"] == level && one["found"].as_str().is_some_and(|found| found.contains(text))
    };
    let one = all.iter().find(is).unwrap_or_else(|| panic!("no {level} of {what} with `{text}`: {all:#?}"));
    assert_eq!(one["remedy"] == "", level == "ok", "{one:#}");
}

#[test]
fn certificates_names_keys_and_addresses_are_looked_at_before_a_daemon_is_started() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fine(at, &["fleet", "init", "shop", "--host", "hub-1", "--address", "127.0.0.1", "--port", "1"]);
    fine(at, &["fleet", "cert", "edge-7"]);
    let edge = "shop/edge-7.yaml";
    let path = |name: &str| at.join("shop").join(name);
    let edit = |name: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(path(name)).expect("a file");
        assert!(text.contains(from), "{text}");
        std::fs::write(path(name), text.replace(from, to)).expect("writing");
    };
    finds(at, edge, "config", "ok", "host `edge-7` of the fleet `shop`");
    finds(at, edge, "certificate", "ok", "`edge-7`, valid until");
    finds(at, edge, "key", "ok", "is that of the certificate");
    // Nobody listens there.
    finds(at, edge, "hub", "fail", "127.0.0.1:1");
    finds(at, edge, "directives", "warn", "neither asks nor offers");

    edit("edge-7.yaml", "host: \"edge-7\"", "host: \"edge-8\"");
    finds(at, edge, "certificate", "fail", "it is that of `edge-7`, and this host is called `edge-8`");
    edit("edge-7.yaml", "host: \"edge-8\"", "host: \"edge-7\"");
    edit("edge-7.yaml", "shop/edge-7.key", "shop/hub-1.key");
    finds(at, edge, "key", "fail", "is not the key of");
    edit("edge-7.yaml", "shop/hub-1.key", "shop/none.key");
    finds(at, edge, "key", "fail", "cannot be read");
    edit("edge-7.yaml", "shop/none.key", "shop/edge-7.key");
    fine(at, &["fleet", "cert", "edge-7", "--force", "--days", "7"]);
    finds(at, edge, "certificate", "warn", "in 7 days");

    // Another authority.
    fine(at, &["fleet", "init", "other", "--host", "hub-1"]);
    std::fs::copy(at.join("other/ca.pem"), path("ca.pem")).expect("copying");
    finds(at, edge, "certificate", "fail", "is not signed by the authority");
    edit("edge-7.yaml", "tls: {", "# tls: {");
    edit("edge-7.yaml", "connect: [", "listen: [\"0.0.0.0:0\"] # [");
    finds(at, edge, "certificate", "fail", "which is refused");
}

#[test]
fn a_config_without_a_fleet_or_with_a_mistake_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let says = |text: &str, what: &str| {
        std::fs::write(at.join("config.yaml"), text).expect("writing");
        let said = run(at, &["fleet", "doctor", "config.yaml"]);
        assert!(said.code == Some(1) && said.err.contains(what), "{}{}", said.out, said.err);
    };
    says("one: { id: second }\n", "has no entry with `id: controllerbus/fleet`");
    says("fleet:\n  id: controllerbus/fleet\n  config: { nmae: shop }\n", "config.yaml:2");
    let two = "fleet: { id: controllerbus/fleet, config: { name: a } }\n";
    says(&format!("{two}{}", two.replace("fleet:", "again:")), "has two fleets");
}

#[test]
fn a_policy_is_looked_at_as_a_hub_reads_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fine(at, &["fleet", "init", "shop", "--host", "hub-1", "--address", "127.0.0.1"]);
    fine(at, &["fleet", "cert", "edge-7"]);
    let hub = "shop/hub-1.yaml";
    let config = std::fs::read_to_string(at.join(hub)).expect("a config");
    assert!(config.contains("    listen: "), "{config}");
    let with_policy = config.replace("    listen: ", "    access: policy.yaml\n    listen: ");
    std::fs::write(at.join(hub), with_policy).expect("writing");
    let policy = |text: &str| std::fs::write(at.join("policy.yaml"), text).expect("writing");
    finds(at, hub, "access", "fail", "it cannot be read");
    policy("edge: { hosts: [edge-7], aks: [x] }\n");
    finds(at, hub, "access", "fail", "policy.yaml");
    // The engine knows names only, and this one is in no list.
    policy("edge: { hosts: [edge-*], ask: [example/greet] }\n");
    finds(at, hub, "access", "fail", "list the names under `hosts:`");
    policy("hosts: [edge-1]\nedge: { hosts: [edge-*], ask: [example/greet] }\n");
    finds(at, hub, "access", "warn", "not let in edge-7");
    finds(at, hub, "access", "warn", "begin with `hosts: [\"edge-1\",\"edge-7\"]`");
    policy("hosts: [edge-1, edge-7]\nedge: { hosts: [edge-*], ask: [example/greet] }\n");
    finds(at, hub, "access", "ok", "a hub follows it");
    // A host that does not listen enforces nothing.
    let edge = std::fs::read_to_string(at.join("shop/edge-7.yaml")).expect("a config");
    let edge = edge.replace("    connect: ", "    access: policy.yaml\n    connect: ");
    std::fs::write(at.join("shop/edge-7.yaml"), edge).expect("writing");
    finds(at, "shop/edge-7.yaml", "access", "fail", "only a hub enforces rules");
}
