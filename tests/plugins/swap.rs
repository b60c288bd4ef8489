//! What a swap promises: interface values live on, failures roll back, nothing is lost.

use controllerbus::prelude::*;
use hot_runtime::{GenerationState, HotRuntime, PluginSpec, RuntimeEvent};
use tests::load::{built, replace, seal};
use tests::{Answer, Ask, Scratch, ask, events, host, mapped_below, nonce, swapped, target_dir, wait_for, work_dir};

/// The same directive as in the `caller` fixture.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "caller/ask", value = Answer)]
struct AskCaller {
    what: String,
    nonce: u64,
}

async fn ask_caller(bus: &Bus, what: &str) -> String {
    let answer = bus.resolve(AskCaller { what: what.to_owned(), nonce: nonce() });
    let answer = tokio::time::timeout(std::time::Duration::from_secs(20), answer).await.expect("within 20 s");
    answer.map_or_else(|error| error.to_string(), |answer| answer.0.clone())
}

/// Asks until the answer is the wanted one.
async fn until(bus: &Bus, what: &str, wanted: &str) {
    let answered = async {
        while ask_caller(bus, what).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), answered).await.expect("the answer within 20 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_value_of_another_plugin_is_called_directly_and_outlives_its_generations_swap() {
    let scratch = Scratch::new(&["doubler-api", "doubler", "caller"]);
    let bus = host("doubler:\n  id: doubler\ncaller:\n  id: caller\n").await;
    let (listener, mut told) = events();
    let work = work_dir().join("interface");
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .plugin(PluginSpec::new("doubler").crate_path(scratch.path("doubler")))
        .plugin(PluginSpec::new("caller").crate_path(scratch.path("caller")).watch(false))
        .work_dir(&work)
        .target_dir(target_dir())
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    let generations = [wait_for(&mut told, swapped).await, wait_for(&mut told, swapped).await];
    let find = |plugin: &str| {
        let mut all = runtime.generations().into_iter();
        all.find(|found| generations.contains(&found.generation) && found.plugin == plugin).expect("a generation")
    };
    let (doubler, caller) = (find("doubler").generation, find("caller").generation);
    until(&bus, "call", "times 2: 42").await;
    ask_caller(&bus, "keep").await;

    scratch.edit("doubler", "FACTOR: u64 = 2", "FACTOR: u64 = 3");
    wait_for(&mut told, swapped).await;
    until(&bus, "call", "times 3: 63").await;
    until(&bus, "events", "added times 2, added times 3, removed times 2").await;
    assert_eq!(ask_caller(&bus, "call-kept").await, "times 2: 42");
    let info = |generation| {
        let mut all = runtime.generations().into_iter();
        all.find(|found| found.generation == generation).expect("it is in the registry")
    };
    let old = info(doubler);
    assert_eq!((old.state, old.holders.interfaces, old.mapped), (GenerationState::Draining, 1, Some(true)));
    assert!(old.since.elapsed().expect("a time that has passed").as_secs() < 60);

    ask_caller(&bus, "drop-kept").await;
    let unloaded = |wanted| {
        move |event: &RuntimeEvent| match event {
            RuntimeEvent::Unloaded { generation, unmapped, .. } if *generation == wanted => {
                Some(*unmapped == Some(true))
            }
            _ => None,
        }
    };
    assert!(wait_for(&mut told, unloaded(doubler)).await);

    // What a method gave is good without the library of who made it, which is unmapped.
    assert_eq!(ask_caller(&bus, "keep-title").await, "");
    assert_eq!(runtime.unload("doubler").await.expect("unloading").unmapped, Some(true));
    assert_eq!(ask_caller(&bus, "take-title").await, "a title of 3");
    runtime.rebuild("doubler").await.expect("it comes back");
    until(&bus, "call", "times 3: 63").await;

    // A plugin that goes lets go of what it keeps.
    ask_caller(&bus, "keep").await;
    scratch.edit("doubler", "FACTOR: u64 = 3", "FACTOR: u64 = 4");
    let second = find("caller").generation;
    assert_eq!(second, caller);
    wait_for(&mut told, swapped).await;
    until(&bus, "call", "times 4: 84").await;
    assert_eq!(runtime.unload("caller").await.expect("unloading").unmapped, Some(true));
    let middle = wait_for(&mut told, |event| match event {
        RuntimeEvent::Unloaded { plugin, unmapped, .. } if plugin == "doubler" => Some(*unmapped == Some(true)),
        _ => None,
    });
    assert!(middle.await);
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

/// The count as the `counter` example shows it.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "example/count", value = Count)]
struct Watch;

#[derive(Serialize, Deserialize)]
struct Count {
    ticks: u64,
    generations: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counter_example_counts_on_over_a_swap_and_over_a_change_of_its_states_shape() {
    let scratch = Scratch::new(&[]).example("counter");
    // The version before, as far as its state goes.
    let (now, before) = (
        "State::encode(SCHEMA, &*self.count.borrow())",
        "State::encode(1, &Before { count: self.count.borrow().ticks })",
    );
    scratch.edit("counter", now, before);
    let bus = host("counter:\n  id: example/counter\n  config: { every_ms: 5 }\n").await;
    let (listener, mut told) = events();
    let work = work_dir().join("counter");
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .watch(scratch.path("counter"))
        .work_dir(&work)
        .target_dir(target_dir())
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    let reaches = async |ticks: u64| {
        let mut counts = bus.request(Watch).expect("a request");
        let reached = async {
            loop {
                let count = counts.value().await.expect("a count");
                if count.ticks >= ticks {
                    return count;
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), reached).await.expect("it counts on")
    };
    wait_for(&mut told, swapped).await;
    let first = reaches(20).await;
    assert_eq!(first.generations, 1);

    scratch.edit("counter", before, now);
    wait_for(&mut told, swapped).await;
    let second = reaches(0).await;
    assert!(second.ticks >= first.ticks, "{} after {}", second.ticks, first.ticks);
    assert_eq!(second.generations, 2);

    // A version that does not know this shape is rolled back.
    scratch.edit("counter", "SCHEMA: u32 = 2", "SCHEMA: u32 = 3");
    let reason = wait_for(&mut told, |event| match event {
        RuntimeEvent::RolledBack { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    let reason = reason.await;
    assert!(reason.contains("a count with schema 2 is not supported"), "{reason}");
    let third = reaches(second.ticks + 1).await;
    assert_eq!(third.generations, 2);
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

/// Variants of the probe that behave otherwise, all of one build.
struct Variants {
    artifact: &'static std::path::Path,
    library: Vec<u8>,
    folder: tempfile::TempDir,
}

impl Variants {
    async fn new() -> Self {
        let artifact = built().await;
        let library = tests::verify(artifact).expect("the artifact").library().to_vec();
        Self { artifact, library, folder: tempfile::tempdir().expect("a folder") }
    }

    fn file(&self, behaviour: &str) -> std::path::PathBuf {
        let mut library = self.library.clone();
        let named = format!("behaviour:{behaviour:.<16}");
        replace(&mut library, b"behaviour:good............", named.as_bytes());
        let path = self.folder.path().join(format!("{behaviour}.cbus.so"));
        seal(&library, &path);
        path
    }
}

/// Swaps to generations that fail: each is rolled back with a reason, and nothing of it is seen or stays.
async fn are_rolled_back(name: &str, grace: std::time::Duration, cases: &[(&str, &str)]) {
    let variants = Variants::new().await;
    let bus = host("probe:\n  id: probe\n  config: { mode: quiet }\n").await;
    let work = work_dir().join(name);
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .work_dir(&work)
        .grace(grace)
        .start()
        .await
        .expect("starting");
    runtime.load_file(variants.artifact).await.expect("loading");
    let mut standing = bus.request(Ask { what: "sentence".to_owned(), nonce: nonce() }).expect("a request");
    standing.value().await.expect("a value");
    for (behaviour, expected) in cases {
        let error = runtime.load_file(variants.file(behaviour)).await.expect_err(behaviour).to_string();
        assert!(error.contains(expected), "{behaviour}: {error}");
        assert_eq!(ask(&bus, "sentence").await.expect("the old one serves on"), "first");
        let failed = runtime.generations().into_iter().next_back().expect("it is in the registry");
        assert_eq!(failed.state, GenerationState::Failed);
        assert!(failed.reason.expect("a reason").contains(expected));
    }
    assert_eq!(standing.standing().count(), 1);
    let gone = async {
        while mapped_below(&work) > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.expect("what failed is unmapped");
    drop(standing);
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_fails_is_rolled_back_with_a_reason_and_unmapped() {
    let cases = [
        ("construct-error", "construct was told to fail"),
        ("construct-panic", "construct was told to panic"),
        ("execute-error", "execute was told to fail"),
        ("execute-panic", "execute was told to panic"),
        ("restore-error", "restore does not know schema 1"),
        ("restore-panic", "restore was told to panic"),
        ("resolve-error", "resolve was told to fail"),
        ("resolve-panic", "resolve was told to panic"),
    ];
    are_rolled_back("failing-fails", std::time::Duration::from_secs(60), &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_is_not_ready_in_time_is_rolled_back_and_unmapped() {
    let cases = [("construct-never", "not ready within"), ("never-ready", "not ready within")];
    are_rolled_back("failing-late", std::time::Duration::from_millis(300), &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_blocks_a_thread_stays_until_it_ends_and_the_next_one_serves() {
    let variants = Variants::new().await;
    let bus = host("probe:\n  id: probe\n  config: { mode: quiet }\n").await;
    let (listener, mut told) = events();
    let work = work_dir().join("failing-blocks");
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .work_dir(&work)
        .drain(std::time::Duration::from_millis(200))
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    let blocked_one = runtime.load_file(variants.artifact).await.expect("loading").to;
    ask(&bus, "sentence").await.expect("it serves");
    let file = variants.folder.path().join("go-on");
    let blocked = tokio::spawn({
        let (bus, what) = (bus.clone(), format!("block-until {}", file.display()));
        async move { bus.resolve(Ask { what, nonce: nonce() }).await.map(drop) }
    });
    let begun = async {
        while !bus.directives().iter().any(|found| found.id == "probe/ask" && !found.idle) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), begun).await.expect("the call has begun");
    let next = runtime.load_file(variants.file("good")).await.expect("the next one takes over").to;
    // Held by the call's handle to its values, or, once that is gone, by the thread.
    let held = wait_for(&mut told, |event| match event {
        RuntimeEvent::Draining { generation, .. } | RuntimeEvent::Stuck { generation, .. } => Some(*generation),
        _ => None,
    });
    assert_eq!(held.await, blocked_one);
    let state = |wanted| {
        let mut all = runtime.generations().into_iter();
        all.find(|found| found.generation == wanted).expect("it is in the registry")
    };
    let old = state(blocked_one);
    assert!(matches!(old.state, GenerationState::Draining | GenerationState::Stuck), "{old:?}");
    assert!(old.mapped == Some(true) && old.reason.is_some(), "{old:?}");
    assert_eq!(state(next).state, GenerationState::Serving);
    assert_eq!(ask(&bus, "sentence").await.expect("the next one serves"), "first");
    std::fs::write(&file, "").expect("writing");
    let unloaded = wait_for(&mut told, |event| match event {
        RuntimeEvent::Unloaded { generation, unmapped, .. } if *generation == blocked_one => {
            Some(*unmapped == Some(true))
        }
        _ => None,
    });
    assert!(unloaded.await);
    // The next one has done it again, and is not blocked any more.
    blocked.await.expect("the task").expect("an answer");
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

/// The compilers that this process has started and that are at work for a plugin: `cargo` or `rustc` in one of its folders.
fn compilers(folders: &[&std::path::Path]) -> Vec<String> {
    let own = std::process::id().to_string();
    let called = |process: &std::path::PathBuf| {
        let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        // The name is in brackets and may be anything; the parent is the second word after it.
        let (before, after) = stat.rsplit_once(')')?;
        let parent = after.split_whitespace().nth(1) == Some(&own);
        let compiler = before.ends_with("(cargo") || before.ends_with("(rustc");
        let folder = std::fs::read_link(process.join("cwd")).unwrap_or_default();
        let is_one = parent && compiler && folders.iter().any(|wanted| folder.starts_with(wanted));
        let call = is_one.then(|| std::fs::read(process.join("cmdline")).unwrap_or_default())?;
        Some(format!("{} {}", process.display(), String::from_utf8_lossy(&call).replace('\0', " ")))
    };
    let processes = std::fs::read_dir("/proc").expect("the processes").filter_map(std::result::Result::ok);
    let seen: Vec<_> = processes.map(|process| process.path()).filter(|process| called(process).is_some()).collect();
    // The list is not of one moment: the first may have been waited for before the last was started. Those that are there
    // after all were seen were there at once.
    seen.iter().filter_map(called).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_saves_in_two_seconds_end_in_the_last_one_and_never_run_two_compilers_at_once() {
    let scratch = Scratch::new(&["probe"]);
    let bus = host("probe:\n  id: probe\n  config: { mode: quiet }\n").await;
    let (listener, mut told) = events();
    let work = work_dir().join("rapid");
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .plugin(PluginSpec::new("rapid").crate_path(scratch.path("probe")))
        .work_dir(&work)
        .target_dir(target_dir())
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    wait_for(&mut told, swapped).await;
    let work = work.canonicalize().expect("the work folder");
    let source = scratch.folder().canonicalize().expect("the scratch folder");
    let most = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let watching = tokio_util::sync::CancellationToken::new();
    let watch = {
        let (most, watching) = (std::sync::Arc::clone(&most), watching.clone());
        std::thread::spawn(move || {
            while !watching.is_cancelled() {
                let now = compilers(&[&work, &source]);
                let mut most = most.lock().expect("no panic");
                if now.len() > most.len() {
                    *most = now;
                }
                drop(most);
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        })
    };
    let mut last = "\"first\"".to_owned();
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(40));
    for save in 1..=50 {
        ticks.tick().await;
        let next = format!("\"save {save}\"");
        scratch.edit("probe", &last, &next);
        last = next;
    }
    let ended = async {
        while ask(&bus, "sentence").await.expect("an answer") != "save 50" {
            wait_for(&mut told, swapped).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(100), ended).await.expect("the last save is swapped in");
    watching.cancel();
    watch.join().expect("the watching thread");
    let most = most.lock().expect("no panic").clone();
    assert!(most.len() <= 1, "at once: {most:#?}");
    // Saves that came while one was built are one build, so that most of the fifty never were any.
    let mut started = 0;
    while let Ok(event) = told.try_recv() {
        started += usize::from(matches!(event, RuntimeEvent::BuildStarted { .. }));
    }
    assert!(started <= 1, "{started} builds were started after the last save was swapped in");
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_does_not_end_in_time_is_stopped_and_what_serves_serves_on() {
    let (artifact, scratch) = (built().await, Scratch::new(&["probe"]));
    let bus = host("probe:\n  id: probe\n  config: { mode: quiet }\n").await;
    let (listener, mut told) = events();
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .watch(scratch.path("probe"))
        .work_dir(work_dir().join("slow-build"))
        .target_dir(target_dir())
        .build_timeout(std::time::Duration::from_millis(1))
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    let too_slow = |event: &RuntimeEvent| match event {
        RuntimeEvent::BuildFailed { rendered, .. } if rendered.contains("took longer than 1ms") => Some(()),
        _ => None,
    };
    wait_for(&mut told, too_slow).await;
    runtime.load_file(artifact).await.expect("a ready-made one is loaded");
    scratch.edit("probe", "\"first\"", "\"second\"");
    wait_for(&mut told, too_slow).await;
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "first");
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_blocks_a_thread_is_unloaded_as_far_as_it_goes_and_keeps_nobody_waiting() {
    let variants = Variants::new().await;
    let limits = controllerbus::bus::Limits::default();
    let limit = std::time::Duration::from_millis(200);
    let bus = Bus::with_limits(limits.cancel(limit).close(limit));
    let config = ConfigSet::from_yaml("probe:\n  id: probe\n  config: { mode: quiet }\n").expect("a config set");
    bus.apply(config).await.expect("applying");
    let (listener, mut told) = events();
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .work_dir(work_dir().join("unloading-blocks"))
        .plugins_dir(folder.path())
        .drain(limit)
        .on_event(listener)
        // Whatever a listener does, what is being done goes on.
        .on_event(|event| assert!(!matches!(event, RuntimeEvent::Swapped { .. }), "a listener panics"))
        .start()
        .await
        .expect("starting");
    runtime.load_file(variants.artifact).await.expect("loading");
    ask(&bus, "sentence").await.expect("it serves");
    let file = variants.folder.path().join("never");
    let what = format!("block-until {}", file.display());
    let request = bus.request(Ask { what, nonce: nonce() }).expect("a request");
    // Where it blocks, not only on the bus: what has not begun there is simply dropped.
    let begun = async {
        while !file.with_extension("begun").exists() {
            tokio::task::yield_now().await;
        }
    };
    within("the call has begun", begun).await;

    let report = within("unloading returns", runtime.unload("probe")).await.expect("it is off the bus");
    assert_eq!(report.unmapped, Some(false));
    let left = report.left.expect("something keeps it");
    assert!(left.contains("held by") || left.contains("threads"), "{left}");
    // Its next generation need not wait for that, and neither need what is in the folder.
    drop(request);
    within("the next one loads", runtime.load_file(variants.file("good"))).await.expect("loading");
    assert_eq!(ask(&bus, "sentence").await.expect("the next one serves"), "first");
    std::fs::copy(variants.file("good"), folder.path().join("probe.cbus.so")).expect("copying");
    within("the file is loaded", wait_for(&mut told, swapped)).await;

    let report = within("the shutdown returns", runtime.shutdown()).await;
    assert!(report.left.iter().any(|left| left.plugin == "probe"), "{report:?}");
    within("the bus closes", bus.close()).await;
    std::fs::write(&file, "").expect("writing");
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(std::time::Duration::from_secs(20), work).await;
    done.unwrap_or_else(|_| panic!("{what} within 20 s"))
}
