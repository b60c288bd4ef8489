//! One host without a fleet: what the commands say, and what the page shows.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::Daemon;
use crate::releases::{Releases, VERSION, at_version, keys, url, variant};
use crate::webdriver::Browser;
use crate::{fails, fine, run, schema};

const LIMIT: Duration = Duration::from_secs(120);

/// Prints JSON that fits its schema.
fn fitting(at: &Path, command: &[&str], arguments: &[&str]) -> Value {
    let printed: Value = serde_json::from_str(&fine(at, &[arguments, &["--json"]].concat())).expect("JSON");
    let schema: Value = serde_json::from_str(&fine(at, &[&["schema"], command].concat())).expect("JSON");
    let misfits = schema::misfits(&schema, &printed);
    assert!(misfits.is_empty(), "{command:?}: {misfits:?}\n{printed:#}");
    printed
}

struct Host {
    folder: tempfile::TempDir,
    daemon: Daemon,
}

impl Host {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        Releases::below(path);
        keys(path, "k");
        let store = url(path);
        let config = format!(
            "agent:\n  id: controllerbus/fleet/agent\n  config: {{ store: \"{store}\", host: alone, keys: [k.pub], folder: fleet, poll_ms: 500 }}\n\
             rollouts:\n  id: controllerbus/fleet/rollout\n  config: {{ store: \"{store}\", host: alone }}\n\
             probe:\n  id: probe\n  config: {{ mode: quiet }}\n"
        );
        std::fs::write(path.join("cbus.yaml"), config).expect("writing");
        fine(path, &["config", "check", "cbus.yaml"]);
        let daemon = Daemon::start(path, &["cbus.yaml"]);
        Self { folder, daemon }
    }

    fn at(&self) -> &Path {
        self.folder.path()
    }

    fn publish(&self, number: u64) -> Value {
        let file = variant(self.at(), number, "good");
        let arguments =
            ["publish", file.to_str().expect("a path"), "--sign", "k.key", "--connect", &self.daemon.address];
        fitting(self.at(), &["publish"], &arguments)
    }

    /// A command about rollouts, with the store of the daemon.
    fn rollout(&self, command: &str, arguments: &[&str]) -> Value {
        let more = ["--connect", &self.daemon.address];
        fitting(self.at(), &["rollout", command], &[&["rollout", command], arguments, &more].concat())
    }

    fn status(&self) -> Value {
        self.rollout("status", &[])
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if status["rollouts"].as_array().is_some_and(|all| all.iter().any(&is_so)) {
                return status["rollouts"][0].clone();
            }
            assert!(begun.elapsed() < LIMIT, "not {what}: {status:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn whoever_publishes_and_rolls_out_sees_it_in_every_command_and_on_the_page() {
    let host = Host::start();
    let (path, what) = (host.at(), at_version());
    let to = ["--connect", &host.daemon.address];
    let cbus = |arguments: &[&str]| fine(path, &[arguments, &to].concat());
    assert!(cbus(&["rollout", "status"]).contains("there is no rollout in file:///"), "nothing yet");
    fails(path, &[&["rollout", "start", &what][..], &to].concat(), 1, "probe 0.1.0 was not published");
    let published = host.publish(1);
    assert_eq!((&published["sequence"], &published["plugin"]), (&json!(1), &json!("probe")));
    let planned =
        fitting(path, &["rollout", "start", "plan"], &[&["rollout", "start", &what, "--plan"][..], &to].concat());
    assert_eq!(planned[0]["groups"], json!([["alone"]]), "{planned:#}");
    assert!(cbus(&["rollout", "start", &what, "--plan"]).contains("would go to 1 hosts. Nothing was changed."));

    let started = host.rollout("start", &[&what]);
    assert_eq!((&started["stage"], &started["sequence"]), (&json!("pending"), &json!(1)));
    fails(path, &[&["rollout", "start", &what][..], &to].concat(), 1, "wait for its end");
    let baking = host.wait("baking", |found| found["stage"] == "baking");
    assert_eq!((&baking["hosts"][0]["state"], &baking["step"]), (&json!("new"), &json!(1)));
    let said = cbus(&["rollout", "status"]);
    for expected in
        ["this daemon is in no fleet", "baking, step 1 of 3, 1 of 1 hosts", "alone  new", "reachable  passes  1 of 1"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    for asked in ["hosts", "offers"] {
        fails(path, &[&["fleet", asked][..], &to].concat(), 1, "is in no fleet");
    }
    on_the_page(&host);
    assert_eq!(host.rollout("pause", &["--why", "lunch"])["stage"], "paused");
    fails(path, &[&["rollout", "promote"][..], &to].concat(), 1, "there is nothing to promote");
    assert_eq!(host.rollout("resume", &["probe"])["stage"], "rolling");
    host.wait("baking", |found| found["stage"] == "baking");
    host.rollout("promote", &[]);
    // Each step is another one.
    let begun = Instant::now();
    while host.status()["rollouts"][0]["stage"] != "done" {
        run(path, &[&["rollout", "promote"][..], &to].concat());
        assert!(begun.elapsed() < LIMIT, "{:#}", host.status());
    }
    let done = host.wait("done everywhere", |found| found["is_as_wanted"] == true);
    assert_eq!(done["hosts"][0]["runs"], VERSION);
    fails(path, &[&["rollout", "abort"][..], &to].concat(), 1, "no rollout is in progress");

    for (command, ends) in [("abort", "aborted"), ("back", "rolled_back")] {
        host.publish(2);
        host.rollout("start", &[&what]);
        host.wait("baking", |found| found["stage"] == "baking");
        assert_eq!(host.rollout(command, &["--why", "a test"])["stage"], "rolling_back");
        let over = host.wait(ends, |found| found["stage"] == ends && found["is_as_wanted"] == true);
        assert_eq!(over["hosts"][0]["state"], "before", "{over:#}");
    }
    let refused = fails(path, &[&["rollout", "start", &what][..], &to].concat(), 1, "a test");
    assert!(refused.contains("despite"), "{refused}");
    let history = host.rollout("history", &["probe"]);
    let stages: Vec<&str> = history.as_array().expect("steps").iter().filter_map(|one| one["stage"].as_str()).collect();
    assert_eq!((stages.first(), stages.last()), (Some(&"pending"), Some(&"rolled_back")));
    assert!(cbus(&["rollout", "history", "probe"]).contains("lunch"));
    let pushed = sets(&host);
    assert_eq!((&pushed["set"], &pushed["number"]), (&json!("fleet"), &json!(1)));
    without_a_store(host);
}

fn sets(host: &Host) -> Value {
    std::fs::write(host.at().join("fleet.yaml"), "one: { id: probe, count: 1, config: { mode: quiet } }\n")
        .expect("writing");
    fitting(
        host.at(),
        &["sets", "push"],
        &["sets", "push", "fleet.yaml", "--sign", "k.key", "--connect", &host.daemon.address],
    )
}

/// The store is away: it is said, and what runs is shown.
fn without_a_store(host: Host) {
    std::fs::rename(host.at().join("store"), host.at().join("away")).expect("taking it away");
    let found = host.wait("out of reach", |found| {
        found["problem"].as_str().is_some_and(|problem| problem.contains("is out of reach"))
    });
    assert_eq!(found["hosts"][0]["runs"], VERSION);
    host.daemon.fails(&["rollout", "start", &at_version()], "is out of reach");
    host.daemon.end();
}

/// Squares, steps and gates.
fn on_the_page(host: &Host) {
    let Some(browser) = Browser::open() else { return };
    let link = fine(host.at(), &["page", "--print", "--connect", &host.daemon.address]);
    browser.call("POST", "/url", &json!({ "url": link.trim() }));
    browser.wait("document.querySelector('#link').innerText === 'live'");
    browser.wait("!document.querySelector('#rollouts-section').hidden");
    let card = "document.querySelector('[data-rollout=probe]')";
    browser.wait(&format!("{card}.querySelector('.title').innerText.includes('probe 0.1.0')"));
    browser.wait(&format!("{card}.querySelector('.square[data-host=alone]').dataset.state === 'new'"));
    browser.wait(&format!("{card}.querySelector('.square[data-host=alone]').title.includes('runs the release')"));
    browser.wait(&format!("{card}.querySelectorAll('.step').length === 3"));
    browser.wait(&format!("{card}.querySelector('.step.now').innerText.startsWith('1 host')"));
    browser.wait(&format!("{card}.querySelector('[data-gate=reachable]').innerText.includes('1 of 1, at least 1')"));
    let width = "document.documentElement.scrollWidth <= window.innerWidth";
    browser.wait(width);
    let severe = browser.call("POST", "/se/log", &json!({ "type": "browser" }));
    let severe: Vec<_> =
        severe.as_array().cloned().unwrap_or_default().into_iter().filter(|line| line["level"] == "SEVERE").collect();
    assert!(severe.is_empty(), "{severe:?}");
}
