//! From save to serving: how long after a file is saved a running host sees the new value, with the peers in the same
//! run; and how long a built plugin takes from its file to its first answer.
//!
//! `RELOAD_ONLY=ours,rustc` runs some tools only, `RELOAD_ROUNDS=5` fewer edits; then no picture is written. `RELOAD_DX=dx` runs
//! subsecond too, with that `dx` (`cargo install dioxus-cli --version ^0.7`, a quarter of an hour).
#![allow(unsafe_code)] // opening libraries by hand is what is compared with

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use benches::session::{Session, settle};
use benches::{Measured, picture, root, target};
use controllerbus::hot::Hot;
use controllerbus::prelude::*;
use hot_runtime::{HotRuntime, PluginSpec, RuntimeEvent};

/// `equal` is `tiny`, and `equal-real` is `real`, with the asynchronous controller and its directive written by hand in the projects of
/// the other tools, so that all compile the same work.
const PLUGINS: [&str; 4] = ["tiny", "equal", "real", "equal-real"];
const EDITS: [&str; 2] = ["constant", "insert-line"];
const TOOLS: [&str; 7] = ["ours", "hot_functions", "rustc", "cargo-dlopen", "relib", "hot-lib-reloader", "subsecond"];
/// Which variable names the program that runs subsecond.
const DX: &str = "RELOAD_DX";

/// The first edits fill the caches.
const WARM_UP: usize = 2;

/// The same directive as in `peers/ours/lib.rs`.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "bench/ask", value = Answer)]
struct Ask;

#[derive(Serialize, Deserialize)]
struct Answer(u64);

/// The same trait as in `peers/functions/lib.rs`.
#[controllerbus::hot(id = "bench/value")]
trait Value {
    async fn value(&self) -> u64;
}

fn main() {
    let only = std::env::var("RELOAD_ONLY").ok();
    let rounds = std::env::var("RELOAD_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let wanted = |tool: &&str| {
        let there = *tool != "subsecond" || std::env::var_os(DX).is_some();
        there && only.as_ref().is_none_or(|only| only.split(',').any(|name| name == *tool))
    };
    let mut session = Session::begin("reload");
    println!(
        "from a save to the new value in a running host, {rounds} edits of each tool in turn: medians (quartiles)"
    );
    for plugin in PLUGINS {
        // What a plain function costs more or less than a controller does not depend on what it does.
        let of_plugin = |tool: &&str| *tool != "hot_functions" || plugin == "tiny";
        let mut seats: Vec<Seat> =
            TOOLS.into_iter().filter(wanted).filter(of_plugin).map(|tool| Seat::new(tool, plugin)).collect();
        for edit in EDITS {
            for round in 0..rounds + WARM_UP {
                for seat in &mut seats {
                    let took = seat.edit(edit);
                    if round >= WARM_UP {
                        seat.times.push(took);
                    }
                }
            }
            session.extend(edits(plugin, edit, &mut seats));
        }
        // One library or another: a load does not depend on what is in it.
        if equal(plugin).is_none() {
            session.extend(loads(plugin, rounds, &mut seats));
        }
    }
    if wanted(&"abi_stable") {
        session.push(abi_stable(rounds));
    }
    if only.is_none() && rounds >= 15 {
        let file = root().join("benches/reload.svg");
        std::fs::write(&file, picture::reloads(session.measured(), &TOOLS, &PLUGINS)).expect("the picture");
        println!("picture: {}", file.display());
    }
    session.end();
}

/// The plugin that this one has the controller by hand of, if it is one that makes the work equal.
fn equal(plugin: &str) -> Option<&str> {
    match plugin {
        "equal" => Some("tiny"),
        "equal-real" => Some("real"),
        _ => None,
    }
}

