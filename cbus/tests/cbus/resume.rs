//! A daemon that is started anew: what it is asked for what clients have applied, and what it goes on with.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::process::{Daemon, daemon_folder, http, write_secret};
use crate::{built, fails, fine};

/// A config with a secret, and with what YAML takes for something else if it is not in quotes.
const GIVEN: &str = "given:
  id: second
  revision: 3
  retry: { stop_after: 2 }
  config:
    loudness: 7
    guests:
      - { name: \"yes\", tone: short }
      - { name: \"007\" }
other:
  id: not/loaded
  version: ^1.2
  config: { password: \"correct horse: battery\" }
";

fn state(daemon: &Daemon, key: &str) -> Option<String> {
    let found = daemon.json(&["controllers"]);
    let configs = found["configs"].as_array().expect("a list");
    configs
        .iter()
        .find(|config| config["key"] == key)
        .map(|config| config["state"].as_str().expect("a word").to_owned())
}

fn kept(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let mut all: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    all.sort();
    all
}

#[test]
fn what_is_exported_can_be_checked_and_gives_the_same_when_it_is_applied() {
    let folder = daemon_folder();
    let at = folder.path();
    std::fs::copy(&built().1, at.join("plugins/second.cbus.so")).expect("copying");
    std::fs::write(at.join("given.yaml"), GIVEN).expect("writing");
    let daemon = Daemon::start(at, &["given.yaml", "--plugins", "plugins"]);
    let exported = daemon.fine(&["config", "export"]);
    assert!(exported.contains("correct horse: battery"), "secrets are there as they were given: {exported}");
    assert!(!exported.contains("controllerbus/bus/api"), "what the command line has added is not there: {exported}");
    let file = at.join("exported.yaml");
    daemon.fine(&["config", "export", "-o", &file.to_string_lossy()]);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), exported);
    assert_eq!(std::fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    daemon.end();
    let set = |text: &str| controllerbus::ConfigSet::from_yaml(text).expect("a config set");
    assert_eq!(set(&exported), set(GIVEN));
    fine(at, &["config", "check", "exported.yaml"]);

    let again = Daemon::start(at, &["exported.yaml", "--plugins", "plugins"]);
    assert_eq!(again.fine(&["config", "export"]), exported);
    again.end();
}

#[test]
fn secrets_are_exported_to_nobody_over_tcp_unless_clients_may_apply_configs() {
    let folder = daemon_folder();
    let at = folder.path();
    write_secret(
        &at.join("tokens"),
        "admin look,apply,control a-token-of-some-length\nviewer look a-viewer-of-some-length\n",
    );
    write_secret(&at.join("admin"), "a-token-of-some-length");
    write_secret(&at.join("viewer"), "a-viewer-of-some-length");
    let listen = ["config.yaml", "--plugins", "plugins", "--listen", "127.0.0.1:0", "--token-file", "tokens"];
    let daemon = Daemon::start(at, &listen);
    let export =
        |token: &str| ["config", "export", "--connect", &daemon.address, "--token-file", token].map(str::to_owned);
    let told = |token: &str, message: &str| {
        let arguments = export(token);
        fails(at, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), 1, message)
    };
    told("admin", "ask it over its socket");
    told("viewer", "it requires the role `apply`");
    assert!(fine(at, &["config", "export", "--connect", &daemon.socket()]).contains("one:"));
    daemon.end();
}

#[test]
fn what_clients_have_applied_survives_a_restart_and_a_kill_and_a_broken_file_is_named() {
    let folder = daemon_folder();
    let at = folder.path();
    std::fs::copy(&built().1, at.join("plugins/second.cbus.so")).expect("copying");
    std::fs::write(at.join("given.yaml"), GIVEN).expect("writing");
    let given = at.join("given.yaml").to_string_lossy().into_owned();
    let start = || {
        // With a name that stays.
        let arguments = ["config.yaml", "--plugins", "plugins", "--allow-exec", "--resume"];
        Daemon::start_with(at, "run", &arguments, |command| {
            command.env("CBUS_NAME", "resumed");
        })
    };
    let mut daemon = start();
    let folder = at.join("work/applied/resumed");
    daemon.fails(&["exec", "-f", &given], "other is not running");
    assert_eq!(state(&daemon, "given").as_deref(), Some("running"));
    let exported = daemon.fine(&["config", "export"]);
    let files = kept(&folder);
    assert_eq!(files.len(), 2, "{files:?}");
    for path in files.iter().chain([&folder.join("lock")]) {
        assert_eq!(std::fs::metadata(path).expect("a file").permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    assert_eq!(std::fs::metadata(&folder).expect("a folder").permissions().mode() & 0o777, 0o700);
    // As at a power cut.
    daemon.process.kill().expect("killing");
    daemon.process.wait().expect("its end");

    let again = start();
    assert!(again.said.iter().any(|line| line.contains("that are applied again: 2")), "{}", again.said.join("\n"));
    assert_eq!(again.fine(&["config", "export"]), exported);
    assert_eq!(state(&again, "given").as_deref(), Some("running"));
    again.fine(&["exec", "--remove", "other"]);
    assert_eq!(kept(&folder).len(), 1);
    again.end();

    // A file that is broken is named, and everything else goes on.
    let broken = &kept(&folder)[0];
    std::fs::write(broken, "given: { id: [\n").expect("writing");
    let third = start();
    let told = third.said.iter().find(|line| line.contains("ERROR") && line.contains(&*broken.to_string_lossy()));
    assert!(told.is_some_and(|line| line.contains("is not applied")), "{}", third.said.join("\n"));
    assert_eq!((state(&third, "given"), state(&third, "one").as_deref()), (None, Some("running")));
    assert_eq!(std::fs::read_to_string(broken).expect("the file"), "given: { id: [\n", "it stays as it is");
    // A second daemon of the same name and folder has nothing to keep its configs in.
    let second = ["run", "--plugins", "plugins", "--resume", "--name", "resumed", "--work-dir", "work"];
    fails(at, &second, 1, "another daemon keeps its configs in");
    third.end();

    // Without --resume nothing of it is applied, and it stays.
    let plain = Daemon::start(at, &["--plugins", "plugins"]);
    assert_eq!(state(&plain, "given"), None);
    plain.end();
    assert_eq!(kept(&folder).len(), 1);
}

#[test]
fn a_daemon_is_ready_when_everything_runs_and_says_to_its_own_user_what_does_not() {
    let folder = daemon_folder();
    let at = folder.path();
    std::fs::copy(&built().1, at.join("plugins/second.cbus.so")).expect("copying");
    write_secret(&at.join("tokens"), "a-token-of-some-length\n");
    let listen = ["config.yaml", "--plugins", "plugins", "--listen", "127.0.0.1:0", "--token-file", "tokens"];
    let mut daemon = Daemon::start(at, &listen);
    let (own, open) = (daemon.socket(), daemon.address.clone());
    // Its controller is constructed when its plugin is there.
    let begun = std::time::Instant::now();
    while http(&own, "GET", "/readyz", "") != (200, "ready\n".to_owned()) {
        assert!(begun.elapsed().as_secs() < 60, "{}", http(&own, "GET", "/readyz", "").1);
    }
    assert_eq!(http(&open, "GET", "/readyz", ""), (200, "ready\n".to_owned()));
    let save = |text: &str| {
        std::fs::write(at.join("next.yaml"), text).expect("writing");
        std::fs::rename(at.join("next.yaml"), at.join("config.yaml")).expect("renaming");
    };
    save("one: { id: second }\ntwo: { id: secnd }\n");
    daemon.wait("was reapplied");
    let (status, told) = http(&own, "GET", "/readyz", "");
    assert_eq!(status, 503);
    assert!(told.starts_with("config two is queued: ") && told.contains("did you mean `second`?"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    // Nobody else learns what it runs.
    let begun = std::time::Instant::now();
    while http(&open, "GET", "/readyz", "") != (503, "not ready\n".to_owned()) {
        assert!(begun.elapsed().as_secs() < 60, "{}", http(&open, "GET", "/readyz", "").1);
    }
    assert_eq!(http(&own, "GET", "/healthz", ""), (200, "alive\n".to_owned()));
    // A change that is not accepted takes nothing away.
    save("one: { id: second, config: { loudness: loud } }\n");
    daemon.wait("was reapplied");
    assert_eq!(state_of(&own, at, "one"), "refused");
    assert_eq!(http(&own, "GET", "/readyz", "").0, 200);
    daemon.end();
}

fn state_of(address: &str, at: &Path, key: &str) -> String {
    let found = crate::json(at, &["controllers", "--json", "--connect", address]);
    let configs = found["configs"].as_array().expect("a list");
    let config = configs.iter().find(|config| config["key"] == key).expect("the config");
    config["state"].as_str().expect("a word").to_owned()
}
