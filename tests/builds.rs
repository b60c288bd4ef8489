//! What a build makes of its inputs: names, versions, features, profiles, messages.

use controllerbus::prelude::*;
use hot_runtime::compile::{BuildEvent, BuildOptions, BuildPhase, BuiltBy, MessageLevel, PluginBuilder};
use hot_runtime::{Error, HotRuntime, PluginSpec, Trust};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;
use tests::edits::Crates;
use tests::process::until;
use tests::{
    Scratch, ask, exported_symbols, files_below, host, mapped_below, section_names, target_dir, verify, work_dir,
};
use tokio_util::sync::CancellationToken;

fn options(name: &str) -> BuildOptions {
    BuildOptions::new(work_dir().join(name)).target_dir(target_dir())
}

fn add_to_manifest(scratch: &Scratch, fixture: &str, text: &str) {
    let path = scratch.path(fixture).join("Cargo.toml");
    let manifest = std::fs::read_to_string(&path).expect("the manifest");
    std::fs::write(&path, manifest + text).expect("writing the manifest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_built_to_a_path_with_its_build_hash_features_and_profile() {
    let scratch = Scratch::new(&["probe"]);
    add_to_manifest(&scratch, "probe", "\n[features]\nloud = []\n");
    scratch.edit("probe", "\"first\"", "if cfg!(feature = \"loud\") { \"LOUD\" } else { \"quiet\" }");
    let spec = PluginSpec::new("probe")
        .crate_path(scratch.path("probe"))
        .feature("probe/loud")
        // What it is anyway: another level would have the framework compiled once more for this test.
        .profile("opt-level", "0")
        .watch(false)
        .version_text("1.2.3+{buildHash}")
        .expect("a version");
    let options = options("builds").output(scratch.folder().join("out/probe-{buildHash}.cbus.so"));
    let mut builder = PluginBuilder::new(spec, options);

    let overlay = builder.generate().await.expect("the overlay");
    let manifest = std::fs::read_to_string(overlay.dir.join("Cargo.toml")).expect("its manifest");
    assert!(manifest.contains("opt-level = 0"), "{manifest}");
    assert!(manifest.contains("features = [\"loud\"]"), "{manifest}");
    assert!(!scratch.folder().join("out").exists(), "nothing is built yet");

    let phases = Mutex::new(Vec::new());
    let observer = |event| {
        if let BuildEvent::Phase { phase, .. } = event {
            phases.lock().expect("no panic").push(phase);
        }
    };
    let built = builder.build(&observer, &CancellationToken::new()).await.expect("the artifact");
    // All that it is built from is known once it has been built.
    assert_eq!(builder.generate().await.expect("the overlay").build_hash, built.build_hash);
    assert_eq!(built.artifact, scratch.folder().join(format!("out/probe-{}.cbus.so", built.build_hash)));
    let phases: Vec<_> =
        phases.into_inner().expect("no panic").into_iter().filter(|p| *p != BuildPhase::Waiting).collect();
    assert_eq!(phases.first(), Some(&BuildPhase::Reading));
    assert_eq!(phases.last(), Some(&BuildPhase::Sealing));
    assert!(built.phases.iter().map(|phase| phase.took).sum::<std::time::Duration>() <= built.took);
    let artifact = verify(&built.artifact).expect("it is verified");
    assert_eq!(artifact.hash, built.hash);
    assert_eq!(artifact.bundle.version.to_string(), format!("1.2.3+{}", built.build_hash));
    assert!(std::fs::read(&built.artifact).expect("reading").windows(4).any(|part| part == b"LOUD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_is_told_as_cargo_renders_it_and_as_data_at_once() {
    let scratch = Scratch::new(&["probe"]);
    scratch.edit("probe", "const SENTENCE: &str = \"first\";", "const SENTENCE: &str = 7;");
    let spec = PluginSpec::new("mistake").crate_path(scratch.path("probe"));
    let told = Mutex::new(Vec::new());
    let observer = |event| {
        if let BuildEvent::Message { message } = event {
            told.lock().expect("no panic").push(message);
        }
    };
    let mut builder = PluginBuilder::new(spec, options("builds"));
    let error = builder.build(&observer, &CancellationToken::new()).await.expect_err("it does not compile");
    let Error::Build { rendered, messages, .. } = error else { panic!("{error}") };
    assert_eq!(told.into_inner().expect("no panic"), messages);
    let message = messages.iter().find(|message| message.level == MessageLevel::Error).expect("an error");
    assert_eq!(message.code.as_deref(), Some("E0308"));
    assert_eq!(message.text, "mismatched types");
    let span = message.spans.iter().find(|span| span.primary).expect("a place");
    assert!(span.file.ends_with(Path::new("probe/src/lib.rs")) || span.file.ends_with("src/lib.rs"), "{span:?}");
    let source = std::fs::read_to_string(scratch.path("probe/src/lib.rs")).expect("the source");
    let line = 1 + source.lines().position(|line| line.ends_with("= 7;")).expect("the mistake");
    assert_eq!((span.line, span.column, span.end_column), (line, 24, 25));
    assert!(rendered.contains("\u{1b}["), "with colours: {rendered}");
    assert!(message.plain().contains("expected `&str`, found integer"), "{}", message.plain());
    assert!(!message.plain().contains('\u{1b}'));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_workspace_sets_for_dependencies_is_not_set_for_its_own_crates() {
    let scratch = Scratch::new(&["probe"]);
    let profile = "\n[profile.dev]\noverflow-checks = false\n\n[profile.dev.package.\"*\"]\nopt-level = 3\ndebug-assertions = false\n\
        overflow-checks = true\ndebug = false\n";
    add_to_manifest(&scratch, "probe", profile);
    let spec = PluginSpec::new("others").crate_path(scratch.path("probe"));
    let overlay = PluginBuilder::new(spec, options("builds")).generate().await.expect("the overlay");
    let manifest = std::fs::read_to_string(overlay.dir.join("Cargo.toml")).expect("its manifest");
    let manifest: toml::Table = toml::from_str(&manifest).expect("a manifest");
    let packages = &manifest["profile"]["dev"]["package"];
    let expected: toml::Table = toml::from_str(
        "opt-level = 0\ndebug-assertions = true\noverflow-checks = false\ndebug = \"line-tables-only\"\n",
    )
    .expect("settings");
    assert_eq!(packages["probe"].as_table(), Some(&expected), "{packages}");
    assert_eq!(packages["*"]["opt-level"].as_integer(), Some(3), "{packages}");
    assert!(packages.get("controllerbus").is_none(), "{packages}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_framework_brings_is_optimised_for_size_unless_the_workspace_says_how() {
    let scratch = Scratch::new(&["probe"]);
    let small = async |spec: PluginSpec| -> Vec<String> {
        let spec = spec.crate_path(scratch.path("probe")).release(true);
        let overlay = PluginBuilder::new(spec, options("builds")).generate().await.expect("the overlay");
        let manifest = std::fs::read_to_string(overlay.dir.join("Cargo.toml")).expect("its manifest");
        let manifest: toml::Table = toml::from_str(&manifest).expect("a manifest");
        let profile = manifest.get("profile").and_then(|profiles| profiles.get("release"));
        let packages = profile.and_then(|profile| profile.get("package")?.as_table()).cloned().unwrap_or_default();
        let is_small = |package: &toml::Value| package.get("opt-level").and_then(toml::Value::as_str) == Some("s");
        packages.into_iter().filter(|(_, package)| is_small(package)).map(|(name, _)| name).collect()
    };
    let found = small(PluginSpec::new("small").watch(false)).await;
    let has = |found: &[String], name: &str| found.iter().any(|it| it == name);
    assert!(has(&found, "controllerbus") && has(&found, "serde_json"), "{found:?}");
    // What its crates name themselves, and they themselves.
    assert!(!has(&found, "tokio") && !has(&found, "probe"), "{found:?}");
    assert!(small(PluginSpec::new("edited").watch(true)).await.is_empty());
    assert!(small(PluginSpec::new("said").watch(false).profile("opt-level", "2")).await.is_empty());
    add_to_manifest(&scratch, "probe", "\n[profile.release.package.controllerbus]\nopt-level = 3\n");
    let found = small(PluginSpec::new("one").watch(false)).await;
    assert!(!has(&found, "controllerbus") && has(&found, "serde_json"), "{found:?}");
    add_to_manifest(&scratch, "probe", "\n[profile.release.package.\"*\"]\nopt-level = 2\n");
    assert!(small(PluginSpec::new("all").watch(false)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optimised_plugin_is_linked_as_a_whole_and_answers_catches_its_panics_and_is_unloaded() {
    let scratch = Scratch::new(&["probe"]);
    let spec = PluginSpec::new("probe").crate_path(scratch.path("probe")).release(true).watch(false);
    let mut builder = PluginBuilder::new(spec, options("optimised"));
    let overlay = builder.generate().await.expect("the overlay");
    let manifest = std::fs::read_to_string(overlay.dir.join("Cargo.toml")).expect("its manifest");
    assert!(manifest.contains("lto = \"fat\""), "{manifest}");
    let built = builder.build(&|_| {}, &CancellationToken::new()).await.expect("the artifact");
    println!("{} bytes", std::fs::metadata(&built.artifact).expect("the artifact").len());

    // What only debuggers read is in a file of its own.
    let symbols = built.symbols.expect("its symbols");
    assert_eq!(symbols, built.artifact.with_extension("so.debug"));
    let for_debuggers = |path: &Path| {
        let names = section_names(&std::fs::read(path).expect("reading"));
        names.iter().any(|name| name == ".symtab" || name == ".strtab")
    };
    assert!(for_debuggers(&symbols) && !for_debuggers(&built.artifact));

    let bus = host("probe:\n  id: probe\n  config: { mode: quiet }\n").await;
    let work = work_dir().join("optimised-host");
    let runtime = HotRuntime::builder(&bus).trust(Trust::anyone()).work_dir(&work).start().await.expect("starting");
    runtime.load_file(&built.artifact).await.expect("loading");
    for (what, answer) in [("sentence", "first"), ("own-thread", "1"), ("socket", "over the wire")] {
        assert_eq!(ask(&bus, what).await.expect("an answer"), answer);
    }
    assert!(ask(&bus, "thread-local").await.is_ok());
    let panicked = ask(&bus, "panic").await.expect_err("a panic").to_string();
    assert!(panicked.contains("resolve was told to panic"), "{panicked}");
    assert_eq!(ask(&bus, "sentence").await.expect("it goes on"), "first");
    // Another thread puts it beside the private copy, where backtraces and debuggers find it.
    until("the symbols", || !files_below(&work, ".debug").is_empty()).await;
    let trace = ask(&bus, "backtrace").await.expect("a backtrace");
    assert!(trace.contains("probe::backtrace"), "{trace}");
    let [loaded] = &files_below(&work, ".so")[..] else { panic!("one private copy") };
    let gdb = Command::new("gdb").args(["-batch", "-ex", "info functions probe::backtrace"]).arg(loaded).output();
    match gdb {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("probe::backtrace"), "{said} {}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => println!("gdb could not be asked: {error}"),
    }
    assert_eq!(runtime.unload("probe").await.expect("unloading").unmapped, Some(true));
    until("the symbols go, too", || files_below(&work, ".debug").is_empty()).await;
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);

    // Without that file all else works.
    std::fs::remove_file(&symbols).expect("removing the symbols");
    let runtime = HotRuntime::builder(&bus).trust(Trust::anyone()).work_dir(&work).start().await.expect("starting");
    runtime.load_file(&built.artifact).await.expect("loading");
    let trace = ask(&bus, "backtrace").await.expect("a backtrace");
    assert!(!trace.contains("probe::backtrace"), "{trace}");
    assert_eq!(runtime.unload("probe").await.expect("unloading").unmapped, Some(true));
    runtime.shutdown().await;

    // Unless the workspace says what becomes of them.
    let spec = PluginSpec::new("probe").crate_path(scratch.path("probe")).release(true).watch(false);
    let spec = spec.profile("strip", "false");
    let built = PluginBuilder::new(spec, options("optimised")).build(&|_| {}, &CancellationToken::new()).await;
    let built = built.expect("the artifact");
    assert!(built.symbols.is_none() && for_debuggers(&built.artifact) && !symbols.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_or_profile_setting_that_is_not_there_is_named_with_those_that_are() {
    let scratch = Scratch::new(&["probe"]);
    add_to_manifest(&scratch, "probe", "\n[features]\nloud = []\n");
    let spec = PluginSpec::new("wrong").crate_path(scratch.path("probe"));
    let failed = async |spec: PluginSpec| match PluginBuilder::new(spec, options("builds")).generate().await {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    };
    let said = failed(spec.clone().feature("lowd")).await;
    assert!(said.contains("`lowd`") && said.contains("probe/loud"), "{said}");
    let said = failed(spec.profile("opt-level", "fast")).await;
    assert!(said.contains("`opt-level`"), "{said}");
}

/// One way of building the crates, and a host that loads what comes of it.
struct Side {
    builder: PluginBuilder,
    bus: Bus,
    runtime: HotRuntime,
}

impl Side {
    async fn new(crates: &Crates, name: &str, watch: bool) -> Self {
        let spec = PluginSpec::new("edits").crate_path(crates.path("edits")).watch(watch);
        let bus = Bus::new();
        let set = ConfigSet::from_yaml("edits:\n  id: edits\n").expect("a config set");
        bus.apply(set).await.expect("applying");
        let runtime = HotRuntime::builder(&bus)
            .trust(Trust::anyone())
            .work_dir(work_dir().join(name))
            .start()
            .await
            .expect("a runtime");
        Self { builder: PluginBuilder::new(spec, options(name)), bus, runtime }
    }

    /// What the built plugin answers and exports, or that it does not compile; and who compiled it.
    async fn build(&mut self) -> (Option<(String, Vec<String>)>, Option<(BuiltBy, Option<String>)>) {
        let built = match self.builder.build(&|_| {}, &CancellationToken::new()).await {
            Ok(built) => built,
            Err(Error::Build { .. }) => return (None, None),
            Err(other) => panic!("{other}"),
        };
        self.runtime.load_file(&built.artifact).await.expect("loading");
        let answer = ask(&self.bus, "everything").await.expect("an answer");
        let library = std::fs::read(&built.artifact).expect("the artifact");
        let mut exported = exported_symbols(&library);
        // The bundle's own symbol has the build hash in it.
        exported.iter_mut().for_each(|name| *name = name.replace(&built.build_hash, "HASH"));
        exported.sort();
        (Some((answer, exported)), Some((built.by, built.why_cargo)))
    }
}

const SECOND: &str = "
/// Another one.
pub mod second {
    use controllerbus::prelude::*;
    #[derive(Config, Serialize, Deserialize, PartialEq)]
    #[config(id = \"edits/second\")]
    pub struct SecondConfig {}
    pub struct Second;
    #[hot_plugin(id = \"edits/second\", version = \"1.0.0\")]
    impl Controller for Second {
        type Config = SecondConfig;
        async fn construct(_: SecondConfig, _: &Context) -> Result<Self> {
            Ok(Self)
        }
    }
}
";

/// An edit, and whether rustc alone must be enough for it (`false`: cargo has to be asked; `None`: either will do).
type Edit = (&'static str, Option<bool>, fn(&Crates));

const LIB: &str = "edits/src/lib.rs";

const EDITS: &[Edit] = &[
    ("a constant", Some(true), |on| on.replace(LIB, "\"one\"", "\"two\"")),
    ("a line inserted", Some(true), |on| on.replace(LIB, "fn everything", "// a comment\n\nfn everything")),
    ("nothing but a touch", Some(true), |on| on.replace(LIB, "two", "two")),
    ("a new module in a new file", Some(true), |on| {
        on.write("edits/src/fresh.rs", "pub fn text() -> String {\n    String::from(\"fresh\")\n}\n");
        on.replace(LIB, "mod part;", "mod fresh;\nmod part;");
        on.replace(LIB, "// more", "fresh::text(), // more");
    }),
    ("a module renamed with its file", Some(true), |on| {
        std::fs::rename(on.path("edits/src/fresh.rs"), on.path("edits/src/renamed.rs")).expect("renaming");
        on.replace(LIB, "mod fresh;", "mod renamed;");
        on.replace(LIB, "fresh::text()", "renamed::text()");
    }),
    ("a module whose file is missing", Some(true), |on| on.replace(LIB, "mod part;", "mod missing;\nmod part;")),
    ("the missing file", Some(true), |on| on.write("edits/src/missing.rs", "")),
    ("a deleted file", Some(true), |on| {
        on.remove("edits/src/renamed.rs");
        on.replace(LIB, "mod renamed;\n", "");
        on.replace(LIB, "renamed::text(), ", "");
    }),
    ("a file that the source includes", Some(true), |on| on.write("edits/src/data.txt", "other data")),
    ("an included file outside of the crate", Some(true), |on| on.write("outside.txt", "further outside")),
    ("a syntax error", Some(true), |on| on.replace(LIB, "fn everything", "fn oops(\nfn everything")),
    ("its mend", Some(true), |on| on.replace(LIB, "fn oops(\n", "")),
    ("a function of a path dependency", Some(true), |on| on.replace("helper/src/lib.rs", "\"helper\"", "\"helped\"")),
    ("a generic function of it", Some(true), |on| on.replace("helper/src/lib.rs", "generic {value}", "any {value}")),
    ("a macro of it", Some(true), |on| on.replace("helper/src/lib.rs", "\"expanded\"", "\"unfolded\"")),
    ("a signature on both sides", Some(true), |on| {
        on.replace("helper/src/lib.rs", "fn text()", "fn text(times: usize)");
        on.replace("helper/src/lib.rs", "\"helped\".to_owned()", "\"helped\".repeat(times)");
        on.replace(LIB, "helper::text()", "helper::text(2)");
    }),
    ("a mistake in the path dependency", Some(true), |on| on.replace("helper/src/lib.rs", "times: usize", "times: u8")),
    ("its mend, with a new module there", Some(true), |on| {
        on.write("helper/src/inner.rs", "pub fn times(times: usize) -> usize {\n    times + 1\n}\n");
        on.replace("helper/src/lib.rs", "times: u8", "times: usize");
        on.replace("helper/src/lib.rs", "repeat(times)", "repeat(inner::times(times))");
        on.replace("helper/src/lib.rs", "pub fn text", "mod inner;\npub fn text");
    }),
    ("the input of a build script", Some(false), |on| on.write("edits/script.txt", "other input")),
    ("the build script", Some(false), |on| on.replace("edits/build.rs", "=script {}", "=the script {}")),
    ("a procedural macro", Some(false), |on| on.replace("shout/src/lib.rs", "SHOUTED", "CRIED")),
    ("a new dependency", Some(false), |on| {
        on.replace("edits/Cargo.toml", "shout =", "added = { path = \"../added\" }\nshout =");
        on.replace(LIB, "// more", "added::TEXT.to_owned(), // more");
    }),
    ("an edit of the new dependency", Some(true), |on| on.replace("added/src/lib.rs", "\"added\"", "\"joined\"")),
    ("a feature turned on", Some(false), |on| on.replace("edits/Cargo.toml", "default = []", "default = [\"extra\"]")),
    ("the version", Some(false), |on| on.replace("edits/Cargo.toml", "version = \"0.1.0\"", "version = \"0.2.0\"")),
    ("another derive and a thread-local", None, |on| {
        on.replace(
            LIB,
            "pub struct Edits;",
            "#[derive(Serialize, Deserialize, Debug)]\npub struct More {\n    pub a: u8,\n}\n\npub struct Edits;",
        );
        on.replace(
            LIB,
            "fn everything",
            "thread_local!(static COUNT: std::cell::Cell<u8> = const { std::cell::Cell::new(3) });\n\nfn everything",
        );
        on.replace(LIB, "// more", "format!(\"{:?}\", More { a: COUNT.get() }), // more");
    }),
    ("a second controller", None, |on| {
        let text = std::fs::read_to_string(on.path(LIB)).expect("the source");
        on.write(LIB, &(text + SECOND));
    }),
    ("an exported function", None, |on| {
        on.replace(
            LIB,
            "fn everything",
            "#[unsafe(no_mangle)]\npub extern \"C\" fn exported_by_edits() -> u8 {\n    5\n}\n\nfn everything",
        );
        on.replace(LIB, "// more", "exported_by_edits().to_string(), // more");
    }),
    ("the second controller taken away", None, |on| on.replace(LIB, SECOND, "")),
    ("an old file put back, with its old time", Some(true), |on| {
        on.restore("edits/src/part.rs", "pub fn text() -> &'static str {\n    \"old part\"\n}\n");
    }),
    ("the feature turned off, and an old file put back", Some(false), |on| {
        on.replace("edits/Cargo.toml", "default = [\"extra\"]", "default = []");
        on.restore("helper/src/inner.rs", "pub fn times(times: usize) -> usize {\n    times\n}\n");
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_edit_gives_what_cargo_gives() {
    let crates = Crates::new();
    let mut direct = Side::new(&crates, "direct", true).await;
    let mut cargo = Side::new(&crates, "by-cargo", false).await;
    let (first, by) = direct.build().await;
    assert_eq!(by.map(|by| by.0), Some(BuiltBy::Cargo));
    assert!(first.is_some(), "it compiles");
    for (number, (what, rustc, edit)) in EDITS.iter().enumerate() {
        edit(&crates);
        let (made, by) = direct.build().await;
        println!("{what}: by {by:?}, {:?}", made.as_ref().map(|made| &made.0));
        // What is wrong stays wrong until it is compiled again: to look at every fourth one is enough, and most of the
        // time is cargo's.
        if number % 4 == 3 || number + 1 == EDITS.len() || made.is_none() {
            let (wanted, _) = cargo.build().await;
            assert_eq!(made, wanted, "after {what}, or one of the three edits before");
        }
        let expected = rustc.map(|rustc| if rustc { BuiltBy::Rustc } else { BuiltBy::Cargo });
        // A mend goes back to what was built before.
        let right = |by: BuiltBy| expected.is_none_or(|expected| by == expected) || by == BuiltBy::Kept;
        let right = by.as_ref().is_none_or(|by| right(by.0));
        assert!(right, "{what} was built by {by:?}");
    }
    // What changes no code gives the artifact that there is already.
    let before = direct.builder.build(&|_| {}, &CancellationToken::new()).await.expect("a build");
    let text = std::fs::read_to_string(crates.path(LIB)).expect("the source");
    crates.write(LIB, &(text + "\n// a comment\n"));
    let after = direct.builder.build(&|_| {}, &CancellationToken::new()).await.expect("a build");
    assert_eq!((&after.build_hash, &after.hash), (&before.build_hash, &before.hash), "{:?}", after.why_cargo);

    // After all these swaps a backtrace and a debugger still know the functions and lines.
    let text = std::fs::read_to_string(crates.path(LIB)).expect("the source");
    let line = 1 + text.lines().position(|line| line.contains("force_capture")).expect("the line");
    let trace = ask(&direct.bus, "backtrace").await.expect("a backtrace");
    assert!(trace.contains("edits::backtrace") && trace.contains(&format!("src/lib.rs:{line}")), "{trace}");
    // Line tables name the lines, symbols the functions.
    let asked = format!("info line lib.rs:{line}");
    let gdb = Command::new("gdb").args(["-batch", "-ex", &asked]).arg(&after.artifact).output();
    match gdb {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let found = |line_said: &str| line_said.contains("starts at address") && line_said.contains("backtrace");
            assert!(said.lines().any(|said| said.contains(&format!("Line {line} of")) && found(said)), "{said}");
        }
        Err(error) => println!("gdb could not be asked: {error}"),
    }
    direct.runtime.shutdown().await;
    cargo.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_that_build_the_same_crate_at_once_do_not_disturb_each_other() {
    let crates = Crates::new();
    // Not those of the tests beside it: what has to be compiled again is forgotten by its name in a target directory.
    crates.replace("edits/Cargo.toml", "name = \"edits\"", "name = \"edits-at-once\"");
    for name in ["helper", "shout"] {
        let manifest = format!("{name}/Cargo.toml");
        crates.replace(&manifest, &format!("name = \"{name}\""), &format!("name = \"{name}-at-once\""));
        let renamed = format!("{name} = {{ package = \"{name}-at-once\", ");
        crates.replace("edits/Cargo.toml", &format!("{name} = {{ "), &renamed);
    }
    let builder =
        |id: &str, work: &str| PluginBuilder::new(PluginSpec::new(id).crate_path(crates.path("edits")), options(work));
    // The same plugin, and another one of the same crates.
    let mut builders = [builder("at-once", "once-1"), builder("at-once", "once-2"), builder("apart", "once-3")];
    for round in 0..3 {
        let text = format!("round {round}");
        crates.write("edits/src/data.txt", &text);
        let cancel = CancellationToken::new();
        let [first, second, third] = &mut builders;
        let (first, second, third) =
            tokio::join!(first.build(&|_| {}, &cancel), second.build(&|_| {}, &cancel), third.build(&|_| {}, &cancel));
        for built in [first, second, third] {
            let built = built.expect("a build");
            verify(&built.artifact).expect("a whole artifact");
            let bytes = std::fs::read(&built.artifact).expect("the artifact");
            assert!(bytes.windows(text.len()).any(|part| part == text.as_bytes()), "{round}");
            assert_eq!(built.by, if round == 0 { BuiltBy::Cargo } else { BuiltBy::Rustc }, "{:?}", built.why_cargo);
        }
    }
}

/// Makes a crate's folder a git repository.
fn commit(folder: &Path) {
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"];
        let output = Command::new("git").current_dir(folder).args(identity).args(arguments).output().expect("git");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "first"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspaces_own_settings_and_git_dependencies_count_and_to_go_back_needs_no_compiler() {
    let scratch = Scratch::new(&["probe"]);
    let root = scratch.folder();
    scratch.add("from-git", "", "pub fn word() -> &'static str { \"from git\" }\n");
    commit(&scratch.path("from-git"));
    let workspace = format!(
        "[workspace]\nmembers = [\"probe\"]\nresolver = \"3\"\n\n[workspace.dependencies]\nfrom-git = {{ git = \"file://{}\" }}\n",
        scratch.path("from-git").display()
    );
    std::fs::write(root.join("Cargo.toml"), workspace).expect("the workspace's manifest");
    std::fs::rename(scratch.path("probe").join("Cargo.lock"), root.join("Cargo.lock")).expect("its lock file");
    scratch.amend("probe", "[workspace]\n", "");
    scratch.amend("probe", "[dependencies]\n", "[dependencies]\nfrom-git.workspace = true\n");
    let config = root.join(".cargo/config.toml");
    std::fs::create_dir(root.join(".cargo")).expect("a folder");
    let (rustc, hold) = (root.join("rustc.sh"), root.join("hold"));
    let set = |value: &str| {
        let text = format!("[build]\nrustc = {rustc:?}\n\n[env]\nSET_IN_CONFIG = {value:?}\n");
        std::fs::write(&config, text).expect("cargo's settings");
    };
    // A compiler that, when it is told to, takes long to end after it has done its work.
    let script = format!("#!/bin/sh\nrustc \"$@\" || exit\nwhile [ -e '{}' ]; do sleep 0.02; done\n", hold.display());
    std::fs::write(&rustc, script).expect("the compiler");
    let made = Command::new("chmod").arg("+x").arg(&rustc).status().expect("chmod");
    assert!(made.success());
    set("configured");
    scratch.edit("probe", "\"first\"", "concat!(env!(\"SET_IN_CONFIG\"), \" alpha\")");
    scratch.edit("probe", "SENTENCE.to_owned()", "format!(\"{SENTENCE} {}\", from_git::word())");

    let spec = PluginSpec::new("settings").crate_path(scratch.path("probe"));
    let mut builder = PluginBuilder::new(spec, options("builds"));
    let cancel = CancellationToken::new();
    let mut build = async || builder.build(&|_| {}, &cancel).await.expect("a build");
    let has = |artifact: &Path, text: &str| {
        let bytes = std::fs::read(artifact).expect("the artifact");
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    };
    let first = build().await;
    assert!(has(&first.artifact, "configured alpha") && has(&first.artifact, "from git"));
    scratch.edit("probe", " alpha", " beta");
    let second = build().await;
    assert_eq!(second.by, BuiltBy::Rustc, "{:?}", second.why_cargo);
    assert!(has(&second.artifact, "configured beta"));

    // There and back, and on from there.
    scratch.edit("probe", " beta", " alpha");
    let back = build().await;
    assert_eq!((back.by, &back.build_hash, &back.hash), (BuiltBy::Kept, &first.build_hash, &first.hash));
    assert!(has(&back.artifact, "configured alpha"));
    verify(&back.artifact).expect("a whole artifact");
    scratch.edit("probe", " alpha", " beta");
    let again = build().await;
    assert_eq!((again.by, &again.hash), (BuiltBy::Kept, &second.hash));
    scratch.edit("probe", " beta", " gamma");
    let third = build().await;
    assert_eq!(third.by, BuiltBy::Rustc);
    assert!(has(&third.artifact, "configured gamma"));

    // The plugin is linked when its compiler's end is still awaited; what is cancelled then is not taken for built.
    std::fs::write(&hold, "").expect("the file that holds the compiler");
    scratch.edit("probe", " gamma", " delta");
    let linked = || {
        let sessions = std::fs::read_dir(target_dir().join("cbus")).into_iter().flatten().flatten();
        sessions.map(|session| session.path().join("libcbus_overlay_settings.so")).any(|library| library.is_file())
    };
    let early = cancel.child_token();
    let cancelling = async {
        while !linked() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        early.cancel();
    };
    let (cancelled, ()) = tokio::join!(builder.build(&|_| {}, &early), cancelling);
    assert!(matches!(cancelled, Err(Error::Cancelled { .. })), "{cancelled:?}");
    std::fs::remove_file(&hold).expect("letting the compiler end");
    let mut build = async || builder.build(&|_| {}, &cancel).await.expect("a build");
    let fourth = build().await;
    assert_eq!(fourth.by, BuiltBy::Rustc, "{:?}", fourth.why_cargo);
    assert!(has(&fourth.artifact, "configured delta"));

    set("otherwise");
    let other = build().await;
    assert_eq!(other.by, BuiltBy::Cargo);
    assert!(has(&other.artifact, "otherwise delta"));
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[tokio::test(flavor = "multi_thread")]
async fn where_gnu_ld_is_missing_each_edit_is_linked_in_full_and_the_report_says_so() {
    let scratch = Scratch::new(&["second"]);
    let refused = "case \"$*\" in *-fuse-ld=bfd*) echo there is no such linker >&2; exit 1;; esac";
    scratch.link_by("second", refused);
    let spec = PluginSpec::new("no-gnu-ld").crate_path(scratch.path("second"));
    let mut builder = PluginBuilder::new(spec, options("builds"));
    let cancel = CancellationToken::new();
    let mut build = async || builder.build(&|_| {}, &cancel).await.expect("a build");
    build().await;
    scratch.edit("second", "\"from the second\"", "\"an edit\"");
    let edited = build().await;
    assert_eq!(edited.by, BuiltBy::Rustc, "{:?}", edited.why_cargo);
    let why = edited.why_full_link.expect("a reason");
    assert!(why.contains("GNU ld") && why.contains("there is no such linker"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_sources_in_two_folders_give_equal_artifacts() {
    let mut made = Vec::new();
    for work in ["here", "there/and/elsewhere"] {
        let crates = Crates::new();
        let spec = PluginSpec::new("equal").crate_path(crates.path("edits")).watch(false);
        let built = PluginBuilder::new(spec, options(work)).build(&|_| {}, &CancellationToken::new()).await;
        let built = built.expect("a build");
        let folder = crates.path("").to_string_lossy().into_owned();
        let bytes = std::fs::read(&built.artifact).expect("the artifact");
        assert!(!bytes.windows(folder.len()).any(|part| part == folder.as_bytes()), "it names {folder}");
        made.push((built.build_hash, built.hash, bytes));
    }
    assert_eq!((&made[0].0, &made[0].1), (&made[1].0, &made[1].1));
    assert!(made[0].2 == made[1].2);
}
