//! Codes of what is refused: each is used, told, and explained.

use std::path::{Path, PathBuf};

use crate::process::{Daemon, daemon_folder};
use crate::{built, fails, fine, json, run};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The sources of the crates, without the table itself.
fn sources() -> Vec<String> {
    let mut folders: Vec<PathBuf> = ["cbus", "controllerbus", "controllerbus-api", "hot-runtime"]
        .map(|name| Path::new(ROOT).join(name).join("src"))
        .into();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("controllerbus/src/code.rs") {
                let text = std::fs::read_to_string(path).expect("a source");
                // What only a test uses is not used.
                found.push(text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned());
            }
        }
    }
    found
}

#[test]
fn every_code_is_that_of_something_that_is_refused() {
    let table = std::fs::read_to_string(Path::new(ROOT).join("controllerbus/src/code.rs")).expect("the table");
    let rows = table.split("\ncodes! {\n").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the rows");
    let names: Vec<&str> = rows.lines().filter_map(|row| row.split_whitespace().nth(1)).collect();
    assert!(names.len() > 50, "{names:?}");
    let sources = sources();
    for name in names {
        let used = format!("Code::{name}");
        let uses = sources.iter().any(|text| {
            text.match_indices(&used)
                .any(|(at, _)| !text[at + used.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
        });
        assert!(uses, "nothing is refused with {used}");
    }
}

#[test]
fn a_refused_command_names_the_code_that_explains_it() {
    let (_, file, _) = built();
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let mut broken = std::fs::read(file).expect("reading");
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    std::fs::write(at.join("broken.cbus.so"), broken).expect("writing");
    std::fs::write(at.join("text.cbus.so"), "a text that is long enough to have a trailer at its end, and has none")
        .expect("writing");
    std::fs::copy(file, at.join("second.cbus.so")).expect("copying");
    fine(at, &["keygen"]);
    std::fs::write(at.join("form.yaml"), "one:\n  id: second\n  revison: 1\n").expect("writing");
    std::fs::write(at.join("id.yaml"), "one:\n  id: secnd\n").expect("writing");
    std::fs::write(at.join("misfit.yaml"), "api:\n  id: controllerbus/bus/api\n  config: { listen: 3 }\n")
        .expect("writing");
    for (arguments, code) in [
        (&["build", "nowhere"][..], "CB0002"),
        (&["inspect", "missing.cbus.so"], "CB0001"),
        (&["inspect", "broken.cbus.so"], "CB0013"),
        (&["inspect", "text.cbus.so"], "CB0014"),
        (&["inspect", "."], "CB0025"),
        (&["verify", "second.cbus.so", "--key", "cbus.pub"], "CB0021"),
        (&["verify", "second.cbus.so", "--key", "cbus.key"], "CB0011"),
        (&["config", "check", "form.yaml"], "CB0052"),
        (&["config", "check", "id.yaml", "--plugin", "second.cbus.so"], "CB0050"),
        (&["config", "check", "misfit.yaml"], "CB0053"),
        (&["plugins", "--connect", "127.0.0.1:1"], "CB0070"),
        (&["plugins", "--connect", "unix:no-such-socket"], "CB0070"),
    ] {
        let told = fails(at, arguments, 1, &format!("error[{code}]"));
        let explained = fine(at, &["explain", code]);
        assert!(explained.starts_with(&format!("{code}: ")) && explained.contains("What to do."), "{told}{explained}");
    }
    let problems: serde_json::Value =
        serde_json::from_str(&run(at, &["config", "check", "misfit.yaml", "--json"]).out).expect("JSON");
    assert_eq!(problems[0]["code"], "CB0053", "{problems}");
    fails(at, &["explain", "boundry"], 1, "did you mean CB0012");
    fails(at, &["explain", "CB9999"], 1, "there is no code `CB9999`");
    let all = json(at, &["explain", "--json"]);
    assert_eq!(fine(at, &["explain"]).lines().count(), all.as_array().expect("a list").len());
}

#[test]
fn a_daemon_tells_codes_in_events_tables_and_refused_calls() {
    let folder = daemon_folder();
    let at = folder.path();
    std::fs::write(at.join("plugins/text.cbus.so"), "no plugin, but a text that has room for a trailer and none in it")
        .expect("writing");
    std::fs::copy(&built().1, at.join("plugins/second.cbus.so")).expect("copying");
    std::fs::write(at.join("config.yaml"), "one:\n  id: second\ntwo:\n  id: secnd\n").expect("writing");
    let daemon = Daemon::start(at, &["config.yaml", "--plugins", "plugins", "--allow-control"]);
    assert!(
        daemon.said.iter().any(|line| line.contains("has no artifact trailer") && line.contains("[CB0014]")),
        "{:#?}",
        daemon.said
    );
    let found = daemon.json(&["controllers"]);
    let two = found["configs"]
        .as_array()
        .and_then(|all| all.iter().find(|config| config["key"] == "two"))
        .expect("the config");
    assert_eq!(two["error_code"], "CB0050", "{two}");
    assert!(daemon.fine(&["controllers"]).contains("did you mean `second`? [CB0050]"));
    daemon.fails(&["unload", "secnd"], "error[CB0038]");
    daemon.fails(&["rollback", "second"], "error[CB0037]");
    daemon.fails(&["reload", "second"], "error[CB0079]");
    let set = at.join("more.yaml");
    std::fs::write(&set, "three:\n  id: second\n").expect("writing");
    daemon.fails(&["exec", "-f", set.to_str().expect("a path")], "error[CB0074]");
    daemon.end();
}