/// What each tool took for one kind of edit, and ours for each pair with each of the others.
fn edits(plugin: &str, edit: &str, seats: &mut [Seat]) -> Vec<Measured> {
    let times: Vec<(&str, Vec<f64>)> =
        seats.iter_mut().map(|seat| (seat.tool, std::mem::take(&mut seat.times))).collect();
    let each = times.iter().map(|(tool, times)| Measured::new(&format!("{tool}/{plugin}/{edit}"), "ms", times.clone()));
    let ours = times.iter().find(|(tool, _)| *tool == "ours").map(|(_, times)| times);
    let others = times.iter().filter(|(tool, _)| *tool != "ours");
    let pairs =
        others.filter_map(|(tool, times)| Some(Measured::ratios(&format!("{plugin}/{edit}/{tool}"), ours?, times)));
    let all: Vec<_> = each.chain(pairs).collect();
    all.iter().for_each(Measured::print);
    all
}

/// From a built file to the first answer: ours, and the same steps by hand for the same file, in turn; and a library of one function,
/// which only has to be opened.
fn loads(plugin: &str, rounds: usize, seats: &mut [Seat]) -> Vec<Measured> {
    let mut all = Vec::new();
    for seat in seats.iter_mut() {
        if let Some(artifact) = seat.host.gives_artifact() {
            let optimised = optimised(&seat.source);
            for (name, artifact) in [(plugin, &artifact), (&format!("{plugin}-release"), &optimised)] {
                all.extend(load_ours(name, rounds, artifact));
                let bytes = std::fs::metadata(artifact).expect("the artifact").len();
                all.push(Measured::new(&format!("size/{name}"), "kB", vec![bytes as f64 / 1000.0]));
            }
        }
    }
    all.extend(seats.iter_mut().find_map(|seat| seat.host.loads(plugin, rounds)));
    all.iter().for_each(Measured::print);
    all
}

/// The artifact of our plugin as it is deployed.
fn optimised(source: &Source) -> PathBuf {
    let work = source.folder.with_extension("release");
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    tokio.block_on(async {
        let spec = PluginSpec::new("plugin").crate_path(&source.folder).release(true).watch(false);
        let builder = HotRuntime::builder(&Bus::new()).plugin(spec).work_dir(&work).target_dir(&source.target);
        builder.start().await.expect("building it optimised").shutdown().await;
    });
    work.join("artifacts").join(format!("plugin.cbus{}", std::env::consts::DLL_SUFFIX))
}

/// Loads of an artifact, and the same by hand.
fn load_ours(plugin: &str, rounds: usize, artifact: &Path) -> [Measured; 3] {
    let work = artifact.parent().and_then(Path::parent).expect("the work folder").join("loads");
    std::fs::create_dir_all(&work).expect("a folder");
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    let of = artifact.to_owned();
    // A host of its own, in which nothing is loaded before. On a task, as servers load: the thread that blocks on a runtime is one more
    // to be woken.
    let loading = tokio.spawn(async move {
        let (mut ours, mut by_hand) = (Vec::new(), Vec::new());
        let bus = Bus::new();
        bus.apply(ConfigSet::from_yaml("bench:\n  id: bench\n").expect("a set")).await.expect("applying");
        let trust = hot_runtime::Trust::anyone();
        let runtime = HotRuntime::builder(&bus).trust(trust).work_dir(&work).start().await.expect("the runtime");
        for round in 0..rounds + WARM_UP {
            settle();
            let begun = Instant::now();
            let loaded = runtime.load_file(&of).await.expect("loading");
            bus.resolve(Ask).await.expect("the first answer");
            let took = begun.elapsed();
            runtime.unload(&loaded.plugin).await.expect("unloading");
            settle();
            let copy = work.join(format!("by-hand-{round}"));
            let hand = benches::timed(|| load_by_hand(&of, &copy));
            std::fs::remove_file(&copy).expect("removing the copy");
            if round >= WARM_UP {
                ours.push(took.as_secs_f64() * 1000.0);
                by_hand.push(hand.as_secs_f64() * 1000.0);
            }
        }
        runtime.shutdown().await;
        (ours, by_hand)
    });
    let (ours, by_hand) = tokio.block_on(loading).expect("loading it");
    let ratios = Measured::ratios(&format!("load/{plugin}/by-hand"), &ours, &by_hand);
    let measured = |of: &str, times| Measured::new(&format!("load/{of}/{plugin}"), "ms", times);
    [measured("ours", ours), measured("by-hand", by_hand), ratios]
}

