//! A hub's access rules against programs that use the engine by themselves, with the certificate of a host: each rule allowed and
//! refused.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use controllerbus_fleet::carrier::Peer;
use controllerbus_zenoh::{Ended, Zenoh};
use serde_json::json;
use tempfile::TempDir;
use zenoh::query::{ConsolidationMode, QueryTarget};
use zenoh::{Session, Wait};
use zenoh_tests::certificates::Authority;
use zenoh_tests::places::free_address;

const POLICY: &str = "
hosts: [edge-1, edge-2]
edge: { hosts: ['edge-*'], ask: [example/greet], offer: ['inventory/**'] }
core: { hosts: [core], ask: ['**'], offer: [payments/charge] }
watchers: { hosts: [watcher], hub: true }
";

/// What a host may look for, beside who is there.
const OFFERS: &str = "@cbus/1/shop/offer/*/*/payments/charge";

/// A hub with rules.
struct Hub {
    authority: Authority,
    place: String,
    _hub: (Arc<Zenoh>, Ended),
    _folder: TempDir,
}

impl Hub {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new(folder.path(), "shop");
        let place = free_address();
        let policy = folder.path().join("policy.yaml");
        std::fs::write(&policy, POLICY).expect("a file");
        let tls = authority.host("hub", "127.0.0.1");
        let config = json!({ "name": "shop", "listen": [place], "tls": tls, "access": policy });
        let config = serde_json::from_value(config).expect("a config");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let hub =
            runtime.block_on(Zenoh::open(&config, Peer { host: "hub".into(), epoch: 1 }, None)).expect("it opens");
        Self { authority, place, _hub: hub, _folder: folder }
    }

    /// The engine by itself, with a host's certificate.
    fn session(&self, host: &str) -> Session {
        let tls = self.authority.host(host, "127.0.0.1");
        let settings = json!({
            "mode": "client",
            "connect": { "endpoints": [format!("tls/{}", self.place)], "timeout_ms": 5000 },
            "scouting": { "multicast": { "enabled": false }, "gossip": { "enabled": false } },
            "transport": { "link": { "tls": {
                "root_ca_certificate": tls["ca"], "connect_certificate": tls["cert"], "connect_private_key": tls["key"], "enable_mtls": true,
            } } },
        });
        zenoh::open(zenoh::Config::from_json5(&settings.to_string()).expect("settings")).wait().expect("a session")
    }
}

/// What somebody has heard, by name.
type Heard = Arc<Mutex<Vec<String>>>;

