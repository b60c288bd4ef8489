//! Programs in other languages ask what a host offers, by queries of the engine.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zenoh::Wait;
use zenoh::query::{ConsolidationMode, QueryTarget};
use zenoh_tests::harness::Host;
use zenoh_tests::places::free_address;

const HOST: &str = env!("CARGO_BIN_EXE_host");

/// Two hosts that offer the tests' directives, and ask some of them of each other.
fn fleet(expose: bool) -> (String, Host, Host) {
    let place = free_address();
    let start = |name: &str, whose: &str| {
        let mut config = json!({ "name": "shop", "offers": ["test/**"], "asks": ["test/greet"], "expose": expose });
        config[whose] = json!([place]);
        Host::joined(HOST, name, config)
    };
    let (hub, host) = (start("a", "listen"), start("b", "connect"));
    (place, hub, host)
}

/// A program with the engine's own library.
fn session(place: &str) -> zenoh::Session {
    let config = json!({
        "mode": "client", "connect": { "endpoints": [format!("tcp/{place}")] }, "scouting": { "multicast": { "enabled": false } },
    });
    zenoh::open(zenoh::Config::from_json5(&config.to_string()).expect("settings")).wait().expect("a session")
}

/// What a program with the engine's own library is told: values and errors, sorted.
fn query(place: &str, id: &str, fields: &str) -> Vec<String> {
    // Until the replies are there: what a session has asked ends with it.
    let session = session(place);
    let replies = session
        .get(format!("@cbus/1/shop/ask/{id}"))
        .payload(fields)
        .target(QueryTarget::All)
        .consolidation(ConsolidationMode::None)
        .timeout(Duration::from_secs(10))
        .wait()
        .expect("a query");
    let mut told: Vec<_> = replies
        .into_iter()
        .map(|reply| match reply.result() {
            Ok(sample) => sample.payload().try_to_string().expect("a text").into_owned(),
            Err(error) => format!("error: {}", error.payload().try_to_string().expect("a text")),
        })
        .collect();
    told.sort();
    told
}

/// Asks until both hosts have declared that they answer.
fn query_both(ask: impl Fn() -> Vec<String>) -> Vec<String> {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let told = ask();
        if told.len() >= 2 || Instant::now() > limit {
            return told;
        }
    }
}

#[test]
fn a_query_is_answered_with_what_stands_at_each_host_when_it_is_idle() {
    let (place, _a, _b) = fleet(true);
    let told = query_both(|| query(&place, "test/greet", r#"{"name":"Ada"}"#));
    assert_eq!(told, [r#""a: hello Ada""#, r#""b: hello Ada""#]);
    assert_eq!(
        query(&place, "test/many", r#"{"values":3,"bytes":1}"#),
        [r#""0""#, r#""0""#, r#""1""#, r#""1""#, r#""2""#, r#""2""#]
    );
    let told = query(&place, "test/greet", r#"{"name":"wrong"}"#);
    assert_eq!(told, ["error: it is wrong", "error: it is wrong"]);
    for fields in ["{", r#"{"nome":"Ada"}"#] {
        let told = query(&place, "test/greet", fields);
        assert!(told.len() == 2 && told.iter().all(|told| told.starts_with("error: ")), "{told:?}");
    }
}

#[test]
fn queries_beyond_what_may_wait_are_refused_at_once_without_a_thread_for_each() {
    let place = free_address();
    let mut hub =
        Host::joined(HOST, "a", json!({ "name": "shop", "listen": [place], "offers": ["test/**"], "expose": true }));
    let session = session(&place);
    let limit = Instant::now() + Duration::from_secs(30);
    while query(&place, "test/greet", r#"{"name":"Ada"}"#).is_empty() {
        assert!(Instant::now() < limit, "nobody answers");
    }
    let threads = |hub: &mut Host| hub.stats()["threads"].as_u64().expect("a number");
    let (before, (told, refused)) = (threads(&mut hub), std::sync::mpsc::channel());
    for _ in 0..1024 + 300 {
        let told = told.clone();
        let query =
            session.get("@cbus/1/shop/ask/test/greet").payload(r#"{"name":"never"}"#).timeout(Duration::from_secs(60));
        let query = query.callback(move |reply| {
            let error = reply
                .result()
                .err()
                .and_then(|error| error.payload().try_to_string().ok().map(|text| text.into_owned()));
            drop(told.send(error.unwrap_or_default()));
        });
        query.wait().expect("a query");
    }
    let count = 300;
    for number in 0..count {
        let error =
            refused.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("{number} of {count} are refused"));
        assert!(error.contains("too many queries"), "{error}");
    }
    let now = threads(&mut hub);
    assert!(now <= before + 4, "{before} threads before, {now} with {count} refused");
}

#[test]
fn nothing_is_answered_unless_it_is_exposed() {
    let (place, _a, _b) = fleet(false);
    assert_eq!(query(&place, "test/greet", r#"{"name":"Ada"}"#), Vec::<String>::new());
}

const PYTHON: &str = r#"
import json, sys, zenoh
config = zenoh.Config()
config.insert_json5("mode", '"client"')
config.insert_json5("connect/endpoints", json.dumps(["tcp/" + sys.argv[1]]))
config.insert_json5("scouting/multicast/enabled", "false")
with zenoh.open(config) as session:
    replies = session.get(
        "@cbus/1/shop/ask/test/greet", payload=json.dumps({"name": "Ada"}),
        target=zenoh.QueryTarget.ALL, consolidation=zenoh.ConsolidationMode.NONE,
    )
    print(json.dumps(sorted(json.loads(reply.ok.payload.to_string()) for reply in replies)))
"#;

#[test]
fn a_program_in_python_asks() {
    let python = std::env::var("CBUS_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", "import zenoh"]).output().is_ok_and(|output| output.status.success());
    if !has {
        assert!(
            std::env::var_os("CBUS_TEST_PYTHON").is_none(),
            "{python} has no `eclipse-zenoh`, which .ci/run installs"
        );
        eprintln!(
            "skipped: {python} has no `eclipse-zenoh` (`pip install eclipse-zenoh`; `CBUS_TEST_PYTHON` names a Python that has it)"
        );
        return;
    }
    let (place, _a, _b) = fleet(true);
    let told = query_both(|| {
        let output = Command::new(&python).args(["-c", PYTHON, &place]).output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
        serde_json::from_value(told).expect("texts")
    });
    assert_eq!(told, ["a: hello Ada", "b: hello Ada"]);
}
