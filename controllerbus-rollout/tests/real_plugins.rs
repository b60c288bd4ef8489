//! Hosts with real plugins and one folder: a good release is on all of them, a bad one is back before it does harm, and nobody
//! loses a request.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use controllerbus::prelude::*;
use controllerbus_rollout::{
    AgentOptions, Amount, HostStatus, OrchestratorOptions, Pin, Publisher, Rollout, Rollouts, RuntimePlugins, Stage,
    Status, Step, Store, ask_hosts, orchestrate, run_agent, tell_hosts,
};
use hot_runtime::sign::{self, PublicKey, SecretKey};
use hot_runtime::{HotRuntime, Trust};

const PLUGIN: &str = "probe";

/// The same directive as in the `probe` fixture.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "probe/ask", value = Answer)]
struct Ask {
    what: String,
    nonce: u64,
}

#[derive(Serialize, Deserialize, Debug)]
struct Answer(String);

fn work() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("rollout")
}

/// The library of the `probe` fixture, built by cargo, or the artifact of it that a variable names.
async fn library() -> (Vec<u8>, semver::Version) {
    if let Some(built) = std::env::var_os("CONTROLLERBUS_TEST_PROBE") {
        let inspected = hot_runtime::artifact::inspect(Path::new(&built)).expect("an artifact");
        return (inspected.library().to_vec(), inspected.bundle.version.clone());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository");
    let from = root.join("tests/fixtures/probe");
    let scratch = work().join("scratch/probe");
    std::fs::create_dir_all(scratch.join("src")).expect("a folder");
    let manifest = std::fs::read_to_string(from.join("Cargo.toml")).expect("the manifest");
    let manifest = manifest.replace("@CONTROLLERBUS@", &root.join("controllerbus").to_string_lossy());
    std::fs::write(scratch.join("Cargo.toml"), manifest).expect("writing");
    std::fs::copy(root.join("Cargo.lock"), scratch.join("Cargo.lock")).expect("copying");
    for source in ["lib.rs", "bus.rs", "owning.rs"] {
        std::fs::copy(from.join("src").join(source), scratch.join("src").join(source)).expect("copying");
    }
    let build = work().join("build");
    let runtime = HotRuntime::builder(&Bus::new())
        .watch(&scratch)
        .work_dir(&build)
        .target_dir(work().join("plugins"))
        // Dependencies are compiled once, also on a machine that has much else to do.
        .build_timeout(Duration::from_secs(3600))
        .start()
        .await
        .expect("building");
    runtime.shutdown().await;
    let artifact = build.join("artifacts").join(format!("probe.cbus{}", std::env::consts::DLL_SUFFIX));
    let inspected = hot_runtime::artifact::inspect(&artifact).expect("an artifact");
    (inspected.library().to_vec(), inspected.bundle.version.clone())
}

fn replace(library: &mut [u8], text: &[u8], with: &[u8]) {
    assert_eq!(text.len(), with.len());
    let found: Vec<usize> = memchr::memmem::find_iter(library, text).collect();
    assert!(!found.is_empty(), "the library has no such text");
    found.into_iter().for_each(|at| library[at..at + text.len()].copy_from_slice(with));
}

/// An artifact that gives its number, and behaves so.
fn variant(library: &[u8], number: u64, behaviour: &str) -> PathBuf {
    let mut library = library.to_vec();
    replace(&mut library, b"generation-0000000", answer(number).as_bytes());
    let good = "behaviour:good............";
    replace(&mut library, good.as_bytes(), format!("{:.<1$}", format!("behaviour:{behaviour}"), good.len()).as_bytes());
    let out = work().join(format!("{number}.cbus{}", std::env::consts::DLL_SUFFIX));
    let body = out.with_extension("body");
    std::fs::write(&body, library).expect("writing");
    hot_runtime::artifact::seal(&body, &out).expect("sealing");
    out
}

fn answer(number: u64) -> String {
    format!("generation-{number:07}")
}

async fn ask(bus: &Bus) -> Result<String> {
    static NONCE: AtomicU64 = AtomicU64::new(0);
    let ask = Ask { what: "number".to_owned(), nonce: NONCE.fetch_add(1, Ordering::Relaxed) };
    match tokio::time::timeout(Duration::from_secs(30), bus.resolve(ask)).await {
        Ok(answer) => Ok(answer?.0.clone()),
        Err(_) => Err(Error::msg("no answer within 30 s")),
    }
}

struct Host {
    bus: Bus,
    runtime: HotRuntime,
    asked: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    _agent: controllerbus::bus::Running,
}

impl Host {
    async fn start(fleet: &Bus, store: &Store, name: &str, key: &PublicKey, stop: &Arc<AtomicBool>) -> Self {
        let bus = Bus::new();
        let config = "probe:\n  id: probe\n  config: { mode: quiet }\n";
        bus.apply(ConfigSet::from_yaml(config).expect("a set")).await.expect("applying");
        let folder = work().join(name);
        let _ = std::fs::remove_dir_all(folder.join("fleet"));
        let builder = HotRuntime::builder(&bus).trust(Trust::keys([key.clone()])).work_dir(folder.join("work"));
        let runtime = builder.start().await.expect("a runtime");
        let options = AgentOptions::new(store, name, [key.clone()], folder.join("fleet"));
        let plugins = RuntimePlugins::new(&bus, &runtime);
        let agent = run_agent(fleet, options.look(Duration::from_millis(200)), plugins).expect("an agent");
        let host = Self { bus, runtime, asked: Arc::default(), failed: Arc::default(), _agent: agent };
        let (bus, stop) = (host.bus.clone(), Arc::clone(stop));
        let (asked, failed) = (Arc::clone(&host.asked), Arc::clone(&host.failed));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = ask(&bus).await {
                    println!("lost: {error}");
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        host
    }
}

struct Fleet {
    bus: Bus,
    rollouts: Rollouts,
    hosts: Vec<Host>,
    publisher: Publisher,
    library: Vec<u8>,
    version: semver::Version,
}

impl Fleet {
    async fn publish(&self, number: u64, behaviour: &str) {
        let artifact = variant(&self.library, number, behaviour);
        let release = self.publisher.publish([artifact]).await.expect("publishing");
        assert_eq!((release.plugin.as_str(), release.sequence), (PLUGIN, number));
    }

    /// Rolls the newest release out, to its end. Returns the status, and the answers that hosts gave meanwhile.
    async fn roll(&self, steps: Vec<Step>) -> Status {
        self.start(Rollout::new(PLUGIN, self.version.clone()).with_steps(steps)).await;
        self.until(|status| status.link.stage.is_over() && status.is_as_wanted).await
    }

    async fn start(&self, rollout: Rollout) {
        let link = self.rollouts.start(rollout).await.expect("a rollout");
        tell_hosts(&self.bus.handle(), &link, Duration::from_secs(5)).await.expect("telling");
    }

    async fn until(&self, is: impl Fn(&Status) -> bool) -> Status {
        let begun = Instant::now();
        loop {
            let link = self.rollouts.newest(PLUGIN).await.expect("the newest").expect("one");
            let hosts = ask_hosts(&self.bus.handle(), PLUGIN, Duration::from_secs(5)).await.expect("hosts");
            let status = Status::of(&link, &hosts);
            if is(&status) {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(300), "not over: {status:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn all_answer(&self, number: u64) {
        for host in &self.hosts {
            assert_eq!(ask(&host.bus).await.expect("an answer"), answer(number));
        }
    }

    fn lost(&self) -> u64 {
        self.hosts.iter().map(|host| host.failed.load(Ordering::Relaxed)).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_good_release_is_on_all_hosts_and_a_bad_one_is_back_and_no_request_is_lost() {
    std::fs::create_dir_all(work()).expect("a folder");
    let (library, version) = library().await;
    let keys = tempfile::tempdir().expect("a folder");
    let (secret, public) = (keys.path().join("k.key"), keys.path().join("k.pub"));
    let public = sign::generate(&secret, &public, None).expect("keys");
    let secret = SecretKey::read(&secret, None).expect("the key");
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&format!("file://{}", folder.path().display())).expect("a store");
    let (bus, stop) = (Bus::new(), Arc::new(AtomicBool::new(false)));
    let mut hosts = Vec::new();
    for at in 0..3 {
        hosts.push(Host::start(&bus, &store, &format!("edge-{at}"), &public, &stop).await);
    }
    let publisher = Publisher::new(&store, secret);
    let rollouts = Rollouts::new(&store, "a test");
    let fleet = Fleet { bus, rollouts, hosts, publisher, library, version };
    let _leads = orchestrate(&fleet.bus, OrchestratorOptions::new(&store, "edge-0")).expect("an orchestrator");

    let all = || Step::new(Amount::Percent(100.0), Duration::ZERO);
    let canary = || Step::new(Amount::Hosts(1), Duration::from_secs(8));
    fleet.publish(1, "good").await;
    assert_eq!(fleet.roll(vec![all()]).await.link.stage, Stage::Done);
    fleet.all_answer(1).await;

    fleet.publish(2, "good").await;
    let status = fleet.roll(vec![canary(), all().at_a_time(Amount::Hosts(1))]).await;
    assert_eq!(status.link.stage, Stage::Done, "{status:#?}");
    fleet.all_answer(2).await;

    // What stands on a host keeps the release there that answers it, until it has ended.
    fleet.publish(3, "good").await;
    let lasting = |host: &Host| host.bus.request(Ask { what: "number".to_owned(), nonce: u64::MAX }).expect("asking");
    let lasting: Vec<_> = fleet.hosts.iter().map(lasting).collect();
    let mut pinned = Rollout::new(PLUGIN, fleet.version.clone()).with_steps(vec![all()]);
    pinned.pin = Some(Pin::new("probe/ask", Duration::from_secs(1200)));
    fleet.start(pinned).await;
    let waits = |status: &Status| {
        let says = |host: &HostStatus| host.problem.as_ref().is_some_and(|why| why.contains("of probe/ask to end"));
        status.hosts.iter().all(says)
    };
    fleet.until(waits).await;
    fleet.all_answer(2).await;
    drop(lasting);
    let status = fleet.until(|status| status.link.stage.is_over() && status.is_as_wanted).await;
    assert_eq!(status.link.stage, Stage::Done, "{status:#?}");
    fleet.all_answer(3).await;

    for (number, behaviour, expected) in [
        (4, "restore-error", "restore does not know schema 1"),
        (5, "construct-panic", "construct was told to panic"),
        // It is swapped in, and the canary's own host takes it back.
        (6, "unwell", "health was told to be bad"),
    ] {
        fleet.publish(number, behaviour).await;
        let status = fleet.roll(vec![canary(), all()]).await;
        assert_eq!(status.link.stage, Stage::RolledBack, "{behaviour}: {status:#?}");
        assert!(status.link.why.contains(expected), "{behaviour}: {}", status.link.why);
        fleet.all_answer(3).await;
        let failed = status.hosts.iter().filter(|host| host.problem.as_ref().is_some_and(|why| why.contains(expected)));
        assert_eq!(failed.map(|host| host.in_turn).collect::<Vec<_>>(), [true], "{behaviour}: only the canary");
    }
    for host in &fleet.hosts {
        // Nobody but the canary of the last one ran more than the three good ones, and what came back.
        assert!(host.runtime.generations().len() <= 8, "{:#?}", host.runtime.generations());
    }
    stop.store(true, Ordering::Relaxed);
    let asked: u64 = fleet.hosts.iter().map(|host| host.asked.load(Ordering::Relaxed)).sum();
    println!("{asked} requests, {} lost", fleet.lost());
    assert!(asked > 1000);
    assert_eq!(fleet.lost(), 0);
}
