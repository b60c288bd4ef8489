//! `cbus run` and the commands that ask it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tests::Scratch;

use crate::{built, cbus, fails, fine, json, terminate};

const LIMIT: Duration = Duration::from_secs(120);

/// A running daemon. Ended, if need be by force, when it is dropped.
pub struct Daemon {
    process: Child,
    lines: Receiver<String>,
    /// Everything that it has said.
    pub said: Vec<String>,
    /// Where its API listens.
    pub address: String,
}

impl Daemon {
    /// Starts a daemon and waits until it is ready. It listens at a socket of its own, and where it is told to.
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_as(folder, "run", arguments)
    }

    /// The same, by another command.
    pub fn start_as(folder: &Path, name: &str, arguments: &[&str]) -> Self {
        let mut command = cbus(folder);
        command.arg(name).args(arguments).env("CBUS_WORK_DIR", folder.join("work")).env("CBUS_LOG", "debug,h2=warn");
        static DAEMONS: AtomicU32 = AtomicU32::new(0);
        command.env("CBUS_NAME", format!("daemon-{}", DAEMONS.fetch_add(1, Ordering::Relaxed)));
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("running cbus");
        let stderr = process.stderr.take().expect("its errors");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut daemon = Self { process, lines, said: Vec::new(), address: String::new() };
        let mut at = daemon.wait("the bus API is at");
        let listen = arguments.iter().position(|argument| *argument == "--listen").map(|at| arguments[at + 1]);
        if listen.is_some_and(|listen| !listen.starts_with("unix:")) {
            // The socket's comes first.
            at = daemon.wait("the bus API is at");
        }
        daemon.address = at.rsplit(' ').next().expect("an address").trim_start_matches("http://").to_owned();
        if name == "run" {
            daemon.wait("ready");
        }
        daemon
    }

    /// Waits for a line that contains a text.
    pub fn wait(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let left = LIMIT.saturating_sub(begun.elapsed());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("the daemon does not say `{text}`, but:\n{}", self.said.join("\n"));
            };
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Runs a command against it that must succeed.
    pub fn fine(&self, arguments: &[&str]) -> String {
        fine(Path::new("."), &[arguments, &["--connect", &self.address]].concat())
    }

    /// Runs a command against it and reads JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        json(Path::new("."), &[arguments, &["--json", "--connect", &self.address]].concat())
    }

    /// Runs a command against it that must fail.
    pub fn fails(&self, arguments: &[&str], message: &str) {
        fails(Path::new("."), &[arguments, &["--connect", &self.address]].concat(), 1, message);
    }

    /// Asks it to end, as a service manager would; how long that took.
    pub fn end(mut self) -> Duration {
        let begun = Instant::now();
        terminate(&self.process);
        let status = self.process.wait().expect("its end");
        assert!(status.success(), "{status}");
        begun.elapsed()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One request over HTTP/1.1; the status and the body.
pub fn http(address: &str, method: &str, path: &str, headers: &str) -> (u16, String) {
    http_with(address, method, path, headers, "")
}

/// The same with a body.
pub fn http_with(address: &str, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let (status, _, body) = http_whole(address, method, path, headers, body.as_bytes());
    (status, body)
}

/// What requests go over.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// The same with the head of the answer. The address is that of a Unix socket too.
pub fn http_whole(address: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, String) {
    let (stream, host): (Box<dyn Stream>, _) = match address.strip_prefix("unix:") {
        Some(path) => {
            let stream = std::os::unix::net::UnixStream::connect(path).expect("connecting");
            stream.set_read_timeout(Some(LIMIT)).expect("a limit");
            (Box::new(stream), "localhost")
        }
        None => {
            let stream = TcpStream::connect(address).expect("connecting");
            stream.set_read_timeout(Some(LIMIT)).expect("a limit");
            (Box::new(stream), address)
        }
    };
    let mut stream = stream;
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {host}\r\n") };
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{host}{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[request.as_bytes(), body].concat()).expect("asking");
    let mut answer = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), None);
    while !head.ends_with("\r\n\r\n") {
        assert!(answer.read_line(&mut head).expect("a head") > 0, "no end of the head: {head}");
    }
    for line in head.to_ascii_lowercase().lines() {
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse().ok();
        }
    }
    let mut body = Vec::new();
    match length {
        // Not every server closes the connection when it is asked to.
        Some(length) => drop(answer.take(length).read_to_end(&mut body).expect("a body")),
        None => drop(answer.read_to_end(&mut body).expect("a body")),
    }
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head, String::from_utf8_lossy(&body).into_owned())
}

