//! Process-hosted plugins: the same artifact in a process of its own, and what becomes of it there.
#![cfg(unix)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use controllerbus::bus::Source;
use controllerbus::prelude::*;
use hot_runtime::{GenerationState, HotRuntime, Isolation, Moment, ProcessOptions, RuntimeEvent};
use tests::process::{CONFIG, a_request, act, artifact, children, hazard, runs, until};
use tests::{Answer, Ask, events, nonce, wait_for, work_dir};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

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
    _turn: Turn,
}

/// Tests that count this process's children, files and memory run alone.
static TURNS: RwLock<()> = RwLock::const_new(());

/// The guard that a test holds meanwhile.
type Turn = (Option<RwLockReadGuard<'static, ()>>, Option<RwLockWriteGuard<'static, ()>>);

impl Host {
    /// A host with the fixture in a process of its own.
    async fn new(options: ProcessOptions) -> Self {
        Self::with(Isolation::Process, options, CONFIG).await
    }

    async fn with(isolation: Isolation, options: ProcessOptions, config: &str) -> Self {
        Self::loaded(Self::empty(isolation, options).await, config).await
    }

    /// The same, while no other test runs.
    async fn alone(options: ProcessOptions) -> Self {
        let turn = (None, Some(TURNS.write().await));
        Self::loaded(Self::in_turn(turn, Isolation::Process, options).await, CONFIG).await
    }

    async fn loaded(host: Self, config: &str) -> Self {
        host.bus.apply(ConfigSet::from_yaml(config).expect("a config set")).await.expect("applying");
        host.runtime.load_file(hazard().await).await.expect("loading");
        host
    }

    async fn empty(isolation: Isolation, options: ProcessOptions) -> Self {
        Self::in_turn((Some(TURNS.read().await), None), isolation, options).await
    }

    async fn in_turn(turn: Turn, isolation: Isolation, options: ProcessOptions) -> Self {
        let bus = Bus::new();
        let (listener, told) = events();
        std::fs::create_dir_all(work_dir()).expect("the work folder");
        let folder = tempfile::tempdir_in(work_dir()).expect("a folder");
        let runtime = HotRuntime::builder(&bus)
            .trust(hot_runtime::Trust::anyone())
            .work_dir(folder.path())
            .isolation(isolation)
            .process_options(options)
            .plugin_host(env!("CARGO_BIN_EXE_process-host"))
            .drain(Duration::from_secs(2))
            .on_event(listener)
            .start()
            .await
            .expect("starting");
        Self { bus, runtime, told, _folder: folder, _turn: turn }
    }

    async fn act(&self, what: &str) -> String {
        act(&self.bus, what).await.expect("an answer")
    }

