//! docs/fleet.md as it is written, and what a person sees of a fleet afterwards.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::daemons::{Networks, Reader};
use crate::init::fits;
use crate::page::Page;
use crate::process::http;
use crate::webdriver::Browser;
use crate::{built, cbus};

const WALK: &str = "## Two daemons in five minutes";
const ADA: &str = r#"{"name":"Ada"}"#;

#[test]
fn whoever_follows_the_page_has_two_daemons_that_answer_each_other_and_sees_it_in_every_command() {
    // The plugin's dependencies, which take longer than a command is waited for.
    built();
    let folder = tempfile::tempdir().expect("a folder");
    let mut reader = Reader::of(folder.path(), None);
    reader.read(WALK);
    let at = folder.path();
    let to = |words: &[&'static str]| -> Vec<&'static str> { [words, &["--connect", "hub-1"]].concat() };

    let hosts = reader.json("", &to(&["fleet", "hosts", "--json"]));
    fits(at, &["fleet", "hosts"], &hosts);
    let edge = hosts.as_array().and_then(|hosts| hosts.iter().find(|host| host["host"] == "edge-7")).expect("it");
    assert_eq!(
        (&edge["own"], &edge["link"], edge["version"].as_str()),
        (&json!(false), &json!("up"), Some(env!("CARGO_PKG_VERSION")))
    );
    let offers = reader.json("", &to(&["fleet", "offers", "greeter/greet", "--json"]));
    fits(at, &["fleet", "offers"], &offers);
    assert_eq!((&offers[0]["host"], &offers[1]), (&json!("edge-7"), &Value::Null));
    assert!(reader.fine("", &to(&["fleet", "offers", "other/id"])).contains("no host offers other/id"));
    assert!(
        reader
            .fine("", &["fleet", "doctor", "shop/edge-7.yaml", "--connect", "edge-7"])
            .contains("each knows the other's")
    );

    // What crosses is shown while it stands.
    let mut asking = cbus(at);
    asking.args(to(&["ask", "greeter/greet", ADA, "--watch"])).stdout(Stdio::piped());
    let mut asking = asking.spawn().expect("running cbus");
    let first =
        BufReader::new(asking.stdout.take().expect("its output")).lines().next().expect("a value").expect("text");
    assert!(first.ends_with("\"Hello, Ada!\""), "{first}");
    let crossing = reader.json("", &to(&["directives", "--fleet", "--json"]));
    fits(at, &["directives", "fleet"], &crossing);
    assert_eq!(
        (&crossing[0]["id"], &crossing[0]["of"][0]["host"]),
        (&json!("greeter/greet"), &json!("edge-7")),
        "{crossing:#}"
    );
    asking.kill().expect("ending it");
    asking.wait().expect("its end");

    // Without a daemon: the command is in the fleet itself.
    let joined =
        reader.fine("", &["ask", "greeter/greet", ADA, "--fleet", "--config", "shop/hub-1.yaml", "--within", "60"]);
    assert_eq!(joined, "edge-7  \"Hello, Ada!\"\n");
    let lines = reader
        .fine("", &["ask", "greeter/greet", ADA, "--fleet", "--config", "shop/hub-1.yaml", "--within", "60", "--json"]);
    for line in lines.lines() {
        fits(at, &["ask"], &serde_json::from_str(line).expect("JSON"));
    }
    assert!(lines.contains("\"host\":\"edge-7\""), "{lines}");
    crate::fails(
        at,
        &["ask", "other/id", "--fleet", "--config", "shop/hub-1.yaml", "--within", "60"],
        1,
        "no host of the fleet offers `other/id`",
    );

    let socket = reader.daemons["hub-1"].socket();
    let (status, metrics) = http(&socket, "GET", "/metrics", "");
    assert!(status == 200 && metrics.contains("\ncbus_fleet_links 1\n"), "{metrics}");
    assert!(!metrics.contains("\ncbus_fleet_sent_bytes_total 0\n"), "{metrics}");
    it_is_on_the_page(&mut reader);
}

/// The hosts and offers, and the end of a host.
fn it_is_on_the_page(reader: &mut Reader) {
    let mut watching = cbus(reader.folder);
    watching.args(["fleet", "hosts", "--watch", "--json", "--connect", "hub-1"]).stdout(Stdio::piped());
    let mut watching = watching.spawn().expect("running cbus");
    let mut lines = BufReader::new(watching.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let mut change = || -> Value {
        let change = serde_json::from_str(&lines.next().expect("a line")).expect("JSON");
        fits(std::path::Path::new("."), &["fleet", "hosts", "watch"], &change);
        change
    };
    assert_eq!([change(), change()].map(|change| change["kind"] == "added"), [true, true]);
    let browser = Browser::open();
    if let Some(browser) = &browser {
        let link = reader.fine("", &["page", "--print", "--connect", "hub-1"]);
        browser.call("POST", "/url", &json!({ "url": link.trim() }));
        browser.wait("document.querySelector('#link').innerText === 'live'");
        browser.wait("!document.querySelector('#fleet-section').hidden");
        browser.wait("document.querySelectorAll('#hosts > li').length === 2");
        browser.wait("document.querySelector('#offers').innerText.includes('greeter/greet')");
        let edge = "[...document.querySelectorAll('#hosts > li')].find(row => row.innerText.includes('edge-7'))";
        browser.wait(&format!("{edge}?.querySelector('.pill')?.innerText === 'up'"));
        browser.script(&format!("{edge}.querySelector('.row').click()"));
        browser.wait(&format!("{edge}?.querySelector('.detail')?.innerText.includes('greeter/greet') === true"));
    }
    // It is killed, and says nothing.
    drop(reader.daemons.remove("edge-7"));
    let gone = std::iter::from_fn(|| Some(change())).find(|change| {
        change["host"]["host"] == "edge-7" && (change["kind"] == "removed" || change["host"]["link"] == "lost")
    });
    assert!(gone.is_some());
    if let Some(browser) = &browser {
        browser.wait("!document.querySelector('#offers').innerText.includes('greeter/greet')");
        browser.wait("![...document.querySelectorAll('#hosts .pill')].some(pill => pill.innerText === 'up')");
        let severe = browser.call("POST", "/se/log", &json!({ "type": "browser" }));
        let severe: Vec<Value> = severe
            .as_array()
            .cloned()
            .unwrap_or_default()
            .into_iter()
            .filter(|line| line["level"] == "SEVERE")
            .collect();
        assert!(severe.is_empty(), "{severe:?}");
    }
    watching.kill().expect("ending it");
    watching.wait().expect("its end");
}

#[test]
fn the_same_works_between_two_networks() {
    let Some(networks) = Networks::make() else { return };
    built();
    let folder = tempfile::tempdir().expect("a folder");
    let mut reader = Reader::of(folder.path(), Some(&networks));
    reader.read(WALK);
    let said = reader.fine("edge-7", &["fleet", "doctor", "shop/edge-7.yaml", "--connect", "edge-7"]);
    assert!(said.contains("10.77.7.1") && said.contains("each knows the other's certificate"), "{said}");
}

#[test]
fn the_page_has_every_key_of_the_config_and_its_examples_are_configs() {
    let page = Page::read("docs/fleet.md");
    let folder = tempfile::tempdir().expect("a folder");
    let schema = crate::json(folder.path(), &["config", "schema"]);
    let all = schema["additionalProperties"]["allOf"].as_array().expect("schemas");
    let own =
        all.iter().find(|one| one["if"]["properties"]["id"]["const"] == "controllerbus/fleet").expect("the fleet's");
    let keys = own["then"]["properties"]["config"]["properties"].as_object().expect("keys");
    assert!(keys.len() > 10, "{keys:?}");
    for key in keys.keys() {
        assert!(page.text.contains(&format!("\n| `{key}` | ")), "docs/fleet.md does not say what `{key}` is");
    }
    for block in page.blocks().iter().filter(|block| block.info == "yaml") {
        std::fs::write(folder.path().join("shown.yaml"), &block.text).expect("writing");
        crate::fine(folder.path(), &["config", "check", "shown.yaml"]);
    }
    let policy = page.blocks().into_iter().find(|block| block.text.contains("hub: true")).expect("a policy");
    std::fs::write(folder.path().join("policy.yaml"), &policy.text).expect("writing");
    crate::fine(folder.path(), &["fleet", "init", "shop", "--host", "hub-1"]);
    let said = crate::run(folder.path(), &["fleet", "acl", "policy.yaml", "--host", "edge-1"]);
    assert!(said.code == Some(0) && said.err.contains("`access: policy.yaml`"), "{}{}", said.out, said.err);
    // A hub reads it alone.
    let read = controllerbus_zenoh::acl::Policy::from_yaml(&policy.text).expect("a policy");
    controllerbus_zenoh::acl::rules(&read, "shop", &[]).expect("a hub can use it");
}
