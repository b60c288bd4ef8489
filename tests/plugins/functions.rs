//! Plain functions, for real: a built plugin in the host's process and in one of its own, called while it is swapped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use controllerbus::Bus;
use controllerbus::error::ErrorKind;
use controllerbus::hot::Hot;
use hot_runtime::{Capabilities, HotRuntime, Isolation, Trust};
use tests::load::{replace, seal};
use tests::process::artifact;
use tests::{mapped_below, work_dir};
use tokio::sync::OnceCell;

#[path = "../fixtures/functions-api/src/lib.rs"]
mod api;

use api::Tricks;

fn word(number: usize) -> String {
    format!("the-word-number-{number}")
}

/// The artifacts of two versions, which differ in their word.
async fn versions() -> &'static [PathBuf] {
    static BUILT: OnceCell<(tempfile::TempDir, Vec<PathBuf>)> = OnceCell::const_new();
    let built = BUILT.get_or_init(async || {
        let built = artifact("functions", &["functions", "functions-api"]).await;
        let library = tests::verify(&built).expect("the built artifact").library().to_vec();
        let folder = tempfile::tempdir().expect("a folder");
        let all = (1..3).map(|number| {
            let (mut library, path) = (library.clone(), folder.path().join(format!("{number}.cbus.so")));
            replace(&mut library, word(1).as_bytes(), word(number).as_bytes());
            seal(&library, &path);
            path
        });
        let all = all.collect();
        (folder, all)
    });
    &built.await.1
}

async fn runtime(isolation: Isolation, work: &std::path::Path) -> HotRuntime {
    std::fs::create_dir_all(work).expect("the work folder");
    HotRuntime::builder(&Bus::new())
        .trust(Trust::anyone())
        .work_dir(work)
        .isolation(isolation)
        .plugin_host(env!("CARGO_BIN_EXE_process-host"))
        .capabilities(Capabilities::default().answer("functions/functions"))
        // What is at work when the state is handed over has this long to end.
        .hand_over(Duration::from_secs(10))
        .grace(Duration::from_secs(30))
        .start()
        .await
        .expect("starting")
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it happens within a minute")
}