    fn pid(&self) -> Option<u32> {
        {
            let generations = self.runtime.generations();
            generations.iter().find(|found| found.state == GenerationState::Serving)?.pid
        }
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
    ProcessOptions::default().backoff(Duration::from_millis(20))
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
    assert_eq!(host.act("bus").await, "all of it");
    assert_eq!(host.act("references").await, "all of it");
    assert_eq!(host.act("factories").await, "all of it");

    // Values come, go and stay; idle comes after them.
    let many = host.bus.resolve_all(a_request("many 1000")).await.expect("values");
    assert_eq!(many.len(), 1000);
    // More than the socket and the queue before it hold: the guest waits, and nothing is lost.
    let many = host.bus.resolve_all(a_request("many 100000")).await.expect("values");
    assert_eq!((many.len(), many[99_999].0.as_str()), (100_000, "last"));
    let mut standing = host.bus.request(a_request("come-and-go")).expect("a request");
    let (mut added, mut removed) = (Vec::new(), 0);
    loop {
        match standing.next().await.expect("it stands") {
            Event::Added(_, value) => {
                added.push(value.0.clone());
                host.act("next").await;
            }
            Event::Removed(_) => removed += 1,
            Event::Idle => break,
            _ => {}
        }
    }
    // One that came and went before it was read is told of neither way.
    assert_eq!((added.last().map(String::as_str), removed), (Some("stays"), added.len() - 1), "{added:?}");
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

    let generation = host.runtime.generations().last().expect("a generation").generation;
    let health = async || {
        let said = host.bus.health(Source(generation), Duration::from_secs(20)).await;
        said.into_iter().map(|(_, health)| health.map_err(|error| error.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(health().await, [Ok(())]);

    // A directive that may refuse values says so to the guest.
    let nonce = nonce();
    // It stands until the guest has heard of both that they were accepted.
    let standing = host.bus.request(Capped { nonce }).expect("a request");
    assert_eq!(host.bus.resolve_all(Capped { nonce }).await.expect("values").len(), 2);
    // Its values are there before it has counted them.
    let counted = async { while host.act("capped").await != "2" {} };
    tokio::time::timeout(Duration::from_secs(20), counted).await.expect("two are accepted");
    drop(standing);
    assert_eq!(health().await, [Err("it has met a cap".to_owned())]);

    assert_eq!(host.act("pid").await, pid.to_string(), "it is still the same process");
    let report = host.runtime.unload("hazard").await.expect("unloading");
    assert_eq!(report.unmapped, Some(true));
    assert!(!runs(pid));
    host.runtime.shutdown().await;
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "probe/ask-extra", value = String)]
struct AskExtra {
    nonce: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_factory_that_a_plugin_adds_is_its_generations_and_a_swap_keeps_the_state_of_its_controllers() {
    let config =
        "hazard:\n  id: hazard\n  config: { mode: adds }\nextra:\n  id: probe/extra\n  config: { word: extra }\n";
    for isolation in [Isolation::None, Isolation::Process] {
        let host = Host::with(isolation, quick(), config).await;
        let ask = || async {
            let mut request = host.bus.request(AskExtra { nonce: nonce() }).expect("a request");
            // What a crash does to an answer is tried again.
            let answer = async {
                loop {
                    if let Ok(answer) = request.value().await {
                        break answer.to_string();
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(20), answer).await.expect("an answer within 20 s")
        };
        assert_eq!((ask().await, ask().await), ("extra 1".into(), "extra 2".into()));
        let report = host.runtime.load_file(hazard().await).await.expect("a swap");
        assert_eq!(ask().await, "extra 3", "{isolation:?}");
        let sources = || {
            let mut found: Vec<_> = host.bus.controllers().into_iter().map(|found| found.source).collect();
            found.dedup();
            found
        };
        until("all are of the new generation", || sources() == [Source(report.to)]).await;
        until("the old one is unloaded", || {
            let generations = host.runtime.generations();
            let old = generations.iter().find(|found| Some(found.generation) == report.from);
            old.is_none_or(|old| old.state == GenerationState::Unloaded)
        })
        .await;
        if let Some(pid) = host.pid() {
            let killed = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
            rustix::process::kill_process(killed, rustix::process::Signal::KILL).expect("killing");
            until("its controllers are gone", || sources().len() != 1 || host.pid() != Some(pid)).await;
            assert_eq!(ask().await, "extra 1", "the next process has added it again");
        }
        let report = host.runtime.unload("hazard").await.expect("unloading");
        assert_eq!(report.unmapped, Some(true));
        let state = host.bus.config("extra").map(|found| found.state);
        assert_eq!(state, Some(controllerbus::bus::RunState::Queued));
        assert!(host.bus.factories().iter().all(|found| found.info.id != "probe/extra"));
        host.runtime.shutdown().await;
    }
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "hazard/capped", value = Answer, max_values = 2, hard_cap)]
struct Capped {
    nonce: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_between_the_two_modes_keeps_state_and_loses_no_request() {
    let mut host = Host::with(Isolation::None, quick(), CONFIG).await;
    assert_eq!(host.act("count").await, "1");
    let stop = tokio_util::sync::CancellationToken::new();
    let load = {
        let (bus, stop) = (host.bus.clone(), stop.clone());
        tokio::spawn(async move {
            let mut answered = 0;
            while !stop.is_cancelled() {
                assert_eq!(act(&bus, "sentence").await.expect("no request is lost"), "first");
                answered += 1;
            }
            answered
        })
    };
    let mut standing = host.bus.request(a_request("pid")).expect("a request");
    assert_eq!(standing.value().await.expect("a value").0, std::process::id().to_string());
    for (count, isolation) in [Isolation::Process, Isolation::None, Isolation::Process].into_iter().enumerate() {
        let swapped = host.runtime.set_isolation("hazard", isolation).await.expect("a swap");
        assert!(swapped.is_some());
        assert_eq!(host.act("count").await, (count + 2).to_string(), "the state was handed over");
        // The standing request gets the new answer before the old one goes.
        let pid: u32 = standing.value().await.expect("a value").0.parse().expect("a number");
        assert_eq!(pid != std::process::id(), isolation == Isolation::Process);
        assert_eq!(host.pid(), (isolation == Isolation::Process).then_some(pid));
    }
    assert!(host.runtime.set_isolation("hazard", Isolation::Process).await.expect("nothing to do").is_none());

    // The same by the config set.
    let elsewhere = |isolation: &str| {
        let text = format!(
            "{CONFIG}where:\n  id: hot-runtime/plugin\n  config: {{ plugin: hazard, isolation: {isolation} }}\n"
        );
        ConfigSet::from_yaml(&text).expect("a config set")
    };
    host.told.close();
    let (_, told) = events();
    host.told = told;
    let mut swaps = host.runtime.events();
    host.bus.apply(elsewhere("none")).await.expect("applying");
    while !matches!(swaps.recv().await.expect("an event"), RuntimeEvent::Swapped { .. }) {}
    assert_eq!(host.act("pid").await, std::process::id().to_string());
    host.bus.apply(elsewhere("process")).await.expect("applying");
    while !matches!(swaps.recv().await.expect("an event"), RuntimeEvent::Swapped { .. }) {}
    assert_ne!(host.act("pid").await, std::process::id().to_string());

    stop.cancel();
    assert!(load.await.expect("the load ends") > 0);
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_crash_is_told_with_its_reason_and_the_plugin_serves_again() {
    let limits = hot_runtime::Limits::default().memory(1 << 30).standing_values(4 << 20);
    let mut host = Host::new(quick().limits(limits).watchdog(Duration::from_secs(2))).await;
    let cases = [
        ("segv", "SIGSEGV", "about to touch what is not there"),
        ("abort", "SIGABRT", ""),
        ("exit 3", "exited with code 3", ""),
        ("memory", "SIGABRT", "memory allocation of"),
        ("spin", "did not answer", ""),
        ("flood", "its values would exceed the limit", ""),
    ];
    for (what, expected, line) in cases {
        let before = host.act("pid").await;
        let mut kept = host.bus.request(a_request("wait")).expect("a request");
        assert_eq!(kept.value().await.expect("a value").0, "waiting");
        let mut request = host.bus.request(a_request(what)).expect("a request");
        let error = loop {
            match request.next().await.expect("it stands") {
                Event::Failed(error) => break error,
                Event::Idle => panic!("idle without a failure"),
                _ => {}
            }
        };
        drop(request);
        assert_eq!(error.kind(), controllerbus::error::ErrorKind::Crashed, "{what}: {error}");
        assert!(error.to_string().contains(expected), "{what}: {error}");
        let (reason, lines) = host.crashed().await;
        assert!(reason.contains(expected), "{what}: {reason}");
        assert!(lines.iter().any(|found| found.contains(line)) || line.is_empty(), "{what}: {lines:?}");
        // A value of another request went with the process, and comes again from the next one.
        loop {
            match kept.next().await.expect("it stands") {
                Event::Removed(_) => break,
                Event::Added(..) => panic!("added before it was withdrawn"),
                _ => {}
            }
        }
        let again = loop {
            match kept.next().await.expect("it stands") {
                Event::Added(_, value) => break value,
                Event::Failed(error) => assert!(error.to_string().contains("are retried"), "{error}"),
                _ => {}
            }
        };
        assert_eq!(again.0, "waiting");
        let after = host.act("pid").await;
        assert_ne!(before, after);
        assert!(!runs(before.parse().expect("a number")));
        // The bus executes it again there, after a moment.
        while host.act("executed").await != "1" {}
    }
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_crashes_while_it_takes_over_is_rolled_back() {
    let host = Host::with(Isolation::None, quick(), CONFIG).await;
    let before = host.runtime.generations().last().expect("a generation").generation;
    let crashing = ConfigSet::from_yaml("bad:\n  id: hazard\n  config: { mode: crash-construct }\n").expect("a set");
    // In the host's process it would take the host with it: it is only to be constructed in its own.
    let isolated = Host::in_turn((None, None), Isolation::Process, quick()).await;
    isolated.bus.apply(crashing).await.expect("applying");
    isolated.runtime.load_file(hazard().await).await.expect("loading");
    let state = isolated.bus.changes();
    let mut state = state;
    loop {
        let found = format!("{:?}", isolated.bus.configs()[0].state);
        if found.contains("Failed") {
            assert!(found.contains("SIGABRT"), "{found}");
            break;
        }
        state.changed().await.expect("the bus stands");
    }
    isolated.runtime.shutdown().await;

    // A plugin host that cannot serve rolls a change of mode back.
    let options = quick().working_dir("/nowhere/at/all");
    let error = host.runtime.isolate("hazard", options).await.expect_err("refused");
    assert!(error.to_string().contains("cannot start"), "{error}");

    // So does an execution that ends with an error, or with the process, before its first wait.
    for (end, expected) in [("fail", "execute was told to fail"), ("abort", "SIGABRT")] {
        let options = quick().env("HAZARD_EXECUTE", end);
        let error = host.runtime.isolate("hazard", options).await.expect_err("rolled back");
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(host.act("pid").await, std::process::id().to_string());
    let serving = host.runtime.generations().into_iter().find(|found| found.generation == before).expect("it is there");
    assert_eq!(serving.state, GenerationState::Serving);
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_whose_process_crashes_in_a_loop_is_mended_at_once_by_the_next_version() {
    let mut host = Host::new(ProcessOptions::default().env("HAZARD_EXECUTE", "abort")).await;
    // Until the next start is not due soon, so that the state of what crashes cannot be asked for.
    wait_for(&mut host.told, |event| match event {
        RuntimeEvent::Crashed { restart_in, .. } if *restart_in > Duration::from_millis(2500) => Some(()),
        _ => None,
    })
    .await;
    let swapped = host.runtime.isolate("hazard", quick()).await.expect("it is swapped in");
    assert!(swapped.is_some());
    assert_eq!(host.act("sentence").await, "first");
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_gets_no_more_than_it_was_given() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = hot_runtime::Limits::default().open_files(64).requests(8).cpu_seconds(1);
    // On a busy machine a second of processor time may take longer than the watchdog waits.
    let options =
        quick().limits(limits).env("GIVEN", "yes").working_dir(folder.path()).watchdog(Duration::from_secs(600));
    let host = Host::new(options).await;
    let own = ConfigSet::from_yaml("answers:\n  id: host/answers\n").expect("a config set");
    host.bus.apply(own).await.expect("applying");
    let environment = host.act("environment").await;
    assert!(environment.contains("GIVEN=yes"), "{environment}");
    let known = [
        "PATH",
        "LD_LIBRARY_PATH",
        "HOME",
        "TMPDIR",
        "TZ",
        "LANG",
        "RUST_BACKTRACE",
        "GIVEN",
        "CBUS_PLUGIN_HOST_SOCKET",
    ];
    let passed = |name: &str| known.contains(&name) || name.starts_with("LC_");
    assert!(std::env::vars().any(|(name, _)| !passed(&name)), "this process has more");
    let more = environment.lines().filter_map(|line| line.split_once('=')).find(|(name, _)| !passed(name));
    assert_eq!(more, None);
    let real = folder.path().canonicalize().expect("the folder");
    assert_eq!(host.act("folder").await, real.to_string_lossy());
    assert!(host.act("files").await.parse::<u32>().expect("a number") < 64);
    let refused = host.act("requests").await;
    assert!(refused.starts_with("8 ") && refused.contains("limit"), "{refused}");
    if cfg!(target_os = "linux") {
        assert_eq!(host.act("privileges").await, "NoNewPrivs:\t1");
    }
    let error = impatient(&host.bus, "spin").await.expect_err("its time is used up");
    assert!(error.to_string().contains("SIGXCPU"), "{error}");
    host.runtime.shutdown().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_sandboxed_process_reaches_only_what_it_may_or_is_not_started_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let (open, own, closed) = (place("open"), place("own"), place("closed"));
    for place in [&open, &own, &closed] {
        std::fs::create_dir(place).expect("a folder");
        std::fs::write(place.join("file"), "read").expect("a file");
    }
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
    let address = listener.local_addr().expect("its address");
    let sandbox = hot_runtime::Sandbox::default().read(&open).read("/usr/bin").read("/bin").write(&own);
    let host = Host::empty(Isolation::Process, quick().sandbox(sandbox)).await;
    host.bus.apply(ConfigSet::from_yaml(CONFIG).expect("a config set")).await.expect("applying");
    let loaded = host.runtime.load_file(hazard().await).await;
    let enforced = landlock_of_this_kernel();
    println!("Landlock of this kernel: {enforced:?}");
    // Without rules for networks a plugin that shall be confined does not run unconfined.
    if enforced < Landlock::FilesAndNetwork {
        let error = loaded.expect_err("this kernel cannot confine it").to_string();
        assert!(error.contains("kernel"), "{error}");
        host.runtime.shutdown().await;
        return;
    }
    loaded.expect("this kernel can confine it");
    assert_eq!(host.act(&format!("read {}", open.join("file").display())).await, "read");
    assert_eq!(host.act(&format!("write {}", own.join("new").display())).await, "written");
    let (link, secret) = (open.join("link"), closed.join("file"));
    std::os::unix::fs::symlink(&secret, &link).expect("a link");
    let refused = [
        format!("read {}", secret.display()),
        format!("read {}", link.display()),
        format!("write {}", open.join("file").display()),
        format!("write {}", closed.join("new").display()),
        format!("connect {address}"),
    ];
    for what in refused {
        let error = act(&host.bus, &what).await.expect_err("it may not");
        assert!(error.to_string().contains("ermission denied"), "{what}: {error}");
    }
    // Nor may what it starts.
    let started = host.act(&format!("started {}", secret.display())).await;
    assert!(started.contains("ermission denied"), "{started}");
    if enforced == Landlock::AlsoSignals {
        let told = host.act(&format!("signal {}", std::process::id())).await;
        assert!(told.contains("not permitted"), "{told}");
    }
    host.runtime.shutdown().await;
}

/// What a kernel can confine.
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, PartialOrd)]
enum Landlock {
    LessThanThat,
    FilesAndNetwork,
    AlsoSignals,
}

/// Asked of the kernel itself, and not of what is tested.
#[cfg(target_os = "linux")]
fn landlock_of_this_kernel() -> Landlock {
    use landlock::{ABI, Access, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
    let all = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    if all().scope(Scope::from_all(ABI::V6)).and_then(Ruleset::create).is_ok() {
        Landlock::AlsoSignals
    } else if all().handle_access(AccessNet::from_all(ABI::V4)).and_then(Ruleset::create).is_ok() {
        Landlock::FilesAndNetwork
    } else {
        Landlock::LessThanThat
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_ends_itself_at_its_deadline_with_what_it_has_started_and_none_is_started_while_it_is_over() {
    let mut host = Host::alone(quick()).await;
    let another: u32 = host.act("start-another").await.parse().expect("a number");
    let deadline = |left| host.runtime.set_deadline("hazard", "a test", left);
    // One that is moved on again and again ends nothing.
    for _ in 0..5 {
        deadline(Some(Moment::now() + Duration::from_secs(60)));
        host.act("pid").await;
    }
    let at = Moment::now() + Duration::from_millis(300);
    deadline(Some(at));
    let (reason, _) = host.crashed().await;
    assert!(reason.contains("at its deadline") && at.left().is_zero(), "{reason}");
    until("what it has started ends", || !runs(another)).await;
    assert_eq!(host.pid(), None);
    host.runtime.set_deadline("hazard", "a test", None);
    let restarted = |event: &RuntimeEvent| matches!(event, RuntimeEvent::Restarted { .. }).then_some(());
    wait_for(&mut host.told, restarted).await;
    assert_ne!(host.act("pid").await, std::process::id().to_string());
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_with_whom() {
    // What a plugin has started ends with its process.
    let mut host = Host::alone(quick()).await;
    let another: u32 = host.act("start-another").await.parse().expect("a number");
    assert!(runs(another));
    act(&host.bus, "abort").await.expect_err("it crashes");
    host.crashed().await;
    until("the plugin's own child ends", || !runs(another)).await;

    // A controller that does not end is waited for a while, and its process is ended.
    let config = ConfigSet::from_yaml("hazard:\n  id: hazard\n  config: { mode: stubborn }\n").expect("a config set");
    host.bus.apply(config).await.expect("applying");
    let pid: u32 = host.act("pid").await.parse().expect("a number");
    let begun = std::time::Instant::now();
    host.runtime.unload("hazard").await.expect("unloading");
    assert!(begun.elapsed() >= Duration::from_secs(2) && !runs(pid));
    host.runtime.shutdown().await;
    assert!(children().is_empty(), "a child is left");

    // A host that is killed takes the plugin's process with it, which hears nothing but the end of the socket, and what the
    // plugin has started; also if the plugin is stopped.
    for stopped in [false, true] {
        let (mut parent, pid, another, _folder) = host_program(None).await;
        if stopped {
            signal("STOP", pid);
        }
        parent.kill().expect("killing");
        parent.wait().expect("waiting");
        until("the orphans end", || !runs(pid) && !runs(another)).await;
    }
}

fn signal(signal: &str, pid: u32) {
    let sent = std::process::Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status();
    assert!(sent.expect("running kill").success());
}

/// A host program with the fixture in a process of its own: the program, that process, and one that the plugin has started.
async fn host_program(cgroup: Option<&std::path::Path>) -> (std::process::Child, u32, u32, tempfile::TempDir) {
    let folder = tempfile::tempdir_in(work_dir()).expect("a folder");
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_process-host"));
    program.args([hazard().await, folder.path()]).stdout(std::process::Stdio::piped());
    if let Some(group) = cgroup {
        program.env("CBUS_CGROUP", group);
    }
    let mut program = program.spawn().expect("the host program");
    let mut line = String::new();
    let output = program.stdout.take().expect("its output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("the processes' ids");
    let ids: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("a number")).collect();
    let (pid, another) = (ids[0], ids[1]);
    assert!(runs(pid) && runs(another) && pid != program.id());
    (program, pid, another, folder)
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_in_a_control_group_of_its_own_where_one_is_delegated_and_none_is_left_behind() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let ours = mount.map(|mount| std::path::Path::new(mount).join(format!("cbus-test-of-{}", std::process::id())));
    let Some(ours) = ours.filter(|ours| std::fs::create_dir(ours).is_ok()) else {
        println!("not tested, because this user cannot make a control group: groups of plugins");
        return;
    };
    let groups = || -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(&ours).expect("the group").flatten().map(|entry| entry.path());
        entries.filter(|path| path.is_dir()).collect()
    };
    let (mut parent, pid, another, _folder) = host_program(Some(&ours)).await;
    let members = std::fs::read_to_string(groups()[0].join("cgroup.procs")).expect("who is in it");
    assert!(members.lines().any(|line| line == pid.to_string()) && members.contains(&another.to_string()), "{members}");
    parent.kill().expect("killing");
    parent.wait().expect("waiting");
    // The next host finds what the killed one has left.
    let (mut next, pid, _, _folder) = host_program(Some(&ours)).await;
    assert!(!runs(another));
    let found = groups();
    assert!(found.len() == 1 && found[0].to_string_lossy().contains(&format!("cbus-{}-", next.id())), "{found:?}");
    next.kill().expect("killing");
    next.wait().expect("waiting");
    until("the plugin ends", || !runs(pid)).await;
    until("the groups can be removed", || {
        groups().iter().for_each(|group| drop(std::fs::remove_dir(group)));
        std::fs::remove_dir(&ours).is_ok()
    })
    .await;
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_sandboxed_plugin_that_tries_each_forbidden_thing_does_none() {
    if landlock_of_this_kernel() < Landlock::FilesAndNetwork {
        println!("not tested, because this kernel cannot confine a plugin: what a sandbox forbids");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let options = |sandbox| quick().sandbox(sandbox);
    let sandbox = hot_runtime::Sandbox::default();
    let host = Host::new(options(sandbox.clone())).await;
    let refused = [
        // What is this user's alone lies in /etc, programs in /usr.
        "read /etc/passwd".to_owned(),
        "read /etc/shadow".to_owned(),
        "read /usr/bin/env".to_owned(),
        "read /usr/share/doc".to_owned(),
        "read /root/.bashrc".to_owned(),
        format!("read /proc/{}/environ", std::process::id()),
        "write /etc/cbus-was-here".to_owned(),
        "write /tmp/cbus-was-here".to_owned(),
        "started /etc/passwd".to_owned(),
        "start-another".to_owned(),
        // A way out through whoever listens for this user.
        format!("unix {}", socket.display()),
        "udp 127.0.0.1:0".to_owned(),
        "connect 127.0.0.1:1".to_owned(),
    ];
    for what in &refused {
        let error = act(&host.bus, what).await.expect_err(what).to_string();
        assert!(error.contains("ermission denied"), "{what}: {error}");
    }
    assert!(
        !std::path::Path::new("/etc/cbus-was-here").exists() && !std::path::Path::new("/tmp/cbus-was-here").exists()
    );
    // ptrace, mount, umount2, reboot, sethostname, init_module, chroot, unshare, setns, bpf, perf_event_open, keyctl,
    // kexec_load, userfaultfd, process_vm_readv, pidfd_getfd, swapon, pivot_root
    for call in [101, 165, 166, 169, 170, 175, 161, 272, 308, 321, 298, 250, 246, 323, 310, 438, 167, 155] {
        let told = host.act(&format!("syscall {call}")).await;
        assert!(told.contains("not permitted"), "system call {call}: {told}");
    }
    // clone3 and io_uring_setup are as if they did not exist; the older calls that are used then are looked at.
    for call in [435, 425] {
        let told = host.act(&format!("syscall {call}")).await;
        assert!(told.contains("not implemented"), "system call {call}: {told}");
    }
    // What every program needs it has; what is on is shown.
    assert_eq!(host.act("sentence").await, "first");
    let generations = host.runtime.generations();
    let layers = &generations.iter().find(|found| found.state == GenerationState::Serving).expect("it serves").layers;
    for layer in ["no new privileges", "Landlock", "seccomp"] {
        assert!(layers.iter().any(|found| found.starts_with(layer)), "{layers:?}");
    }
    host.runtime.shutdown().await;

    // What it is allowed, it may.
    let sandbox = sandbox.unix_sockets(true).network(true).read("/usr/bin");
    let host = Host::new(options(sandbox)).await;
    assert_eq!(host.act(&format!("unix {}", socket.display())).await, "connected");
    assert_eq!(host.act("udp 127.0.0.1:0").await, "bound");
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_asks_answers_starts_and_applies_what_it_may_and_nothing_else_wherever_it_runs() {
    let only = |yaml: &str, isolation: &str| {
        let config = format!(
            "hazard-may:\n  id: hot-runtime/plugin\n  config: {{ plugin: hazard, isolation: {isolation}, capabilities: {yaml} }}\n"
        );
        ConfigSet::from_yaml(&config).expect("a config set")
    };
    let own = "\"hazard/*\", probe/own";
    for isolation in ["none", "process"] {
        let turn = (None, Some(TURNS.write().await));
        let host = Host::in_turn(turn, Isolation::None, quick()).await;
        host.bus
            .apply(ConfigSet::from_yaml("answers:\n  id: host/answers\n").expect("a config set"))
            .await
            .expect("applying");
        // Before it is loaded at all.
        host.bus.apply(only(&format!("{{ answer: [{own}] }}"), isolation)).await.expect("applying");
        host.bus.watch_config("hazard-may").running().await.expect("it is noted");
        let host = Host::loaded(host, CONFIG).await;
        assert_eq!(host.act("sentence").await, "first");
        let refused = [
            "ask-host hello",
            "load host/answers",
            "apply host/answers",
            "look-up host/answers",
            "load hot-runtime/plugin",
            "add-factory",
        ];
        for what in refused {
            let error = act(&host.bus, what).await.expect_err(what).to_string();
            assert!(error.contains("the plugin `hazard` may not"), "{isolation}, {what}: {error}");
        }
        let generations = host.runtime.generations();
        let serving = generations.iter().find(|found| found.state == GenerationState::Serving).expect("it serves");
        assert!(serving.layers.contains(&"capabilities".to_owned()), "{:?}", serving.layers);

        // More, while it runs: it is swapped.
        let more = format!(
            "{{ answer: [{own}], ask: [host/ask], load_controllers: [\"*\"], apply_configs: [host/answers], add_factories: [probe/extra], see_others: true }}"
        );
        let before = serving.generation;
        host.bus.apply(only(&more, isolation)).await.expect("applying");
        until("it is swapped", || {
            let generations = host.runtime.generations();
            generations.iter().any(|found| found.state == GenerationState::Serving && found.generation > before)
        })
        .await;
        assert_eq!(host.act("ask-host hello").await, "the host says hello");
        assert_eq!(host.act("look-up host/answers").await, "host/answers");
        assert_eq!(host.act("load host/answers").await, "host/answers");
        assert_eq!(host.act("apply host/answers").await, "applied");
        assert_eq!(host.act("add-factory").await, "added");
        for what in ["load hot-runtime/plugin", "apply hot-runtime/plugin", "apply controllerbus/bus/api"] {
            let error = act(&host.bus, what).await.expect_err(what).to_string();
            assert!(error.contains("may not"), "{isolation}, {what}: {error}");
        }
        host.runtime.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_would_answer_what_it_may_not_does_not_run() {
    let host = Host::empty(Isolation::Process, quick()).await;
    let yaml =
        "may:\n  id: hot-runtime/plugin\n  config: { plugin: hazard, capabilities: { answer: [other/thing] } }\n";
    host.bus.apply(ConfigSet::from_yaml(yaml).expect("a config set")).await.expect("applying");
    host.bus.watch_config("may").running().await.expect("it is noted");
    host.bus.apply(ConfigSet::from_yaml(CONFIG).expect("a config set")).await.expect("applying");
    host.runtime.load_file(hazard().await).await.expect("loading");
    let refused = || {
        let states = host.bus.configs();
        let state =
            states.iter().find(|state| state.key == "hazard").map(|state| format!("{state:?}")).unwrap_or_default();
        state.contains("may not answer")
    };
    until("its controller is refused", refused).await;
    host.runtime.shutdown().await;
}

/// How often the plugin's process is killed under load.
const KILLS: usize = 200;

/// How long any request may take, restarts included.
const PROMPT: Duration = Duration::from_secs(10);

/// What became of the requests of a load.
#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    crashed: AtomicUsize,
    other: std::sync::Mutex<Vec<String>>,
}

impl Counts {
    fn count(&self, answer: Result<String>, expected: &str) {
        match answer {
            Ok(answer) if answer == expected => drop(self.answered.fetch_add(1, Ordering::Relaxed)),
            Err(error) if error.kind() == controllerbus::error::ErrorKind::Crashed => {
                assert!(error.to_string().contains("crashed"), "{error}");
                self.crashed.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) => self.other.lock().expect("the list").push(format!("`{answer}`")),
            Err(error) => self.other.lock().expect("the list").push(error.to_string()),
        }
    }
}

/// Asks and takes the first answer or error.
async fn impatient(bus: &Bus, what: &str) -> Result<String> {
    Ok(bus.resolve(a_request(what)).await?.0.clone())
}

/// Asks and waits, through every crash, for the answer.
async fn patient(bus: &Bus, what: &str) -> Result<String> {
    let mut request = bus.request(a_request(what))?;
    loop {
        if let Ok(answer) = request.value().await {
            return Ok(answer.0.clone());
        }
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_kills_under_load_leave_no_request_hanging_and_nothing_behind() {
    let mut host = Host::alone(quick().backoff(Duration::from_millis(1))).await;
    let (stop, counts) = (tokio_util::sync::CancellationToken::new(), Arc::new(Counts::default()));
    let kinds = [("sentence", "first"), ("many 20", "1"), ("sentence", "first"), ("large 3", "xxx")];
    let load: Vec<_> = (0..8)
        .map(|task| {
            let (bus, stop, counts) = (host.bus.clone(), stop.clone(), Arc::clone(&counts));
            let (what, expected) = kinds[task % kinds.len()];
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let answer =
                        async { if task < 4 { impatient(&bus, what).await } else { patient(&bus, what).await } };
                    let answer = tokio::time::timeout(PROMPT, answer).await;
                    let answer = answer.unwrap_or_else(|_| Err(Error::msg(format!("`{what}` hangs"))));
                    assert!(task < 4 || answer.is_ok(), "who waits is answered");
                    counts.count(answer, expected);
                }
            })
        })
        .collect();
    let mut pid = host.pid().expect("a process");
    let (mut files, mut memory) = (0, 0);
    for kill in 0..KILLS {
        use std::hash::{BuildHasher, RandomState};
        let moment = Duration::from_micros(RandomState::new().hash_one(kill) % 40_000);
        tokio::time::sleep(moment).await;
        let killed = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
        rustix::process::kill_process(killed, rustix::process::Signal::KILL).expect("killing");
        pid = wait_for(&mut host.told, |event| match event {
            RuntimeEvent::Restarted { pid, .. } => Some(*pid),
            _ => None,
        })
        .await;
        if kill == KILLS / 4 {
            (files, memory) = (open_files(), tests::resident_bytes());
        }
    }
    host.act("sentence").await;
    let grown = tests::resident_bytes().saturating_sub(memory);
    let more_files = open_files().saturating_sub(files);
    assert_eq!(children(), [pid], "one process, and it runs");
    stop.cancel();
    for task in load {
        task.await.expect("the load ends");
    }
    let (answered, crashed) = (counts.answered.load(Ordering::Relaxed), counts.crashed.load(Ordering::Relaxed));
    println!("{answered} answered, {crashed} told of a crash, {grown} bytes and {more_files} files more");
    assert_eq!(*counts.other.lock().expect("the list"), Vec::<String>::new());
    assert!(answered > KILLS && crashed > 0);
    assert!(grown < 4 << 20, "resident memory grew by {grown} bytes");
    assert!(more_files < 8, "{more_files} more files are open");
    host.runtime.shutdown().await;
    assert!(children().is_empty(), "a child is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_loaded_just_before_the_end_is_in_the_timings() {
    let host = Host::new(quick()).await;
    host.runtime.shutdown().await;
    let kept = hot_runtime::timings::read(host._folder.path()).expect("the timings");
    assert_eq!(kept.iter().map(|reload| reload.plugin.as_str()).collect::<Vec<_>>(), ["hazard"]);
}

/// Keeps what plugins log, while it listens: other tests look at the memory that is used.
#[derive(Default)]
struct Logged {
    listens: std::sync::atomic::AtomicBool,
    events: std::sync::Mutex<Vec<String>>,
    spans: std::sync::Mutex<Vec<Opened>>,
}

/// A span's fields, with its parent.
struct Opened {
    fields: String,
    parent: Option<u64>,
    metadata: &'static tracing_core::Metadata<'static>,
}

thread_local! {
    static ENTERED: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Logged {
    /// The fields of a span and of those that it is in.
    fn around(&self, span: Option<u64>) -> String {
        let (mut text, mut next) = (String::new(), span);
        let spans = self.spans.lock().expect("the list");
        while let Some(Opened { fields, parent, .. }) = next.and_then(|id| spans.get(id as usize - 1)) {
            text += &format!(" in {fields}");
            next = *parent;
        }
        text
    }
}

struct Fields(String);

impl tracing_core::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing_core::Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{}={value:?};", field.name()));
    }
}

impl tracing_core::Subscriber for &'static Logged {
    fn register_callsite(&self, _: &'static tracing_core::Metadata<'static>) -> tracing_core::subscriber::Interest {
        tracing_core::subscriber::Interest::sometimes()
    }
    fn enabled(&self, metadata: &tracing_core::Metadata<'_>) -> bool {
        self.listens.load(Ordering::Relaxed)
            && ["controllerbus::guest", "controllerbus::run"].contains(&metadata.target())
    }
    fn new_span(&self, span: &tracing_core::span::Attributes<'_>) -> tracing_core::span::Id {
        let mut fields = Fields(String::new());
        span.record(&mut fields);
        let entered = || ENTERED.with_borrow(|entered| entered.last().copied()).filter(|_| span.is_contextual());
        let parent = span.parent().map(tracing_core::span::Id::into_u64).or_else(entered);
        let mut spans = self.spans.lock().expect("the list");
        spans.push(Opened { fields: fields.0, parent, metadata: span.metadata() });
        tracing_core::span::Id::from_u64(spans.len() as u64)
    }
    fn record(&self, _: &tracing_core::span::Id, _: &tracing_core::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing_core::span::Id, _: &tracing_core::span::Id) {}
    fn event(&self, event: &tracing_core::Event<'_>) {
        let mut fields = Fields(format!("{} ", event.metadata().level()));
        event.record(&mut fields);
        let around = self.around(event.parent().map(tracing_core::span::Id::into_u64));
        self.events.lock().expect("the list").push(format!("{}{around}", fields.0));
    }
    fn enter(&self, span: &tracing_core::span::Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }
    fn exit(&self, span: &tracing_core::span::Id) {
        ENTERED.with_borrow_mut(|entered| entered.retain(|known| *known != span.into_u64()));
    }
    fn current_span(&self) -> tracing_core::span::Current {
        let Some(span) = ENTERED.with_borrow(|entered| entered.last().copied()) else {
            return tracing_core::span::Current::none();
        };
        let metadata = self.spans.lock().expect("the list")[span as usize - 1].metadata;
        tracing_core::span::Current::new(tracing_core::span::Id::from_u64(span), metadata)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_logs_reaches_the_hosts_subscriber_with_its_plugin_generation_and_span() {
    let logged: &'static Logged = Box::leak(Box::default());
    tracing::subscriber::set_global_default(logged).expect("no other test has a subscriber");
    let turn = (Some(TURNS.read().await), None);
    logged.listens.store(true, Ordering::Relaxed);
    let host = Host::loaded(Host::in_turn(turn, Isolation::Process, quick()).await, CONFIG).await;
    let generation = host.runtime.generations().last().expect("a generation").generation;
    assert_eq!(host.act("log hello").await, "logged");
    let found = || {
        let events = logged.events.lock().expect("the list");
        events.iter().find(|event| event.contains("the hazard logs")).cloned()
    };
    until("the event comes", || found().is_some()).await;
    // A debug output in a debug output has its quotes escaped.
    let event = found().expect("it is there").replace('\\', "");
    let expected = [
        "WARN ",
        "plugin=\"hazard\"",
        &format!("generation={generation};"),
        "module=\"hazard\"",
        "argument=",
        "hello",
        "name=\"hazards\"",
        "number=7",
        // Of the resolver, as the plugin knows it, and of its controller, as the bus does.
        "directive=\"hazard/do\"",
        "controller=\"hazard\";config_key=\"hazard\";",
    ];
    for part in expected {
        assert!(event.contains(part), "`{part}` is not in {event}");
    }
    // And so what a controller logs that the plugin has added from inside.
    assert_eq!(host.act("log-added hello").await, "logged");
    let by_added = || {
        let events = logged.events.lock().expect("the list");
        events.iter().find(|event| event.contains("the added one logs")).cloned()
    };
    until("the event comes", || by_added().is_some()).await;
    let event = by_added().expect("it is there");
    assert!(event.contains("plugin=\"hazard\"") && event.contains("controller=\"hazard/added\";"), "{event}");
    // What is said by `log` comes the same way.
    let by_log = || {
        let events = logged.events.lock().expect("the list");
        events.iter().find(|event| event.contains("hello, logged by log")).cloned()
    };
    until("the record comes", || by_log().is_some()).await;
    let event = by_log().expect("it is there");
    assert!(
        event.starts_with("INFO ") && event.contains("plugin=\"hazard\"") && event.contains("elsewhere"),
        "{event}"
    );
    logged.listens.store(false, Ordering::Relaxed);
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_value_cannot_leave_its_process_and_who_asks_hears_why() {
    use controllerbus::directive::{OpaqueDirective, RawEvent, wire};
    let host = Host::empty(Isolation::Process, quick()).await;
    host.bus.apply(ConfigSet::from_yaml("doubler:\n  id: doubler\n").expect("a set")).await.expect("applying");
    host.runtime.load_file(artifact("doubler", &["doubler-api", "doubler"]).await).await.expect("loading");
    let asked = OpaqueDirective::new("doubler", wire::encode(&()).expect("a unit"));
    let mut request = host.bus.handle().raw(Arc::new(asked)).expect("a request");
    let error = loop {
        match std::future::poll_fn(|cx| request.poll_event(cx)).await.expect("it stands") {
            RawEvent::Failed(error) => break error,
            RawEvent::Added(..) => panic!("an object came out of its process"),
            _ => {}
        }
    };
    assert!(error.to_string().contains("another process"), "{error}");
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_asks_another_which_crashes_and_is_swapped() {
    let host = Host::empty(Isolation::Process, quick()).await;
    let set = "probe:\n  id: probe\n  config: { mode: ok }\nsecond:\n  id: second\n";
    host.bus.apply(ConfigSet::from_yaml(set).expect("a config set")).await.expect("applying");
    let second = artifact("second", &["second"]).await;
    for file in [&artifact("probe", &["probe"]).await, &second] {
        host.runtime.load_file(file).await.expect("loading");
    }
    let pid_of = |plugin: &str| {
        let generations = host.runtime.generations();
        let serving = |found: &&hot_runtime::GenerationInfo| found.state == GenerationState::Serving;
        generations.iter().filter(serving).find(|found| found.plugin == plugin).and_then(|found| found.pid)
    };
    let ask = || async {
        let mut request = host.bus.request(Ask { what: "ask-second".to_owned(), nonce: nonce() })?;
        tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                // What the crash of the other did to this one's answer is tried again as long as this stands.
                if let Ok(answer) = request.value().await {
                    return Ok::<_, Error>(answer.0.clone());
                }
            }
        })
        .await
        .map_err(|_| Error::msg("no answer within 20 s"))?
    };
    assert_eq!(ask().await.expect("an answer"), "from the second");
    let (probe, first) = (pid_of("probe").expect("a process"), pid_of("second").expect("a process"));
    assert!(probe != first && probe != std::process::id());

    let killed = rustix::process::Pid::from_raw(first as i32).expect("a process id");
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).expect("killing");
    assert_eq!(ask().await.expect("an answer after the crash"), "from the second");
    until("it runs again", || pid_of("second").is_some_and(|now| now != first)).await;

    let again = pid_of("second");
    host.runtime.load_file(&second).await.expect("a swap");
    assert_eq!(ask().await.expect("an answer after the swap"), "from the second");
    assert_ne!(pid_of("second"), again);
    assert_eq!(pid_of("probe"), Some(probe), "who asked is the same process all along");
    host.runtime.shutdown().await;
}

/// The same directive as in the fixture, which its asker has pinned.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "hazard/do", value = Answer, pin = "10m")]
struct PinnedDo {
    what: String,
    nonce: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_stays_loaded_for_what_is_pinned_to_it_and_is_unloaded_after_that() {
    for isolation in [Isolation::None, Isolation::Process] {
        let mut host = Host::with(isolation, quick(), CONFIG).await;
        let first = host.runtime.generations().last().expect("a generation").generation;
        let mut pinned = host.bus.request(PinnedDo { what: "wait".to_owned(), nonce: nonce() }).expect("a request");
        assert_eq!(pinned.value().await.expect("a value").0, "waiting");
        let second = host.runtime.load_file(hazard().await).await.expect("the next one takes over").to;
        assert_ne!(first, second);
        // Longer than what is replaced may otherwise take.
        let shown = async {
            loop {
                let all = host.runtime.generations();
                let old = all.into_iter().find(|found| found.generation == first).expect("it is in the registry");
                match (old.state, old.reason) {
                    (GenerationState::Draining, None) => tokio::time::sleep(Duration::from_millis(5)).await,
                    (GenerationState::Draining, Some(reason)) => break reason,
                    other => panic!("{other:?}"),
                }
            }
        };
        let reason = tokio::time::timeout(Duration::from_secs(20), shown).await.expect("it is shown why it stays");
        assert_eq!(reason, "hazard goes on with what is pinned to it: hazard/do");
        let resolvers = pinned.resolvers().expect("it stands");
        assert!(resolvers.len() == 1 && resolvers[0].pinned && resolvers[0].values == 1, "{resolvers:?}");
        assert_eq!(pinned.standing().count(), 1);
        // The next one does all else.
        assert_eq!(host.act("executed").await, "1");
        // Its process is not killed for it either, which is what would come next.
        while let Ok(event) = tokio::time::timeout(Duration::from_secs(4), pinned.next()).await {
            assert!(matches!(event, Some(Event::Idle | Event::Busy)), "it ends: {event:?}");
        }
        drop(pinned);
        let unloaded = wait_for(&mut host.told, |event| match event {
            RuntimeEvent::Unloaded { generation, unmapped, .. } if *generation == first => Some(*unmapped),
            RuntimeEvent::Crashed { reason, .. } => panic!("{reason}"),
            _ => None,
        });
        assert_ne!(unloaded.await, Some(false));
        // Nor does what is pinned hold up the end.
        let mut pinned = host.bus.request(PinnedDo { what: "wait".to_owned(), nonce: nonce() }).expect("a request");
        assert_eq!(pinned.value().await.expect("a value").0, "waiting");
        host.runtime.load_file(hazard().await).await.expect("another one takes over");
        assert!(pinned.resolvers().expect("it stands")[0].pinned);
        let left = host.runtime.shutdown().await.left;
        assert!(left.is_empty(), "{left:?}");
    }
}
