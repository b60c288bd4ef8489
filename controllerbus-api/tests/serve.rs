//! A program that serves the API of its bus, and a client of it.
#![cfg(unix)]

use controllerbus::Bus;
use controllerbus_api::proto::{
    ExecuteRequest, Generation, GetInfoRequest, ListControllersRequest, Plugin, UnloadPluginRequest, WatchLogsRequest,
};
use controllerbus_api::{ApiConfig, CONFIG_ID, Connection, Host, logs};
use hot_runtime::{HotRuntime, Trust};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_serves_its_bus_and_a_client_asks_for_it() {
    let folder = tempfile::tempdir().expect("a directory");
    let host = Host::new(Bus::new());
    let log = logs::layer(&host.journal, "info".parse().expect("a filter"), |_| {});
    tracing_subscriber::registry().with(log).init();
    let runtime = HotRuntime::builder(&host.bus).plugins_dir(folder.path().join("plugins")).trust(Trust::anyone());
    let runtime = runtime.work_dir(folder.path().join("work")).on_event(host.observer()).start().await;
    host.set_runtime(runtime.expect("a runtime"));
    let config = ApiConfig::at(format!("unix:{}/bus.sock", folder.path().display()));
    let address = host.serve(config).await.expect("serving");

    let to = Connection::to(address.parse().expect("an address")).expect("a socket");
    let mut client = to.connect().await.expect("connecting");
    let info = client.get_info(GetInfoRequest {}).await.expect("info").into_inner();
    assert_eq!((info.process_id, info.allow_exec, info.allow_control), (std::process::id(), false, false));
    let found = client.list_controllers(ListControllersRequest {}).await.expect("controllers").into_inner();
    assert!(found.controllers.iter().any(|controller| controller.key == CONFIG_ID), "{found:?}");

    tracing::info!("all is well");
    let request = WatchLogsRequest { tail: 10, ..WatchLogsRequest::default() };
    let mut lines = client.watch_logs(request).await.expect("logs").into_inner();
    let mut messages = Vec::new();
    while let Some(line) = lines.message().await.expect("a line") {
        messages.push(line.message);
    }
    assert!(messages.contains(&"all is well".to_owned()), "{messages:?}");

    // What its config does not allow is refused, with what to do about it.
    let refused = client.execute(ExecuteRequest::default()).await.expect_err("not allowed");
    assert!(to.explain(&refused).to_string().contains("allow_exec"), "{refused}");
    let refused = client.unload_plugin(UnloadPluginRequest::default()).await.expect_err("not allowed");
    assert!(to.explain(&refused).to_string().contains("allow_control"), "{refused}");

    host.bus.close().await;
    let gone = to.connect().await.expect_err("nobody serves it");
    assert!(gone.to_string().contains("no daemon answers") && !gone.help().is_empty(), "{gone}");
}

#[test]
fn interface_values_and_connections_count_among_what_holds_a_generation() {
    let held =
        Generation { state: "serving".to_owned(), interfaces: 2, connections: 1, wakers: 1, ..Generation::default() };
    assert_eq!(held.leases(), 4);
    assert_eq!(held.holders().to_string(), "2 interface values, 1 connection, 1 waker");
    let draining = Generation { state: "draining".to_owned(), ..Generation::default() };
    let plugin = Plugin { generations: vec![held.clone(), draining.clone()], ..Plugin::default() };
    assert_eq!(plugin.serving(), Some(&held));
    assert!(draining.is_leaving() && !held.is_leaving());
}
