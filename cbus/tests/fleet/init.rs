//! The authority, certificates and configs that `cbus fleet init` and `cert` write.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::{fails, fine, json, run, schema};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

/// That what a command prints is what its schema says.
pub fn fits(at: &Path, command: &[&str], printed: &Value) {
    let schema = json(at, &[&["schema"], command].concat());
    let misfits = schema::misfits(&schema, printed);
    assert!(misfits.is_empty(), "{command:?}: {misfits:?}\n{printed:#}");
}

#[test]
fn a_fleet_begins_with_an_authority_a_certificate_and_a_config_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let told = json(at, &["fleet", "init", "shop", "--host", "hub-1", "--address", "10.0.0.4", "--json"]);
    fits(at, &["fleet", "init"], &told);
    assert_eq!(told["connect"], serde_json::json!(["10.0.0.4:7447"]));
    let made = |name: &str| at.join("shop").join(name);
    for secret in ["ca.key", "hub-1.key"] {
        assert_eq!(mode(&made(secret)), 0o600, "{secret}");
    }
    for open in ["ca.pem", "hub-1.pem", "hub-1.yaml", "fleet.json"] {
        assert_eq!(mode(&made(open)), 0o644, "{open}");
    }
    let before = std::fs::read(made("ca.key")).expect("a key");
    for force in [&[][..], &["--force"]] {
        fails(at, &[&["fleet", "init", "shop", "--host", "hub-1"], force].concat(), 1, "ca.key is there already");
    }
    assert_eq!(std::fs::read(made("ca.key")).expect("a key"), before);
    // The config is one, and fits what the daemon knows of it.
    fine(at, &["config", "check", "shop/hub-1.yaml"]);

    let told = json(at, &["fleet", "cert", "edge-7", "--json"]);
    fits(at, &["fleet", "cert"], &told);
    assert_eq!((mode(&made("edge-7.key")), mode(&made("edge-7.pem"))), (0o600, 0o644));
    fine(at, &["config", "check", "shop/edge-7.yaml"]);
    let config = std::fs::read_to_string(made("edge-7.yaml")).expect("a config");
    assert!(config.contains("connect: [\"10.0.0.4:7447\"]") && config.contains("ca: \"shop/ca.pem\""), "{config}");
    fails(at, &["fleet", "cert", "edge-7"], 1, "is there already");
    let said = fine(at, &["fleet", "cert", "edge-8"]);
    assert!(
        said.contains("scp -p shop/ca.pem shop/edge-8.pem shop/edge-8.key shop/edge-8.yaml edge-8:shop/"),
        "{said}"
    );
}

/// The names in a certificate, as the doctor tells them of a host that listens.
fn names(at: &Path, config: &str) -> String {
    let said = run(at, &["fleet", "doctor", config, "--json", "--connect", "unix:none.sock"]);
    let found: Vec<Value> = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.err));
    let told = found.iter().find(|finding| finding["what"] == "addresses").expect("its addresses");
    told["found"].as_str().expect("a text").to_owned()
}

#[test]
fn a_certificate_is_renewed_with_its_names_and_the_config_of_its_host_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fine(at, &["fleet", "init", "shop", "--host", "hub-1", "--address", "10.0.0.4"]);
    fine(at, &["fleet", "cert", "edge-7", "--address", "edge-7.shop.example"]);
    let path = |name: &str| at.join("shop").join(name);
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    for (host, address) in [("hub-1", "10.0.0.4"), ("edge-7", "edge-7.shop.example")] {
        let config = format!("{host}.yaml");
        // Its owner has changed it; as a hub it is told under which names it is reached.
        let own = read(&config).replace("asks: []", "asks: [example/greet]").replace("connect: [", "listen: [");
        std::fs::write(path(&config), &own).expect("writing");
        let before = [format!("{host}.pem"), format!("{host}.key")].map(|name| read(&name));
        let told = names(at, &format!("shop/{config}"));
        assert!(told.contains(address), "{told}");
        let said = fine(at, &["fleet", "cert", host, "--force"]);
        assert!(said.contains(&format!("scp -p shop/{host}.pem shop/{host}.key {host}:shop/")), "{said}");
        assert_eq!(read(&config), own);
        let after = [format!("{host}.pem"), format!("{host}.key")].map(|name| read(&name));
        assert!(before[0] != after[0] && before[1] != after[1]);
        assert_eq!((mode(&path(&format!("{host}.key"))), names(at, &format!("shop/{config}"))), (0o600, told));
    }
    // Where its config is elsewhere, none is made up.
    std::fs::remove_file(path("hub-1.yaml")).expect("removing");
    fits(at, &["fleet", "cert"], &json(at, &["fleet", "cert", "hub-1", "--force", "--json"]));
    assert!(!path("hub-1.yaml").exists());
    // Other names are said.
    fine(at, &["fleet", "cert", "edge-7", "--force", "--address", "10.0.0.7"]);
    let told = names(at, "shop/edge-7.yaml");
    assert!(told.contains("10.0.0.7") && !told.contains("edge-7.shop.example"), "{told}");
    std::fs::copy(path("hub-1.pem"), path("edge-7.pem")).expect("copying");
    fails(at, &["fleet", "cert", "edge-7", "--force"], 1, "is the certificate of `hub-1`");
}