/// Reads a file, hashes it, writes a private copy, and opens that.
fn load_by_hand(artifact: &Path, copy: &Path) {
    let bytes = std::fs::read(artifact).expect("reading");
    std::hint::black_box(blake3::hash(&bytes));
    std::fs::write(copy, &bytes).expect("writing a copy");
    // SAFETY: nothing of the library is used, and it stays.
    unsafe { std::mem::forget(libloading::Library::new(copy).expect("opening the copy")) };
}

/// One tool with its copy of a plugin, and a host in which it runs.
struct Seat {
    tool: &'static str,
    source: Source,
    host: Box<dyn Host>,
    number: u64,
    times: Vec<f64>,
}

impl Seat {
    /// As for somebody who has been editing for a while.
    fn new(tool: &'static str, plugin: &str) -> Self {
        let source = Source::new(tool, plugin);
        let host = host(tool, &source);
        let mut seat = Self { tool, source, host, number: 0, times: Vec::new() };
        while !seat.host.has_warmed_up() {
            seat.edit("constant");
            std::thread::sleep(Duration::from_secs(3));
        }
        seat
    }

    /// Milliseconds from a save to the new value, once the tool before it is at rest.
    fn edit(&mut self, edit: &str) -> f64 {
        self.number += 1;
        let text = self.source.edited(edit, self.number as usize);
        settle();
        let begun = Instant::now();
        std::fs::write(&self.source.logic, text).expect("the edit");
        self.host.wait_for(self.number);
        begun.elapsed().as_secs_f64() * 1000.0
    }
}

/// From a built library of one function to its answer, with abi_stable's check of both sides' types.
fn abi_stable(rounds: usize) -> Measured {
    let base = std::path::absolute(target().join("bench-reload")).expect("a path");
    let (folder, target) = (base.join("abi_stable"), base.join("target-abi_stable"));
    copy(&root().join("benches/peers/abi_stable"), &folder, &|text| text);
    let mut build = Command::new("cargo");
    build.args(["build", "-q"]).current_dir(&folder).env("CARGO_TARGET_DIR", &target);
    run(build);
    let library = target.join("debug").join(format!("libmodule{}", std::env::consts::DLL_SUFFIX));
    let mut host = Command::new(target.join("debug/host"));
    for number in 0..rounds + WARM_UP {
        let path = folder.join(format!("{number}{}", std::env::consts::DLL_SUFFIX));
        std::fs::copy(&library, &path).expect("a copy");
        host.arg(path);
    }
    let output = host.output().expect("the host");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut times: Vec<f64> = said.lines().map(|line| line.parse().expect("a time")).collect();
    let result = Measured::new("load/abi_stable/tiny", "ms", times.split_off(WARM_UP));
    result.print();
    result
}

/// A tool's copy of a plugin.
struct Source {
    folder: PathBuf,
    target: PathBuf,
    logic: PathBuf,
    text: String,
}

impl Source {
    fn new(tool: &str, plugin: &str) -> Self {
        let project = match tool {
            "rustc" | "cargo-dlopen" => "plain",
            "hot_functions" => "functions",
            other => other,
        };
        let base = target().join("bench-reload");
        let base = std::path::absolute(&base).expect("a path");
        let folder = base.join(format!("{tool}-{plugin}"));
        let peers = root().join("benches/peers");
        let code = equal(plugin).unwrap_or(plugin);
        let text = std::fs::read_to_string(peers.join("plugins").join(code).join("logic.rs")).expect("the plugin");
        // Ours has a controller anyway.
        let by_hand = equal(plugin).is_some() && project != "ours";
        let more = peers.join("plugins").join(if by_hand { plugin } else { code }).join("dependencies.toml");
        let mut more = std::fs::read_to_string(more).expect("its dependencies");
        if project == "ours" {
            more = more.lines().filter(|line| !line.starts_with("serde =")).map(|line| format!("{line}\n")).collect();
        }
        let controllerbus = root().join("controllerbus").display().to_string();
        copy(&peers.join(project), &folder, &|text| {
            let text = text.replace("@DEPENDENCIES@\n", &more).replace("@CONTROLLERBUS@", &controllerbus);
            if by_hand {
                text.replace("mod logic;", "mod controller;\nmod logic;")
                    .replace("logic::value()", "controller::value()")
            } else {
                text
            }
        });
        let sources = match project {
            "hot-lib-reloader" => folder.join("lib/src"),
            "relib" => folder.join("module/src"),
            _ => folder.join("src"),
        };
        if folder.join("lib.rs").is_file() {
            std::fs::create_dir_all(&sources).expect("a folder");
            std::fs::rename(folder.join("lib.rs"), sources.join("lib.rs")).expect("the crate's root");
        }
        if ["ours", "functions"].contains(&project) {
            // The workspace's versions, so that dependencies are compiled once for all benches.
            std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("the lock file");
        }
        if by_hand {
            std::fs::copy(peers.join("controller.rs"), sources.join("controller.rs")).expect("the controller by hand");
        }
        let logic = sources.join("logic.rs");
        std::fs::write(&logic, &text).expect("the plugin");
        // hot-lib-reloader looks for its library where cargo puts it unless told otherwise. Each tool has its own: to cargo, two projects
        // alike are one crate, and would undo each other's incremental compilation.
        let target =
            if project == "hot-lib-reloader" { folder.join("target") } else { base.join(format!("target-{tool}")) };
        Self { folder, target, logic, text }
    }

