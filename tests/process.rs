//! Process-hosted plugins: the same artifact in a process of its own, and what becomes of it there.
#![cfg(unix)]

use std::time::Duration;

use controllerbus::prelude::*;
use hot_runtime::{HotRuntime, Isolation, ProcessOptions, RuntimeEvent};
use tests::process::{CONFIG, a_request, act, children, hazard, runs, until};
use tests::{Answer, events, nonce, wait_for, work_dir};
use tokio::sync::mpsc::UnboundedReceiver;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "host/ask", value = Answer)]
struct AskHost {
    text: String,
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "host/answers")]
struct AnswersConfig {}

struct Answers;

/// The host's own controller, which plugins ask.
#[hot_plugin(id = "host/answers", version = "1.0.0")]
impl Controller for Answers {
    type Config = AnswersConfig;

    async fn construct(_: AnswersConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn answer(&self, request: AskHost, values: Values<Answer>) -> Result<()> {
        if request.text == "fail" {
            return Err(Error::msg("the host was told to fail"));
        }
        values.add(Answer(format!("the host says {}", request.text)));
        Ok(())
    }
}

struct Host {
    bus: Bus,
    runtime: HotRuntime,
    told: UnboundedReceiver<RuntimeEvent>,
    _folder: tempfile::TempDir,
}

impl Host {
    /// A host with the fixture in a process of its own.
    async fn new(options: ProcessOptions) -> Self {
        Self::with(Isolation::Process, options, CONFIG).await
    }

    async fn with(isolation: Isolation, options: ProcessOptions, config: &str) -> Self {
        let host = Self::empty(isolation, options).await;
        host.bus.apply(ConfigSet::from_yaml(config).expect("a config set")).await.expect("applying");
        host.runtime.load_file(hazard().await).await.expect("loading");
        host
    }

    async fn empty(isolation: Isolation, options: ProcessOptions) -> Self {
        let bus = Bus::new();
        let (listener, told) = events();
        std::fs::create_dir_all(work_dir()).expect("the work folder");
        let folder = tempfile::tempdir_in(work_dir()).expect("a folder");
        let runtime = HotRuntime::builder(&bus)
            .work_dir(folder.path())
            .isolation(isolation)
            .process_options(options)
            .plugin_host(env!("CARGO_BIN_EXE_process-host"))
            .drain(Duration::from_secs(2))
            .on_event(listener)
            .start()
            .await
            .expect("starting");
        Self { bus, runtime, told, _folder: folder }
    }

    async fn act(&self, what: &str) -> String {
        act(&self.bus, what).await.expect("an answer")
    }

    fn pid(&self) -> Option<u32> {
        self.runtime.generations().iter().rev().find_map(|generation| generation.pid)
    }

    async fn crashed(&mut self) -> (String, Vec<String>) {
        wait_for(&mut self.told, |event| match event {
            RuntimeEvent::Crashed { reason, last_lines, .. } => Some((reason.clone(), last_lines.clone())),
            _ => None,
        })
        .await
    }
}

/// Restarts soon, however often it crashes.
fn quick() -> ProcessOptions {
    ProcessOptions { backoff_ms: 20, ..ProcessOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_its_own_process_can_do_what_it_can_in_the_hosts() {
    let host = Host::new(quick()).await;
    let pid: u32 = host.act("pid").await.parse().expect("a number");
    assert_ne!(pid, std::process::id());
    assert_eq!(host.pid(), Some(pid));
    assert_eq!(host.act("sentence").await, "first");
    assert_eq!(host.act("large 1048576").await.len(), 1 << 20);
    assert_eq!(host.act("executed").await, "1");

    // Values come, go and stay; idle comes after them.
    let many = host.bus.resolve_all(a_request("many 1000")).await.expect("values");
    assert_eq!(many.len(), 1000);
    let mut standing = host.bus.request(a_request("come-and-go")).expect("a request");
    let (mut added, mut removed) = (Vec::new(), 0);
    loop {
        match standing.next().await.expect("it stands") {
            Event::Added(_, value) => added.push(value.0.clone()),
            Event::Removed(_) => removed += 1,
            Event::Idle => break,
            _ => {}
        }
    }
    assert_eq!((added, removed), (["0", "1", "2", "stays"].map(str::to_owned).to_vec(), 3));
    drop(standing);

    // The guest asks the host's bus, and through it itself.
    let own = ConfigSet::from_yaml("answers:\n  id: host/answers\n").expect("a config set");
    host.bus.apply(own).await.expect("applying");
    assert_eq!(host.act("ask-host hello").await, "the host says hello");
    assert_eq!(host.act("ask-myself sentence").await, "first");
    let error = act(&host.bus, "ask-host fail").await.expect_err("an error");
    assert!(error.to_string().contains("the host was told to fail"), "{error}");

    // Errors and panics are answers.
    let error = act(&host.bus, "fail once").await.expect_err("an error");
    assert!(error.to_string().contains("told to fail: once"), "{error}");
    let error = act(&host.bus, "panic").await.expect_err("an error");
    assert_eq!(error.kind(), controllerbus::error::ErrorKind::Panicked);
    assert!(error.to_string().contains("resolve was told to panic"), "{error}");

    // A dropped request cancels the resolver.
    let mut waiting = host.bus.request(a_request("wait")).expect("a request");
    assert_eq!(waiting.value().await.expect("a value").0, "waiting");
    drop(waiting);
    while host.act("cancelled").await != "1" {}

    // A directive that may refuse values says so to the guest.
    assert_eq!(host.bus.resolve_all(Capped { nonce: nonce() }).await.expect("values").len(), 2);
    assert_eq!(host.act("capped").await, "2");

    assert_eq!(host.act("pid").await, pid.to_string(), "it is still the same process");
    let report = host.runtime.unload("hazard").await.expect("unloading");
    assert!(report.unmapped);
    assert!(!runs(pid));
    host.runtime.shutdown().await;
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "hazard/capped", value = Answer, max_values = 2, hard_cap)]
struct Capped {
    nonce: u64,
}
