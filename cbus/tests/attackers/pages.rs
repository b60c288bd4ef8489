//! A page of another port, in a real browser that has the daemon's page open too, tries to reach the daemon.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::calls::calls;
use crate::process::{Daemon, Session, daemon_folder, http_with, write_secret};
use crate::webdriver::Browser;

/// Somebody's site on another port of this machine: one page, and the cookies that came with every request.
struct Site {
    address: String,
    cookies: Arc<Mutex<Vec<String>>>,
}

impl Site {
    fn open(page: String) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let cookies = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&cookies);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(&stream);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    if let Some(cookie) = line.to_ascii_lowercase().strip_prefix("cookie: ") {
                        kept.lock().expect("the list").push(cookie.trim().to_owned());
                    }
                    line.clear();
                }
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    page.len()
                );
                let _ = (&stream).write_all(format!("{head}{page}").as_bytes());
            }
        });
        Self { address, cookies }
    }
}

/// What the page does: every call with every means, against every address. What it could read, it keeps in `got`.
const ATTACK: &str = r#"<!doctype html><body><script>
window.got = []; window.tried = 0; window.done = false;
const frame = new Uint8Array([0, 0, 0, 0, 8, 10, 6, 115, 101, 99, 111, 110, 100]);  // { id: "second" } in a gRPC frame
const pause = (ms) => new Promise((later) => setTimeout(later, ms));
async function fetched(url, options) {
  window.tried++;
  try {
    const answer = await fetch(url, { ...options, signal: AbortSignal.timeout(3000) });
    if (answer.type !== "opaque" && answer.type !== "opaqueredirect") window.got.push(`${options.method} ${url}: ${answer.status}`);
  } catch { }
}
async function attack(origin, paths) {
  for (const path of paths) {
    const url = origin + path;
    const kinds = ["text/plain", "application/x-www-form-urlencoded", "application/grpc", "application/grpc-web", "multipart/form-data"];
    const all = [fetched(url, { method: "GET", mode: "no-cors", credentials: "include" }), fetched(url, { method: "GET", mode: "cors", credentials: "include" })];
    for (const kind of kinds) {
      for (const mode of ["no-cors", "cors"]) {
        all.push(fetched(url, { method: "POST", mode, credentials: "include", body: frame, headers: { "content-type": kind } }));
      }
    }
    all.push(fetched(url, { method: "POST", mode: "cors", credentials: "include", body: frame, headers: { "content-type": "application/grpc", "x-cbus-key": "none" } }));
    all.push(fetched(url, { method: "POST", mode: "no-cors", credentials: "include", body: frame }));
    navigator.sendBeacon(url, frame); window.tried++;
    const image = new Image(); image.src = url; window.tried++;
    const script = document.createElement("script"); script.src = url; document.body.append(script); window.tried++;
    for (const [method, enctype] of [["get", "text/plain"], ["post", "text/plain"], ["post", "application/x-www-form-urlencoded"], ["post", "multipart/form-data"]]) {
      const target = document.createElement("iframe"); target.name = `f${window.tried++}`; document.body.append(target);
      const form = document.createElement("form"); Object.assign(form, { method, enctype, action: url, target: target.name });
      const field = document.createElement("input"); field.name = "id"; field.value = "second"; form.append(field);
      document.body.append(form); form.submit();
    }
    try { const events = new EventSource(url, { withCredentials: true }); events.onopen = () => window.got.push(`events ${url}`); window.tried++; } catch { }
    try { const socket = new WebSocket(url.replace("http", "ws")); socket.onopen = () => window.got.push(`socket ${url}`); window.tried++; } catch { }
    await Promise.all(all);
    await pause(5);
    for (const frame of document.querySelectorAll("iframe, form, script")) frame.remove();
  }
}
(async () => { for (const origin of ORIGINS) await attack(origin, PATHS); window.done = true; })();
</script>"#;