    fn edited(&self, edit: &str, number: usize) -> String {
        let text = self.text.replace("NUMBER: u64 = 0", &format!("NUMBER: u64 = {number}"));
        assert_ne!(text, self.text);
        if edit == "constant" {
            return text;
        }
        assert!(text.contains("// the middle\n"));
        let lines: String = (0..=number % 40).map(|line| format!("// line {line}\n")).collect();
        text.replace("// the middle\n", &format!("// the middle\n{lines}"))
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(&self.folder).env("CARGO_TARGET_DIR", &self.target);
        for name in ["CARGO", "CARGO_INCREMENTAL", "CARGO_MANIFEST_DIR", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(name);
        }
        command
    }
}

fn copy(from: &Path, to: &Path, change: &dyn Fn(String) -> String) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("the peer's project") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to, change);
        } else {
            let text = std::fs::read_to_string(entry.path()).expect("a file");
            std::fs::write(to, change(text)).expect("its copy");
        }
    }
}

fn run(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("running a command");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// Something that runs and sees new values of the plugin.
trait Host {
    /// Does what the tool's workflow asks for after a save, and waits until the host has seen this value.
    fn wait_for(&mut self, number: u64);

    /// Whether further edits take as long as all that follow: false while something is still prepared in the background.
    fn has_warmed_up(&self) -> bool {
        true
    }

    /// The artifact that it has built last, if the tool is ours. It serves nothing any more.
    fn gives_artifact(&mut self) -> Option<PathBuf> {
        None
    }

    /// From a built file of one function to the first answer, if the tool is the one compared in that.
    fn loads(&mut self, _plugin: &str, _rounds: usize) -> Option<Measured> {
        None
    }
}

fn host(tool: &str, source: &Source) -> Box<dyn Host> {
    match tool {
        "ours" => Box::new(Ours::new(source)),
        "hot_functions" => Box::new(Functions::new(source)),
        "rustc" => {
            let said = run(source.cargo(&["build", "-v"]));
            let running = |said: &str| {
                let line =
                    said.lines().find(|line| line.contains("Running") && line.contains("--crate-name plugin "))?;
                Some(line.trim().trim_start_matches("Running `").trim_end_matches('`').to_owned())
            };
            let call = running(&said).or_else(|| {
                std::fs::write(&source.logic, source.edited("constant", 1_000_000)).expect("an edit");
                running(&run(source.cargo(&["build", "-v"])))
            });
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("exec {}", call.expect("cargo ran rustc"))).current_dir(&source.folder);
            Box::new(ByHand::new(source, command))
        }
        "cargo-dlopen" => {
            run(source.cargo(&["build"]));
            Box::new(ByHand::new(source, source.cargo(&["build", "-q"])))
        }
        "hot-lib-reloader" => {
            run(source.cargo(&["build"]));
            let mut host = Command::new(source.target.join("debug/bin"));
            // `cargo run` would say where the standard library is that the library is linked with.
            let found = Command::new("rustc").args(["--print", "target-libdir"]).output().expect("rustc");
            host.env("LD_LIBRARY_PATH", String::from_utf8_lossy(&found.stdout).trim());
            // Its workflow is `cargo watch -w lib -x 'build -p lib'`; here the build starts at once.
            Box::new(Printing::new(host, source, Some(source.cargo(&["build", "-q", "-p", "lib"]))))
        }
        "relib" => {
            let build = ["build", "-q", "-p", "module", "--features", "unloading"];
            run(source.cargo(&build));
            run(source.cargo(&["build", "-q", "-p", "host"]));
            let mut host = Command::new(source.target.join("debug/host"));
            host.arg(source.target.join("debug").join(format!("libmodule{}", std::env::consts::DLL_SUFFIX)));
            Box::new(Printing::new(host, source, Some(source.cargo(&build))))
        }
        "subsecond" => {
            let mut host = Command::new(std::env::var_os(DX).expect("asked for by that variable"));
            host.args(["serve", "--hot-patch", "--interactive", "false", "--platform", "desktop"]);
            host.env("CARGO_TARGET_DIR", &source.target).env("DX_TELEMETRY_ENABLED", "false");
            // It builds when something is saved.
            Box::new(Printing::new(host, source, None))
        }
        other => panic!("no tool {other}"),
    }
}

