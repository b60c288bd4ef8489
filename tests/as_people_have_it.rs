//! Projects as people have them: what other tools stumble over is built, or there is a message that says what to do.

use std::path::Path;
use std::process::Command;

use hot_runtime::artifact::inspect;
use hot_runtime::compile::{BuildOptions, BuildReport, BuiltBy, PluginBuilder};
use hot_runtime::{Error, HotRuntime, PluginSpec};
use tests::small::Small;
use tests::{target_dir, work_dir};
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
        copy(&root.join(part).join("src"), &small.plain("repository").join(part).join("src"));
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
