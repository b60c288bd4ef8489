//! What of a plugin would outlive its code: it is waited for, named, or not called any more.

use std::path::PathBuf;
use std::time::Duration;

use controllerbus::prelude::*;
use hot_runtime::artifact::Trust;
use hot_runtime::compile::{BuildOptions, BuiltBy, PluginBuilder};
use hot_runtime::{GenerationState, HotRuntime, PluginSpec, RuntimeEvent};
use rustix::process::{Signal, getpid, kill_process};
use tests::{Scratch, events, host, mapped_below, swapped, target_dir, wait_for, work_dir};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{ask, built};

/// The fixture as a plugin of this name.
async fn build(scratch: &Scratch, name: &str, features: &[&str]) -> PathBuf {
    let mut spec = PluginSpec::new(name).crate_path(scratch.path("brittle")).watch(false);
    for feature in features {
        spec = spec.feature(*feature);
    }
    let options = BuildOptions::new(work_dir().join(name)).target_dir(target_dir());
    let built = PluginBuilder::new(spec, options).build(&|_| {}, &CancellationToken::new()).await;
    built.expect("a build").artifact
}

/// A host that has loaded the brittle plugin from a file.
pub struct Host {
    scratch: Scratch,
    pub bus: Bus,
    runtime: HotRuntime,
    work: PathBuf,
    file: PathBuf,
    told: tokio::sync::mpsc::UnboundedReceiver<RuntimeEvent>,
}

impl Host {
    /// With the fixture as it is, which is built once.
    pub async fn new(name: &str) -> Self {
        static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
        let file = BUILT.get_or_init(async || build(&Scratch::new(&["brittle"]), "ties", &[]).await).await;
        Self::of(Scratch::new(&[]), name, file.clone()).await
    }

    /// With a fixture that was prepared.
    async fn prepared(scratch: Scratch, name: &str, features: &[&str]) -> Self {
        let file = build(&scratch, name, features).await;
        Self::of(scratch, name, file).await
    }

    async fn of(scratch: Scratch, name: &str, file: PathBuf) -> Self {
        let work = work_dir().join(name);
        let bus = host("good:\n  id: brittle\n").await;
        let (listener, told) = events();
        let builder = HotRuntime::builder(&bus)
            .trust(Trust::anyone())
            .work_dir(&work)
            .drain(Duration::from_millis(500))
            .on_event(listener);
        let runtime = builder.start().await.expect("starting");
        runtime.load_file(&file).await.expect("loading");
        Self { scratch, bus, runtime, work, file, told }
    }

    pub async fn end(self) {
        self.runtime.shutdown().await;
        assert_eq!(mapped_below(&self.work), 0);
    }
}

/// Whether a signal of this process has a handler, and whether it is ignored, as the system has it.
fn disposition(signal: Signal) -> (bool, bool) {
    let status = std::fs::read_to_string("/proc/self/status").expect("the status");
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the mask");
        u64::from_str_radix(line.trim(), 16).expect("a mask") >> (signal.as_raw() - 1) & 1 == 1
    };
    (mask("SigCgt:"), mask("SigIgn:"))
}

fn raise(signal: Signal) {
    kill_process(getpid(), signal).expect("a signal to this process");
}

/// Asks until the answer is the wanted one.
async fn until(bus: &Bus, what: &str, wanted: &str) {
    let answered = async {
        while ask(bus, what).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), answered).await.expect("the answer within 20 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn unloading_waits_for_a_threads_last_destructor_whatever_kind_it_is_of() {
    let host = Host::new("ties-key").await;
    let ended = host.scratch.folder().join("ended");
    ask(&host.bus, &format!("key {}", ended.display())).await;
    assert_eq!(host.runtime.unload("ties").await.expect("unloading").unmapped, Some(true));
    assert!(ended.exists(), "the destructor ran to its end before the library went");
    host.end().await;
}

