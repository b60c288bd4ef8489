//! `cbus run` and the commands that ask it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::Scratch;

use crate::process::{Daemon, Session, daemon_folder, http, http_whole, write_secret};
use crate::{built, cbus, fails, fine, finish};

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
    daemon.wait("was reapplied");
    let table = daemon.fine(&["controllers"]);
    assert!(table.contains("did you mean `second`?"), "{table}");
    std::fs::write(folder.path().join("config.yaml"), "one:\n  id: second\ntwo: [\n").expect("writing");
    daemon.wait("the running configuration is unchanged");
    daemon.wait("config.yaml:");
    assert_eq!(state(&daemon, "one"), "\"running\"");
    std::fs::write(folder.path().join("config.yaml"), "two:\n  id: second\n").expect("writing");
    daemon.wait("was reapplied");
    assert_eq!((state(&daemon, "one"), state(&daemon, "two")), (String::new(), "\"running\"".to_owned()));

    // A link that leads elsewhere, as deployments do it; what stands there counts, whichever revision it says.
    for revision in [5, 4] {
        let (at, next) = (format!("releases/{revision}"), folder.path().join("next"));
        std::fs::create_dir_all(folder.path().join(&at)).expect("a folder");
        let text = format!("two:\n  id: second\n  revision: {revision}\n");
        std::fs::write(folder.path().join(&at).join("config.yaml"), text).expect("writing");
        std::os::unix::fs::symlink(format!("{at}/config.yaml"), &next).expect("a link");
        std::fs::rename(next, folder.path().join("config.yaml")).expect("renaming");
        daemon.wait("was reapplied");
        let found = daemon.json(&["controllers"]);
        let two = found["configs"].as_array().and_then(|all| all.iter().find(|config| config["key"] == "two"));
        assert_eq!(two.map(|two| &two["revision"]), Some(&revision.into()), "{found}");
    }

    let bus = daemon.json(&["bus"]);
    let ids = bus["config_ids"].to_string();
    assert!(ids.contains("\"controllerbus/bus/api\"") && ids.contains("\"second\""), "{ids}");
    daemon.fails(&["unload", "secnd"], "did you mean `second`?");
    daemon.fails(&["reload", "second"], "loaded from a file");
    daemon.fails(&["fleet", "hosts"], "is in no fleet");
    daemon.fails(&["fleet", "offers"], "is in no fleet");
    let unloaded = daemon.json(&["unload", "second"]);
    assert_eq!(unloaded["unmapped"], true);
    assert_eq!(state(&daemon, "two"), "\"queued\"");
    let events = daemon.json_lines(&["logs"]);
    assert!(events.iter().any(|line| line["message"].as_str().is_some_and(|text| text.contains("unloaded"))));

    let took = daemon.end();
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn where_plugins_come_from_is_written_into_a_config_that_a_daemon_reads_by_itself() {
    let folder = daemon_folder();
    let at = folder.path();
    fails(at, &["run", "--write-config"], 1, "pass --plugins DIR or --watch CRATE too");
    std::fs::create_dir(at.join("more")).expect("a folder");
    std::fs::copy(&built().1, at.join("more/second.cbus.so")).expect("copying");
    let loaded = |mut daemon: Daemon| {
        daemon.wait("generation 1 serves");
        let found = daemon.json(&["controllers"]);
        let configs = found["configs"].as_array().expect("a list").iter();
        let loaders: Vec<_> = configs.filter(|config| config["config_id"] == "hot-runtime/folder").collect();
        assert_eq!(loaders.len(), 2, "{found}");
        assert!(loaders.iter().all(|config| config["state"] == "running"), "{found}");
        daemon
    };
    let daemon = loaded(Daemon::start(at, &["--plugins", "plugins", "--plugins", "more", "--write-config"]));
    daemon.end();
    let written = std::fs::read_to_string(at.join("cbus.yaml")).expect("the file");
    assert!(written.contains("config: {\"dir\":\"more\"}"), "{written}");
    fails(at, &["run", "--plugins", "plugins", "--write-config"], 1, "was not overwritten");
    fine(at, &["config", "check", "cbus.yaml"]);

    // It is the daemon's config from now on, and what is taken out of it is unloaded.
    let mut daemon = loaded(Daemon::start(at, &[]));
    let left = written.split("\"plugins-2\"").next().expect("a part");
    std::fs::write(at.join("cbus.yaml"), left).expect("writing");
    daemon.wait("generation 1 unloaded");
    daemon.end();
}