/// This process, with hot-runtime in it.
struct Ours {
    tokio: tokio::runtime::Runtime,
    runtime: Option<HotRuntime>,
    values: mpsc::Receiver<u64>,
    artifact: PathBuf,
    /// Whether the dependencies are optimised.
    optimized: Arc<AtomicBool>,
}

/// A runtime that builds and follows the plugin, and whether the dependencies are optimised.
async fn follow(bus: &Bus, source: &Source, work: &Path) -> (HotRuntime, Arc<AtomicBool>) {
    let told = std::env::var_os("RELOAD_TELL").is_some();
    let optimized = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&optimized);
    let runtime = HotRuntime::builder(bus)
        .watch(&source.folder)
        .work_dir(work)
        .target_dir(&source.target)
        .optimize_dependencies(true)
        .on_event(move |event| {
            match event {
                RuntimeEvent::BuildFailed { rendered, .. } => panic!("{rendered}"),
                RuntimeEvent::Built { optimized, .. } => seen.store(*optimized, Ordering::Relaxed),
                _ => {}
            }
            if told && matches!(event, RuntimeEvent::Built { .. } | RuntimeEvent::Swapped { .. }) {
                println!("{event:?}");
            }
        })
        .start()
        .await
        .expect("the runtime");
    (runtime, optimized)
}

impl Ours {
    fn new(source: &Source) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
        let work = source.folder.with_extension("work");
        let bus = Bus::new();
        let (runtime, optimized) = tokio.block_on(async {
            bus.apply(ConfigSet::from_yaml("bench:\n  id: bench\n").expect("a set")).await.expect("applying");
            follow(&bus, source, &work).await
        });
        let (sender, values) = mpsc::channel();
        let asking = bus.clone();
        tokio.spawn(async move {
            let mut standing = asking.request(Ask).expect("a request");
            while let Some(event) = standing.next().await {
                if let Event::Added(_, answer) = event
                    && sender.send(answer.0).is_err()
                {
                    return;
                }
            }
        });
        let artifact = work.join("artifacts").join(format!("plugin.cbus{}", std::env::consts::DLL_SUFFIX));
        Self { tokio, runtime: Some(runtime), values, artifact, optimized }
    }
}

impl Host for Ours {
    fn has_warmed_up(&self) -> bool {
        self.optimized.load(Ordering::Relaxed)
    }

    fn wait_for(&mut self, number: u64) {
        while self.values.recv_timeout(Duration::from_secs(120)).expect("the value") != number {}
    }

    fn gives_artifact(&mut self) -> Option<PathBuf> {
        self.tokio.block_on(self.runtime.take()?.shutdown());
        Some(self.artifact.clone())
    }
}

/// This process, calling a plain function.
struct Functions {
    tokio: tokio::runtime::Runtime,
    value: Hot<dyn Value>,
    _runtime: HotRuntime,
    optimized: Arc<AtomicBool>,
}

