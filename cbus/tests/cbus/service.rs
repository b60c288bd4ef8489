//! A daemon under a service manager.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::process::{Daemon, daemon_folder};

#[test]
fn a_service_manager_hears_that_it_is_ready_lives_reloads_and_ends() {
    let folder = daemon_folder();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    let heard = |wanted: &[&str]| {
        let mut buffer = [0; 4096];
        loop {
            let length = manager.recv(&mut buffer).expect("it tells something within a minute");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if wanted.iter().all(|wanted| text.contains(wanted)) {
                return text;
            }
        }
    };
    let arguments = ["config.yaml", "--plugins", "plugins", "--log-format", "json"];
    let mut daemon = Daemon::start_with(folder.path(), "run", &arguments, |command| {
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000");
    });
    heard(&["READY=1", "STATUS=0 of 0 plugins serving"]);
    heard(&["WATCHDOG=1"]);

    std::fs::write(folder.path().join("config.yaml"), "two:\n  id: second\n").expect("writing");
    daemon.wait("was reapplied");
    let hung_up = Command::new("kill").args(["-HUP", &daemon.process.id().to_string()]).status().expect("running kill");
    assert!(hung_up.success());
    heard(&["RELOADING=1", "MONOTONIC_USEC="]);
    heard(&["READY=1"]);
    daemon.wait("SIGHUP: the config was reloaded");
    heard(&["WATCHDOG=1"]);
    // Every line that it says is an object.
    for line in &daemon.said {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(
            line["time"].as_str().is_some_and(|time| time.parse::<jiff::Timestamp>().is_ok()) && line["level"] != "",
            "{line}"
        );
    }
    daemon.end();
    heard(&["STOPPING=1"]);
}

#[test]
fn sockets_that_the_service_manager_has_opened_are_there_for_controllers() {
    let folder = daemon_folder();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let arguments = ["config.yaml", "--plugins", "plugins", "--log-format", "json"];
    let daemon = Daemon::start_with(folder.path(), "run", &arguments, |command| {
        // As a service manager does it: number 3 and the number of the process that is to have it.
        let (program, arguments) = (command.get_program().to_owned(), command.get_args().map(ToOwned::to_owned));
        let arguments: Vec<_> = arguments.collect();
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", "exec 3<&0 0</dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\""])
            .arg(program)
            .args(arguments);
        shell.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "web").stdin(std::os::fd::OwnedFd::from(socket));
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        if let Some(folder) = command.get_current_dir() {
            shell.current_dir(folder);
        }
        *command = shell;
    });
    let told = "the service manager passed the socket `systemd:web`";
    assert!(daemon.said.iter().any(|line| line.contains(told)), "{}", daemon.said.join("\n"));
    daemon.end();
}
