//! Projects as people have them: what other tools stumble over is built, or there is a message that says what to do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hot_runtime::artifact::inspect;
use hot_runtime::compile::{BuildEvent, BuildOptions, BuildReport, BuiltBy, PluginBuilder};
use hot_runtime::{Error, HotRuntime, PluginSpec, RuntimeEvent};
use tests::small::Small;
use tests::{in_own_process, root, target_dir, wait_for, work_dir};
use tokio_util::sync::CancellationToken;

fn builder(small: &Small) -> PluginBuilder {
    let spec = small.spec();
    let options = BuildOptions::new(work_dir().join(&spec.id)).target_dir(target_dir());
    PluginBuilder::new(spec, options)
}

async fn build(builder: &mut PluginBuilder) -> Result<BuildReport, Error> {
    builder.build(&|_| {}, &CancellationToken::new()).await
}

async fn refused(small: &Small) -> String {
    build(&mut builder(small)).await.expect_err("it is refused").to_string()
}

fn has(built: &BuildReport, text: &str) -> bool {
    let bytes = std::fs::read(&built.artifact).expect("the artifact");
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

fn git(folder: &Path, arguments: &[&str]) {
    let who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"];
    let output = Command::new("git").current_dir(folder).args(who).args(arguments).output().expect("git");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Copies a crate's manifest and sources.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).expect("copying");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn controllerbus_may_come_from_a_git_repository() {
    let small = Small::new("from-repository", "", "", "\"one\".to_owned()");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for part in ["controllerbus", "controllerbus-macros"] {
        for folder in ["src", "docs"]
            .map(|folder| Path::new(part).join(folder))
            .iter()
            .filter(|folder| root.join(folder).exists())
        {
            copy(&root.join(folder), &small.plain("repository").join(folder));
        }
        let manifest = std::fs::read_to_string(root.join(part).join("Cargo.toml")).expect("the manifest");
        std::fs::write(small.plain("repository").join(part).join("Cargo.toml"), manifest).expect("writing");
    }
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("the workspace's manifest");
    let mut manifest: toml::Table = manifest.parse().expect("TOML");
    let members = toml::Value::from(vec!["controllerbus", "controllerbus-macros"]);
    manifest["workspace"].as_table_mut().expect("a table").insert("members".to_owned(), members);
    let dependencies = manifest["workspace"]["dependencies"].as_table_mut().expect("a table");
    dependencies.retain(|_, it| {
        it.get("path").is_none_or(|path| path.as_str().is_some_and(|it| it.starts_with("controllerbus")))
    });
    let manifest = toml::to_string(&manifest).expect("TOML");
    std::fs::write(small.plain("repository/Cargo.toml"), manifest).expect("writing");
    git(&small.plain("repository"), &["init", "-q"]);
    git(&small.plain("repository"), &["add", "."]);
    git(&small.plain("repository"), &["commit", "-q", "-m", "first"]);
    git(&small.plain("repository"), &["branch", "feature/one"]);
    git(&small.plain("repository"), &["tag", "v1"]);
    let url = format!("git = \"file://{}\"", small.plain("repository").display());
    let text = std::fs::read_to_string(small.path("crate/Cargo.toml")).expect("the manifest");
    let line = text.lines().find(|line| line.starts_with("controllerbus")).expect("the dependency");
    // One copy is compiled, and it is that of the crate, in each manner of naming it.
    for which in ["", ", branch = \"feature/one\"", ", tag = \"v1\""] {
        small.write("crate/Cargo.toml", &text.replace(line, &format!("controllerbus = {{ {url}{which} }}")));
        let built =
            PluginBuilder::new(small.spec(), BuildOptions::new(work_dir().join("repository")).target_dir(target_dir()));
        let mut built = built;
        let overlay = built.generate().await.expect("the overlay");
        let tree = Command::new("cargo")
            .args(["tree", "--duplicates", "--edges", "normal"])
            .current_dir(&overlay.dir)
            .output();
        let tree = tree.expect("cargo tree");
        assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
        let twice = String::from_utf8_lossy(&tree.stdout).into_owned();
        assert!(!twice.lines().any(|line| line.starts_with("controllerbus ")), "{which}: {twice}");
    }
    let host = small.host().await;
    assert_eq!(host.answer().await, "one");
    host.runtime.shutdown().await;
}

/// How many crates a plugin has compiled beside its own.
const CRATES: usize = 55;

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_pays_few_crates_beside_its_own() {
    let small = Small::new("few-crates", "", "", "\"one\".to_owned()");
    let overlay = builder(&small).generate().await.expect("the overlay");
    let tree = Command::new("cargo")
        .args(["tree", "--edges", "normal,build", "--prefix", "none", "--offline"])
        .current_dir(&overlay.dir)
        .output()
        .expect("cargo tree");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    // What has another path is the plugin's own.
    let ours = root().join("controllerbus").canonicalize().expect("the controllerbus crate").display().to_string();
    let paid = tree.lines().filter(|line| !line.contains("(/") || line.contains(&ours));
    let paid: BTreeSet<_> = paid.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(paid.contains("controllerbus") && paid.contains("stabby"), "{paid:?}");
    assert!(paid.len() <= CRATES, "{} crates: {paid:?}", paid.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn controllerbus_may_have_another_name_or_come_by_way_of_another_crate() {
    let small = Small::new("another-name", "sdk = { path = \"../sdk\" }", "", "\"one\".to_owned()");
    let manifest = std::fs::read_to_string(small.path("crate/Cargo.toml")).expect("the manifest");
    let line = manifest.lines().find(|line| line.starts_with("controllerbus")).expect("the dependency").to_owned();
    small.library("sdk", &format!("\n[dependencies]\n{line}"), "pub use controllerbus;\n");
    let source = std::fs::read_to_string(small.path("crate/src/lib.rs")).expect("the source");

    small.replace("crate/Cargo.toml", &line, &line.replace("controllerbus = {", "cb = { package = \"controllerbus\","));
    small.write("crate/src/lib.rs", &source.replace("use controllerbus::", "use cb::"));
    let mut builder = builder(&small);
    let built = build(&mut builder).await.expect("by another name");
    inspect(&built.artifact).expect("an artifact");

    small.write("crate/Cargo.toml", &manifest.replace(&line, ""));
    let by_sdk = source.replace("use controllerbus::", "use sdk::controllerbus::");
    let by_sdk = by_sdk
        .replace("\")]", "\", crate = sdk::controllerbus)]")
        .replace("= Answer)]", "= Answer, crate = sdk::controllerbus)]");
    small.write("crate/src/lib.rs", &by_sdk);
    let built = build(&mut builder).await.expect("by way of another crate");
    let artifact = inspect(&built.artifact).expect("an artifact");
    assert_eq!(artifact.factories.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crate_type_that_cannot_be_used_is_named_with_what_to_write() {
    let small = Small::new("crate-types", "", "", "\"one\".to_owned()");
    small.replace("crate/Cargo.toml", "[dependencies]", "[lib]\ncrate-type = [\"cdylib\"]\n\n[dependencies]");
    let said = refused(&small).await;
    assert!(said.contains("add \"lib\" to `crate-type`"), "{said}");
    small.replace("crate/Cargo.toml", "[\"cdylib\"]", "[\"cdylib\", \"rlib\"]");
    small.library(
        "shared",
        "\n[lib]\ncrate-type = [\"dylib\"]",
        "pub fn word() -> String {\n    String::from(\"shared\")\n}\n",
    );
    small.replace("crate/Cargo.toml", "[dependencies]", "[dependencies]\nshared = { path = \"../shared\" }");
    small.replace("crate/src/lib.rs", "\"one\".to_owned()", "shared::word()");
    let said = refused(&small).await;
    assert!(said.contains("`shared` has the crate-type `dylib`: make it `lib`"), "{said}");
    small.replace("shared/Cargo.toml", "\"dylib\"", "\"dylib\", \"rlib\"");
    assert!(has(&build(&mut builder(&small)).await.expect("a build"), "shared"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_built_need_not_be_there() {
    // As where there is no network, or no right to a company's private repository.
    let dependencies = "private = { git = \"file:///nowhere/private\", optional = true }\n\n[dev-dependencies]\n\
                        secret = { git = \"file:///nowhere/secret\" }\n\n[target.'cfg(windows)'.dependencies]\n\
                        only-on-windows = { path = \"../only-on-windows\" }";
    let small = Small::new("not-there", dependencies, "", "\"one\".to_owned()");
    small.library("only-on-windows", "", "compile_error!(\"not here\");");
    assert!(has(&build(&mut builder(&small)).await.expect("a build"), "one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_crates_or_plugins_of_one_name_are_told_apart_before_anything_is_built() {
    let (one, other) = (Small::new("same", "", "", "String::new()"), Small::new("same", "", "", "String::new()"));
    let both = PluginSpec::new("both").crate_path(one.path("crate")).crate_path(other.path("crate"));
    let options = BuildOptions::new(work_dir().join("same")).target_dir(target_dir());
    let said = PluginBuilder::new(both, options).generate().await.expect_err("it is refused").to_string();
    let named = |said: &str| {
        [&one, &other].iter().all(|small| said.contains(&*small.path("crate").to_string_lossy()))
            && said.contains("rename")
    };
    assert!(named(&said), "{said}");
    // Only the libraries have the same name.
    other.replace("crate/Cargo.toml", "name = \"same\"", "name = \"other\"");
    other.replace("crate/Cargo.toml", "[dependencies]", "[lib]\nname = \"same\"\n\n[dependencies]");
    let both = PluginSpec::new("both").crate_path(one.path("crate")).crate_path(other.path("crate"));
    let options = BuildOptions::new(work_dir().join("same")).target_dir(target_dir());
    let said = PluginBuilder::new(both, options).generate().await.expect_err("it is refused").to_string();
    assert!(named(&said) && said.contains("library name"), "{said}");
    other.replace("crate/Cargo.toml", "name = \"other\"", "name = \"same\"");
    let bus = controllerbus::Bus::new();
    let builder =
        HotRuntime::builder(&bus).work_dir(work_dir().join("same")).watch(one.path("crate")).watch(other.path("crate"));
    let said = builder.start().await.expect_err("it is refused").to_string();
    assert!(named(&said), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_that_fails_for_no_reason_of_the_codes_costs_one_build_by_cargo() {
    let small = Small::new("stumbles", "", "", "\"one\".to_owned()");
    // A compiler that panics, or is killed, when it is told to.
    small.script(
        "tools/rustc.sh",
        "case \"$*\" in *'--crate-name stumbles '*) ;; *) exec rustc \"$@\" ;; esac\n\
         if [ -e \"$here/panic\" ]; then rm \"$here/panic\"; echo 'error: internal compiler error: it stumbled' >&2; exit 101; fi\n\
         if [ -e \"$here/kill\" ]; then rm \"$here/kill\"; kill -KILL $$; fi\nexec rustc \"$@\"\n",
    );
    small.write(".cargo/config.toml", "[build]\nrustc = \"tools/rustc.sh\"\n");
    let mut builder = builder(&small);
    assert_eq!(build(&mut builder).await.expect("a build").by, BuiltBy::Cargo);
    for (hold, from, to) in [("panic", "one", "two"), ("kill", "two", "three")] {
        small.write(&format!("tools/{hold}"), "");
        small.replace("crate/src/lib.rs", &format!("\"{from}\""), &format!("\"{to}\""));
        let built = build(&mut builder).await.expect("a build");
        assert!(has(&built, to) && built.by == BuiltBy::Cargo, "{:?}", built.why_cargo);
        assert!(!small.path("tools").join(hold).exists());
    }
    small.replace("crate/src/lib.rs", "\"three\"", "\"four\"");
    let built = build(&mut builder).await.expect("a build");
    assert!(has(&built, "four") && built.by == BuiltBy::Rustc, "{:?}", built.why_cargo);
    // A mistake of the code's own is told at once, and costs no build by cargo.
    small.replace("crate/src/lib.rs", "\"four\"", "7");
    let said = build(&mut builder).await.expect_err("a mistake").to_string();
    assert!(said.contains("E0599") || said.contains("E0308"), "{said}");
    small.replace("crate/src/lib.rs", "7.to_owned()", "\"five\".to_owned()");
    let built = build(&mut builder).await.expect("a build");
    assert!(has(&built, "five") && built.by == BuiltBy::Rustc, "{:?}", built.why_cargo);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "compiles the framework once more, as a whole: 15 s"]
async fn a_wrapper_that_refuses_to_compile_in_parts_costs_time_only() {
    let small = Small::new("in-parts", "", "", "\"one\".to_owned()");
    small.script(
        "tools/whole.sh",
        "case \"$*\" in *' incremental='*) echo 'incremental is not supported' >&2; exit 1 ;; esac\nexec \"$@\"\n",
    );
    small.write(".cargo/config.toml", "[build]\nrustc-wrapper = \"tools/whole.sh\"\n");
    let mut builder = builder(&small);
    assert!(has(&build(&mut builder).await.expect("a build"), "one"));
    small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    let built = build(&mut builder).await.expect("a build");
    assert!(has(&built, "two") && built.by == BuiltBy::Rustc, "{:?}", built.why_cargo);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "compiles the framework once more, as a whole: 30 s"]
async fn a_linker_that_collects_unreferenced_sections_takes_no_factory_away() {
    let small = Small::new("collected", "", "", "\"one\".to_owned()");
    // As wild, and lld when it is asked to, treat the sections of distributed slices.
    small.write(".cargo/config.toml", "[build]\nrustflags = [\"-Clink-arg=-Wl,-z,start-stop-gc\"]\n");
    let mut host = small.host().await;
    host.answers("one").await;
    for (from, to) in [("one", "two"), ("two", "three")] {
        small.replace("crate/src/lib.rs", &format!("\"{from}\""), &format!("\"{to}\""));
        host.answers(to).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_first_edit_dependencies_are_optimised_and_what_was_saved_is_what_is_built() {
    let small = Small::new("optimised", "", "", "\"edit-0\".to_owned()");
    let options = BuildOptions::new(work_dir().join("optimised")).target_dir(target_dir()).optimize_dependencies(true);
    let mut builder = PluginBuilder::new(small.spec(), options);
    let first = build(&mut builder).await.expect("the first build");
    assert_eq!(first.by, BuiltBy::Cargo);
    let mut number = 0;
    let mut edit = async |builder: &mut PluginBuilder| {
        small.replace("crate/src/lib.rs", &format!("\"edit-{number}\""), &format!("\"edit-{}\"", number + 1));
        number += 1;
        let built = build(builder).await.expect("an edit");
        assert!(has(&built, &format!("edit-{number}")) && !has(&built, &format!("edit-{}\"", number - 1)));
        built
    };
    let plain = edit(&mut builder).await;
    assert!(!plain.optimized);
    let begun = std::time::Instant::now();
    let optimised = loop {
        let built = edit(&mut builder).await;
        assert_eq!((built.by, &built.why_full_link), (BuiltBy::Rustc, &None));
        if built.optimized {
            break built;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(600), "nothing is optimised");
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    };
    println!("{} -> {} bytes", plain.size, optimised.size);
    assert!(optimised.size * 3 < plain.size * 2, "{} and {} bytes", plain.size, optimised.size);
    small.replace("crate/src/lib.rs", "parts.join", "/* A comment. */ parts.join");
    let same = build(&mut builder).await.expect("a comment");
    assert_eq!((same.by, &same.build_hash), (BuiltBy::Rustc, &optimised.build_hash));
    // What only cargo can do begins anew, and is followed again.
    small.replace("crate/Cargo.toml", "[dependencies]", "[features]\nmore = []\n\n[dependencies]");
    let anew = build(&mut builder).await.expect("another manifest");
    assert_eq!((anew.by, anew.optimized), (BuiltBy::Cargo, false));
    while !edit(&mut builder).await.optimized {
        assert!(begun.elapsed() < std::time::Duration::from_secs(600), "nothing is optimised again");
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_with_which_no_plugin_works_are_refused_before_anything_is_compiled() {
    let small = Small::new("unfit-flags", "", "", "\"one\".to_owned()");
    let settings = [
        ("[build]\nrustflags = [\"-Cpanic=abort\"]\n", "a plugin must unwind from a panic"),
        (
            "[target.'cfg(unix)']\nrustflags = [\"-C\", \"target-feature=+crt-static\"]\n",
            "take `-C target-feature=+crt-static` out",
        ),
        (
            "[build]\ntarget = \"x86_64-unknown-linux-musl\"\n",
            "needs musl as one too: add `-C target-feature=-crt-static`",
        ),
    ];
    for (settings, wanted) in settings {
        small.write(".cargo/config.toml", settings);
        let compiled = std::sync::Mutex::new(Vec::new());
        let observer = |event| {
            if let BuildEvent::Compiled { package, .. } = event {
                compiled.lock().expect("no panic").push(package);
            }
        };
        let built = builder(&small).build(&observer, &CancellationToken::new()).await;
        let said = built.expect_err("it is refused").to_string();
        assert!(said.contains(wanted) && said.contains("cargo's settings"), "{said}");
        assert!(!said.contains("cbus-refuses") && !said.contains("process didn't exit"), "{said}");
        assert_eq!(compiled.into_inner().expect("no panic"), Vec::<String>::new());
    }
    small.write(".cargo/config.toml", "");
    assert!(has(&build(&mut builder(&small)).await.expect("a build"), "one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn relative_paths_are_those_of_the_start_wherever_the_process_goes_then() {
    if !in_own_process("relative_paths_are_those_of_the_start_wherever_the_process_goes_then", |_| ()) {
        return;
    }
    let small =
        Small::new("relative", "", "const V: &str = \"one\";", "V.to_owned(), env!(\"CARGO_PKG_VERSION\").to_owned()");
    std::env::set_current_dir(small.path("")).expect("going there");
    let up = "../".repeat(small.path("").components().count());
    let target = Path::new(&up).join(target_dir().strip_prefix("/").expect("an absolute path"));
    let spec = PluginSpec::new("relative-file").crate_path("crate");
    let options = BuildOptions::new("files").target_dir(&target).output("out/relative.cbus.so").overlay_dir("overlay");
    let mut files = PluginBuilder::new(spec, options);
    let mut host = small
        .host_with(|builder| {
            builder.work_dir("work").target_dir(&target).plugins_dir("plugins").trust(hot_runtime::Trust::anyone())
        })
        .await;
    host.answers("one 0.1.0").await;
    std::env::set_current_dir("/").expect("going away");
    small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    host.answers("two 0.1.0").await;
    small.replace("crate/Cargo.toml", "version = \"0.1.0\"\nedition", "version = \"0.2.0\"\nedition");
    host.answers("two 0.2.0").await;
    assert!(small.path("work/artifacts").is_dir());
    let built = build(&mut files).await.expect("a build");
    assert_eq!(built.artifact, small.path("out/relative.cbus.so"));
    assert!(has(&built, "0.2.0") && small.path("overlay/Cargo.toml").is_file());
    std::fs::copy(&built.artifact, small.path("plugins/relative.cbus.so")).expect("copying");
    wait_for(&mut host.told, |event| match event {
        RuntimeEvent::Swapped { plugin, .. } => (plugin == "relative-file").then_some(()),
        _ => None,
    })
    .await;
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_pins_compiles_it_although_another_toolchains_cargo_has_started_the_host() {
    let test = "what_a_plugin_pins_compiles_it_although_another_toolchains_cargo_has_started_the_host";
    let folder = tempfile::tempdir().expect("a folder");
    let started_by_cargo = |child: &mut Command| {
        let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc").stdout;
        let bin = Path::new(String::from_utf8(sysroot).expect("a path").trim()).join("bin");
        for tool in ["cargo", "rustc"] {
            // As rustup chooses: the variable, or else the nearest pin. It writes down what it was called for.
            let script = format!(
                "#!/bin/sh\nat=$PWD\nwhile [ -z \"$RUSTUP_TOOLCHAIN\" ] && [ \"$at\" != / ]; do\n\
                 [ -e \"$at/rust-toolchain.toml\" ] && RUSTUP_TOOLCHAIN=pinned\nat=$(dirname \"$at\")\ndone\n\
                 export RUSTUP_TOOLCHAIN=${{RUSTUP_TOOLCHAIN:-none}}\n\
                 echo \"{tool} $RUSTUP_TOOLCHAIN $*\" >> '{}/calls'\nexec '{}/{tool}' \"$@\"\n",
                folder.path().display(),
                bin.display(),
            );
            let path = folder.path().join(tool);
            std::fs::write(&path, script).expect("a script");
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, executable).expect("it can be run");
        }
        let path = std::env::var("PATH").unwrap_or_default();
        child.env("PATH", format!("{}:{path}", folder.path().display())).env("CALLS", folder.path().join("calls"));
        child.env("CARGO", bin.join("cargo")).env("RUSTUP_TOOLCHAIN", "the-hosts");
        child.env_remove("RUSTUP_TOOLCHAIN_SOURCE").env_remove("RUSTC");
    };
    if !in_own_process(test, started_by_cargo) {
        return;
    }
    let calls = PathBuf::from(std::env::var_os("CALLS").expect("set by the test"));
    let small = Small::new("pinned", "", "", "\"one\".to_owned()");
    small.write("crate/rust-toolchain.toml", "[toolchain]\nchannel = \"nightly-2026-01-01\"\n");
    let mut builder = builder(&small);
    let first = build(&mut builder).await.expect("a build");
    small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    let second = build(&mut builder).await.expect("a build");
    assert_eq!((first.by, second.by), (BuiltBy::Cargo, BuiltBy::Rustc), "{:?}", second.why_cargo);
    let calls = std::fs::read_to_string(calls).expect("the calls");
    let decides =
        |call: &&str| call.starts_with("cargo ") || call.contains("--crate-name pinned ") || call.ends_with(" -vV");
    let calls: Vec<_> = calls.lines().filter(decides).collect();
    assert!(calls.iter().all(|call| call.split(' ').nth(1) == Some("pinned")), "{calls:#?}");
    let of = |start: &str| calls.iter().filter(|call| call.starts_with(start)).count();
    assert!(of("cargo pinned metadata") > 0 && of("cargo pinned rustc") > 0, "{calls:#?}");
    assert_eq!(of("rustc pinned --crate-name pinned "), 2, "{calls:#?}");
}

/// A compiler cache that refuses what sccache refuses, says something of its own, and writes down its calls.
const CACHE: &str = "[ \"$CARGO_INCREMENTAL\" = 1 ] && { echo 'sccache: increment compilation is  prohibited' >&2; exit 1; }\n\
                     echo 'sccache: the server is not running' >&2\necho \"$*\" >> \"$here/called\"\nexec \"$@\"\n";

async fn behind_a_compiler_cache(small: &Small, called: &Path) {
    let name = small.spec().id;
    let mut builder = builder(small);
    let first = build(&mut builder).await.expect("a build");
    assert!(has(&first, "one") && first.by == BuiltBy::Cargo);
    let calls = std::fs::read_to_string(called).expect("it was called");
    assert!(calls.contains(&format!("--crate-name {} ", name.replace('-', "_"))), "{calls}");
    small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    let second = build(&mut builder).await.expect("a build");
    assert!(has(&second, "two") && second.by == BuiltBy::Rustc, "{:?}", second.why_cargo);
    small.replace("crate/src/lib.rs", "\"two\"", "7");
    let said = build(&mut builder).await.expect_err("a mistake").to_string();
    assert!(said.contains("E0308") && !said.contains("sccache"), "{said}");
    small.replace("crate/src/lib.rs", "7.to_owned()", "\"three\".to_owned()");
    let third = build(&mut builder).await.expect("a build");
    assert!(has(&third, "three") && third.by == BuiltBy::Rustc, "{:?}", third.why_cargo);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_cache_in_the_settings_compiles_for_cargo_and_delays_no_edit() {
    let small = Small::new("cache-in-settings", "", "", "\"one\".to_owned()");
    small.script("tools/sccache", CACHE);
    small.write(".cargo/config.toml", "[build]\nrustc-wrapper = \"tools/sccache\"\n");
    behind_a_compiler_cache(&small, &small.path("tools/called")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_cache_in_a_variable_compiles_for_cargo_and_delays_no_edit() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("sccache");
    let with_it = |child: &mut Command| {
        std::fs::write(&cache, format!("#!/bin/sh\nhere=$(dirname \"$0\")\n{CACHE}")).expect("a script");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&cache, executable).expect("it can be run");
        child.env("RUSTC_WRAPPER", &cache);
    };
    if in_own_process("a_compiler_cache_in_a_variable_compiles_for_cargo_and_delays_no_edit", with_it) {
        let cache = PathBuf::from(std::env::var_os("RUSTC_WRAPPER").expect("set by the test"));
        let small = Small::new("cache-in-variable", "", "", "\"one\".to_owned()");
        behind_a_compiler_cache(&small, &cache.with_file_name("called")).await;
    }
}

/// Counts the warnings that have a text in them.
#[derive(Clone, Default)]
struct Warnings(Arc<std::sync::Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().expect("no panic").push(message.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

// On one thread, so that its subscriber hears all.
#[tokio::test]
async fn a_wrapper_for_workspace_members_compiles_nothing_of_a_plugin_and_that_is_said_once() {
    let small = Small::new("members-wrapper", "", "", "\"one\".to_owned()");
    small.script("tools/members.sh", "echo \"$*\" >> \"$here/called\"\nexec \"$@\"\n");
    small.write(".cargo/config.toml", "[build]\nrustc-workspace-wrapper = \"tools/members.sh\"\n");
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let mut builder = builder(&small);
    assert!(has(&build(&mut builder).await.expect("a build"), "one"));
    small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    let built = build(&mut builder).await.expect("a build");
    assert!(has(&built, "two") && built.by == BuiltBy::Rustc, "{:?}", built.why_cargo);
    small.replace("crate/Cargo.toml", "version = \"0.1.0\"\nedition", "version = \"0.2.0\"\nedition");
    assert_eq!(build(&mut builder).await.expect("a build").by, BuiltBy::Cargo);
    assert!(!small.path("tools/called").exists());
    let warnings = warnings.0.lock().expect("no panic");
    let said: Vec<_> = warnings.iter().filter(|said| said.contains("rustc-workspace-wrapper")).collect();
    let [said] = said[..] else { panic!("{said:?}") };
    assert!(said.contains("config.toml") && said.contains("set it as `build.rustc-wrapper`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_folder_of_its_own_changes_nothing() {
    let small = Small::new("build-dir", "", "", "\"one\".to_owned()");
    small.write(
        ".cargo/config.toml",
        "[build]\nbuild-dir = \"{workspace-root}/elsewhere\"\ntarget-dir = \"nor-here\"\n",
    );
    let mut builder = builder(&small);
    assert_eq!(build(&mut builder).await.expect("a build").by, BuiltBy::Cargo);
    small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    let built = build(&mut builder).await.expect("a build");
    assert!(has(&built, "two") && built.by == BuiltBy::Rustc, "{:?}", built.why_cargo);
    // What was put back with an old time is new to cargo as well.
    let source = std::fs::read_to_string(small.path("crate/src/lib.rs")).expect("the source");
    small.put_back("crate/src/lib.rs", &source.replace("\"two\"", "\"three\""));
    small.replace("crate/Cargo.toml", "version = \"0.1.0\"\nedition", "version = \"0.2.0\"\nedition");
    let built = build(&mut builder).await.expect("a build");
    assert!(has(&built, "three") && built.by == BuiltBy::Cargo);
    for unused in ["elsewhere", "nor-here", "crate/elsewhere", "crate/nor-here"] {
        assert!(!small.path(unused).exists(), "{unused}");
    }
}

/// Makes a folder as `cargo vendor` does, of links to what cargo has unpacked.
fn vendor(lock: &str, to: &Path) {
    let lock: toml::Table = lock.parse().expect("TOML");
    let unpacked = || {
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).expect("cargo's home");
        let indices = std::fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
        indices.map(|index| index.path()).collect::<Vec<_>>()
    };
    let find = |name: &str| unpacked().into_iter().map(|index| index.join(name)).find(|path| path.is_dir());
    for package in lock["package"].as_array().expect("packages") {
        let of = |key: &str| package.get(key).and_then(toml::Value::as_str);
        let (Some(name), Some(version), Some(checksum)) = (of("name"), of("version"), of("checksum")) else { continue };
        let name = format!("{name}-{version}");
        let from = find(&name).or_else(|| {
            // What is for other systems only is fetched when it is asked for.
            let mut fetch = Command::new("cargo");
            fetch.args(["metadata", "--format-version=1", "--locked"]).current_dir(env!("CARGO_MANIFEST_DIR"));
            assert!(fetch.output().expect("cargo").status.success());
            find(&name)
        });
        let (from, to) = (from.unwrap_or_else(|| panic!("{name} is not unpacked")), to.join(&name));
        std::fs::create_dir_all(&to).expect("a folder");
        for entry in std::fs::read_dir(from).expect("a folder").flatten() {
            std::os::unix::fs::symlink(entry.path(), to.join(entry.file_name())).expect("a link");
        }
        let text = format!("{{\"files\":{{}},\"package\":\"{checksum}\"}}");
        std::fs::write(to.join(".cargo-checksum.json"), text).expect("writing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vendored_crates_are_found_without_a_network_by_cargo_and_by_rustc() {
    // From a registry that is not there, so that only this one is vendored, and the others are not compiled once more.
    let small =
        Small::new("vendored", "corp-word = { version = \"1\", registry = \"corp\" }", "", "corp_word::word(\"one\")");
    small.write(
        "vendor/corp-word/Cargo.toml",
        "[package]\nname = \"corp-word\"\nversion = \"1.2.3\"\nedition = \"2024\"\n",
    );
    small.write("vendor/corp-word/src/lib.rs", "pub fn word(of: &str) -> String {\n    format!(\"corp {of}\")\n}\n");
    small.write("vendor/corp-word/.cargo-checksum.json", "{\"files\":{}}");
    let registry = "registry = \"sparse+https://corp.invalid/index/\"\nreplace-with = \"vendored-sources\"\n";
    let rest = "[source.vendored-sources]\ndirectory = \"vendor\"\n\n[net]\noffline = true\n";
    let index = "[registries.corp]\nindex = \"sparse+https://corp.invalid/index/\"\n";
    small.write(".cargo/config.toml", &format!("{index}\n[source.corp]\n{registry}\n{rest}"));
    let mut one = builder(&small);
    let built = build(&mut one).await.expect("a build");
    assert!(has(&built, "corp ") && built.by == BuiltBy::Cargo);
    small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    let built = build(&mut one).await.expect("a build");
    assert!(has(&built, "two") && built.by == BuiltBy::Rustc, "{:?}", built.why_cargo);
    // All of crates.io, as `cargo vendor` says.
    let lock = std::fs::read_to_string(small.path("crate/Cargo.lock")).expect("the lock file");
    vendor(&lock, &small.path("vendor"));
    let all = format!(
        "[source.crates-io]\nreplace-with = \"vendored-sources\"\n\n{index}\n[source.corp]\n{registry}\n{rest}"
    );
    small.write(".cargo/config.toml", &all);
    let overlay = builder(&small).generate().await.expect("the overlay");
    let mut asked = Command::new("cargo");
    asked.args(["metadata", "--format-version=1", "--manifest-path"]).arg(overlay.dir.join("Cargo.toml"));
    let said = asked.current_dir(&overlay.root).env("CARGO_NET_OFFLINE", "false").output().expect("cargo");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said = String::from_utf8(said.stdout).expect("JSON");
    let manifests = said.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let manifests: Vec<_> = manifests.map(Path::new).collect();
    let local = [root().canonicalize().expect("the workspace"), small.path("crate"), overlay.dir];
    let is_local = |path: &&&Path| local.iter().any(|folder| path.starts_with(folder));
    let others: Vec<_> = manifests.iter().filter(|path| !is_local(path)).collect();
    assert!(others.iter().all(|path| path.starts_with(small.path("vendor"))), "{others:?}");
    assert!(others.len() > 20, "{others:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs cargo for each of a hundred plugins: a minute"]
async fn more_than_a_hundred_plugins_start_with_one_watcher_and_few_compilers_and_an_edit_of_one_builds_one() {
    let test = "more_than_a_hundred_plugins_start_with_one_watcher_and_few_compilers_and_an_edit_of_one_builds_one";
    if !in_own_process(test, |_| ()) {
        return;
    }
    let small = Small::new("many", "", "", "\"one\".to_owned()");
    let own = Small::new("own-of-many", "", "", "\"one\".to_owned()");
    own.replace("crate/src/lib.rs", "id = \"small\"", "id = \"own\"");
    // One bundle is compiled; the others are copies of it with another plugin's id of the same length.
    small.script(
        "tools/rustc.sh",
        "case \"$*\" in *'--crate-name cbus_overlay_many_'*) ;; *) exec rustc \"$@\" ;; esac\n\
         echo begins >> \"$here/bundles\"\n\
         for argument in \"$@\"; do\n\
         case $before in --crate-name) name=$argument ;; --out-dir) out=$argument ;; esac\n\
         case $argument in extra-filename=*) extra=${argument#extra-filename=} ;; *.rs) source=$argument ;; esac\n\
         before=$argument\ndone\n\
         library=$out/lib$name$extra.so\n\
         if mkdir \"$here/first\" 2> /dev/null; then\n\
         rustc \"$@\" || exit\nstrip -S -o \"$here/made\" \"$library\" && echo \"${name##*_}\" > \"$here/first/id\"\n\
         mv \"$here/made\" \"$here/bundle.so\"\n\
         else\n\
         while [ ! -e \"$here/bundle.so\" ]; do sleep 0.05; done\n\
         LC_ALL=C sed \"s/many-$(cat \"$here/first/id\")/many-${name##*_}/g\" \"$here/bundle.so\" > \"$library\"\n\
         echo \"$library: $source\" > \"$out/$name$extra.d\"\n\
         fi\necho ends >> \"$here/bundles\"\n",
    );
    small.write(".cargo/config.toml", "[build]\nrustc = \"tools/rustc.sh\"\n");
    let mut host = small
        .host_with(|builder| {
            let many = (0..101).map(|number| PluginSpec::new(format!("many-{number:03}")));
            let specs = many.map(|spec| spec.crate_path(small.path("crate"))).chain([own.spec()]);
            specs.fold(builder.target_dir(target_dir()).workers(1), hot_runtime::Builder::plugin)
        })
        .await;
    let (mut serving, mut failed) = (std::collections::BTreeSet::new(), Vec::new());
    while let Ok(event) = host.told.try_recv() {
        match event {
            RuntimeEvent::Swapped { plugin, .. } => drop(serving.insert(plugin)),
            RuntimeEvent::BuildFailed { plugin, rendered, .. } => failed.push((plugin, rendered)),
            RuntimeEvent::RolledBack { plugin, reason, .. } => failed.push((plugin, reason)),
            _ => {}
        }
    }
    assert_eq!(failed, []);
    assert_eq!(serving.len(), 103, "{serving:?}");
    let (mut at_once, mut most) = (0, 0);
    for line in std::fs::read_to_string(small.path("tools/bundles")).expect("the calls").lines() {
        at_once += if line == "begins" { 1 } else { -1 };
        most = most.max(at_once);
    }
    assert!((1..=2).contains(&most), "{most} compilers at once");
    let threads = std::fs::read_dir("/proc/self/task").expect("this process's threads").flatten();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    assert_eq!(names.filter(|name| name.trim() == "cbus-watch").count(), 1);

    host.begun();
    own.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    let swapped = wait_for(&mut host.told, |event| match event {
        RuntimeEvent::Swapped { plugin, .. } => Some(plugin.clone()),
        _ => None,
    });
    assert_eq!(swapped.await, "own-of-many");
    assert_eq!(host.begun(), 1);
    host.runtime.shutdown().await;
    // They take a lot of space.
    let _ = std::fs::remove_dir_all(work_dir().join("many"));
    for made in std::fs::read_dir(target_dir().join("debug/deps")).into_iter().flatten().flatten() {
        if made.file_name().to_string_lossy().contains("cbus_overlay_many_") {
            let _ = std::fs::remove_file(made.path());
        }
    }
}
