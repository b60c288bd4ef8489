//! The JSON of each command fits the schema that `cbus schema` prints.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tests::{Scratch, work_dir};

use crate::process::Daemon;
use crate::{built, cbus, fails, fine, json, run, schema};

/// Compares what commands print with their schemas, and remembers which were compared.
#[derive(Default)]
struct Held(RefCell<BTreeMap<String, Value>>);

impl Held {
    fn to(&self, command: &str, printed: &Value) {
        let mut known = self.0.borrow_mut();
        let schema = known.entry(command.to_owned()).or_insert_with(|| {
            let name = command.replace("--", "");
            let words: Vec<&str> = std::iter::once("schema").chain(name.split(' ')).collect();
            json(Path::new("."), &words)
        });
        let misfits = schema::misfits(schema, printed);
        assert!(misfits.is_empty(), "`cbus {command}` prints what does not fit its schema: {misfits:?}\n{printed:#}");
    }

    fn lines(&self, command: &str, printed: &str) {
        assert!(!printed.is_empty(), "cbus {command} prints nothing");
        for line in printed.lines() {
            self.to(command, &serde_json::from_str(line).expect("a line of JSON"));
        }
    }
}

#[test]
fn what_every_command_prints_as_json_fits_its_schema() {
    let held = Held::default();
    let (scratch, file, told) = built();
    held.to("build", told);
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    held.to("new", &json(at, &["new", "clock", "--json"]));
    let copy = at.join("second.cbus.so");
    std::fs::copy(file, &copy).expect("copying");
    held.to("keygen", &json(at, &["keygen", "--json"]));
    held.to("sign", &json(at, &["sign", "second.cbus.so", "--json"]));
    held.to("verify", &json(at, &["verify", "second.cbus.so", "--key", "cbus.pub", "--json"]));
    held.to("inspect", &json(at, &["inspect", "second.cbus.so", "--json"]));
    std::fs::write(at.join("bad.yaml"), "one:\n  id: secnd\n").expect("writing");
    let problems = run(at, &["config", "check", "bad.yaml", "--plugin", "second.cbus.so", "--json"]);
    held.to("config check", &serde_json::from_str(&problems.out).expect("JSON"));
    held.to("config schema", &json(at, &["config", "schema", "--plugin", "second.cbus.so"]));
    held.to("doctor", &json(at, &["doctor", "--json"]));
    held.to("explain", &json(at, &["explain", "CB0012", "--json"]));
    let generated = ["build", "second", "--codegen-only", "--json", "--work-dir", "generated"];
    held.to("build --codegen-only", &json(scratch.folder(), &generated));

    let mut watching = cbus(scratch.folder());
    watching
        .args(["watch", "second", "-o", "watched.cbus.so", "--json"])
        .env("CBUS_WORK_DIR", work_dir().join("cbus-reference"));
    let mut watching = watching.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("running cbus");
    let line =
        BufReader::new(watching.stdout.take().expect("its output")).lines().next().expect("a line").expect("text");
    watching.kill().expect("ending it");
    watching.wait().expect("its end");
    held.lines("watch", &line);

    of_a_daemon(&held);
    let listed = fine(at, &["schema"]);
    let listed: BTreeSet<String> =
        listed.lines().filter_map(|line| Some(line.split("  ").next()?.to_owned())).collect();
    // Those of a fleet are held in tests/fleet.rs and tests/rollout.rs, where there is one.
    let of_a_fleet = |command: &String| {
        command.contains("fleet") || ["publish", "rollout ", "sets "].iter().any(|name| command.starts_with(name))
    };
    let listed: BTreeSet<String> = listed.into_iter().filter(|command| !of_a_fleet(command)).collect();
    assert_eq!(held.0.borrow().keys().cloned().collect::<BTreeSet<_>>(), listed, "each of them was held to its schema");
    fails(at, &["schema", "plugs"], 1, "did you mean `plugins`?");
}

fn of_a_daemon(held: &Held) {
    let scratch = Scratch::new(&["second"]);
    let at = scratch.folder();
    std::fs::write(at.join("config.yaml"), "one:\n  id: second\n").expect("writing");
    std::fs::write(at.join("more.yaml"), "two:\n  id: second\n  config: { }\n").expect("writing");
    let mut daemon = Daemon::start(at, &["config.yaml", "--watch", "second", "--allow-control", "--allow-exec"]);
    let more = at.join("more.yaml");
    let to = |arguments: &[&str]| run(at, &[arguments, &["--json", "--connect", &daemon.address]].concat()).out;
    held.lines("exec", &to(&["exec", "-f", more.to_str().expect("a path")]));
    held.lines("exec", &to(&["exec", "--remove", "two"]));
    held.lines("ask", &to(&["ask", "second/ask", "{\"nonce\":1}", "--within", "60"]));
    // One that stands while it is looked at.
    let mut asking = cbus(at);
    asking.args(["ask", "second/ask", "{\"nonce\":2}", "--watch", "--connect", &daemon.address]).stdout(Stdio::piped());
    let mut asking = asking.spawn().expect("running cbus");
    BufReader::new(asking.stdout.take().expect("its output")).lines().next().expect("a value").expect("text");
    for command in ["bus", "plugins", "controllers", "directives"] {
        held.to(command, &daemon.json(&[command]));
    }
    asking.kill().expect("ending it");
    asking.wait().expect("its end");
    held.to("reload", &daemon.json(&["reload", "second"]));
    scratch.edit("second", "\"from the second\"", "\"from the other\"");
    daemon.wait("generation 2 serves");
    held.to("rollback", &daemon.json(&["rollback", "second"]));
    held.to("doctor --timings", &daemon.json(&["doctor", "--timings"]));
    held.lines("logs", &fine(at, &["logs", "--json", "--connect", &daemon.address]));
    let mut events = cbus(at);
    events
        .args(["events", "--past", "--json", "--connect", &daemon.address])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut events = events.spawn().expect("running cbus");
    let mut lines = BufReader::new(events.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let swapped = lines.by_ref().inspect(|line| held.lines("events", line)).find(|line| line.contains("\"swapped\""));
    assert!(swapped.is_some(), "a swap is among the events");
    let _ = events.kill();
    events.wait().expect("its end");
    held.to("unload", &daemon.json(&["unload", "second"]));
    daemon.end();
}