/// A page that a browser has opened.
pub struct Session {
    /// The page's address, without a scheme.
    pub address: String,
    /// What the browser sends by itself.
    pub cookie: String,
    /// What the page's scripts add.
    pub key: String,
}

impl Session {
    /// Follows the link that `cbus page` prints.
    pub fn open(daemon: &Daemon) -> Self {
        let link = daemon.fine(&["page", "--print"]);
        let (address, path) = link.trim().trim_start_matches("http://").split_once('/').expect("a link");
        Self::of(address, http_whole(address, "GET", &format!("/{path}"), "", b""))
    }

    /// From the answer to a login.
    pub fn of(address: &str, (status, head, body): (u16, String, String)) -> Self {
        assert_eq!(status, 200, "{head}{body}");
        let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
        assert!(cookie.contains("HttpOnly; SameSite=Strict; Path=/"), "{cookie}");
        let port = address.rsplit(':').next().expect("a port");
        assert!(cookie.starts_with(&format!("cbus-{port}=")), "the cookie is this port's: {cookie}");
        let key = body.split("\"cbus-key\", \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a key");
        let cookie = cookie.split(';').next().expect("a cookie");
        Self { address: address.to_owned(), cookie: cookie.to_owned(), key: key.to_owned() }
    }

    /// A request as the page's scripts make it.
    pub fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let headers = format!("Cookie: {}\r\nx-cbus-key: {}\r\nSec-Fetch-Site: same-origin\r\n", self.cookie, self.key);
        http(&self.address, method, path, &headers)
    }
}

/// Writes a file that only its owner reads.
pub fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("writing");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// A folder with a plugins folder and a config that runs what is in it.
pub fn daemon_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("plugins")).expect("a folder");
    std::fs::write(folder.path().join("config.yaml"), "one:\n  id: second\n").expect("writing");
    folder
}

