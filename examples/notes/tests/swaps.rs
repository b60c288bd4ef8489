//! Two hundred swaps of a controller with an open SQLite database while notes are written: none is lost.
#![cfg(unix)]

use std::path::PathBuf;
use std::time::Duration;

use controllerbus::{Bus, ConfigSet};
use hot_runtime::compile::{BuildOptions, PluginBuilder};
use hot_runtime::{HotRuntime, Isolation, PluginSpec, Trust};
use notes::{Book, Writers, check};
use tests::load::{replace, seal};
use tests::work_dir;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

/// How many artifacts are made from one build: the time to build them is not part of the test.
const ARTIFACTS: u64 = 8;

async fn library() -> &'static [u8] {
    static LIBRARY: OnceCell<Vec<u8>> = OnceCell::const_new();
    let built = LIBRARY.get_or_init(async || {
        let book = Book::copy().expect("copying the crate");
        let spec = PluginSpec::new("book").crate_path(book.path()).watch(false);
        let mut options = BuildOptions::new(work_dir().join("notes"));
        options.target_dir.clone_from(&book.target_dir);
        let mut builder = PluginBuilder::new(spec, options);
        let built = builder.build(&|_| {}, &CancellationToken::new()).await.expect("it builds");
        tests::verify(&built.artifact).expect("the built artifact").library().to_vec()
    });
    built.await
}

/// Artifacts of every version.
async fn versions() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("a folder");
    let artifacts: Vec<_> = (0..ARTIFACTS).map(|number| folder.path().join(format!("{number}.cbus.so"))).collect();
    for (number, artifact) in (0..).zip(&artifacts) {
        let mut library = library().await.to_vec();
        replace(&mut library, Book::version(1).as_bytes(), Book::version(number).as_bytes());
        seal(&library, artifact);
    }
    (folder, artifacts)
}

async fn two_hundred_swaps(isolation: Isolation) {
    let (folder, versions) = versions().await;
    let bus = Bus::new();
    let file = folder.path().join("notes.db");
    let config = format!("notes: {{ id: example/book, config: {{ file: '{}' }} }}", file.display());
    bus.apply(ConfigSet::from_yaml(&config).expect("a config set")).await.expect("applying");
    let work = tempfile::tempdir().expect("a folder");
    let runtime = HotRuntime::builder(&bus)
        .trust(Trust::anyone())
        .work_dir(work.path())
        .isolation(isolation)
        .plugin_host(env!("CARGO_BIN_EXE_notes"))
        .start()
        .await
        .expect("starting");
    runtime.load_file(&versions[1]).await.expect("loading");
    let writers = Writers::new(&bus, 4);
    for swap in 1..=200 {
        let version = (1 + swap) % ARTIFACTS;
        runtime.load_file(&versions[version as usize]).await.expect("swapping");
        let version = Book::version(version);
        let answered = writers.answered_by(&version);
        tokio::time::timeout(Duration::from_secs(60), answered)
            .await
            .expect("the new generation answers within a minute");
    }
    let (acknowledged, failed) = writers.end().await;
    println!("{} notes acknowledged", acknowledged.len());
    assert!(acknowledged.len() > 200 && failed == 0, "{failed} failed");
    assert_eq!(
        check(&bus, &acknowledged).await.expect("the notes can be counted"),
        0,
        "notes that were acknowledged are lost"
    );
    bus.close().await;
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds SQLite as a plugin; .ci/run runs it"]
async fn two_hundred_swaps_under_load_lose_no_note() {
    two_hundred_swaps(Isolation::None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds SQLite as a plugin; .ci/run runs it"]
async fn two_hundred_swaps_of_processes_under_load_lose_no_note() {
    two_hundred_swaps(Isolation::Process).await;
}
