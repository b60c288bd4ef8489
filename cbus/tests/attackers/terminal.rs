//! Texts that would do something to a terminal, or look like somebody else's, or give a secret away.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use hot_runtime::artifact::{inspect, with_trailer};
use hot_runtime::text::is_unprintable;
use tests::{Scratch, work_dir};

use crate::process::{Daemon, daemon_folder};
use crate::{cbus, fails, fine, json, said, secrets};

/// A line that the daemon never says.
const FORGED: &str = "2026-01-01T00:00:00.000+00:00 ERROR cbus: forged";

fn is_harmless(what: &str, text: &str) {
    let bad = text.chars().find(|c| is_unprintable(*c) && !matches!(c, '\n' | '\t'));
    assert_eq!(bad, None, "{what} prints what a terminal acts on: {text:?}");
    let forged = text.lines().find(|line| line.trim_start().starts_with(FORGED) || line.starts_with("forged"));
    assert_eq!(forged, None, "{what} prints a line that looks like its own");
}

/// A plugin that lies wherever it may say something, built once.
fn liar() -> &'static PathBuf {
    static BUILT: OnceLock<(Scratch, PathBuf)> = OnceLock::new();
    let (_, file) = BUILT.get_or_init(|| {
        let scratch = Scratch::new(&["second"]);
        scratch.edit("second", "/// Answers.", "#[doc = \"x \\u{1b}[2K\\u{1b}]0;owned\\u{7} signature ok\"]");
        let lies = "tracing::info!(pin = \"hunter2\", \"a line\\n2026-01-01T00:00:00.000+00:00 ERROR cbus: forged \\u{1b}[2J\\u{9b}2J\\u{202e}\");
        tracing::warn!(password = \"hunter2\", \"api_key=hunter2 {}\", \"x\".repeat(100_000));
        return Err(Error::msg(\"an error \\u{1b}[2J\\nforged, and password: hunter2\"));
        #[allow(unreachable_code)]
        Ok(Self)";
        scratch.edit("second", "Ok(Self)", lies);
        scratch.edit("second", "pub struct SecondConfig {}", "pub struct SecondConfig { #[config(secret)] #[serde(default)] pin: Option<u32> }");
        let file = scratch.folder().join("liar.cbus.so");
        let mut command = cbus(scratch.folder());
        command.args(["build", "second", "-o", "liar.cbus.so"]).env("CBUS_WORK_DIR", work_dir().join("cbus-liar"));
        let said = said(command.output().expect("running cbus"));
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        (scratch, file)
    });
    file
}

#[test]
fn a_manifest_full_of_escapes_prints_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let library = inspect(liar()).expect("it is whole").library().to_vec();
    // Every text of the bundle's record in turn.
    for key in ["\"toolchain\":\"", "\"target\":\"", "\"entry\":\"", "\"build_hash\":\"", "\"profile\":\""] {
        let mut library = library.clone();
        let place = library.windows(key.len()).position(|bytes| bytes == key.as_bytes()).expect(key) + key.len();
        let length = library[place..].iter().position(|byte| *byte == b'"').expect("its end");
        let lie: String = "\\u001b\\n\\u009b\\u202e".chars().chain(std::iter::repeat(' ')).take(length).collect();
        let lie = if length < 20 { " ".repeat(length) } else { lie };
        library[place..place + length].copy_from_slice(lie.as_bytes());
        std::fs::write(at.join("liar.cbus.so"), with_trailer(library)).expect("writing");
        is_harmless("inspect", &fine(at, &["inspect", "liar.cbus.so"]));
        let shown = json(at, &["inspect", "liar.cbus.so", "--json"]);
        is_harmless("inspect --json", &fine(at, &["inspect", "liar.cbus.so", "--json"]));
        assert!(
            shown["factories"][0]["description"].as_str().is_some_and(|text| text.contains('\u{1b}')),
            "JSON keeps it"
        );
        let verified = crate::run(at, &["verify", "liar.cbus.so"]);
        is_harmless("verify", &(verified.out + &verified.err));
    }
    let shown = fine(at, &["inspect", "liar.cbus.so"]);
    assert!(shown.contains("x \\u{1b}[2K\\u{1b}]0;owned\\u{7} signature ok"), "it is shown as what it is: {shown}");
    let name = "no\u{1b}[2J\n2026-01-01T00:00:00.000+00:00 ERROR cbus: forged.cbus.so";
    is_harmless("an error", &fails(at, &["inspect", name], 1, "No such file"));
}

#[test]
fn what_a_plugin_says_does_nothing_to_a_terminal_and_looks_like_nobody_elses() {
    let folder = daemon_folder();
    std::fs::write(folder.path().join("config.yaml"), "one:\n  id: second\n  config: { pin: 4711 }\n")
        .expect("writing");
    std::fs::copy(liar(), folder.path().join("plugins/liar.cbus.so")).expect("copying");
    let name = "no\u{1b}[2J\n2026-01-01T00:00:00.000+00:00 ERROR cbus: forged.cbus.so";
    std::fs::write(folder.path().join("plugins").join(name), "no plugin").expect("writing");
    let mut daemon = Daemon::start(folder.path(), &["config.yaml", "--plugins", "plugins"]);
    daemon.wait("a line");
    daemon.wait("more bytes");
    let outputs: [&[&str]; 6] =
        [&["logs"], &["events", "--past"], &["plugins"], &["controllers"], &["directives"], &["bus"]];
    for arguments in outputs {
        let mut command = cbus(folder.path());
        command.args(arguments).args(["--connect", &daemon.address]);
        let shown = said(command.output().expect("cbus")).out;
        is_harmless(arguments[0], &shown);
        assert!(!shown.contains("hunter2"), "{}: {shown}", arguments[0]);
        command.arg("--json");
        if arguments[0] != "events" {
            let shown = said(command.output().expect("cbus")).out;
            is_harmless(&format!("{} --json", arguments[0]), &shown);
            assert!(!shown.contains("hunter2"), "{}: {shown}", arguments[0]);
        }
    }
    let all = daemon.said.join("\n");
    is_harmless("the daemon", &all);
    assert!(!all.contains("hunter2"), "{all}");
    assert!(
        all.contains("[hidden]") && all.contains("    | 2026-01-01T00:00:00.000+00:00 ERROR cbus: forged"),
        "{all}"
    );
    assert!(all.lines().all(|line| line.len() < 20 << 10), "what is long is cut");
    daemon.end();
}

#[test]
fn credentials_are_found_by_their_names_and_by_how_they_look() {
    let names = BTreeSet::from(["pin".to_owned()]);
    let hidden = [
        "password=hunter2",
        "db.password = hunter2, and more",
        "{\"apiKey\": \"hunter2\", \"x\": 1}",
        "{\"config\": \"{\\\"password\\\":\\\"hunter2\\\"}\"}",
        "password: hunter2",
        "  - secret_access_key: 'hunter2'",
        "token: hunter2",
        "Authorization: Bearer hunter2",
        "connecting to postgres://me:hunter2@db/x",
        "PIN=hunter2",
        "the pin: hunter2",
        "token=hunter2&x=1",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
    ];
    for text in hidden {
        let shown = secrets::hide(text, &names);
        assert!(!shown.contains("hunter2") && shown.contains("[hidden]"), "{text:?}: {shown:?}");
        assert!(!secrets::blot(text).contains("hunter2") || text.to_lowercase().contains("pin"), "{text:?}");
        assert_eq!(secrets::blot(text).len(), text.len());
    }
    let shapes = [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    ];
    for text in shapes {
        assert_eq!(secrets::hide(&format!("with {text}."), &names), "with [hidden].");
    }
    let harmless = [
        "reading the token: No such file or directory",
        "generation 1 serves, after 2: live in 80 ms",
        "the token is not valid",
        "at http://127.0.0.1:7411/x@y",
        "https://example.org/a:b",
        "tokens=",
        "BLAKE3 0123456789abcdef",
    ];
    for text in harmless {
        assert_eq!(secrets::hide(text, &names), text);
    }
}