/// Its threads are called after the plugin, and the system keeps 15 bytes of that, of which the last is half an `ü`.
#[tokio::test(flavor = "multi_thread")]
async fn unloading_waits_for_threads_whose_name_is_cut_within_a_character() {
    let plugin = "überwachung-für-alle";
    let host = Host::prepared(Scratch::new(&["brittle"]), plugin, &[]).await;
    let ended = host.scratch.folder().join("ended");
    ask(&host.bus, &format!("key {}", ended.display())).await;
    assert_eq!(host.runtime.unload(plugin).await.expect("unloading").unmapped, Some(true));
    assert!(ended.exists(), "the destructor ran to its end before the library went");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_does_not_end_keeps_its_library_and_is_named_once() {
    let mut host = Host::new("ties-thread").await;
    let until = host.scratch.folder().join("until");
    ask(&host.bus, &format!("thread {}", until.display())).await;
    host.runtime.load_file(&host.file).await.expect("the next generation");
    wait_for(&mut host.told, |event| matches!(event, RuntimeEvent::Stuck { threads: 1, .. }).then_some(())).await;
    let mut generations = host.runtime.generations().into_iter();
    let stuck = generations.find(|found| found.state == GenerationState::Stuck).expect("it is in the registry");
    assert_eq!((stuck.reason.as_deref(), stuck.mapped), (Some("its thread `stays` does not end"), Some(true)));
    // Meanwhile it is asked every half second whether the thread has ended.
    tokio::time::sleep(Duration::from_secs(2)).await;
    std::fs::write(&until, "").expect("letting it end");
    let again = wait_for(&mut host.told, |event| match event {
        RuntimeEvent::Stuck { .. } => Some(true),
        RuntimeEvent::Unloaded { unmapped: Some(true), .. } => Some(false),
        _ => None,
    });
    assert!(!again.await, "it is told once");
    host.end().await;
}

/// A library with a thread that writes to a file for as long as its process lives.
const BEATING: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void *beats(void *path) {
    for (;;) {
        FILE *file = fopen(path, "a");
        if (file) {
            fputc('.', file);
            fclose(file);
        }
        usleep(10000);
    }
}

void beat(const char *path) {
    pthread_t thread;
    pthread_create(&thread, 0, beats, strdup(path));
    pthread_detach(thread);
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_of_a_shared_c_library_goes_on_when_the_plugin_that_needs_it_is_gone() {
    let scratch = Scratch::new(&["brittle"]);
    let (source, library) = (scratch.folder().join("beating.c"), scratch.folder().join("libbeating.so"));
    std::fs::write(&source, BEATING).expect("writing");
    let mut compiler = std::process::Command::new("cc");
    let soname = format!("-Wl,-soname,{}", library.display());
    let compiled = compiler.args(["-shared", "-fPIC", "-pthread", &soname, "-o"]).arg(&library).arg(&source).status();
    assert!(compiled.expect("a C compiler").success());
    let build = format!(
        "fn main() {{ println!(\"cargo:rustc-link-search=native={}\\ncargo:rustc-link-lib=dylib=beating\"); }}",
        scratch.folder().display()
    );
    std::fs::write(scratch.path("brittle").join("build.rs"), build).expect("writing");
    let host = Host::prepared(scratch, "ties-beating", &["beating"]).await;
    let beats = host.scratch.folder().join("beats");
    ask(&host.bus, &format!("beat {}", beats.display())).await;
    assert_eq!(host.runtime.unload("ties-beating").await.expect("unloading").unmapped, Some(true));
    let length = || std::fs::metadata(&beats).map_or(0, |found| found.len());
    let before = length();
    let goes_on = async {
        while length() < before + 10 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), goes_on).await.expect("the thread goes on");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_handler_is_not_called_once_its_library_is_gone_and_the_hosts_own_always_is() {
    let first = Host::new("ties-signal").await;
    let own = Signal::USR1;
    let mut hosts = signal(SignalKind::user_defined1()).expect("the host's own handler");
    assert_eq!(ask(&first.bus, &format!("handle {}", own.as_raw())).await, "handles");
    // One that nobody handles otherwise, and one that is ignored.
    let (others, ignored) = (Signal::WINCH, Signal::URG);
    assert_eq!(disposition(others), (false, false));
    ask(&first.bus, &format!("handle {}", others.as_raw())).await;
    ask(&first.bus, &format!("ignore {}", ignored.as_raw())).await;
    // Not taken from the host.
    ask(&first.bus, &format!("ignore {}", Signal::CHILD.as_raw())).await;
    assert_eq!((disposition(others), disposition(ignored)), ((true, false), (false, true)));

    raise(own);
    hosts.recv().await.expect("the host's handler is called");
    until(&first.bus, "signals", "1").await;
    raise(others);
    until(&first.bus, "signals", "2").await;

    assert_eq!(first.runtime.unload("ties").await.expect("unloading").unmapped, Some(true));
    assert_eq!((disposition(others), disposition(ignored)), ((false, false), (false, false)), "as it was");
    raise(own);
    hosts.recv().await.expect("the host's handler is called");
    first.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_after_an_edit_of_a_plugin_that_listens_for_it_ends_well() {
    let scratch = Scratch::new(&["brittle"]);
    // In `execute`, as a program does it.
    scratch.edit("brittle", "context.cancelled().await;", "ties::act(\"ctrl-c\")?; context.cancelled().await;");
    let bus = host("good:\n  id: brittle\n").await;
    let (listener, mut told) = events();
    let work = work_dir().join("ties-ctrl-c");
    let runtime = HotRuntime::builder(&bus)
        .watch(scratch.path("brittle"))
        .work_dir(&work)
        .target_dir(target_dir())
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    let mut hosts = signal(SignalKind::interrupt()).expect("the host's own handler");
    assert_eq!(built(&mut told).await, BuiltBy::Cargo);
    wait_for(&mut told, swapped).await;
    scratch.edit("brittle", "\"first\"", "\"second\"");
    assert_eq!(built(&mut told).await, BuiltBy::Rustc);
    wait_for(&mut told, |event| matches!(event, RuntimeEvent::Unloaded { unmapped: Some(true), .. }).then_some(()))
        .await;
    raise(Signal::INT);
    hosts.recv().await.expect("the host's handler is called");
    until(&bus, "signals", "1").await;
    assert_eq!(runtime.unload("brittle").await.expect("unloading").unmapped, Some(true));
    raise(Signal::INT);
    hosts.recv().await.expect("the host's handler is called");
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

#[test]
fn what_an_initialiser_of_a_plugin_leaves_behind_is_not_called_once_its_library_is_gone() {
    let thread = || tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let runtime = thread();
    runtime.block_on(async {
        let host = Host::prepared(Scratch::new(&["brittle"]), "ties-early", &["early"]).await;
        raise(Signal::USR2);
        until(&host.bus, "signals", "1").await;
        assert_eq!(host.runtime.unload("ties-early").await.expect("unloading").unmapped, Some(true));
        host.end().await;
    });
    assert_eq!(disposition(Signal::USR2), (false, false));
    // The host's threads, on one of which the library was opened, end here: a destructor of it would be called.
    drop(runtime);
}

/// How many sockets this process has open.
fn sockets() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").expect("the descriptors").flatten();
    let targets = open.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sockets_that_a_plugins_tokio_keeps_for_signals_go_with_its_library() {
    const TIMES: usize = 60;
    let host = Host::new("ties-sockets").await;
    let before = sockets();
    for _ in 0..TIMES {
        assert_eq!(host.runtime.unload("ties").await.expect("unloading").unmapped, Some(true));
        host.runtime.load_file(&host.file).await.expect("loading");
    }
    // Each has two; what other tests have open meanwhile is less than half of that.
    let now = sockets();
    assert!(now < before + TIMES, "{before} sockets before, {now} now");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_is_marked_never_to_be_unmapped_is_unmapped_all_the_same() {
    let scratch = Scratch::new(&["brittle"]);
    // As a workspace's flags may say, and as compilers may come to do by themselves.
    scratch.link_by("brittle", "set -- \"$@\" -Wl,-z,nodelete");
    let bus = host("good:\n  id: brittle\n").await;
    let (listener, mut told) = events();
    let work = work_dir().join("ties-nodelete");
    let runtime = HotRuntime::builder(&bus)
        .plugin(PluginSpec::new("nodelete").crate_path(scratch.path("brittle")))
        .work_dir(&work)
        .target_dir(target_dir())
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    let marked = |file: &std::path::Path| {
        let output = std::process::Command::new("readelf").arg("-d").arg(file).output().expect("readelf");
        String::from_utf8_lossy(&output.stdout).contains("NODELETE")
    };
    let linked = target_dir().join("debug/libcbus_overlay_nodelete.so");
    assert!(marked(&linked), "the flag is there");
    let unloaded = |event: &RuntimeEvent| match event {
        RuntimeEvent::Unloaded { unmapped, .. } => Some(*unmapped == Some(true)),
        _ => None,
    };
    wait_for(&mut told, swapped).await;
    for (from, to) in [("first", "second"), ("second", "third")] {
        scratch.edit("brittle", from, to);
        assert_eq!(built(&mut told).await, BuiltBy::Rustc);
        assert!(wait_for(&mut told, unloaded).await, "it is unmapped");
    }
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_loader_says_of_a_library_that_it_cannot_open_is_in_the_error() {
    let scratch = Scratch::new(&["brittle"]);
    let gone = scratch.folder().join("libgone.so");
    let made = std::process::Command::new("cc").args(["-shared", "-x", "c", "/dev/null", "-o"]).arg(&gone).status();
    assert!(made.expect("cc").success());
    scratch.link_by("brittle", &format!("set -- \"$@\" -Wl,--no-as-needed {}", gone.display()));
    let spec = PluginSpec::new("needy").crate_path(scratch.path("brittle")).watch(false);
    let options = BuildOptions::new(work_dir().join("ties-loader")).target_dir(target_dir());
    let built = PluginBuilder::new(spec, options).build(&|_| {}, &CancellationToken::new()).await.expect("a build");
    std::fs::remove_file(&gone).expect("it goes");
    let bus = Bus::new();
    let builder = HotRuntime::builder(&bus).trust(Trust::anyone()).work_dir(work_dir().join("ties-loader"));
    let runtime = builder.start().await.expect("starting");
    let error = runtime.load_file(&built.artifact).await.expect_err("refused").to_string();
    assert!(error.contains("libgone.so: cannot open shared object file"), "{error}");
    runtime.shutdown().await;
}

#[ignore = "fetches and compiles C libraries"]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_may_have_an_allocator_of_its_own() {
    let refused = async |dependency: &str| {
        let scratch = Scratch::new(&["brittle"]);
        scratch.amend("brittle", "[dependencies]", &format!("[dependencies]\n{dependency}"));
        scratch.edit(
            "brittle",
            "mod drops;",
            "mod drops;\n#[global_allocator]\nstatic A: mimalloc::MiMalloc = mimalloc::MiMalloc;",
        );
        let spec = PluginSpec::new("allocator").crate_path(scratch.path("brittle")).watch(false);
        let options = BuildOptions::new(work_dir().join("ties-allocator")).target_dir(target_dir());
        let built = match PluginBuilder::new(spec, options).build(&|_| {}, &CancellationToken::new()).await {
            Ok(built) => built,
            Err(error) => return error.to_string(),
        };
        let bus = Bus::new();
        let runtime = HotRuntime::builder(&bus)
            .trust(Trust::anyone())
            .work_dir(work_dir().join("ties-allocator"))
            .start()
            .await
            .expect("starting");
        let error = runtime.load_file(&built.artifact).await.expect_err("refused").to_string();
        runtime.shutdown().await;
        error
    };
    let said = refused("mimalloc = { version = \"0.1\", default-features = false }").await;
    assert!(said.contains("mimalloc has the feature `local_dynamic_tls`"), "{said}");
    let said = refused("mimalloc = { version = \"0.1\", features = [\"local_dynamic_tls\", \"override\"] }").await;
    assert!(said.contains("it has its own `malloc`"), "{said}");
    for (dependency, allocator) in [
        (
            "mimalloc = { version = \"0.1\", default-features = false, features = [\"local_dynamic_tls\"] }",
            "mimalloc::MiMalloc",
        ),
        (
            "tikv-jemallocator = { version = \"0.6\", features = [\"disable_initial_exec_tls\"] }",
            "tikv_jemallocator::Jemalloc",
        ),
    ] {
        let scratch = Scratch::new(&["brittle"]);
        scratch.amend("brittle", "[dependencies]", &format!("[dependencies]\n{dependency}"));
        let global = format!("mod drops;\n#[global_allocator]\nstatic ALLOCATOR: {allocator} = {allocator};");
        scratch.edit("brittle", "mod drops;", &global);
        let bus = host("good:\n  id: brittle\n").await;
        let (listener, mut told) = events();
        let work = work_dir().join("ties-allocator");
        let runtime = HotRuntime::builder(&bus)
            .watch(scratch.path("brittle"))
            .work_dir(&work)
            .target_dir(target_dir())
            .on_event(listener)
            .start()
            .await
            .expect("starting");
        let unloaded = |event: &RuntimeEvent| match event {
            RuntimeEvent::Unloaded { unmapped, .. } => Some(*unmapped == Some(true)),
            RuntimeEvent::RolledBack { reason, .. } => panic!("{reason}"),
            _ => None,
        };
        let mut before = "first".to_owned();
        for edit in 0..12 {
            let next = format!("edit {edit}");
            scratch.edit("brittle", &format!("\"{before}\""), &format!("\"{next}\""));
            assert!(wait_for(&mut told, unloaded).await, "{allocator}");
            assert_eq!(ask(&bus, "sentence").await, next);
            println!("{allocator}: {} MiB", tests::resident_bytes() >> 20);
            before = next;
        }
        runtime.shutdown().await;
        assert_eq!(mapped_below(&work), 0);
    }
}