impl Functions {
    fn new(source: &Source) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
        let (runtime, optimized, value) = tokio.block_on(async {
            let (runtime, optimized) = follow(&Bus::new(), source, &source.folder.with_extension("work")).await;
            let value = runtime.hot().await.expect("the function");
            (runtime, optimized, value)
        });
        Self { tokio, value, _runtime: runtime, optimized }
    }
}

impl Host for Functions {
    fn has_warmed_up(&self) -> bool {
        self.optimized.load(Ordering::Relaxed)
    }

    fn wait_for(&mut self, number: u64) {
        let begun = Instant::now();
        while self.tokio.block_on(self.value.value()).expect("an answer") != number {
            assert!(begun.elapsed() < Duration::from_secs(120), "the value");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// This process, opening each build by hand.
struct ByHand {
    build: Command,
    library: PathBuf,
    folder: PathBuf,
    opened: usize,
}

impl ByHand {
    fn new(source: &Source, build: Command) -> Self {
        let name = format!("libplugin{}", std::env::consts::DLL_SUFFIX);
        let folder = source.folder.join("opened");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        Self { build, library: source.target.join("debug/deps").join(name), folder, opened: 0 }
    }

    /// A name that the loader does not know yet.
    fn fresh(&mut self) -> PathBuf {
        self.opened += 1;
        self.folder.join(format!("{}{}", self.opened, std::env::consts::DLL_SUFFIX))
    }
}

fn call(path: &Path) -> u64 {
    // SAFETY: the library is this bench's own and exports this function.
    unsafe {
        let library = libloading::Library::new(path).expect("opening the library");
        let value = library.get::<extern "C" fn() -> u64>(b"plugin_value").expect("the function")();
        // It stays: what runs code may have left destructors behind.
        std::mem::forget(library);
        value
    }
}

impl Host for ByHand {
    fn wait_for(&mut self, number: u64) {
        let output = self.build.stdin(Stdio::null()).output().expect("the build");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = self.fresh();
        std::fs::hard_link(&self.library, &path).expect("a name of its own");
        assert_eq!(call(&path), number);
    }

    fn loads(&mut self, plugin: &str, rounds: usize) -> Option<Measured> {
        // Once is enough; the other of the two has the same library.
        if self.build.get_program() != "sh" {
            return None;
        }
        let mut times = Vec::new();
        for _ in 0..rounds + WARM_UP {
            let path = self.fresh();
            std::fs::copy(&self.library, &path).expect("a copy");
            let begun = Instant::now();
            call(&path);
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        Some(Measured::new(&format!("load/raw/{plugin}"), "ms", times.split_off(WARM_UP)))
    }
}

/// A host of the tool's own, which prints each new value.
struct Printing {
    host: Child,
    values: mpsc::Receiver<u64>,
    /// What is run after a save, unless the tool sees that itself.
    build: Option<Command>,
}

impl Printing {
    fn new(mut host: Command, source: &Source, build: Option<Command>) -> Self {
        let mut host = host.current_dir(&source.folder).env("CARGO_MANIFEST_DIR", &source.folder);
        host = host.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        // Together with what it starts.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(host, 0);
        let mut host = host.spawn().expect("the host");
        let lines = BufReader::new(host.stdout.take().expect("its output")).lines();
        let (sender, values) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(std::result::Result::ok) {
                // Behind whatever a tool writes before what its program says.
                if let Some(value) = line.rsplit_once("value ").and_then(|(_, text)| text.parse().ok())
                    && sender.send(value).is_err()
                {
                    return;
                }
            }
        });
        // It is up when it has said its first value.
        values.recv_timeout(Duration::from_secs(180)).expect("the host's first value");
        Self { host, values, build }
    }
}

impl Host for Printing {
    fn wait_for(&mut self, number: u64) {
        if let Some(build) = &mut self.build {
            let output = build.stdin(Stdio::null()).output().expect("the build");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        while self.values.recv_timeout(Duration::from_secs(30)).expect("the value") != number {}
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if let Some(group) = i32::try_from(self.host.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.host.kill();
        let _ = self.host.wait();
    }
}