#[test]
fn no_page_of_another_port_gets_through_by_any_means_though_the_daemons_own_page_is_open() {
    let Some(browser) = Browser::open() else { return };
    let folder = daemon_folder();
    std::fs::copy(&crate::built().1, folder.path().join("plugins/second.cbus.so")).expect("copying");
    write_secret(&folder.path().join("tokens"), "a-token-of-some-length\n");
    let listen = ["config.yaml", "--plugins", "plugins", "--listen", "127.0.0.1:0", "--token-file", "tokens"];
    let mut daemon = Daemon::start(folder.path(), &[&listen[..], &["--allow-exec", "--allow-control"]].concat());

    // The user has both pages open: the one that `cbus page` opens, and the one behind the token.
    let link = crate::fine(folder.path(), &["page", "--print", "--connect", &daemon.socket()]).trim().to_owned();
    let own = link.trim_start_matches("http://").split('/').next().expect("an address").to_owned();
    browser.call("POST", "/url", &json!({ "url": link }));
    browser.wait("document.querySelector('#link')?.innerText === 'live'");
    browser.call("POST", "/url", &json!({ "url": format!("http://{}/", daemon.address) }));
    browser.wait("document.querySelector('input[name=token]') !== null");
    browser.call("POST", "/execute/sync", &json!({
        "script": "document.querySelector('input[name=token]').value = 'a-token-of-some-length'; document.querySelector('form').submit();",
        "args": [],
    }));
    browser.wait("document.querySelector('#link')?.innerText === 'live'");

    let pages = [
        "/",
        "/api/state",
        "/api/events",
        "/metrics",
        "/login",
        "/login?code=x",
        "/resume?id=x",
        "/api/plugins/reload?id=second",
        "/api/plugins/rollback?id=second",
        "/api/plugins/unload?id=second",
        "/api/directives",
        "/api/ask",
    ];
    let paths: Vec<String> = pages.map(str::to_owned).into_iter().chain(calls()).collect();
    let ports = [&own, &daemon.address].map(|address| address.rsplit(':').next().expect("a port").to_owned());
    let origins: Vec<String> = ports
        .iter()
        .flat_map(|port| [format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}")])
        .collect();
    let page = ATTACK.replace("ORIGINS", &json!(origins).to_string()).replace("PATHS", &json!(paths).to_string());
    let site = Site::open(page);
    browser.call("POST", "/url", &json!({ "url": format!("http://{}/", site.address) }));
    browser.wait("window.done === true");
    let (tried, got) = (browser.script("window.tried"), browser.script("window.got"));
    println!("{tried} tries");
    assert!(tried.as_u64().is_some_and(|tried| tried > 1000), "{tried}");
    assert_eq!(got, json!([]), "a page of another port could read an answer");

    // Its server has got the cookies, for those know no ports. They are worth nothing.
    let cookies = site.cookies.lock().expect("the list").clone();
    assert!(cookies.iter().any(|cookie| cookie.contains("cbus-")), "{cookies:?}");
    for address in [&own, &daemon.address] {
        for cookie in &cookies {
            let stolen = Session { address: address.clone(), cookie: cookie.clone(), key: "none".to_owned() };
            for (method, path) in [
                ("GET", "/api/state"),
                ("POST", "/api/plugins/rollback?id=second"),
                ("POST", "/api/plugins/unload?id=second"),
                ("POST", "/api/ask"),
            ] {
                assert_eq!(stolen.ask(method, path).0, 401);
            }
        }
    }

    // Nothing has happened.
    let bus = crate::json(folder.path(), &["plugins", "--json", "--connect", &daemon.socket()]);
    assert_eq!((&bus[0]["state"], &bus[0]["generations"][0]["number"]), (&json!("serving"), &json!(1)));
    let configs = crate::json(folder.path(), &["controllers", "--json", "--connect", &daemon.socket()]);
    assert!(configs["configs"].to_string().contains("\"one\""), "{configs}");
    daemon.wait("opened the page");
    let changes = [
        "applies the configs",
        "removes the config",
        "reloads the plugin",
        "rolls the plugin",
        "unloads the plugin",
        "asks ",
    ];
    crate::fine(folder.path(), &["bus", "--connect", &daemon.socket()]);
    assert!(
        !daemon.said.iter().any(|line| changes.iter().any(|change| line.contains(change))),
        "{}",
        daemon.said.join("\n")
    );
    daemon.end();
}

/// What another program on the page's port answers to a page that wants the stream.
#[derive(Clone, Copy)]
enum Squatter {
    /// That it does not know the page: then it has to prove that it does.
    Refuses,
    /// A stream of its own.
    Streams,
}

/// A state that the squatter would like to be shown.
const FORGED: &str = r#"{"info":{"version":"1","process_id":1,"started_ms":1,"plugins":0,"controllers":1,"directives":0,"values":0,"configs":0,"allow_control":true,"allow_exec":true,"memory_mib":1,"folder":"/"},"controllers":{"whole":true,"items":[{"id":1,"config_id":"forged","state":"running"}]}}"#;

impl Squatter {
    fn answer(self, head: &str) -> String {
        let (status, body) = match (head.split(' ').nth(1).unwrap_or_default(), self) {
            (path, _) if path.contains("proof=") => ("200 OK", r#"{"key":"mine","proof":"00"}"#.to_owned()),
            (path, _) if path.starts_with("/resume") => ("200 OK", "ab".repeat(32)),
            (_, Self::Streams) => {
                let daemon = r#"{"process_id":1,"started_ms":1,"proof":"00","ticket":{"id":"mine","secret":"mine"}}"#;
                let logs = r#"[{"number":1,"at_ms":1,"level":"ERROR","target":"x","message":"forged","fields":""}]"#;
                // With what should be proved first, and without.
                let of = |kind: &str, data: &str| format!("event: {kind}\ndata: {data}\n\n");
                let first = if head.contains("x-cbus-nonce: 0") { String::new() } else { of("daemon", daemon) };
                ("200 OK", first + &of("logs", logs) + &of("state", FORGED))
            }
            (_, Self::Refuses) => ("401 Unauthorized", "no".to_owned()),
        };
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    }
}

/// Another program on the page's port, while there is no daemon: it answers as it likes, and writes down what it is sent.
struct Squat {
    over: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<String>>>,
    listening: std::thread::JoinHandle<()>,
    address: String,
}

impl Squat {
    fn at(address: &str, kind: Squatter) -> Self {
        let listener = TcpListener::bind(address).expect("the port that the daemon has left");
        let (over, heard) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (ends, hears) = (Arc::clone(&over), Arc::clone(&heard));
        let listening = std::thread::spawn(move || {
            let mut answering = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                // The port is free as soon as it leaves it: even of the last connection, nothing stays with the system.
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a reset");
                if ends.load(Ordering::Acquire) {
                    break;
                }
                // A browser opens more connections than it uses.
                stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a limit");
                let hears = Arc::clone(&hears);
                answering.push(std::thread::spawn(move || {
                    let mut reader = BufReader::new(&stream);
                    let mut head = String::new();
                    while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
                    if !head.ends_with("\r\n\r\n") {
                        return;
                    }
                    let _ = (&stream).write_all(kind.answer(&head).as_bytes());
                    hears.lock().expect("the list").push(head);
                    // Until it has been read.
                    let _ = std::io::Read::read(&mut reader, &mut [0]);
                }));
            }
            answering.into_iter().for_each(|answering| answering.join().expect("an answer"));
        });
        Self { over, heard, listening, address: address.to_owned() }
    }

    /// Waits until it has been sent so many requests that contain a text.
    fn wait(&self, count: usize, text: &str) {
        let begun = Instant::now();
        let found = || self.heard.lock().expect("the list").iter().filter(|head| head.contains(text)).count();
        while found() < count {
            assert!(begun.elapsed() < Duration::from_secs(60), "it was not sent {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Leaves the port; what it was sent.
    fn end(self) -> Vec<String> {
        self.over.store(true, Ordering::Release);
        drop(std::net::TcpStream::connect(&self.address));
        self.listening.join().expect("its end");
        std::mem::take(&mut self.heard.lock().expect("the list"))
    }
}

#[test]
fn whoever_takes_the_pages_port_while_the_daemon_is_away_learns_nothing_that_lets_them_in_later_and_is_not_believed() {
    let Some(browser) = Browser::open() else { return };
    let folder = daemon_folder();
    let start = || {
        Daemon::start_with(
            folder.path(),
            "run",
            &["config.yaml", "--plugins", "plugins", "--allow-control"],
            |command| {
                command.env("CBUS_NAME", "squatted");
            },
        )
    };
    let daemon = start();
    let link = crate::fine(folder.path(), &["page", "--print", "--connect", &daemon.socket()]).trim().to_owned();
    let own = link.trim_start_matches("http://").split('/').next().expect("an address").to_owned();
    browser.call("POST", "/url", &json!({ "url": link }));
    browser.wait("document.querySelector('#link')?.innerText === 'live'");
    // It has what lets it come back.
    let file = std::path::PathBuf::from(format!("{}.page", daemon.socket().trim_start_matches("unix:")));
    let secret = std::fs::read_to_string(&file).expect("the file");
    let secret =
        secret.split("\"secret\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a secret").to_owned();
    daemon.end();

    // A stream in which nobody proves anything is not shown, whether it looks like the daemon's or not.
    browser.script("window.forged = 0, new MutationObserver(() => window.forged += document.body.innerText.includes('forged')).observe(document.body, { subtree: true, childList: true, characterData: true })");
    let squat = Squat::at(&own, Squatter::Streams);
    squat.wait(4, "GET /api/events");
    browser.wait("document.querySelector('#link').innerText.startsWith('away since')");
    browser.wait("[...document.querySelectorAll('[data-act]')].every(button => button.disabled)");
    let mut heard = squat.end();
    assert_eq!(browser.script("window.forged"), json!(0));
    // The daemon is still believed.
    let daemon = start();
    browser.wait("document.querySelector('#link').innerText === 'live'");
    assert_eq!(browser.script("window.forged"), json!(0));
    // But what others may have left in the browser for its port cannot find the key.
    assert_eq!(browser.script("sessionStorage.getItem('cbus-key')"), json!(null));
    daemon.end();

    // What cannot prove that it is the daemon is not followed.
    let squat = Squat::at(&own, Squatter::Refuses);
    browser.wait("document.querySelector('#link').innerText.startsWith('signed out')");
    heard.extend(squat.end());
    assert!(heard.iter().any(|head| head.contains("proof=")), "{heard:?}");
    assert!(!heard.iter().any(|head| head.contains(&secret)), "the secret was sent");

    let mut next = start();
    // It may have said so before it was ready.
    const BACK: &str = "open pages come back at port";
    if !next.said.iter().any(|line| line.contains(BACK)) {
        next.wait(BACK);
    }
    let link = crate::fine(folder.path(), &["page", "--print", "--connect", &next.socket()]).trim().to_owned();
    assert!(!link.contains(&own), "a new session begins on a port that nobody could know: {link}");
    let login = link.trim_start_matches("http://").split_once('/').expect("a link").1;
    for path in crate::rules::ASSETS.into_iter().chain(["/login", &format!("/{login}")]) {
        let (status, said) = http_with(&own, "GET", path, "", "");
        assert!(status == 410 && said.contains("cbus page") && !said.contains("<script"), "{path}: {status} {said}");
    }
    let of = |head: &str, name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
        line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    for head in &heard {
        let stolen = Session { address: own.clone(), cookie: of(head, "cookie"), key: of(head, "x-cbus-key") };
        assert_eq!(stolen.ask("GET", "/api/state").0, 401, "{head}");
        let path = head.split(' ').nth(1).unwrap_or_default();
        if path.starts_with("/resume") && path.contains("proof=") {
            assert_eq!(stolen.ask("POST", path).0, 401, "{path}");
            // Nor is the proof good for the daemon's own number.
            let id = path.split("id=").nth(1).and_then(|rest| rest.split('&').next()).expect("an id");
            assert_eq!(stolen.ask("POST", &format!("/resume?id={id}")).0, 200);
            assert_eq!(stolen.ask("POST", path).0, 401, "{path}");
        }
    }
    next.end();
}
