//! A hundred swaps between two built artifacts: nothing stays mapped, nothing grows, nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use controllerbus::prelude::*;
use hot_runtime::{GenerationState, HotRuntime};
use tests::{Scratch, ask, mapped_below, resident_bytes, work_dir};

const SWAPS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_swaps_leave_nothing_behind_and_lose_nothing() {
    let scratch = Scratch::new(&["probe"]);
    let bus = Bus::new();
    bus.apply(ConfigSet::from_yaml("probe:\n  id: probe\n  config: { mode: ok }\n").expect("a set"))
        .await
        .expect("applying");
    let work = work_dir().join("hundred");
    let built = work.join("artifacts").join(format!("probe.cbus{}", std::env::consts::DLL_SUFFIX));
    let mut artifacts = Vec::new();
    for (index, sentence) in ["\"first\"", "\"other\""].into_iter().enumerate() {
        if index > 0 {
            scratch.edit("probe", "\"first\"", sentence);
        }
        let builder = HotRuntime::builder(&bus)
            .watch(scratch.path("probe"))
            .work_dir(&work)
            .target_dir(work_dir().join("target"));
        builder.start().await.expect("starting").shutdown().await;
        let copy = scratch.folder().join(format!("{index}.cbus.so"));
        std::fs::copy(&built, &copy).expect("keeping the artifact");
        artifacts.push(copy);
    }

    let runtime = HotRuntime::builder(&bus)
        .work_dir(&work)
        .target_dir(work_dir().join("target"))
        .start()
        .await
        .expect("starting");
    runtime.load_file(&artifacts[0]).await.expect("loading");
    let stop = Arc::new(AtomicBool::new(false));
    let (served, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (bus, stop, served, failed) = (bus.clone(), Arc::clone(&stop), Arc::clone(&served), Arc::clone(&failed));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                match ask(&bus, "sentence").await {
                    Ok(_) => served.fetch_add(1, Ordering::Relaxed),
                    Err(_) => failed.fetch_add(1, Ordering::Relaxed),
                };
            }
        })
    };
    let mut halfway = 0;
    for swap in 1..=SWAPS {
        runtime.load_file(&artifacts[swap % 2]).await.expect("swapping");
        let serving = runtime.generations().iter().filter(|found| found.state == GenerationState::Serving).count();
        assert_eq!(serving, 1);
        // At most two are mapped: the next swap waits until the one before has gone.
        while mapped_below(&work) > 1 {
            assert!(mapped_below(&work) <= 2, "more than two generations are mapped");
            tokio::task::yield_now().await;
        }
        if swap == SWAPS / 2 {
            halfway = resident_bytes();
        }
    }
    let growth = resident_bytes().saturating_sub(halfway);
    stop.store(true, Ordering::Relaxed);
    load.await.expect("the load ends");
    runtime.shutdown().await;
    println!("{} requests, resident growth over the last 50 swaps {growth} bytes", served.load(Ordering::Relaxed));
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    assert!(served.load(Ordering::Relaxed) > 0);
    assert_eq!(mapped_below(&work), 0);
    assert!(growth < 2 * 1024 * 1024, "resident memory grew by {growth} bytes");
}