fn until(heard: &Heard, what: &str) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !heard.lock().expect("what was heard").iter().any(|found| found == what) {
        assert!(Instant::now() < limit, "{what} is not heard: {:?}", heard.lock());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything of a fleet that a session is told: frames, and tokens.
fn listen(session: &Session, frames: &str, present: &str) -> (Heard, Box<dyn Send>) {
    let heard = Heard::default();
    let (puts, tokens) = (Arc::clone(&heard), Arc::clone(&heard));
    let subscriber = session.declare_subscriber(frames.to_owned()).callback(move |sample| {
        puts.lock().expect("what was heard").push(format!("put {}", sample.key_expr()));
    });
    let subscriber = subscriber.wait().expect("a subscriber");
    let watch = session.liveliness().declare_subscriber(present.to_owned()).history(true).callback(move |sample| {
        tokens.lock().expect("what was heard").push(format!("{} {}", sample.kind(), sample.key_expr()));
    });
    (heard, Box::new((subscriber, watch.wait().expect("a watch"))))
}

/// Puts until the first is heard: a subscription takes its time to get around.
fn begin(session: &Session, heard: &Heard, key: &str) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !heard.lock().expect("what was heard").iter().any(|found| *found == format!("put {key}")) {
        assert!(Instant::now() < limit, "{key} is not heard");
        session.put(key.to_owned(), "").wait().expect("it is put");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_host_speaks_for_itself_about_what_its_role_names() {
    let hub = Hub::new();
    let watcher = hub.session("watcher");
    let (heard, _listens) = listen(&watcher, "@cbus/1/shop/to/**", "@cbus/1/shop/**");
    let host = hub.session("edge-1");
    let key = |rest: &str| format!("@cbus/1/shop/to/core/0000000000000001/{rest}");
    begin(&host, &heard, &key("edge-1/0000000000000001/link"));
    let cases = [
        ("edge-1/0000000000000001/dir/example/greet", true),
        ("edge-1/0000000000000001/dir/inventory/stock", true),
        ("edge-1/0000000000000001/dir/inventory/a/b", true),
        ("edge-1/0000000000000001/dir/payments/charge", false),
        ("edge-1/0000000000000001/dir/inventory", false),
        ("edge-2/0000000000000001/link", false),
        ("edge-2/0000000000000001/dir/example/greet", false),
        ("core/0000000000000001/dir/example/greet", false),
    ];
    for (rest, _) in cases {
        host.put(key(rest), "").wait().expect("it is put");
    }
    // What was put before it has been let through or thrown away when this one arrives.
    let last = key("edge-1/0000000000000002/link");
    host.put(last.clone(), "").wait().expect("it is put");
    until(&heard, &format!("put {last}"));
    let heard = heard.lock().expect("what was heard");
    for (rest, allowed) in cases {
        assert_eq!(heard.contains(&format!("put {}", key(rest))), allowed, "{rest}");
    }
}

#[test]
fn a_host_announces_itself_and_offers_what_its_role_names() {
    let hub = Hub::new();
    let watcher = hub.session("watcher");
    let (heard, _listens) = listen(&watcher, "@cbus/1/shop/to/**", "@cbus/1/shop/**");
    let host = hub.session("edge-1");
    let cases = [
        ("up/edge-1/0000000000000001", true),
        ("offer/edge-1/0000000000000001/inventory/stock", true),
        ("offer/edge-1/0000000000000001/example/greet", false),
        ("offer/edge-1/0000000000000001/payments/charge", false),
        ("offer/edge-2/0000000000000001/inventory/stock", false),
        ("up/edge-2/0000000000000001", false),
        ("up/hub/0000000000000001", false),
    ];
    let declare = |rest: &str| host.liveliness().declare_token(format!("@cbus/1/shop/{rest}")).wait().expect("a token");
    let _tokens: Vec<_> = cases.iter().map(|(rest, _)| declare(rest)).collect();
    let _last = declare("up/edge-1/0000000000000002");
    until(&heard, "PUT @cbus/1/shop/up/edge-1/0000000000000002");
    let heard = heard.lock().expect("what was heard");
    for (rest, allowed) in cases {
        assert_eq!(heard.contains(&format!("PUT @cbus/1/shop/{rest}")), allowed, "{rest}");
    }
}

#[test]
fn a_host_hears_what_is_for_it_and_who_is_there() {
    let hub = Hub::new();
    let (one, two) = (hub.session("edge-1"), hub.session("edge-2"));
    let (own, _own) = listen(&one, "@cbus/1/shop/to/edge-1/0000000000000001/**", OFFERS);
    let (others, _others) = listen(&one, "@cbus/1/shop/to/edge-2/0000000000000001/**", OFFERS);
    // In a session of its own: what a session is sent, all its subscribers hear.
    let greedy = hub.session("edge-1");
    let (all, _all) = listen(&greedy, "@cbus/1/shop/to/**", "@cbus/1/shop/**");
    let core = hub.session("core");
    begin(&core, &own, "@cbus/1/shop/to/edge-1/0000000000000001/core/0000000000000001/link");
    let (at_two, _two) = listen(&two, "@cbus/1/shop/to/edge-2/0000000000000001/**", OFFERS);
    begin(&core, &at_two, "@cbus/1/shop/to/edge-2/0000000000000001/core/0000000000000001/link");
    let _token = core
        .liveliness()
        .declare_token("@cbus/1/shop/offer/core/0000000000000001/payments/charge")
        .wait()
        .expect("a token");
    until(&own, "PUT @cbus/1/shop/offer/core/0000000000000001/payments/charge");
    begin(&core, &at_two, "@cbus/1/shop/to/edge-2/0000000000000001/core/0000000000000001/dir/a");
    let all = all.lock().expect("what was heard");
    assert!(all.is_empty(), "{all:?}");
    let others = others.lock().expect("what was heard");
    assert!(!others.iter().any(|found| found.starts_with("put ")), "{others:?}");
}

#[test]
fn a_program_queries_what_its_role_may_ask_and_answers_what_it_may_offer() {
    let hub = Hub::new();
    let (edge, core) = (hub.session("edge-1"), hub.session("core"));
    let answers = |session: &Session, id: &str| {
        let key = format!("@cbus/1/shop/ask/{id}");
        let own = key.clone();
        let callback = move |query: zenoh::query::Query| drop(query.reply(own.clone(), "yes").wait());
        session.declare_queryable(key).callback(callback).wait().expect("a queryable")
    };
    let _may = (answers(&edge, "inventory/stock"), answers(&core, "payments/charge"));
    let _may_not = (answers(&edge, "example/greet"), answers(&core, "inventory/stock"));
    let query = |session: &Session, id: &str| {
        let query = session.get(format!("@cbus/1/shop/ask/{id}")).target(QueryTarget::All);
        let replies =
            query.consolidation(ConsolidationMode::None).timeout(Duration::from_secs(5)).wait().expect("a query");
        replies.into_iter().filter(|reply| reply.result().is_ok()).count()
    };
    let limit = Instant::now() + Duration::from_secs(30);
    while query(&core, "inventory/stock") == 0 {
        assert!(Instant::now() < limit, "it is not answered");
    }
    // Not by itself, which may not offer it, over the hub; its own session's queryable is not the hub's affair.
    assert_eq!(query(&hub.session("core"), "inventory/stock"), 1);
    assert_eq!(query(&hub.session("core"), "example/greet"), 0);
    assert_eq!(query(&hub.session("core"), "payments/charge"), 1);
    assert_eq!(query(&hub.session("edge-2"), "payments/charge"), 0);
    assert_eq!(query(&hub.session("edge-2"), "inventory/stock"), 0);
}

#[test]
fn a_program_without_a_role_is_nobody() {
    let hub = Hub::new();
    let watcher = hub.session("watcher");
    let (heard, _listens) = listen(&watcher, "@cbus/1/shop/to/**", "@cbus/1/shop/**");
    let stranger = hub.session("stranger");
    let (told, _told) = listen(&stranger, "@cbus/1/shop/to/stranger/**", "@cbus/1/shop/**");
    stranger.put("@cbus/1/shop/to/core/0000000000000001/stranger/0000000000000001/link", "").wait().expect("it is put");
    let _token =
        stranger.liveliness().declare_token("@cbus/1/shop/up/stranger/0000000000000001").wait().expect("a token");
    let host = hub.session("edge-1");
    let _up = host.liveliness().declare_token("@cbus/1/shop/up/edge-1/0000000000000001").wait().expect("a token");
    until(&heard, "PUT @cbus/1/shop/up/edge-1/0000000000000001");
    begin(&host, &heard, "@cbus/1/shop/to/stranger/0000000000000001/edge-1/0000000000000001/link");
    let heard = heard.lock().expect("what was heard");
    assert!(
        !heard.iter().any(|found| found.contains("/stranger/0000000000000001/link") && found.contains("to/core")),
        "{heard:?}"
    );
    assert!(!heard.iter().any(|found| found.contains("up/stranger")), "{heard:?}");
    let told = told.lock().expect("what was told");
    assert!(told.iter().all(|found| found.contains("up/stranger")), "{told:?}");
}