/// From its first load to its end.
async fn a_life(isolation: Isolation) {
    let versions = versions().await;
    let work = work_dir().join(format!("functions-{isolation}"));
    let runtime = runtime(isolation, &work).await;
    soon(runtime.load_file(&versions[0])).await.expect("loading");
    // No config, no directive.
    let tricks: Hot<dyn Tricks> = soon(runtime.hot()).await.expect("it serves");
    assert_eq!(Hot::plugin(&tricks), "functions");
    assert_eq!(soon(tricks.word()).await.expect("an answer"), word(1));
    assert_eq!(soon(tricks.ask("Ada")).await.expect("an answer"), Ok(format!("Ada of {}", word(1))));
    assert_eq!(soon(tricks.ask("")).await.expect("an answer"), Err("who?".to_owned()));
    let is_apart = soon(tricks.process()).await.expect("an answer") != std::process::id();
    assert_eq!(is_apart, isolation == Isolation::Process);

    let error = soon(tricks.panic("no more tea")).await.expect_err("it panics");
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert_eq!(error.to_string(), "`test/tricks::panic` of `functions` panicked: no more tea");

    assert_eq!(soon(tricks.add(40)).await.expect("an answer"), 40);
    soon(runtime.load_file(&versions[1])).await.expect("swapping");
    assert_eq!(soon(tricks.word()).await.expect("an answer"), word(2));
    assert_eq!(soon(tricks.add(2)).await.expect("the state is handed over"), 42);

    let forever = tricks.forever();
    let unloading = runtime.unload("functions");
    let (cut, unloaded) = soon(async { tokio::join!(forever, unloading) }).await;
    let error = cut.expect_err("it was cut off");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "`test/tricks::forever`: the plugin `functions` was unloaded");
    assert_eq!(unloaded.expect("unloading").unmapped, Some(true));
    assert_eq!(soon(tricks.word()).await.expect_err("it is gone").kind(), ErrorKind::NotFound);
    soon(runtime.load_file(&versions[0])).await.expect("loading it again");
    assert_eq!(soon(tricks.word()).await.expect("the same handle serves"), word(1));
    soon(runtime.shutdown()).await;
    assert_eq!(mapped_below(&work), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_serve_without_a_config_keep_their_state_and_say_what_went_wrong() {
    a_life(Isolation::None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_in_a_process_of_their_own_do_the_same() {
    a_life(Isolation::Process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_an_error_of_the_calls_at_work_and_the_next_ones_are_answered_again() {
    let versions = versions().await;
    let runtime = runtime(Isolation::Process, &work_dir().join("functions-crash")).await;
    soon(runtime.load_file(&versions[0])).await.expect("loading");
    let tricks: Hot<dyn Tricks> = soon(runtime.hot()).await.expect("it serves");
    let forever = tricks.forever();
    let error = soon(tricks.abort()).await.expect_err("it crashes");
    assert_eq!(error.kind(), ErrorKind::Crashed);
    let said = error.to_string();
    assert!(said.starts_with("`test/tricks::abort`: plugin `functions` crashed"), "{said}");
    assert!(said.ends_with("; this call is not made again"), "{said}");
    assert_eq!(soon(forever).await.expect_err("it was there").kind(), ErrorKind::Crashed);
    assert_eq!(soon(tricks.word()).await.expect("it is back"), word(1));
    soon(runtime.shutdown()).await;
}

async fn swaps_under_load(isolation: Isolation) {
    let versions = versions().await;
    let runtime = runtime(isolation, &work_dir().join(format!("functions-load-{isolation}"))).await;
    soon(runtime.load_file(&versions[0])).await.expect("loading");
    let tricks: Hot<dyn Tricks> = soon(runtime.hot()).await.expect("it serves");
    let stop = Arc::new(AtomicBool::new(false));
    let callers = (0..3).map(|_| {
        let (tricks, stop) = (tricks.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut sum = 0;
            while !stop.load(Ordering::Relaxed) {
                tricks.add(1).await.expect("no call fails");
                let asked = tricks.ask("Ada").await.expect("no call fails");
                assert!(asked.is_ok_and(|said| said.starts_with("Ada of the-word")));
                sum += 1;
            }
            sum
        })
    });
    let callers: Vec<_> = callers.collect();
    for swap in 1..=10 {
        soon(runtime.load_file(&versions[swap % 2])).await.expect("swapping");
        // Answered by the new version.
        assert_eq!(soon(tricks.word()).await.expect("an answer"), word(1 + swap % 2));
    }
    stop.store(true, Ordering::Relaxed);
    let mut sum = 0;
    for caller in callers {
        sum += soon(caller).await.expect("the caller");
    }
    assert_eq!(soon(tricks.add(0)).await.expect("an answer"), sum, "nothing is lost and nothing is made twice");
    soon(runtime.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_swaps_under_load_fail_no_call_and_make_none_twice() {
    swaps_under_load(Isolation::None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_swaps_of_processes_under_load_fail_no_call_and_make_none_twice() {
    swaps_under_load(Isolation::Process).await;
}

/// A trait that nobody implements.
#[controllerbus::hot]
trait Unknown {
    fn nothing(&self);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_is_told_what_there_is_instead() {
    let versions = versions().await;
    let work = work_dir().join("functions-none");
    std::fs::create_dir_all(&work).expect("the work folder");
    let grace = Duration::from_millis(200);
    let builder = HotRuntime::builder(&Bus::new()).trust(Trust::anyone()).work_dir(&work).grace(grace);
    let runtime = builder.start().await.expect("starting");
    let said = soon(runtime.hot::<dyn Unknown>()).await.expect_err("there is none").to_string();
    assert_eq!(said, "no plugin implements `plugins::Unknown`: none is loaded");
    soon(runtime.load_file(&versions[0])).await.expect("loading");
    let said = soon(runtime.hot::<dyn Unknown>()).await.expect_err("there is none").to_string();
    assert_eq!(said, "no plugin implements `plugins::Unknown`: `functions` implements `test/tricks`");
    soon(runtime.shutdown()).await;
}
