//! What serves is what stands on the disk: every file that a build has read counts, by itself, and no other does.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use controllerbus::prelude::*;
use hot_runtime::RuntimeEvent;
use hot_runtime::compile::{BuildOptions, BuiltBy, PluginBuilder};
use tests::small::Small;
use tests::{target_dir, wait_for, work_dir};
use tokio_util::sync::CancellationToken;

fn options(name: &str) -> BuildOptions {
    BuildOptions::new(work_dir().join(name)).target_dir(target_dir())
}

/// Writes files that nobody reads, again and again, until it is dropped.
struct Noise(Arc<AtomicBool>, Option<std::thread::JoinHandle<u64>>);

impl Noise {
    fn beside(small: &Small) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, folder) = (Arc::clone(&stop), small.path("crate"));
        let thread = std::thread::spawn(move || {
            let mut lines = 0;
            while !stopped.load(Ordering::Relaxed) {
                lines += 1;
                for file in ["app.log", "src/notes.txt", "app.db-journal"] {
                    std::fs::write(folder.join(file), lines.to_string()).expect("writing");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            lines
        });
        Self(stop, Some(thread))
    }

    fn end(mut self) -> u64 {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().expect("a thread").join().expect("its end")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_writes_beside_its_sources_neither_builds_nor_keeps_an_edit_from_being_served() {
    let small = Small::new("in-noise", "", "const V: &str = \"one\";", "V.to_owned()");
    // What lies in the folder: much, large, odd, and not to be read.
    for at in 0..200 {
        small.write(&format!("crate/node_modules/m{at}/index.js"), "");
    }
    let huge = std::fs::File::create(small.path("crate/model.bin")).expect("a file");
    huge.set_len(1 << 40).expect("a terabyte of nothing");
    #[cfg(unix)]
    {
        let made = Command::new("mkfifo").arg(small.path("crate/src/pipe")).status().expect("mkfifo");
        assert!(made.success());
        std::os::unix::fs::symlink(small.path("crate"), small.path("crate/circle")).expect("a link");
        std::os::unix::fs::symlink("nowhere", small.path("crate/src/dangling")).expect("a link");
    }
    let noise = Noise::beside(&small);
    let mut host = small.host().await;
    host.answers("one").await;
    for (from, to) in [("one", "two"), ("two", "three")] {
        small.replace("crate/src/lib.rs", &format!("\"{from}\""), &format!("\"{to}\""));
        host.answers(to).await;
    }
    host.begun();
    let lines = noise.end();
    assert!(lines > 10);
    // An edit after all that noise is the only thing that is built.
    small.replace("crate/src/lib.rs", "\"three\"", "\"four\"");
    host.answers("four").await;
    assert_eq!(host.begun(), 1);
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_always_being_written_and_is_read_does_not_keep_an_edit_from_being_served() {
    let parts = "V.to_owned(), (!include_str!(\"notes.txt\").is_empty()).to_string()";
    let small = Small::new("always-written", "", "const V: &str = \"one\";", parts);
    small.write("crate/src/notes.txt", "0");
    let mut host = small.host().await;
    host.answers("one true").await;
    let noise = Noise::beside(&small);
    small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    host.answers("two true").await;
    noise.end();
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_script_that_writes_into_the_sources_is_built_once() {
    let small = Small::new("script-writes", "", "mod made;\nmod more;", "made::V.to_owned(), more::V.to_owned()");
    small.write(
        "crate/build.rs",
        "fn main() {\n    std::fs::write(\"src/made.rs\", \"pub const V: &str = \\\"made\\\";\\n\").unwrap();\n    \
         std::thread::sleep(std::time::Duration::from_millis(100));\n    \
         std::fs::write(\"src/more.rs\", \"pub const V: &str = \\\"more\\\";\\n\").unwrap();\n}\n",
    );
    let mut host = small.host().await;
    host.answers("made more").await;
    host.begun();
    small.replace("crate/src/lib.rs", "more::V.to_owned()", "more::V.to_owned(), \"edited\".to_owned()");
    host.answers("made more edited").await;
    let begun = host.begun();
    assert!(begun <= 2, "{begun} builds of one edit");
    assert!(!host.rebuild().await, "it is what it is");
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_build_scripts_say_that_they_read_counts_wherever_it_is() {
    let dependencies = "shared = { path = \"../shared\" }";
    let small = Small::new("script-reads", dependencies, "", "env!(\"GREET\").to_owned(), shared::V.to_owned()");
    small.library("shared", "", "pub const V: &str = concat!(\"shared\", env!(\"LIST\"));");
    small.write("shared/data.txt", "data");
    // Says nothing of what it reads.
    small.write(
        "shared/build.rs",
        "fn main() {\n    let mut names: Vec<_> = std::fs::read_dir(\"list\").unwrap().map(|it| it.unwrap().path()).collect();\n    \
         names.sort();\n    let texts: Vec<_> = names.iter().map(|it| std::fs::read_to_string(it).unwrap()).collect();\n    \
         println!(\"cargo:rustc-env=LIST={}\", texts.join(\"\"));\n}\n",
    );
    small.write("shared/list/one", "-1");
    small.write("shared/list/two", "-2");
    small.write("proto/greet.txt", "hello");
    small.write("crate/folder/deep/in.txt", "deep");
    small.write(
        "crate/build.rs",
        "fn main() {\n    let read = |path: &str| {\n        println!(\"cargo:rerun-if-changed={path}\");\n        \
         std::fs::read_to_string(path).unwrap()\n    };\n    println!(\"cargo::rerun-if-changed=folder\");\n    \
         let deep: Vec<String> = std::fs::read_dir(\"folder/deep\").unwrap().map(|it| std::fs::read_to_string(it.unwrap().path()).unwrap()).collect();\n    \
         println!(\"cargo:rustc-env=GREET={} {} {}\", read(\"../proto/greet.txt\"), read(\"../shared/data.txt\"), deep.join(\"+\"));\n}\n",
    );
    let mut host = small.host().await;
    host.answers("hello data deep shared-1-2").await;
    small.write("proto/greet.txt", "good day");
    host.answers("good day data deep shared-1-2").await;
    small.write("shared/data.txt", "other");
    host.answers("good day other deep shared-1-2").await;
    small.write("crate/folder/deep/in.txt", "deeper");
    host.answers("good day other deeper shared-1-2").await;
    small.replace("shared/src/lib.rs", "\"shared\"", "\"common\"");
    host.answers("good day other deeper common-1-2").await;
    std::fs::remove_file(small.path("crate/folder/deep/in.txt")).expect("removing");
    host.answers("good day other common-1-2").await;
    // A file that comes makes another plugin than what was built without it, and one that was put back than what cargo,
    // which goes by times, has built.
    small.write("crate/folder/deep/new.txt", "new");
    host.answers("good day other new common-1-2").await;
    small.put_back("crate/folder/deep/new.txt", "old");
    host.answers("good day other old common-1-2").await;
    small.put_back("shared/list/one", "-0");
    host.answers("good day other old common-0-2").await;
    std::fs::remove_file(small.path("shared/list/one")).expect("removing");
    host.answers("good day other old common-2").await;
    small.write("shared/list/three", "-3");
    host.answers("good day other old common-3-2").await;
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_macros_and_build_scripts_are_made_of_counts() {
    let dependencies = "names = { path = \"../names\" }\nshout = { path = \"../shout\" }\n\n[build-dependencies]\ntools = { path = \"../tools\" }";
    let parts = "shout::words!().to_owned(), names::word(), env!(\"MADE\").to_owned()";
    let small = Small::new("made-of", dependencies, "", parts);
    small.library("names", "", "pub fn word() -> String {\n    \"name\".to_owned()\n}\n");
    small.library("tools", "", "pub fn tool() -> &'static str {\n    \"tool\"\n}\n");
    let rest = "\n[lib]\nproc-macro = true\n\n[dependencies]\nnames = { path = \"../names\" }";
    small.library(
        "shout",
        rest,
        "#[proc_macro]\npub fn words(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n    \
         format!(\"{:?}\", names::word().to_uppercase()).parse().unwrap()\n}\n",
    );
    small.write(
        "crate/build.rs",
        "fn main() {\n    println!(\"cargo:rerun-if-changed=build.rs\");\n    println!(\"cargo:rustc-env=MADE={}\", tools::tool());\n}\n",
    );
    let mut host = small.host().await;
    host.answers("NAME name tool").await;
    small.replace("names/src/lib.rs", "\"name\"", "\"word\"");
    host.answers("WORD word tool").await;
    small.replace("tools/src/lib.rs", "\"tool\"", "\"other\"");
    host.answers("WORD word other").await;
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_count_whatever_they_are_called_and_from_when_they_are_read() {
    let small = Small::new("any-name", "", "mod target;", "target::word().to_owned()");
    small.write("crate/src/target/mod.rs", "pub fn word() -> &'static str {\n    \"target\"\n}\n");
    let mut host = small.host().await;
    host.answers("target").await;
    small.replace("crate/src/target/mod.rs", "\"target\"", "\"aim\"");
    host.answers("aim").await;
    // A text outside of the crate that an edit includes is read from then on.
    small.write("new.txt", "new");
    small.replace(
        "crate/src/lib.rs",
        "target::word().to_owned()",
        "target::word().to_owned(), include_str!(\"../../new.txt\").to_owned()",
    );
    host.answers("aim new").await;
    small.write("new.txt", "newer");
    host.answers("aim newer").await;
    // One that is not there is waited for, and so is a module.
    small.replace("crate/src/lib.rs", "../../new.txt", "../../deep/later.txt");
    let said = host.fails().await;
    assert!(said.contains("later.txt"), "{said}");
    small.write("deep/later.txt", "later");
    host.answers("aim later").await;
    small.replace("crate/src/lib.rs", "mod target;", "mod target;\nmod missing;");
    host.fails().await;
    small.write("crate/src/missing/mod.rs", "");
    host.answers("aim later").await;
    // The other form of a module is a mistake, as it is in a build from nothing.
    small.write("crate/src/missing.rs", "");
    let said = host.fails().await;
    assert!(said.contains("found at both"), "{said}");
    std::fs::remove_file(small.path("crate/src/missing.rs")).expect("removing");
    small.replace("crate/src/target/mod.rs", "\"aim\"", "\"goal\"");
    host.answers("goal later").await;
    // Blanks of all kinds in a name.
    small.write("crate/src/全\u{3000}角\u{a0}.rs", "pub const V: &str = \"wide\";\n");
    small.replace("crate/src/lib.rs", "mod missing;", "#[path = \"全\u{3000}角\u{a0}.rs\"]\nmod missing;");
    small.replace("crate/src/lib.rs", "target::word().to_owned()", "missing::V.to_owned(), target::word().to_owned()");
    host.answers("wide goal later").await;
    small.replace("crate/src/全\u{3000}角\u{a0}.rs", "wide", "wider");
    host.answers("wider goal later").await;
    small.replace("crate/src/lib.rs", "missing::V.to_owned(), ", "");
    host.answers("goal later").await;
    // What comes as a build script is one.
    small.write("crate/build.rs", "fn main() {\n    println!(\"cargo:rustc-env=CAME=came\");\n}\n");
    small.replace(
        "crate/src/lib.rs",
        "target::word().to_owned()",
        "target::word().to_owned(), option_env!(\"CAME\").unwrap_or(\"-\").to_owned()",
    );
    host.answers("goal came later").await;
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_build_that_failed_lacked_is_waited_for_wherever_it_is() {
    let script = |told: &str, path: &str| {
        format!(
            "fn main() {{\n    {told}\n    let text = std::fs::read_to_string({path:?}).unwrap();\n    \
             assert!(!text.contains(\"bad\"));\n    println!(\"cargo:rustc-env=READ={{text}}\");\n}}\n"
        )
    };
    let small = Small::new("lacking", "", "", "env!(\"READ\").to_owned()");
    small.write("crate/build.rs", &script("println!(\"cargo:rerun-if-changed=../later/in.txt\");", "../later/in.txt"));
    let mut host = small.host().await;
    let said = host.fails().await;
    assert!(said.contains("custom build command"), "{said}");
    // What the script said before it failed.
    small.write("later/in.txt", "bad");
    host.fails().await;
    small.write("later/in.txt", "good");
    host.answers("good").await;
    // A crate that is not there yet, whose script says nothing of what it reads.
    small.replace("crate/Cargo.toml", "[dependencies]", "[dependencies]\nlate = { path = \"../deep/er/late\" }");
    small.replace("crate/src/lib.rs", "env!(\"READ\").to_owned()", "env!(\"READ\").to_owned(), late::V.to_owned()");
    let said = host.fails().await;
    assert!(said.contains("dependency `late`") && said.contains("late/Cargo.toml"), "{said}");
    small.write("late/build.rs", &script("", "data/in.txt"));
    small.library("late", "", "pub const V: &str = env!(\"READ\");");
    std::fs::create_dir_all(small.path("deep/er")).expect("a folder");
    std::fs::rename(small.path("late"), small.path("deep/er/late")).expect("moving");
    let said = host.fails().await;
    assert!(said.contains("custom build command"), "{said}");
    small.write("deep/er/late/data/in.txt", "late");
    host.answers("good late").await;
    host.runtime.shutdown().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn sources_behind_links_count_where_they_are() {
    use std::os::unix::fs::symlink;
    let small = Small::new("links", "", "mod shared;\nmod words;", "shared::V.to_owned(), words::V.to_owned()");
    small.write("common/mod.rs", "pub const V: &str = \"folder\";\n");
    small.write("other/mod.rs", "pub const V: &str = \"elsewhere\";\n");
    small.write("file/words.rs", "pub const V: &str = \"file\";\n");
    symlink("../../common", small.path("crate/src/shared")).expect("a link");
    symlink("../../file/words.rs", small.path("crate/src/words.rs")).expect("a link");
    let mut host = small.host().await;
    host.answers("folder file").await;
    small.replace("common/mod.rs", "folder", "there");
    host.answers("there file").await;
    small.replace("file/words.rs", "file", "words");
    host.answers("there words").await;
    // The link itself.
    std::fs::remove_file(small.path("crate/src/shared")).expect("removing");
    symlink("../../other", small.path("crate/src/shared")).expect("a link");
    host.answers("elsewhere words").await;
    small.replace("other/mod.rs", "elsewhere", "afar");
    host.answers("afar words").await;
    assert!(!host.rebuild().await);
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crate_that_goes_and_comes_back_is_followed_on() {
    let small = Small::new("comes-back", "", "const V: &str = \"one\";", "V.to_owned()");
    let mut host = small.host().await;
    host.answers("one").await;
    for (from, to) in [("one", "two"), ("two", "three"), ("three", "four")] {
        std::fs::rename(small.path("crate"), small.path("away")).expect("moving");
        let said = host.fails().await;
        assert!(said.contains("crate"), "{said}");
        std::fs::rename(small.path("away"), small.path("crate")).expect("moving");
        host.answers(from).await;
        small.replace("crate/src/lib.rs", &format!("\"{from}\""), &format!("\"{to}\""));
        host.answers(to).await;
    }
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_cargo_count_in_every_parent_from_when_they_come() {
    let small = Small::new(
        "settings",
        "",
        "",
        "option_env!(\"WORD\").unwrap_or(\"-\").to_owned(), env!(\"CARGO_PKG_VERSION\").to_owned()",
    );
    let mut host = small.host().await;
    host.answers("- 0.1.0").await;
    small.write(".cargo/config.toml", "[env]\nWORD = { value = \"parent\" }\n");
    host.answers("parent 0.1.0").await;
    small.write("crate/.cargo/config.toml", "[env]\nWORD = { value = \"own\", force = true }\n");
    host.answers("own 0.1.0").await;
    // A direct call has cargo's environment, not the host's.
    small.replace("crate/src/lib.rs", "\"-\"", "\"none\"");
    host.answers("own 0.1.0").await;
    std::fs::remove_dir_all(small.path("crate/.cargo")).expect("removing");
    std::fs::remove_dir_all(small.path(".cargo")).expect("removing");
    host.answers("none 0.1.0").await;
    small.replace("crate/Cargo.toml", "version = \"0.1.0\"\nedition", "version = \"0.2.0\"\nedition");
    host.answers("none 0.2.0").await;
    // A dependency of another workspace has its version from there.
    small.write("other/Cargo.toml", "[workspace]\nmembers = [\"part\"]\n[workspace.package]\nversion = \"0.3.0\"\n");
    small.library("other/part", "", "pub const V: &str = env!(\"CARGO_PKG_VERSION\");");
    small.write("other/part/Cargo.toml", "[package]\nname = \"part\"\nversion.workspace = true\nedition = \"2024\"\n");
    small.replace("crate/Cargo.toml", "[dependencies]", "[dependencies]\npart = { path = \"../other/part\" }");
    small.replace("crate/src/lib.rs", "env!(\"CARGO_PKG_VERSION\").to_owned()", "part::V.to_owned()");
    host.answers("none 0.3.0").await;
    small.replace("other/Cargo.toml", "0.3.0", "0.4.0");
    host.answers("none 0.4.0").await;
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_function_named_like_debug_information_counts() {
    let head = "#[unsafe(no_mangle)]\npub extern \"C\" fn debug_dump() -> u32 {\n    1001\n}";
    let parts = "std::hint::black_box(debug_dump as extern \"C\" fn() -> u32)().to_string()";
    let small = Small::new("debug-name", "", head, parts);
    let mut host = small.host().await;
    host.answers("1001").await;
    small.replace("crate/src/lib.rs", "1001", "1002");
    host.answers("1002").await;
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patched_crate_that_crates_of_the_registry_use_is_swapped_in() {
    let dependencies = "unicode-segmentation = \"1\"\nconvert_case = \"0.10\"\n";
    let parts = "unicode_segmentation::patched().to_owned(), convert_case::Casing::to_case(&\"HelloWorld\", convert_case::Case::Snake)";
    let small = Small::new("patches", dependencies, "", parts);
    let manifest = std::fs::read_to_string(small.path("crate/Cargo.toml")).expect("the manifest");
    let patch = "\n[patch.crates-io]\nunicode-segmentation = { path = \"../unicode-segmentation\" }\n";
    small.write("crate/Cargo.toml", &(manifest + patch));
    small.library(
        "unicode-segmentation",
        "",
        "pub trait UnicodeSegmentation {\n    fn grapheme_indices(&self, extended: bool) -> std::vec::IntoIter<(usize, &str)>;\n}\n\
         impl UnicodeSegmentation for str {\n    fn grapheme_indices(&self, _: bool) -> std::vec::IntoIter<(usize, &str)> {\n        \
         let parts = self.char_indices().map(|(at, c)| (at, &self[at..at + c.len_utf8()]));\n        \
         parts.collect::<Vec<_>>().into_iter()\n    }\n}\npub fn patched() -> &'static str {\n    \"one\"\n}\n",
    );
    small.replace("unicode-segmentation/Cargo.toml", "version = \"0.1.0\"", "version = \"1.13.3\"");
    let mut host = small.host().await;
    host.answers("one hello_world").await;
    for (from, to) in [("one", "two"), ("two", "three")] {
        small.replace("unicode-segmentation/src/lib.rs", &format!("\"{from}\""), &format!("\"{to}\""));
        host.answers(&format!("{to} hello_world")).await;
    }
    // What the crate of the registry was compiled against has changed, too.
    small.replace("unicode-segmentation/src/lib.rs", "(at, &self[at..at", "(at, &self[at + 0..at");
    small.replace("unicode-segmentation/src/lib.rs", "_: bool", "extended: bool");
    small.replace("unicode-segmentation/src/lib.rs", "let parts", "assert!(extended);\n        let parts");
    small.replace("crate/src/lib.rs", "HelloWorld", "HelloThere");
    host.answers("three hello_there").await;
    // It may be cargo's settings that say so.
    let manifest = std::fs::read_to_string(small.path("crate/Cargo.toml")).expect("the manifest");
    small.write(".cargo/config.toml", &patch.replace("../", ""));
    small.write("crate/Cargo.toml", &manifest.replace(patch, ""));
    small.replace(
        "unicode-segmentation/src/lib.rs",
        "\"three\"",
        "if cfg!(feature = \"loud\") { \"FOUR\" } else { \"four\" }",
    );
    host.answers("four hello_there").await;
    small.replace("unicode-segmentation/src/lib.rs", "\"four\"", "\"five\"");
    host.answers("five hello_there").await;
    small.replace(
        "unicode-segmentation/Cargo.toml",
        "[workspace]",
        "[features]\ndefault = [\"loud\"]\nloud = []\n\n[workspace]",
    );
    host.answers("FOUR hello_there").await;
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn editors_temporary_names_build_nothing_of_their_own() {
    let small = Small::new("editors", "", "const V: u32 = 0;", "V.to_string()");
    let mut host = small.host().await;
    host.answers("0").await;
    host.begun();
    let lib = small.path("crate/src/lib.rs");
    for round in 1..=5 {
        let text = std::fs::read_to_string(&lib).expect("the source");
        let next = text.replace(&format!("V: u32 = {}", round - 1), &format!("V: u32 = {round}"));
        // As IntelliJ, vim and Qt do it.
        let (new, old) = (lib.with_file_name("lib.rs___jb_tmp___"), lib.with_file_name("lib.rs___jb_old___"));
        std::fs::write(lib.with_file_name("4913"), "").expect("writing");
        std::fs::remove_file(lib.with_file_name("4913")).expect("removing");
        std::fs::write(lib.with_file_name(format!("lib.rs.Xy{round}z")), "half").expect("writing");
        std::fs::write(&new, next).expect("writing");
        std::fs::rename(&lib, &old).expect("renaming");
        std::fs::rename(&new, &lib).expect("renaming");
        std::fs::remove_file(&old).expect("removing");
        host.answers(&round.to_string()).await;
    }
    let begun = host.begun();
    assert!(begun <= 10, "{begun} builds of 5 edits");
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_folder_that_goes_costs_one_build_by_cargo_and_a_wrapper_that_refuses_parts_none() {
    let small = Small::new("cleaned", "", "const V: &str = \"one\";", "V.to_owned()");
    // Refuses like sccache, and writes down what it is called for.
    let called = small.path("tools/called");
    small.script(
        "tools/wrap.sh",
        "[ \"$CARGO_INCREMENTAL\" = 1 ] && { echo 'increment compilation is prohibited' >&2; exit 1; }\n\
         echo \"$*\" >> \"$here/called\"\nexec \"$@\"\n",
    );
    small.write(".cargo/config.toml", "[build]\nrustc-wrapper = \"tools/wrap.sh\"\n");
    let mut builder = PluginBuilder::new(small.spec(), options("cleaned"));
    let cancel = CancellationToken::new();
    let mut build = async || builder.build(&|_| {}, &cancel).await.expect("a build");
    assert_eq!(build().await.by, BuiltBy::Cargo);
    let calls = std::fs::read_to_string(&called).expect("the wrapper was called");
    assert!(calls.contains("--crate-name cleaned "), "{calls}");
    small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    let second = build().await;
    assert_eq!(second.by, BuiltBy::Rustc, "{:?}", second.why_cargo);
    // As `cargo clean` does it, for this crate.
    for folder in ["deps", ".fingerprint", "incremental"] {
        for entry in std::fs::read_dir(target_dir().join("debug").join(folder)).expect("the folder").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("cleaned-") || name.starts_with("libcleaned-") {
                let _ = std::fs::remove_file(entry.path()).or_else(|_| std::fs::remove_dir_all(entry.path()));
            }
        }
    }
    // One of what it is compiled against is enough.
    let serde = std::fs::read_dir(target_dir().join("debug/deps")).expect("the folder").flatten();
    assert!(serde.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libserde-")));
    small.replace("crate/src/lib.rs", "\"two\"", "\"three\"");
    let third = build().await;
    small.replace("crate/src/lib.rs", "\"three\"", "\"four\"");
    let fourth = build().await;
    println!("{:?} {:?}", third.why_cargo, fourth.why_cargo);
    assert_eq!(fourth.by, BuiltBy::Rustc, "{:?}", fourth.why_cargo);
    let bytes = std::fs::read(&fourth.artifact).expect("the artifact");
    assert!(bytes.windows(4).any(|part| part == b"four"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_of_a_file_that_was_written_meanwhile_has_ended_before_the_next_one_starts() {
    let small = Small::new("written", "", "const V: &str = \"one\";", "V.to_owned()");
    // Writes the next edit while it compiles, if there is one, and takes its time to end.
    let called = small.path("tools/called");
    small.script(
        "tools/wrap.sh",
        "case \"$*\" in *'--crate-name written '*) ;; *) exec \"$@\" ;; esac\n\
         echo begins >> \"$here/called\"\n\
         if [ -e \"$here/next\" ]; then cat \"$here/next\" > \"$here/../crate/src/lib.rs\"; rm \"$here/next\"; fi\n\
         \"$@\"; code=$?; sleep 0.3; echo ended >> \"$here/called\"; exit $code\n",
    );
    small.write(".cargo/config.toml", "[build]\nrustc-wrapper = \"tools/wrap.sh\"\n");
    let mut builder = PluginBuilder::new(small.spec(), options("written"));
    let cancel = CancellationToken::new();
    let mut build = async || builder.build(&|_| {}, &cancel).await.expect("a build");
    assert_eq!(build().await.by, BuiltBy::Cargo);
    std::fs::write(&called, "").expect("writing");
    let next = std::fs::read_to_string(small.path("crate/src/lib.rs")).expect("the source").replace("one", "three");
    small.write("tools/next", &next);
    small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    let built = build().await;
    assert_eq!(built.by, BuiltBy::Rustc, "{:?}", built.why_cargo);
    let bytes = std::fs::read(&built.artifact).expect("the artifact");
    assert!(bytes.windows(5).any(|part| part == b"three"));
    assert_eq!(std::fs::read_to_string(&called).expect("the calls"), "begins\nended\nbegins\nended\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_and_the_code_that_needs_it_may_change_in_either_order() {
    in_either_order(Small::new("either-order", "", "", "WORD.lock().unwrap().clone()")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_and_the_code_that_needs_it_may_change_in_either_order_where_one_stops_first() {
    let small = Small::new("either-stops", "", "", "WORD.lock().unwrap().clone()");
    small.replace("crate/src/lib.rs", "version = \"1.0.0\")]", "version = \"1.0.0\", swap = \"stop-first\")]");
    in_either_order(small).await;
}

async fn in_either_order(small: Small) {
    small.replace(
        "crate/src/lib.rs",
        "pub struct SmallConfig {}",
        "#[serde(deny_unknown_fields)]\npub struct SmallConfig { #[serde(default)] word: String }",
    );
    small.replace("crate/src/lib.rs", "async fn construct(_: SmallConfig, _: &Context) -> Result<Self> {", "async fn construct(config: SmallConfig, _: &Context) -> Result<Self> {\n        *WORD.lock().unwrap() = config.word;");
    small.replace(
        "crate/src/lib.rs",
        "pub struct Small;",
        "static WORD: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());\npub struct Small;",
    );
    let mut host = small.host().await;
    let apply = async |bus: &Bus, config: &str| {
        let set = ConfigSet::from_yaml(&format!("small:\n  id: small\n  config: {config}\n")).expect("a config set");
        bus.apply(set).await.expect("applying");
    };
    apply(&host.bus, "{ word: first }").await;
    host.answers("first").await;

    // The config first: what runs runs on, and the code that can use it takes over with it.
    apply(&host.bus, "{ text: second }").await;
    assert!(host.bus.config("small").expect("the config").pending.is_some());
    host.answers("first").await;
    small.replace("crate/src/lib.rs", "#[serde(default)] word: String", "text: String");
    small.replace("crate/src/lib.rs", "config.word", "config.text");
    host.answers("second").await;
    assert!(host.bus.config("small").expect("the config").pending.is_none());

    // The code first: it is rolled back, and swapped in when the config has come.
    small.replace("crate/src/lib.rs", "text: String", "line: String");
    small.replace("crate/src/lib.rs", "config.text", "format!(\"a {}\", config.line)");
    let reason = wait_for(&mut host.told, |event| match event {
        RuntimeEvent::RolledBack { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    let reason = reason.await;
    assert!(reason.contains("line"), "{reason}");
    host.answers("second").await;
    apply(&host.bus, "{ line: third }").await;
    host.answers("a third").await;
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_checked_out_is_what_serves_whatever_the_times_of_the_files_say() {
    let small =
        Small::new("checked-out", "", "mod many;\nconst V: &str = \"one\";", "V.to_owned(), many::sum().to_string()");
    let files = 100;
    let write = |each: u32| {
        let modules: String = (0..files).map(|at| format!("mod m{at};\n")).collect();
        let sum: Vec<_> = (0..files).map(|at| format!("m{at}::V")).collect();
        small.write("crate/src/many.rs", &format!("{modules}pub fn sum() -> u32 {{\n    {}\n}}\n", sum.join(" + ")));
        for at in 0..files {
            small.write(&format!("crate/src/many/m{at}.rs"), &format!("pub const V: u32 = {each};\n"));
        }
    };
    let git = |arguments: &[&str]| {
        let who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"];
        let done = Command::new("git").current_dir(small.path("")).args(who).args(arguments).output().expect("git");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    write(1);
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    git(&["checkout", "-q", "-b", "other"]);
    write(2);
    git(&["commit", "-q", "-a", "-m", "two each"]);
    git(&["checkout", "-q", "main"]);
    let mut host = small.host().await;
    host.answers("one 100").await;
    host.begun();
    for _ in 0..2 {
        git(&["checkout", "-q", "other"]);
        host.answers("one 200").await;
        git(&["checkout", "-q", "main"]);
        host.answers("one 100").await;
    }
    // Each checkout is one build, or a few if it was noticed half-way, which a busy machine makes longer.
    let begun = host.begun();
    assert!(begun <= 24, "{begun} builds of 4 checkouts");
    // A rebase goes through commits of others.
    small.replace("crate/src/lib.rs", "\"one\"", "\"main\"");
    git(&["commit", "-q", "-a", "-m", "main"]);
    git(&["checkout", "-q", "other"]);
    git(&["rebase", "-q", "main"]);
    host.answers("main 200").await;
    // What is unpacked, restored or synchronised has the times of then.
    small.put_back("crate/src/many/m7.rs", "pub const V: u32 = 3;\n");
    host.answers("main 201").await;
    small.put_back("crate/src/many/m7.rs", "pub const V: u32 = 4;\n");
    host.answers("main 202").await;
    git(&["reset", "-q", "--hard", "main"]);
    host.answers("main 100").await;
    assert!(!host.rebuild().await, "it is what it is");
    host.runtime.shutdown().await;
}

#[cfg(target_os = "linux")]
#[test]
fn folders_that_cannot_be_read_beside_sources_neither_fail_a_build_nor_keep_an_edit_from_being_served() {
    use std::os::unix::fs::PermissionsExt;
    let small = Small::new("locked", "", "const V: &str = \"one\";", "V.to_owned(), env!(\"MADE\").to_owned()");
    // Its script says nothing of what it reads, so that all of its package counts.
    small.write("crate/build.rs", "fn main() {\n    println!(\"cargo:rustc-env=MADE=made\");\n}\n");
    let mode = |inside: &str, mode: u32| {
        std::fs::create_dir_all(small.path(inside)).expect("a folder");
        std::fs::set_permissions(small.path(inside), std::fs::Permissions::from_mode(mode)).expect("its mode");
    };
    mode("crate/pgdata", 0);
    // This thread's, and those of what it starts.
    tests::give_up_reading_everything();
    assert!(std::fs::read_dir(small.path("crate/pgdata")).is_err());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut host = small.host().await;
        host.answers("one made").await;
        mode("crate/src/later", 0);
        small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
        host.answers("two made").await;
        small.replace("crate/build.rs", "MADE=made", "MADE=anew");
        host.answers("two anew").await;
        host.runtime.shutdown().await;
    });
    mode("crate/pgdata", 0o700);
    mode("crate/src/later", 0o700);
}
