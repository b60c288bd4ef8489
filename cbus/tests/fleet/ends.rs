//! A daemon that is told to end leaves its fleet in the time that a daemon gives its controllers, whatever has become of its hub.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::Daemon;

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").to_string()
}

fn daemon(folder: &Path, name: &str, reach: &str, address: &str) -> Daemon {
    let config = format!("name: shop, host: {name}, {reach}: [\"{address}\"], asks: [example/greet]");
    let file = format!("{name}.yaml");
    std::fs::write(folder.join(&file), format!("fleet: {{ id: controllerbus/fleet, config: {{ {config} }} }}\n"))
        .expect("writing");
    Daemon::start_with(folder, "run", &[&file, "--name", name], |run| {
        run.env("CBUS_LOG", "info");
    })
}

/// Waits until a daemon sees its hub.
fn sees_hub(daemon: &Daemon) {
    let limit = Instant::now() + crate::daemons::LIMIT;
    let at = daemon.socket();
    let hosts = || crate::json(Path::new("."), &["fleet", "hosts", "--json", "--connect", &at]);
    while !hosts().as_array().is_some_and(|hosts| hosts.iter().any(|host| host["host"] == "hub")) {
        assert!(Instant::now() < limit, "the hub is not seen: {}", hosts());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ends a daemon, which must not give anything up for that.
fn ends(daemon: Daemon, what: &str) {
    let said = daemon.said_until_end();
    for unwanted in ["did not end within", "did not shut down in time", "panicked"] {
        assert!(!said.contains(unwanted), "{what}: `{unwanted}`:\n{said}");
    }
}

#[test]
fn a_daemon_that_ends_leaves_its_fleet_in_time_whatever_has_become_of_its_hub() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = free_address();
    let mut hub = daemon(folder.path(), "hub", "listen", &address);
    let edge = |name: &str| {
        let edge = daemon(folder.path(), name, "connect", &address);
        sees_hub(&edge);
        edge
    };
    let [well, frozen, orphan] = ["well", "frozen", "orphan"].map(edge);
    ends(well, "its hub is well");
    let signal = |signal: &str| {
        let sent = Command::new("kill").args([signal, &hub.process.id().to_string()]).status().expect("running kill");
        assert!(sent.success());
    };
    signal("-STOP");
    ends(frozen, "its hub is frozen");
    signal("-CONT");
    hub.process.kill().expect("killing it");
    hub.process.wait().expect("its end");
    ends(orphan, "its hub is gone");
    ends(daemon(folder.path(), "alone", "connect", &address), "its hub was never there");
    // Whoever connects is let in, and told nothing.
    let swallows = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = swallows.local_addr().expect("an address").to_string();
    ends(daemon(folder.path(), "swallowed", "connect", &address), "its hub says nothing");
    ends(daemon(folder.path(), "hub-2", "listen", &free_address()), "it is a hub");
}
