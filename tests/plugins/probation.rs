//! A new version that is not well takes itself back: the one before serves again, and nobody loses a request by that.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use controllerbus::prelude::*;
use hot_runtime::{Error, GenerationState, HotRuntime, Isolation, RollBackCause, RuntimeEvent, Trust};
use tests::load::{built, replace, seal};
use tests::{ask, events, host, nonce, wait_for, work_dir};
use tokio::sync::mpsc::UnboundedReceiver;

/// An artifact of the probe that gives its number, and behaves so.
fn variant(library: &[u8], number: u32, behaviour: &str) -> PathBuf {
    let mut library = library.to_vec();
    replace(&mut library, b"generation-0000000", format!("generation-{number:07}").as_bytes());
    let good = "behaviour:good............";
    let wanted = format!("{:.<1$}", format!("behaviour:{behaviour}"), good.len());
    replace(&mut library, good.as_bytes(), wanted.as_bytes());
    let folder = work_dir().join("probation");
    std::fs::create_dir_all(&folder).expect("a folder");
    let out = folder.join(format!("probe-{number}-{behaviour}-{}{}", nonce(), std::env::consts::DLL_SUFFIX));
    seal(&library, &out);
    out
}

/// A host with a generation that is well, and one task that asks all the time.
struct Watched {
    runtime: HotRuntime,
    told: UnboundedReceiver<RuntimeEvent>,
    /// Requests that failed since this was set to zero.
    failed: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    bus: Bus,
    library: Vec<u8>,
}

async fn library() -> Vec<u8> {
    static BUILT: tokio::sync::OnceCell<Vec<u8>> = tokio::sync::OnceCell::const_new();
    let library = BUILT.get_or_init(|| async {
        hot_runtime::artifact::inspect(built().await).expect("an artifact").library().to_vec()
    });
    library.await.clone()
}

