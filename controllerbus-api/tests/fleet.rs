//! A daemon that is in a fleet, as its API, its page and its metrics tell of it. The fleet is one of this test's own.
#![cfg(unix)]

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use controllerbus::prelude::*;
use controllerbus_api::fleet::{HOSTS, OFFERS};
use controllerbus_api::proto::{AskRequest, AskResponse};
use controllerbus_api::{ApiConfig, Connection, Host};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;

/// How the link to the other host is.
static LINK: LazyLock<watch::Sender<&str>> = LazyLock::new(|| watch::channel("up").0);

/// The bytes that were sent: they grow whenever somebody asks.
static SENT: AtomicU64 = AtomicU64::new(0);

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/fleet/hosts", value = Value)]
struct Hosts {}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/fleet/offers", value = Value)]
struct Offers {
    #[serde(default)]
    id: Option<String>,
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "controllerbus/fleet/counts", value = Value, once)]
struct Counts {}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "controllerbus/fleet")]
struct FleetConfig {}

struct Fleet;

#[hot_plugin(id = "controllerbus/fleet", version = "1.0.0")]
impl Controller for Fleet {
    type Config = FleetConfig;

    async fn construct(_: FleetConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn hosts(&self, _: Hosts, values: Values<Value>) -> Result<()> {
        values.add(
            json!({ "host": "here", "epoch": "1", "own": true, "link": "up", "new": "what only newer ones know" }),
        );
        let (mut other, mut link) = (values.slot(), LINK.subscribe());
        loop {
            let now = *link.borrow_and_update();
            other.set(json!({ "host": "there", "epoch": "2", "link": now, "labels": { "role": "edge" } }));
            values.idle();
            if link.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    #[resolves]
    async fn offers(&self, _: Offers, values: Values<Value>) -> Result<()> {
        values.add(json!({ "id": "example/greet", "host": "there", "asks": 3 }));
        Ok(())
    }

    #[resolves]
    async fn counts(&self, _: Counts, values: Values<Value>) -> Result<()> {
        let sent = SENT.fetch_add(1000, Ordering::SeqCst) + 1000;
        values.add(json!({ "links": 1, "hosts": 2, "lost": 4, "sent_bytes": sent }));
        Ok(())
    }
}

/// What a daemon answers at its socket.
async fn get(socket: &std::path::Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.expect("connecting");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asking");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.to_owned()
}

/// The state that a new page gets, once it is so.
async fn state(socket: &std::path::Path, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let asking = async {
        while !is_so(&last) {
            let body = get(socket, "/api/state").await;
            // It may come in chunks, between which their lengths stand.
            let text: String = body.lines().filter(|line| u64::from_str_radix(line.trim(), 16).is_err()).collect();
            last = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {body}"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), asking).await.is_err() {
        panic!("{last:#}");
    }
    last
}

/// What they are told never is more than what was counted.
async fn several_scrape_at_a_time(socket: &std::path::Path) {
    let scrapers: Vec<_> = (0..8)
        .map(|_| {
            let socket = socket.to_owned();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let metrics = get(&socket, "/metrics").await;
                    let line = metrics.lines().find_map(|line| line.strip_prefix("cbus_fleet_sent_bytes_total "));
                    let told: u64 = line.and_then(|line| line.parse().ok()).expect("a number");
                    let sent = SENT.load(Ordering::SeqCst);
                    assert!(told <= sent, "{told} were told, and {sent} sent");
                }
            })
        })
        .collect();
    for scraper in scrapers {
        scraper.await.expect("it scraped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_of_a_daemon_is_on_its_page_in_its_metrics_and_told_to_whoever_may_look() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("bus.sock");
    let host = Host::new(Bus::new());
    let address = host.serve(ApiConfig::at(format!("unix:{}", socket.display()))).await.expect("serving");
    let to = Connection::to(address.parse().expect("an address")).expect("a socket");
    let mut client = to.connect().await.expect("connecting");

    // Without a fleet nothing is asked, and nothing is shown.
    let alone = state(&socket, |state| state["info"].is_object()).await;
    assert_eq!((&alone["hosts"], &alone["offers"]), (&json!([]), &json!([])));
    assert!(host.bus.directives().iter().all(|found| found.id != HOSTS));
    assert!(get(&socket, "/metrics").await.contains("\ncbus_fleet_links 0\n"));
    let hosts = |id: &str| AskRequest { directive: id.to_owned(), ..AskRequest::default() };

    host.bus.apply(ConfigSet::from_yaml("fleet: { id: controllerbus/fleet }").expect("a set")).await.expect("applying");
    let shown = state(&socket, |state| state["hosts"].as_array().is_some_and(|hosts| hosts.len() == 2)).await;
    assert_eq!(shown["hosts"][1]["labels"]["role"], "edge", "{shown:#}");
    assert_eq!(shown["offers"][0]["id"], "example/greet");
    LINK.send_replace("lost");
    let lost = state(&socket, |state| state["hosts"][1]["link"] == "lost").await;
    assert_eq!(lost["hosts"].as_array().map(Vec::len), Some(2), "it is told once: {lost:#}");
    let metrics = get(&socket, "/metrics").await;
    for sample in [
        "cbus_fleet_hosts 2",
        "cbus_fleet_links 1",
        "cbus_fleet_lost_links_total 4",
        "cbus_fleet_sent_bytes_total 1000",
    ] {
        assert!(metrics.contains(&format!("\n{sample}\n")), "{sample}: {metrics}");
    }

    several_scrape_at_a_time(&socket).await;

    // What is on the page may be asked, and nothing else.
    let mut told = client.ask(hosts(HOSTS)).await.expect("asking").into_inner();
    let AskResponse { kind, json, .. } = told.message().await.expect("a value").expect("a value");
    assert!(kind == "added" && json.contains("here"), "{kind} {json}");
    drop(client.ask(hosts(OFFERS)).await.expect("asking"));
    let refused = client.ask(hosts("example/greet")).await.expect_err("not allowed");
    assert!(refused.message().contains("--allow-exec"), "{refused}");

    // It leaves the fleet.
    host.bus.remove_config("fleet").await;
    state(&socket, |state| state["hosts"] == json!([])).await;
    host.bus.close().await;
}