#[test]
fn a_watched_crate_is_swapped_in_at_a_save_and_on_request() {
    let scratch = Scratch::new(&["second"]);
    std::fs::write(scratch.folder().join("config.yaml"), "one:\n  id: second\n").expect("writing");
    let daemon = Daemon::start(scratch.folder(), &["config.yaml", "--watch", "second", "--allow-control"]);
    let mut events = cbus(Path::new("."));
    events.args(["events", "--past", "--follow", "--json", "--connect", &daemon.address]).stdout(Stdio::piped());
    let mut events = events.spawn().expect("running cbus");
    let told = BufReader::new(events.stdout.take().expect("its output")).lines();
    let mut told = told.map(|line| serde_json::from_str::<serde_json::Value>(&line.expect("text")).expect("JSON"));
    let mut wait = |kind: &str| told.find(|event| event["kind"] == kind).expect("the daemon goes on");
    wait("build_started");
    wait("swapped");

    scratch.edit("second", "\"from the second\"", "\"from the second\" oops");
    assert!(wait("build_failed")["text"].as_str().is_some_and(|text| text.contains("oops")));
    let table = daemon.fine(&["plugins"]);
    assert!(table.contains("the last change was not applied"), "{table}");
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
    let past = daemon.json_lines(&["events", "--past"]);
    let told = past.iter().map(|event| event["kind"].as_str().expect("a kind")).collect::<Vec<_>>();
    assert!(told.starts_with(&["build_started", "built", "swapped"]), "{told:?}");
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
    std::fs::write(&bad, "other:\n  id: secnd\n").expect("writing");
    daemon.fails(&["exec", "-f", &bad.to_string_lossy()], "other is not running: no controller of that id is loaded");
    assert!(daemon.fine(&["exec", "--remove", "other"]).contains("other removed"));
    daemon.fails(&["exec", "--remove", "none"], "there is no config none");
    assert!(daemon.fine(&["exec", "--remove", "one"]).contains("one removed"));
    daemon.end();
}

#[test]
fn a_directive_of_a_plugin_is_asked_in_json_and_a_mistake_in_it_is_told() {
    let folder = daemon_folder();
    std::fs::copy(&built().1, folder.path().join("plugins/second.cbus.so")).expect("copying");
    let daemon = Daemon::start(folder.path(), &["config.yaml", "--plugins", "plugins"]);
    daemon.fails(&["ask", "second/ask", "{\"nonce\":1}"], "--allow-exec");
    daemon.end();

    let daemon = Daemon::start(folder.path(), &["config.yaml", "--plugins", "plugins", "--allow-exec"]);
    assert_eq!(daemon.fine(&["ask", "second/ask", "{\"nonce\":1}"]), "\"from the second\"\n");
    let lines = daemon.json_lines(&["ask", "second/ask", "{\"nonce\":1}"]);
    assert_eq!(lines[0]["kind"], "added");
    assert_eq!(lines[0]["content"], "from the second");
    assert_eq!(lines.last().expect("a line")["kind"], "idle");
    daemon.fails(&["ask", "second/aks", "{}"], "did you mean `second/ask`?");
    daemon.fails(&["ask", "second/ask", "{nonce"], "the fields are not JSON");
    daemon.fails(&["ask", "second/ask", "{\"nonce\":\"one\"}"], "nonce");
    // Without its field.
    daemon.fails(&["ask", "second/ask"], "Second");
    // A directive of the daemon's own, all of whose fields have defaults.
    assert!(daemon.fine(&["ask", "controllerbus/list-controllers"]).contains("second"));

    let mut watching = cbus(folder.path());
    watching.args(["ask", "second/ask", "{\"nonce\":2}", "--watch", "--connect", &daemon.address]);
    let mut watching = watching.stdout(std::process::Stdio::piped()).spawn().expect("running cbus");
    let mut lines = BufReader::new(watching.stdout.take().expect("its output")).lines();
    let mut next = || lines.next().expect("a line").expect("reading");
    let added = next();
    assert!(added.starts_with("added #") && added.ends_with(" \"from the second\""), "{added}");
    let number = added.split_whitespace().nth(1).expect("its number").to_owned();
    std::fs::write(folder.path().join("config.yaml"), "{}\n").expect("nobody answers any more");
    assert_eq!(next(), format!("removed {number}"));
    watching.kill().expect("ending it");
    watching.wait().expect("it has ended");
    daemon.end();
}

