//! The plugin boundary with the engine in the host: it turns on features of stabby for all of the program, and none of the plugin.

use controllerbus::prelude::*;
use hot_runtime::{HotRuntime, RuntimeEvent, Trust};
use serde_json::json;
use tests::{Ask, ask, nonce, wait_for};
use zenoh_tests::directives::Greet;
use zenoh_tests::places::socket;

/// Unused but for its features: the program has to be what a daemon with a fleet is.
fn engine(place: &str, host: &str, more: serde_json::Value) -> controllerbus_fleet::config::FleetConfig {
    let mut config = json!({ "name": "shop", "host": host });
    config[if host == "hub" { "listen" } else { "connect" }] = json!([place]);
    for (name, value) in more.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    serde_json::from_value(config).expect("a config")
}

/// The generation that came to serve.
fn swapped(event: &RuntimeEvent) -> Option<u64> {
    match event {
        RuntimeEvent::BuildFailed { rendered, .. } => panic!("it is not built: {rendered}"),
        RuntimeEvent::Refused { .. } => panic!("it is refused: {event:?}"),
        _ => tests::swapped(event),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_was_built_without_the_engine_is_loaded_into_a_host_that_has_it_and_answers_over_the_fleet() {
    let scratch = tests::Scratch::new(&["probe"]);
    let folder = tempfile::tempdir().expect("a folder");
    let place = socket(folder.path());
    let (here, there) = (Bus::new(), tests::host("probe: { id: probe, config: { mode: ok } }").await);
    let (listener, mut told) = tests::events();
    let runtime = HotRuntime::builder(&there)
        .trust(Trust::anyone())
        .watch(scratch.path("probe"))
        .work_dir(folder.path().join("work"))
        // Where all tests build plugins, so that their dependencies are compiled once.
        .target_dir(tests::target_dir())
        .on_event(listener)
        .start()
        .await
        .expect("it starts");
    wait_for(&mut told, swapped).await;
    assert_eq!(ask(&there, "sentence").await.expect("an answer"), "first");

    let offers = json!({ "offers": ["probe/ask"] });
    let hub = controllerbus_zenoh::join(&there, engine(&place, "hub", offers)).await.expect("it joins");
    let asks = json!({ "asks": ["probe/ask"] });
    let host = controllerbus_zenoh::join(&here, engine(&place, "a", asks)).await.expect("it joins");
    assert_eq!(ask(&here, "sentence").await.expect("an answer"), "first");

    // A swap there is a change of values here.
    let mut standing = here.request(Ask { what: "sentence".to_owned(), nonce: nonce() }).expect("a request");
    assert_eq!(standing.value().await.expect("a value").0, "first");
    scratch.edit("probe", "\"first\"", "\"second\"");
    wait_for(&mut told, swapped).await;
    let second = here.resolve(Ask { what: "sentence".to_owned(), nonce: nonce() });
    let second = second.matching(|answer| answer.0 == "second").within(std::time::Duration::from_secs(20));
    second.await.expect("the new code's answer");
    assert!(here.try_resolve(Greet { name: "Ada".into() }).await.expect("no error").is_none());
    host.leave().await;
    hub.leave().await;
    runtime.shutdown().await;
}