#[test]
fn a_daemon_follows_its_plugins_folder_and_its_config_and_ends_at_sigterm() {
    let folder = daemon_folder();
    let mut daemon = Daemon::start(folder.path(), &["config.yaml", "--plugins", "plugins", "--allow-control"]);
    let state = |daemon: &Daemon, key: &str| -> String {
        let found = daemon.json(&["controllers"]);
        let configs = found["configs"].as_array().expect("a list").clone();
        configs.iter().find(|config| config["key"] == key).map(|config| config["state"].to_string()).unwrap_or_default()
    };
    assert_eq!(state(&daemon, "one"), "\"queued\"");

    // Copied aside and renamed, as a careful installer does.
    let (_, file, told) = built();
    std::fs::copy(file, folder.path().join("plugins/.second.part")).expect("copying");
    std::fs::rename(folder.path().join("plugins/.second.part"), folder.path().join("plugins/second.cbus.so"))
        .expect("renaming");
    daemon.wait("generation 1 serves");
    assert_eq!(state(&daemon, "one"), "\"running\"");
    let plugins = daemon.json(&["plugins"]);
    assert_eq!(plugins[0]["id"], "second");
    assert_eq!(plugins[0]["version"], "1.2.3");
    assert_eq!(plugins[0]["generations"][0]["build_hash"], told["build_hash"]);
    assert!(plugins[0]["generations"][0]["timeline"]["load_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{plugins}");
    let table = daemon.fine(&["plugins"]);
    assert!(table.contains("second  serving  1.2.3"), "{table}");

    std::fs::write(folder.path().join("config.yaml"), "one:\n  id: second\ntwo:\n  id: secnd\n").expect("writing");
    daemon.wait("applied again");
    let table = daemon.fine(&["controllers"]);
    assert!(table.contains("did you mean `second`?"), "{table}");
    std::fs::write(folder.path().join("config.yaml"), "one:\n  id: second\ntwo: [\n").expect("writing");
    daemon.wait("what runs goes on");
    daemon.wait("config.yaml:");
    assert_eq!(state(&daemon, "one"), "\"running\"");
    std::fs::write(folder.path().join("config.yaml"), "two:\n  id: second\n").expect("writing");
    daemon.wait("applied again");
    assert_eq!((state(&daemon, "one"), state(&daemon, "two")), (String::new(), "\"running\"".to_owned()));

    let bus = daemon.json(&["bus"]);
    let ids = bus["config_ids"].to_string();
    assert!(ids.contains("\"controllerbus/bus/api\"") && ids.contains("\"second\""), "{ids}");
    daemon.fails(&["unload", "secnd"], "did you mean `second`?");
    daemon.fails(&["reload", "second"], "loaded from a file");
    let unloaded = daemon.json(&["unload", "second"]);
    assert_eq!(unloaded["unmapped"], true);
    assert_eq!(state(&daemon, "two"), "\"queued\"");
    let events = daemon.json_lines(&["logs"]);
    assert!(events.iter().any(|line| line["message"].as_str().is_some_and(|text| text.contains("unloaded"))));

    let took = daemon.end();
    assert!(took < Duration::from_secs(6), "{took:?}");
}

impl Daemon {
    /// Runs a command against it and reads lines of JSON.
    fn json_lines(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let text = fine(Path::new("."), &[arguments, &["--json", "--connect", &self.address]].concat());
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

#[test]
fn a_watched_crate_is_swapped_in_at_a_save_and_on_request() {
    let scratch = Scratch::new(&["second"]);
    std::fs::write(scratch.folder().join("config.yaml"), "one:\n  id: second\n").expect("writing");
    let daemon = Daemon::start(scratch.folder(), &["config.yaml", "--watch", "second", "--allow-control"]);
    let mut events = cbus(Path::new("."));
    events.args(["events", "--past", "--json", "--connect", &daemon.address]).stdout(Stdio::piped());
    let mut events = events.spawn().expect("running cbus");
    let told = BufReader::new(events.stdout.take().expect("its output")).lines();
    let mut told = told.map(|line| serde_json::from_str::<serde_json::Value>(&line.expect("text")).expect("JSON"));
    let mut wait = |kind: &str| told.find(|event| event["kind"] == kind).expect("the daemon goes on");
    wait("build_started");
    wait("swapped");

    scratch.edit("second", "\"from the second\"", "\"from the second\" oops");
    assert!(wait("build_failed")["text"].as_str().is_some_and(|text| text.contains("oops")));
    let table = daemon.fine(&["plugins"]);
    assert!(table.contains("the last change did not make it"), "{table}");
    assert!(table.contains("serving"), "{table}");

    scratch.edit("second", "\"from the second\" oops", "\"from the other\"");
    let swapped = wait("swapped");
    assert!(swapped["timeline"]["edit_to_live_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{swapped}");
    wait("unloaded");
    let reloaded = daemon.json(&["reload", "second"]);
    assert_eq!(reloaded["unchanged"], true);
    assert_eq!(reloaded["generation"], swapped["generation"]);

    let (status, metrics) = http(&daemon.address, "GET", "/metrics", "");
    assert_eq!(status, 200);
    for line in ["cbus_swaps_total{plugin=\"second\"} 2", "cbus_generations{plugin=\"second\",state=\"serving\"} 1"] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    daemon.end();
    assert!(!events.wait().expect("its end").success(), "who follows a daemon that ends is told");
}

#[test]
fn configs_are_executed_only_where_that_is_allowed() {
    let folder = daemon_folder();
    std::fs::copy(&built().1, folder.path().join("plugins/second.cbus.so")).expect("copying");
    let file = folder.path().join("config.yaml").to_string_lossy().into_owned();
    let daemon = Daemon::start(folder.path(), &["--plugins", "plugins"]);
    daemon.fails(&["exec", "-f", &file], "--allow-exec");
    daemon.fails(&["exec", "--remove", "one"], "--allow-exec");
    daemon.fails(&["reload", "second"], "--allow-control");
    daemon.fails(&["unload", "second"], "--allow-control");
    daemon.end();

    let daemon = Daemon::start(folder.path(), &["--plugins", "plugins", "--allow-exec"]);
    let told = daemon.fine(&["exec", "-f", &file]);
    assert!(told.contains("one (second) running"), "{told}");
    daemon.fails(&["exec", "-f", "nowhere.yaml"], "nowhere.yaml");
    let bad = folder.path().join("bad.yaml");
    std::fs::write(&bad, "one:\n  id: second\n  revison: 1\n").expect("writing");
    daemon.fails(&["exec", "-f", &bad.to_string_lossy()], "bad.yaml:3:");
    daemon.fails(&["exec", "--remove", "none"], "there is no config none");
    assert!(daemon.fine(&["exec", "--remove", "one"]).contains("one removed"));
    daemon.end();
}

#[test]
fn a_daemon_that_cannot_serve_says_why() {
    let folder = daemon_folder();
    let at = folder.path();
    fails(at, &["run", "nowhere.yaml"], 1, "nowhere.yaml");
    fails(at, &["run", "--plugins", "nowhere"], 1, "mkdir -p nowhere");
    fails(at, &["run", "--watch", "nowhere"], 1, "nowhere");
    std::fs::write(at.join("bad.yaml"), "one:\n  id: second\n  revison: 1\n").expect("writing");
    fails(at, &["run", "bad.yaml"], 1, "bad.yaml:3:");
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    write_secret(&at.join("token"), "a-long-enough-secret");
    let listen = ["run", "--plugins", "plugins", "--token-file", "token", "--listen", &address];
    let told = fails(at, &listen, 1, "somebody else listens there");
    assert!(!told.contains("WARN"), "it is told once: {told}");
    fails(at, &["run", "--plugins", "plugins", "--listen", "unix:bad.yaml/s"], 1, "is a file, not a folder");
    fails(at, &["run", "--plugins", "plugins", "--listen", "0.0.0.0:0"], 1, "--token-file");
    fails(at, &["run", "--plugins", "plugins", "--token-file", "none", "--listen", "0.0.0.0:0"], 1, "none");
    std::fs::write(at.join("short"), "secret").expect("writing");
    fails(
        at,
        &["run", "--plugins", "plugins", "--token-file", "short", "--listen", "0.0.0.0:0"],
        1,
        "16 are the least",
    );
    drop(taken);
    for command in [&["bus"][..], &["plugins"], &["controllers"], &["directives"], &["logs"], &["events"]] {
        fails(at, &[command, &["--connect", &address]].concat(), 1, "no daemon answers at");
    }
    for command in [&["reload", "x"][..], &["unload", "x"], &["exec", "-f", "config.yaml"]] {
        fails(at, &[command, &["--connect", &address]].concat(), 1, "no daemon answers at");
    }
    fails(at, &["bus", "--connect", "unix:nowhere.sock"], 1, "no daemon answers at");
}

#[test]
fn beyond_loopback_a_token_is_needed() {
    let folder = daemon_folder();
    write_secret(&folder.path().join("token"), "a-long-enough-secret\n");
    std::fs::write(folder.path().join("wrong"), "another-long-enough-secret\n").expect("writing");
    let at = folder.path();
    let daemon = Daemon::start(at, &["--plugins", "plugins", "--listen", "0.0.0.0:0", "--token-file", "token"]);
    let address = daemon.address.replace("0.0.0.0", "127.0.0.1");
    fails(at, &["bus", "--connect", &address], 1, "a token is needed");
    fails(at, &["bus", "--connect", &address, "--token-file", "wrong"], 1, "the token is not the daemon's");
    fails(at, &["bus", "--connect", &address, "--token-file", "none"], 1, "none");
    assert!(fine(at, &["bus", "--connect", &address, "--token-file", "token"]).contains("plugins"));
    assert_eq!(http(&address, "GET", "/", "").0, 401);
    let (status, state) = http(&address, "GET", "/api/state", "Authorization: Bearer a-long-enough-secret\r\n");
    assert!(status == 200 && state.contains("\"controllers\":[{"), "{status} {state}");

    // A browser shows the token once, in a form, and has a session of its own from then on; no token is in an address.
    assert_eq!(http(&address, "GET", "/?token=a-long-enough-secret", "").0, 401);
    assert_eq!(http(&address, "GET", "/api/state", "Cookie: cbus-token=a-long-enough-secret\r\n").0, 401);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let login = |token: &str| http_whole(&address, "POST", "/login", form, format!("token={token}").as_bytes());
    let (status, head, _) = login("another-long-enough-secret");
    assert!(status == 401 && !head.contains("set-cookie"), "{head}");
    let session = Session::of(&address, login("a-long-enough-secret"));
    assert!(!session.cookie.contains("enough") && !session.key.contains("enough"), "the token is kept nowhere");
    assert_eq!(session.ask("GET", "/").0, 200);
    assert_eq!(session.ask("GET", "/api/state").0, 200);
    daemon.end();
}

#[cfg(unix)]
#[test]
fn a_unix_socket_is_its_owners_and_a_stale_one_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let folder = daemon_folder();
    let at = folder.path();
    let socket = at.join("bus.sock");
    // What a daemon that was killed leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    let listen = format!("unix:{}", socket.display());
    let daemon = Daemon::start(at, &["--plugins", "plugins", "--listen", &listen]);
    let mode = std::fs::metadata(&socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(fine(at, &["bus", "--connect", &listen]).contains("controllers"));
    fails(at, &["run", "--plugins", "plugins", "--listen", &listen], 1, "somebody else listens there");
    daemon.end();
    assert!(!socket.exists(), "the socket goes with its daemon");
}

#[test]
fn the_page_answers_its_own_requests_only() {
    let folder = daemon_folder();
    let daemon = Daemon::start(folder.path(), &["--plugins", "plugins"]);
    let page = Session::open(&daemon);
    for path in ["/", "/page.css", "/page.js"] {
        assert_eq!(page.ask("GET", path).0, 200, "{path}");
    }
    let (_, state) = page.ask("GET", "/api/state");
    assert!(state.contains("\"controllers\":[{"), "{state}");
    let with = |more: &str| format!("Cookie: {}\r\nx-cbus-key: {}\r\n{more}", page.cookie, page.key);
    assert_eq!(http(&page.address, "GET", "/api/state", &with("Host: elsewhere.example\r\n")).0, 403);
    // The cookie alone, which every port of this machine gets, is worth nothing.
    let cookie = format!("Cookie: {}\r\n", page.cookie);
    assert_eq!(http(&page.address, "GET", "/api/state", &cookie).0, 401);
    assert_eq!(http(&page.address, "POST", "/api/plugins/unload?id=x", &cookie).0, 401);
    let (status, why) = page.ask("POST", "/api/plugins/unload?id=x");
    assert_eq!(status, 403);
    assert!(why.contains("--allow-control"), "{why}");
    daemon.end();
}

#[test]
fn the_api_is_a_controller_that_a_config_can_describe() {
    let folder = daemon_folder();
    let config = "api:\n  id: controllerbus/bus/api\n  config:\n    listen: unix:SOCKET\n    allow_exec: true\n";
    let socket = folder.path().join("api.sock");
    let config = config.replace("SOCKET", &socket.to_string_lossy());
    std::fs::write(folder.path().join("config.yaml"), config).expect("writing");
    let daemon = Daemon::start(folder.path(), &["config.yaml", "--plugins", "plugins"]);
    let found = daemon.json(&["controllers"]);
    assert_eq!(found["controllers"][0]["config_id"], "controllerbus/bus/api");
    assert_eq!(daemon.json(&["bus"])["allow_exec"], true);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let (health, services) = runtime.block_on(health_and_services(&daemon.address)).expect("answers");
    assert_eq!(health, tonic_health::ServingStatus::Serving as i32);
    assert!(services.contains(&SERVICE.to_owned()), "{services:?}");
    daemon.end();
}

const SERVICE: &str = "controllerbus.api.v1.BusApi";

/// What the health service says of the bus API, and what the reflection service knows.
async fn health_and_services(address: &str) -> Result<(i32, Vec<String>), Box<dyn std::error::Error>> {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

    let channel = tonic::transport::Endpoint::from_shared(address.to_owned())?.connect().await?;
    let asked = HealthCheckRequest { service: SERVICE.to_owned() };
    let health = HealthClient::new(channel.clone()).check(asked).await?.into_inner().status;
    let list = MessageRequest::ListServices(String::new());
    let asked = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut answers = ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::once(asked)).await?;
    let answer: Option<ServerReflectionResponse> = answers.get_mut().message().await?;
    let Some(MessageResponse::ListServicesResponse(list)) = answer.and_then(|answer| answer.message_response) else {
        return Err("no list of services".into());
    };
    Ok((health, list.service.into_iter().map(|service| service.name).collect()))
}

#[test]
fn dev_builds_runs_and_swaps_in_plain_lines_where_there_is_no_terminal() {
    let scratch = Scratch::new(&["second"]);
    std::fs::write(scratch.folder().join("second/config.yaml"), "one:\n  id: second\n").expect("writing");
    let mut daemon = Daemon::start_as(scratch.folder(), "dev", &["second"]);
    daemon.wait("ready: save a file");
    let found = daemon.json(&["controllers"]);
    assert!(found["configs"].to_string().contains("\"one\""), "its own config.yaml is taken: {found}");
    scratch.edit("second", "\"from the second\"", "\"from the second\" oops");
    daemon.wait("does not build");
    daemon.wait("oops");
    scratch.edit("second", "\"from the second\" oops", "\"from the other\"");
    daemon.wait("live in");
    daemon.end();

    let at = scratch.folder();
    fails(at, &["dev", "nowhere"], 1, "nowhere");
    fails(at, &["dev", "a.yaml"], 1, "no crate");
    fails(at, &["dev", "second", "a.yaml", "b.yaml"], 1, "more than one config file");
    fails(at, &["dev", "second", "nowhere.yaml"], 1, "nowhere.yaml");
    fails(at, &["dev"], 2, "<CRATE|CONFIG>");
}
