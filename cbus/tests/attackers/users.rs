//! Other users of the same machine.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::process::{Daemon, Session, daemon_folder, http, write_secret};
use crate::{cbus, said};

/// A user that has nothing to do with the daemon.
const NOBODY: u32 = 65_534;

#[test]
fn over_tcp_nobody_gets_anything_but_the_two_health_paths_without_a_credential() {
    let folder = daemon_folder();
    write_secret(&folder.path().join("tokens"), "a-token-of-some-length\n");
    let listen = [
        "--plugins",
        "plugins",
        "--listen",
        "127.0.0.1:0",
        "--token-file",
        "tokens",
        "--allow-exec",
        "--allow-control",
    ];
    let daemon = Daemon::start(folder.path(), &listen);
    let page = Session::open_at(&daemon.socket());
    for address in [&daemon.address, &page.address] {
        assert_eq!(http(address, "GET", "/healthz", "").0, 200);
        assert_eq!(http(address, "GET", "/readyz", "").0, 200);
        let others = [
            "/api/state",
            "/api/events",
            "/metrics",
            "/nothing",
            "/healthz/",
            "/login/x",
            "/resume?id=x",
            "/resume?id=x&nonce=y&proof=z",
        ];
        for path in crate::rules::ASSETS.into_iter().chain(others) {
            for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"] {
                let (status, said) = http(address, method, path, "");
                assert!(matches!(status, 401 | 403 | 404 | 405), "{method} {path}: {status} {said}");
                assert!(!said.contains("controllers"), "{said}");
            }
        }
        assert_eq!(http(address, "POST", "/healthz", "").0, 401);
        for call in crate::calls::calls() {
            let (status, said) = http(address, "POST", &call, "Content-Type: application/grpc\r\n");
            assert!(matches!(status, 401 | 403 | 404 | 415), "{call}: {status} {said}");
        }
        // A session's cookie without its key, a key without its cookie, another port's session.
        let cookie = format!("Cookie: {}\r\n", page.cookie);
        let key = format!("x-cbus-key: {}\r\n", page.key);
        assert_eq!(http(address, "GET", "/api/state", &cookie).0, 401);
        assert_eq!(http(address, "GET", "/api/state", &key).0, 401);
    }
    assert_eq!(page.ask("GET", "/api/state").0, 200);
    let elsewhere = Session { address: daemon.address.clone(), cookie: page.cookie.clone(), key: page.key.clone() };
    assert_eq!(elsewhere.ask("GET", "/api/state").0, 401);
    daemon.end();
}

#[test]
fn another_user_of_the_machine_gets_nothing() {
    let folder = daemon_folder();
    let run = tempfile::tempdir().expect("a folder");
    let arguments = ["--plugins", "plugins", "--allow-exec", "--allow-control"];
    let daemon = Daemon::start_with(folder.path(), "run", &arguments, |command| {
        command.env("XDG_RUNTIME_DIR", run.path());
    });
    let socket = daemon.address.trim_start_matches("unix:").to_owned();
    let of = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((of(Path::new(&socket)), of(Path::new(&socket).parent().expect("a folder"))), (0o600, 0o700));
    // What the other user runs is a copy that he can reach, whatever folder this is built in.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let program = elsewhere.path().join("cbus");
    std::fs::copy(env!("CARGO_BIN_EXE_cbus"), &program).expect("copying");
    std::fs::set_permissions(elsewhere.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let mut other = Command::new(&program);
    other.args(["bus", "--connect", &daemon.address]).current_dir("/").uid(NOBODY).gid(NOBODY).env_clear();
    match other.output() {
        Ok(output) => {
            let said = said(output);
            assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
            assert!(said.err.contains("belongs to another user"), "{}", said.err);
            // Should the folder ever be open, and the socket too: the daemon asks who comes.
            open(Path::new(&socket), 0o777);
            open(Path::new(&socket).parent().expect("a folder"), 0o755);
            open(run.path(), 0o755);
            let said = crate::said(other.output().expect("running it"));
            assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
        }
        Err(error) => println!("not tested, because this user cannot become another one ({error}): another user"),
    }
    daemon.end();
}

fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its mode");
}

#[test]
fn a_folder_for_sockets_that_is_not_this_users_alone_is_not_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let tried = |runtime: &Path| {
        let mut run = cbus(folder.path());
        run.args(["run", "--plugins", "."]).env("XDG_RUNTIME_DIR", runtime);
        said(run.output().expect("running cbus"))
    };
    let place = folder.path().join("run");
    std::fs::create_dir_all(place.join("cbus")).expect("a folder");
    open(&place.join("cbus"), 0o750);
    let refused = tried(&place);
    assert!(refused.code == Some(1) && refused.err.contains("others can access"), "{}", refused.err);
    std::fs::remove_dir(place.join("cbus")).expect("removing");
    let own = folder.path().join("own");
    std::fs::create_dir(&own).expect("a folder");
    open(&own, 0o700);
    std::os::unix::fs::symlink(&own, place.join("cbus")).expect("a link");
    let refused = tried(&place);
    assert!(
        refused.code == Some(1) && refused.err.contains("is not a directory that belongs to this user"),
        "{}",
        refused.err
    );
    std::fs::remove_file(place.join("cbus")).expect("removing");
    std::fs::create_dir(place.join("cbus")).expect("a folder");
    open(&place.join("cbus"), 0o700);
    if std::os::unix::fs::chown(place.join("cbus"), Some(NOBODY), None).is_ok() {
        let refused = tried(&place);
        assert!(
            refused.code == Some(1) && refused.err.contains("is not a directory that belongs to this user"),
            "{}",
            refused.err
        );
    }
}

#[test]
fn the_commands_find_the_only_daemon_and_ask_which_where_there_are_several() {
    let folder = daemon_folder();
    let run = tempfile::tempdir().expect("a folder");
    let ask = |arguments: &[&str]| {
        let mut command = cbus(folder.path());
        command.args(arguments).env("XDG_RUNTIME_DIR", run.path());
        said(command.output().expect("running cbus"))
    };
    let start = |name: &str| {
        Daemon::start_with(folder.path(), "run", &["--plugins", "plugins"], |command| {
            command.env("XDG_RUNTIME_DIR", run.path()).env("CBUS_NAME", name);
        })
    };
    let none = ask(&["bus"]);
    assert!(none.code == Some(1) && none.err.contains("no daemon of yours is running"), "{}", none.err);
    let first = start("one");
    assert_eq!(ask(&["bus"]).code, Some(0));
    let second = start("two");
    let which = ask(&["bus"]);
    assert!(which.code == Some(1) && which.err.contains("one, two"), "{}", which.err);
    assert_eq!(ask(&["bus", "--connect", "two"]).code, Some(0));
    second.end();
    assert_eq!(ask(&["bus"]).code, Some(0));
    first.end();
}