#[test]
fn no_host_is_called_as_the_authoritys_files_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fails(at, &["fleet", "init", "shop", "--host", "ca"], 2, "give the host another name");
    assert!(!at.join("shop").exists());
    fine(at, &["fleet", "init", "shop", "--host", "hub-1"]);
    let key = || std::fs::read(at.join("shop/ca.key")).expect("a key");
    let before = key();
    fails(at, &["fleet", "cert", "ca", "--force"], 2, "give the host another name");
    assert_eq!(key(), before);
}

#[test]
fn what_cannot_be_a_name_or_is_not_there_is_told_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fails(at, &["fleet", "init", "a/b"], 2, "a name consists of");
    fails(at, &["fleet", "init", "shop", "--address", "hub:7447"], 2, "without a port");
    fails(at, &["fleet", "init", "shop", "--days", "0"], 2, "0");
    fails(at, &["fleet", "cert", "edge-7"], 1, "there is no fleet's folder here");
    fails(at, &["fleet", "cert", "edge-7", "--dir", "none"], 1, "none/fleet.json");
    for name in ["one", "two"] {
        fine(at, &["fleet", "init", name, "--host", "hub"]);
    }
    fails(at, &["fleet", "cert", "edge-7"], 1, "several fleets here, such as one and two");
    std::fs::write(at.join("one/ca.key"), "nonsense").expect("writing");
    fails(at, &["fleet", "cert", "edge-7", "--dir", "one"], 1, "one/ca.key cannot be used");
    assert!(!at.join("one/edge-7.key").exists());
}

#[test]
fn a_policy_becomes_rules_for_the_hosts_that_have_certificates() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fine(at, &["fleet", "init", "shop", "--host", "hub-1"]);
    fine(at, &["fleet", "cert", "edge-7"]);
    std::fs::write(at.join("policy.yaml"), "edge: { hosts: [edge-*], ask: [example/greet] }\n").expect("writing");
    let rules = json(at, &["fleet", "acl", "policy.yaml", "--json"]);
    fits(at, &["fleet", "acl"], &rules);
    let text = rules.to_string();
    assert!(text.contains("edge-7") && !text.contains("edge-8") && text.contains("example/greet"), "{rules:#}");
    // A hub would not come to them.
    let alone = run(at, &["fleet", "acl", "policy.yaml"]);
    let line = alone.err.split('`').find(|part| part.starts_with("hosts: ")).expect("the line to add").to_owned();
    assert_eq!(line, "hosts: [\"edge-7\"]", "{}", alone.err);
    let more = json(at, &["fleet", "acl", "policy.yaml", "--host", "edge-8", "--json"]).to_string();
    assert!(more.contains("edge-7") && more.contains("edge-8"), "{more}");
    // With that line it does.
    std::fs::write(at.join("policy.yaml"), format!("{line}\nedge: {{ hosts: [edge-*], ask: [example/greet] }}\n"))
        .expect("writing");
    let mended = run(at, &["fleet", "acl", "policy.yaml"]);
    assert!(mended.code == Some(0) && mended.err.contains("`access: policy.yaml`"), "{}", mended.err);
    assert_eq!(json(at, &["fleet", "acl", "policy.yaml", "--json"]), rules);
    std::fs::write(at.join("policy.yaml"), "edge: { hosts: [edge-*], aks: [x] }\n").expect("writing");
    fails(at, &["fleet", "acl", "policy.yaml"], 1, "policy.yaml");
    fails(at, &["fleet", "acl", "none.yaml"], 1, "none.yaml");
}
