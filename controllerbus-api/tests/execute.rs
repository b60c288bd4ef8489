//! Running config sets over the API: what clients are told, and who keeps a controller running.

#![cfg(unix)]

use controllerbus::prelude::*;
use controllerbus_api::proto::{AskRequest, Config as Shown, ExecuteRequest, ExecuteResponse, RemoveConfigsRequest};
use controllerbus_api::{Address, ApiConfig, Connection, Host, client::Client};
use tokio_stream::StreamExt;

/// Fails as soon as it is executed.
struct Failing;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "failing")]
struct FailingConfig {}

#[hot_plugin(id = "failing", version = "1.0.0")]
impl Controller for Failing {
    type Config = FailingConfig;

    async fn construct(_: FailingConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    async fn execute(&self, _: &Context) -> Result<()> {
        Err(Error::msg("the disk is full"))
    }
}

/// Runs.
struct Quiet;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "quiet")]
struct QuietConfig {
    #[serde(default)]
    room: String,
}

#[hot_plugin(id = "quiet", version = "1.0.0")]
impl Controller for Quiet {
    type Config = QuietConfig;

    async fn construct(_: QuietConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }
}

struct Served {
    host: std::sync::Arc<Host>,
    client: Client,
    _folder: tempfile::TempDir,
}

async fn served() -> Served {
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("unix:{}", folder.path().join("bus.sock").display());
    let host = Host::new(Bus::new());
    host.serve(ApiConfig::at(&address).allow_exec(true)).await.expect("serving");
    let address: Address = address.parse().expect("an address");
    let client = Connection::to(address).expect("an address").connect().await.expect("connecting");
    Served { host, client, _folder: folder }
}

impl Served {
    async fn execute(&self, set: &str, attach: bool) -> tonic::Streaming<ExecuteResponse> {
        let request = ExecuteRequest { config_set: set.to_owned(), name: "set.yaml".to_owned(), attach };
        self.client.clone().execute(request).await.expect("executing").into_inner()
    }

    /// What the bus's controller of a key is, if there is one.
    fn running(&self, key: &str) -> Option<u64> {
        let config = self.host.bus.config(key)?;
        match config.state {
            controllerbus::bus::RunState::Running(id) => Some(id.0),
            _ => None,
        }
    }
}

/// Waits until an attached client is told that its only config runs; by which controller.
async fn until_running(told: &mut tonic::Streaming<ExecuteResponse>) -> u64 {
    loop {
        let response = told.next().await.expect("it is attached").expect("no error");
        if let [Shown { state, controller, .. }] = &response.configs[..]
            && state == "running"
        {
            return *controller;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_attached_is_told_of_an_execution_that_fails_at_once() {
    let served = served().await;
    for round in 0..50 {
        let mut told = served.execute(&format!("once-{round}: {{ id: failing }}"), false).await;
        let mut last = ExecuteResponse::default();
        while let Some(response) = told.next().await {
            last = response.expect("no error");
        }
        let [config] = &last.configs[..] else { panic!("{last:?}") };
        assert_eq!((&*config.state, &*config.error), ("failed", "the disk is full"), "round {round}");
    }
    let mut told = served.execute("good: { id: quiet }\nnone: { id: unknown }", false).await;
    let mut last = ExecuteResponse::default();
    while let Some(response) = told.next().await {
        last = response.expect("no error");
    }
    let states: Vec<_> = last.configs.iter().map(|config| (&*config.key, &*config.state)).collect();
    assert_eq!(states, [("good", "running"), ("none", "queued")]);
    served.host.bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_attached_clients_share_a_controller_and_the_last_one_out_stops_it() {
    let served = served().await;
    let (mut first, mut second) =
        (served.execute("lamp: { id: quiet }", true).await, served.execute("lamp: { id: quiet }", true).await);
    let controller = until_running(&mut first).await;
    assert_eq!(until_running(&mut second).await, controller);
    let mut changes = served.host.bus.changes();
    // Whether its owner has gone shows in how many have applied the key.
    drop(first);
    while served.host.bus.config("lamp").is_some_and(|config| !config.candidates.is_empty()) {
        changes.changed().await.expect("the bus goes on");
    }
    assert_eq!(served.running("lamp"), Some(controller), "the other client has it");
    drop(second);
    while served.host.bus.config("lamp").is_some() {
        changes.changed().await.expect("the bus goes on");
    }
    served.host.bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_leaves_goes_back_to_what_was_there_before_it() {
    let served = served().await;
    let file = served.host.bus.config_owner();
    let set = |text: &str| ConfigSet::from_yaml(text).expect("a set");
    file.apply(set("lamp: { id: quiet, config: { room: hall } }")).await.expect("applying");
    let before = served.running("lamp").expect("it runs");
    let mut attached = served.execute("lamp: { id: quiet, revision: 1, config: { room: attic } }", true).await;
    assert_ne!(until_running(&mut attached).await, before);
    let mut changes = served.host.bus.changes();
    drop(attached);
    while served.host.bus.config("lamp").is_some_and(|config| config.revision == 1) {
        changes.changed().await.expect("the bus goes on");
    }
    assert!(served.host.bus.config("lamp").is_some(), "the file's is there");

    // Removing a key removes it for all, whoever applied it.
    let removed = RemoveConfigsRequest { keys: vec!["lamp".to_owned(), "none".to_owned()] };
    let removed = served.client.clone().remove_configs(removed).await.expect("removing").into_inner().removed;
    assert_eq!(removed, ["lamp"]);
    assert!(served.host.bus.config("lamp").is_none());
    served.host.bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_controller_resolves_is_refused_once_none_is_about_to_run() {
    let served = served().await;
    let late = ConfigSet::from_yaml("late: { id: unknown }").expect("a set");
    served.host.bus.apply(late).await.expect("applying");
    let request = AskRequest { directive: "unknown/ask".to_owned(), ..AskRequest::default() };
    let mut client = served.client.clone();
    let mut asking = tokio::spawn(async move { client.ask(request).await.map(drop) });
    let early = tokio::time::timeout(std::time::Duration::from_millis(500), &mut asking).await;
    assert!(early.is_err(), "the controller of `late` may resolve it: {early:?}");
    assert!(served.host.bus.remove_config("late").await);
    let refusal = asking.await.expect("no panic").expect_err("nobody resolves it");
    assert_eq!(refusal.code(), tonic::Code::NotFound, "{refusal}");
    served.host.bus.close().await;
}