impl Watched {
    async fn start(name: &str, isolation: Isolation) -> Self {
        let library = library().await;
        let bus = host("probe:\n  id: probe\n  config: { mode: quiet }\n").await;
        let (listener, told) = events();
        let runtime = HotRuntime::builder(&bus)
            .trust(Trust::anyone())
            .work_dir(work_dir().join(name))
            .isolation(isolation)
            .plugin_host(env!("CARGO_BIN_EXE_process-host"))
            .on_event(listener)
            .start()
            .await
            .expect("starting");
        runtime.load_file(variant(&library, 1, "good")).await.expect("a generation that is well");
        let (failed, asked, stop) = Default::default();
        let watched = Self { runtime, told, failed, asked, stop, bus, library };
        for _ in 0..4 {
            let (bus, stop) = (watched.bus.clone(), Arc::clone(&watched.stop));
            let (failed, asked) = (Arc::clone(&watched.failed), Arc::clone(&watched.asked));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answered = ask(&bus, "number").await;
                    failed.fetch_add(u64::from(answered.is_err()), Ordering::SeqCst);
                    asked.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        watched
    }

    async fn load(&self, number: u32, behaviour: &str) -> hot_runtime::Result<u64> {
        self.runtime.load_file(variant(&self.library, number, behaviour)).await.map(|report| report.to)
    }

    /// Why a generation was taken back, and which serves since.
    async fn taken_back(&mut self) -> (u64, u64, String) {
        wait_for(&mut self.told, |event| match event {
            RuntimeEvent::TakenBack { from, to, cause, reason, .. } => {
                // The one word says the same.
                let says = match cause {
                    RollBackCause::Crashed => "crashed",
                    RollBackCause::Failing => "failed",
                    RollBackCause::Unhealthy => "health check",
                    RollBackCause::Requested => "requested",
                    other => panic!("{other} is not a cause of this"),
                };
                assert!(reason.contains(says), "{cause}: {reason}");
                Some((*from, *to, reason.clone()))
            }
            _ => None,
        })
        .await
    }

    async fn serves(&self, number: u32) {
        assert_eq!(ask(&self.bus, "number").await.expect("an answer"), format!("generation-{number:07}"));
    }

    /// Nobody sees an error from here on.
    async fn is_well(&self) {
        let (failed, asked) = (self.failed.load(Ordering::SeqCst), self.asked.load(Ordering::SeqCst));
        tests::process::until("two hundred requests", || self.asked.load(Ordering::SeqCst) > asked + 200).await;
        // Those that were at work when this began may fail still.
        assert!(self.failed.load(Ordering::SeqCst) <= failed + 4);
        let failed = self.failed.load(Ordering::SeqCst);
        tests::process::until("two hundred more", || self.asked.load(Ordering::SeqCst) > asked + 400).await;
        assert_eq!(self.failed.load(Ordering::SeqCst), failed);
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.runtime.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_resolvers_panic_is_taken_back_and_not_swapped_in_again() {
    let mut watched = Watched::start("probation-panics", Isolation::None).await;
    let bad = watched.load(2, "late-panic").await.expect("it is well at first");
    let (from, _, reason) = watched.taken_back().await;
    assert_eq!(from, bad);
    assert!(reason.contains("of its resolvers failed") && reason.contains("with a panic"), "{reason}");
    assert!(
        reason.contains(", the last one of probe/ask with: ") && reason.ends_with("resolve panics later"),
        "{reason}"
    );
    watched.serves(1).await;
    watched.is_well().await;
    let info = watched.runtime.generations().into_iter().find(|found| found.generation == bad).expect("it is known");
    assert_eq!(info.taken_back, Some(reason));

    let again = watched.load(2, "late-panic").await.expect_err("the same is refused");
    assert!(matches!(&again, Error::TakenBack { .. }), "{again}");
    assert!(again.to_string().contains("was rolled back"), "{again}");
    watched.load(3, "good").await.expect("another one is not");
    watched.serves(3).await;
    watched.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_execution_fails_again_and_again_is_taken_back() {
    let mut watched = Watched::start("probation-executions", Isolation::None).await;
    let bad = watched.load(2, "late-error").await.expect("it is well at first");
    let (from, _, reason) = watched.taken_back().await;
    assert_eq!(from, bad);
    assert!(reason.contains("`execute` of probe failed 3 times: execute was told to fail later"), "{reason}");
    watched.serves(1).await;
    watched.is_well().await;
    watched.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_says_that_it_is_not_well_is_taken_back() {
    for isolation in [Isolation::None, Isolation::Process] {
        let mut watched = Watched::start("probation-health", isolation).await;
        watched.load(2, "unwell").await.expect("it is well at first");
        let (_, _, reason) = watched.taken_back().await;
        assert_eq!(reason, "its health check failed: health was told to be bad");
        watched.serves(1).await;
        watched.end().await;
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_crashes_is_taken_back_within_a_second() {
    let mut watched = Watched::start("probation-crash", Isolation::Process).await;
    watched.load(2, "late-abort").await.expect("it is well at first");
    let crashed = wait_for(&mut watched.told, |event| match event {
        RuntimeEvent::Crashed { .. } => Some(Instant::now()),
        _ => None,
    })
    .await;
    let (_, _, reason) = watched.taken_back().await;
    let took = crashed.elapsed();
    assert!(reason.contains("it crashed: ") && reason.contains("SIGABRT"), "{reason}");
    assert!(took < Duration::from_secs(5), "it was taken back after {took:?}");
    watched.serves(1).await;
    watched.is_well().await;
    watched.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_can_go_back_to_the_generation_before_or_to_any_that_is_kept() {
    let watched = Watched::start("probation-back", Isolation::None).await;
    let nothing = watched.runtime.roll_back("probe", None).await.expect_err("there is none");
    assert!(nothing.to_string().contains("no earlier generation to roll back to"), "{nothing}");
    for number in 2..=5 {
        watched.load(number, "good").await.expect("a swap");
    }
    watched.runtime.roll_back("probe", None).await.expect("the one before");
    watched.serves(4).await;
    // Again is the one before that one, not the one that was left.
    watched.runtime.roll_back("probe", None).await.expect("the one before");
    watched.serves(3).await;
    let unknown = watched.runtime.roll_back("probe", Some("no-such-build")).await.expect_err("there is none");
    assert!(unknown.to_string().contains("no build no-such-build"), "{unknown}");
    let fifth = hash_of(&variant(&watched.library, 5, "good"));
    watched.runtime.roll_back("probe", Some(&fifth[..12])).await.expect("the one that was left");
    watched.serves(5).await;
    watched.is_well().await;
    let serving = watched.runtime.generations().into_iter().filter(|found| found.state == GenerationState::Serving);
    assert_eq!(serving.count(), 1);
    watched.end().await;
}

fn hash_of(artifact: &Path) -> String {
    hot_runtime::artifact::inspect(artifact).expect("an artifact").hash
}
