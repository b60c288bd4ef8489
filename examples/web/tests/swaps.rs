//! A hundred swaps of the web server under load: no connection is refused or cut off, and neither is a response.
#![cfg(unix)]

use std::path::PathBuf;
use std::time::Duration;

use controllerbus::listen::Address;
use controllerbus::{Bus, ConfigSet};
use hot_runtime::compile::{BuildOptions, PluginBuilder};
use hot_runtime::{GenerationInfo, GenerationState, HotRuntime, Isolation, PluginSpec, RuntimeEvent, Trust};
use tests::load::{replace, seal};
use tests::{events, wait_for, work_dir};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use web::client::{Echo, Http};
use web::{Load, Site};

/// How many artifacts are made from one build: the time to build them is not part of the test.
const ARTIFACTS: u64 = 16;

async fn library() -> &'static [u8] {
    static LIBRARY: OnceCell<Vec<u8>> = OnceCell::const_new();
    let built = LIBRARY.get_or_init(async || {
        let site = Site::copy().expect("copying the crate");
        let spec = PluginSpec::new("site").crate_path(site.path()).watch(false);
        let mut options = BuildOptions::new(work_dir().join("web"));
        options.target_dir.clone_from(&site.target_dir);
        let mut builder = PluginBuilder::new(spec, options);
        let built = builder.build(&|_| {}, &CancellationToken::new()).await.expect("it builds");
        tests::verify(&built.artifact).expect("the built artifact").library().to_vec()
    });
    built.await
}

/// Artifacts of every version.
async fn versions() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("a folder");
    let artifacts = (0..ARTIFACTS).map(|number| folder.path().join(format!("{number}.cbus.so")));
    let artifacts: Vec<_> = artifacts.collect();
    for (number, artifact) in (0..).zip(&artifacts) {
        let mut library = library().await.to_vec();
        replace(&mut library, Site::version(1).as_bytes(), Site::version(number).as_bytes());
        seal(&library, artifact);
    }
    (folder, artifacts)
}

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), work).await.unwrap_or_else(|_| panic!("{what}: not in two minutes"))
}

struct Host {
    bus: Bus,
    runtime: HotRuntime,
    told: tokio::sync::mpsc::UnboundedReceiver<RuntimeEvent>,
    _work: tempfile::TempDir,
}

impl Host {
    async fn new(isolation: Isolation, more: &str) -> Self {
        let bus = Bus::new();
        let config = format!("web: {{ id: example/site, config: {{ listen: '127.0.0.1:0'{more} }} }}");
        bus.apply(ConfigSet::from_yaml(&config).expect("a config set")).await.expect("applying");
        let work = tempfile::tempdir().expect("a folder");
        let (listener, told) = events();
        let runtime = HotRuntime::builder(&bus)
            .trust(Trust::anyone())
            .work_dir(work.path())
            .isolation(isolation)
            .plugin_host(env!("CARGO_BIN_EXE_web"))
            .on_event(listener)
            .start()
            .await
            .expect("starting");
        Self { bus, runtime, told, _work: work }
    }

    async fn at(&self) -> std::net::SocketAddr {
        let found = async {
            loop {
                if let Some(Address::Tcp(at)) = self.bus.sockets().pop().map(|socket| socket.address) {
                    return at.parse().expect("an address");
                }
                tokio::task::yield_now().await;
            }
        };
        soon("it listens", found).await
    }

    fn generation(&self, number: u64) -> GenerationInfo {
        let found = self.runtime.generations().into_iter().find(|found| found.generation == number);
        found.expect("it is in the registry")
    }

    async fn unloaded(&mut self, number: u64) {
        let gone = |event: &RuntimeEvent| match event {
            RuntimeEvent::Unloaded { generation, unmapped, .. } if *generation == number => {
                Some(*unmapped == Some(true))
            }
            _ => None,
        };
        assert!(wait_for(&mut self.told, gone).await, "it is unmapped");
    }
}

async fn a_hundred_swaps(isolation: Isolation) {
    let (_folder, versions) = versions().await;
    let mut host = Host::new(isolation, "").await;
    let first = host.runtime.load_file(&versions[1]).await.expect("loading").to;
    let load = Load::new(host.at().await, 8, 8, 4);
    load.answered_by(&Site::version(1)).await;
    let mut before = None;
    for swap in 1..=100 {
        let version = (1 + swap) % ARTIFACTS;
        let report = host.runtime.load_file(&versions[version as usize]).await.expect("swapping");
        soon("the new generation answers", load.answered_by(&Site::version(version))).await;
        before = report.from;
    }
    // Each kept connection ended with its next response, and each generation with its last connection. Only the
    // WebSockets stay with their generation.
    host.unloaded(before.expect("the one before the last")).await;
    let old = host.generation(first);
    assert_eq!((old.state, old.holders.controllers, old.holders.connections > 0), (GenerationState::Draining, 0, true));
    let counts = load.end(100).await;
    println!("{counts:?}");
    assert!(counts.is_clean(), "{counts:?}");
    host.unloaded(first).await;
    host.bus.close().await;
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds axum as a plugin; .ci/run runs it"]
async fn a_hundred_swaps_under_load_refuse_reset_and_cut_nothing() {
    a_hundred_swaps(Isolation::None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds axum as a plugin; .ci/run runs it"]
async fn a_hundred_swaps_of_processes_under_load_refuse_reset_and_cut_nothing() {
    a_hundred_swaps(Isolation::Process).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds axum as a plugin; .ci/run runs it"]
async fn what_is_idle_ends_with_its_time_and_what_lasts_with_the_drain_time_that_is_set() {
    let (_folder, versions) = versions().await;
    for isolation in [Isolation::None, Isolation::Process] {
        let mut host = Host::new(isolation, ", idle_seconds: 0").await;
        let first = host.runtime.load_file(&versions[1]).await.expect("loading").to;
        let at = host.at().await;
        let mut idle = Http::connect(at).await.expect("it accepts");
        assert!(!idle.get(true).await.expect("an answer").is_last);
        host.runtime.load_file(&versions[2]).await.expect("swapping");
        // No more requests are sent on it.
        host.unloaded(first).await;
        host.bus.close().await;
        host.runtime.shutdown().await;

        let mut host = Host::new(isolation, ", drain_seconds: 1").await;
        let first = host.runtime.load_file(&versions[1]).await.expect("loading").to;
        let mut echo = Echo::connect(host.at().await).await.expect("it accepts");
        assert_eq!(echo.say("a").await.expect("an echo"), Site::version(1));
        host.runtime.load_file(&versions[2]).await.expect("swapping");
        host.unloaded(first).await;
        assert!(echo.say("b").await.is_err(), "it is cut off");
        host.bus.close().await;
        host.runtime.shutdown().await;
    }
}