#[test]
fn two_plugins_that_mean_different_things_by_one_directive_are_told_and_each_validates_what_it_is_asked() {
    let folder = daemon_folder();
    let at = folder.path();
    std::fs::copy(&built().1, at.join("plugins/second.cbus.so")).expect("copying");
    let scratch = Scratch::new(&["second"]);
    scratch.amend("second", "name = \"second\"", "name = \"third\"");
    scratch.edit("second", "config(id = \"second\")", "config(id = \"third\")");
    scratch.edit("second", "hot_plugin(id = \"second\"", "hot_plugin(id = \"third\"");
    scratch.edit("second", "pub nonce: u64", "pub nonce: String");
    scratch.edit("second", "value = Answer)", "value = Answer, validate = Second::check)");
    let check = "impl Second {\n    fn check(&self) -> Result<()> {\n        let asks = !self.nonce.is_empty();\n        \
                 asks.then_some(()).ok_or_else(|| Error::msg(\"it asks nothing\"))\n    }\n}\n\n/// What the controller says.";
    scratch.edit("second", "/// What the controller says.", check);
    let file = at.join("plugins/third.cbus.so");
    let mut build = cbus(scratch.folder());
    build.args(["build", "second", "-o"]).arg(file).env("CBUS_WORK_DIR", tests::work_dir().join("cbus-third"));
    let built = crate::said(build.output().expect("running cbus"));
    assert_eq!(built.code, Some(0), "{}", built.err);

    std::fs::write(at.join("third.yaml"), "one:\n  id: third\n").expect("writing");
    let checked = crate::run(at, &["config", "check", "third.yaml", "--plugins", "plugins"]);
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    let differs = "the directive `second/ask` is `third::Second` here and `second::Second` in the plugin `second`, and `nonce` is text \
                   here and a whole number there; give both types the same fields";
    assert!(checked.err.contains(&format!("warning: third: {differs}")), "{}", checked.err);

    let mut daemon = Daemon::start(at, &["third.yaml", "--plugins", "plugins", "--allow-exec"]);
    let told = daemon.fine(&["plugins"]);
    assert!(told.contains(&format!("third: {differs}")), "{told}");
    daemon.fails(&["ask", "second/ask", "{\"nonce\":\"\"}"], "directive second/ask is not valid: it asks nothing");
    assert_eq!(daemon.fine(&["ask", "second/ask", "{\"nonce\":\"one\"}"]), "\"from the second\"\n");
    assert_eq!(daemon.fine(&["ask", "second/ask", "{\"nonce\":\"two\"}", "--once"]), "\"from the second\"\n");
    let logged = "the directive `second/ask` is";
    if !daemon.said.iter().any(|line| line.contains(logged)) {
        daemon.wait(logged);
    }
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
    let told = fails(at, &listen, 1, "the address is in use");
    assert!(!told.contains("WARN"), "it is told once: {told}");
    fails(at, &["run", "--plugins", "plugins", "--listen", "unix:bad.yaml/s"], 1, "is a file, not a directory");
    fails(at, &["run", "--plugins", "plugins", "--listen", "0.0.0.0:0"], 1, "--token-file");
    fails(at, &["run", "--plugins", "plugins", "--token-file", "none", "--listen", "0.0.0.0:0"], 1, "none");
    std::fs::write(at.join("short"), "secret").expect("writing");
    fails(
        at,
        &["run", "--plugins", "plugins", "--token-file", "short", "--listen", "0.0.0.0:0"],
        1,
        "at least 16 are required",
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
    fails(at, &["bus", "--connect", &address], 1, "a token is required");
    fails(at, &["bus", "--connect", &address, "--token-file", "wrong"], 1, "the token is not valid");
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
    fails(at, &["run", "--plugins", "plugins", "--listen", &listen], 1, "the address is in use");
    daemon.end();
    assert!(!socket.exists(), "the socket goes with its daemon");
}

#[test]
fn the_page_answers_its_own_requests_only() {
    let folder = daemon_folder();
    let daemon = Daemon::start(folder.path(), &["--plugins", "plugins"]);
    let page = Session::open(&daemon);
    for path in ["/", "/page.css", "/page.js", "/state.js"] {
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
    for change in ["unload?id=x", "reload?id=x", "rollback?id=x", "rollback?id=x&build=12ab"] {
        let (status, why) = page.ask("POST", &format!("/api/plugins/{change}"));
        assert_eq!(status, 403, "{change}");
        assert!(why.contains("--allow-control"), "{why}");
        assert_eq!(http(&page.address, "POST", &format!("/api/plugins/{change}"), &cookie).0, 401);
    }
    daemon.end();
}

#[test]
fn a_page_is_told_the_whole_state_once_and_then_only_what_has_changed_of_it() {
    let folder = daemon_folder();
    let daemon = Daemon::start(folder.path(), &["config.yaml", "--plugins", "plugins"]);
    let page = Session::open(&daemon);
    let mut states = page.states();
    let keys =
        |state: &serde_json::Value| -> Vec<String> { state.as_object().expect("a map").keys().cloned().collect() };
    let first = states.next().expect("the state");
    let parts = ["configs", "controllers", "directives", "hosts", "info", "offers", "plugins", "rollouts"];
    assert_eq!(keys(&first), parts);
    assert!(first["configs"].to_string().contains("\"one\""), "{first}");
    // Another one is told all of it too.
    assert_eq!(keys(&page.states().next().expect("the state")), parts);
    std::fs::write(folder.path().join("config.yaml"), "two:\n  id: second\n").expect("writing");
    let changed = states.find(|state| {
        let same = ["plugins", "directives"].iter().all(|part| state.get(part).is_none());
        assert!(same, "it is told what has not changed: {state}");
        state["configs"].to_string().contains("\"two\"")
    });
    assert!(changed.is_some());
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
    daemon.wait("ready: saved changes");
    let found = daemon.json(&["controllers"]);
    assert!(found["configs"].to_string().contains("\"one\""), "its own config.yaml is taken: {found}");
    #[cfg(target_os = "linux")]
    let before = daemon.watches();
    // What lies in the crate's folder and is no source of it costs nothing.
    for at in 0..1000 {
        let folder = scratch.folder().join(format!("second/node_modules/{}/{at}", at % 10));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("index.js"), "").expect("writing");
    }
    scratch.edit("second", "\"from the second\"", "\"from the second\" oops");
    daemon.wait("does not build");
    daemon.wait("oops");
    scratch.edit("second", "\"from the second\" oops", "\"from the other\"");
    daemon.wait("live in");
    #[cfg(target_os = "linux")]
    {
        let after = daemon.watches();
        assert!((1..=50).contains(&after), "{after} watches");
        assert_eq!(after, before);
    }
    daemon.end();

    let at = scratch.folder();
    fails(at, &["dev", "nowhere"], 1, "nowhere");
    fails(at, &["dev", "a.yaml"], 1, "no crate");
    fails(at, &["dev", "second", "a.yaml", "b.yaml"], 1, "more than one config file");
    fails(at, &["dev", "second", "nowhere.yaml"], 1, "nowhere.yaml");
    fails(at, &["dev"], 2, "<CRATE|CONFIG>");
}

#[test]
fn times_are_local_and_say_their_offset() {
    let folder = daemon_folder();
    let in_zone = |command: &mut Command| {
        command.env("TZ", "XST-5:30");
    };
    let daemon = Daemon::start_with(folder.path(), "run", &["--plugins", "plugins"], in_zone);
    let own = daemon.said.first().expect("a line");
    let stamp = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    assert!(stamp(own).ends_with("+05:30"), "{own}");
    // Each command has the zone of who reads it.
    let mut logs = cbus(folder.path());
    let told = finish(logs.args(["logs", "--tail", "5000", "--connect", &daemon.address]).env("TZ", "UTC")).out;
    let line = told.lines().next().expect("a line");
    assert!(stamp(line).ends_with("+00:00"), "{line}");
    let same = |stamp: &str| stamp.parse::<jiff::Timestamp>().expect("RFC 3339");
    assert_eq!(same(&stamp(own)), same(&stamp(line)), "{own}\n{line}");
}
