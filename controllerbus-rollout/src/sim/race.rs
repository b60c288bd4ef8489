//! Two writers race: there is one chain, and each step is one writer's.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Faulty, PLUGIN, rollout};
use crate::chain::Chain;
use crate::link::{Link, Stage, Writer};
use crate::release::ReleaseName;
use crate::store::{Objects, Store};

fn writer(by: &str) -> Writer {
    Writer { by: by.to_owned(), lease: None, at_ms: 0 }
}

/// Two writers append until the chain has so many steps. Each counts those that it believes to be its own.
async fn race(store: &Store, steps: u64) {
    let chain = Chain::new(store, PLUGIN);
    let release = ReleaseName::new(1, semver::Version::new(1, 0, 0));
    let first = Link::first(1, rollout(), release, None, writer("nobody"));
    assert!(chain.append(&first).await.expect("writing"));
    let racer = |by: &'static str| {
        let (chain, mut link) = (chain.clone(), first.clone());
        tokio::spawn(async move {
            let mut won = Vec::new();
            while link.number < steps {
                let next = link.followed_by(link.change(Stage::Rolling, by), writer(by));
                match chain.append(&next).await {
                    Ok(true) => {
                        won.push(next.number);
                        link = next;
                    }
                    Ok(false) => link = chain.newest(link.number).await.expect("reading").unwrap_or(link),
                    // It may have been written all the same: what is there says so.
                    Err(error) => {
                        assert!(error.is_transient(), "{error}");
                        if let Some(newest) = chain.newest(link.number).await.expect("reading") {
                            link = newest;
                        }
                    }
                }
                tokio::task::yield_now().await;
            }
            won
        })
    };
    let (a, b) = tokio::join!(racer("a"), racer("b"));
    let (a, b) = (a.expect("a racer"), b.expect("a racer"));
    let all = chain.all(0).await.expect("the chain");
    assert!(all.iter().map(|link| link.number).eq(1..=all.len() as u64), "one chain without a gap");
    for (by, won) in [("a", &a), ("b", &b)] {
        assert!(won.len() as u64 > steps / 20, "{by} won {} of {steps}", won.len());
        for number in won {
            assert_eq!(all[*number as usize - 1].by, by, "{by} believes that step {number} is its own");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_who_race_ten_thousand_times_make_one_chain() {
    race(&Store::open("memory://race").expect("a store"), 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_who_race_in_a_folder_make_one_chain() {
    let folder = tempfile::tempdir().expect("a folder");
    race(&Store::open(&format!("file://{}", folder.path().display())).expect("a store"), 200).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_without_a_reason_and_loses_answers_makes_one_chain_too() {
    let objects = Arc::new(Faulty::default());
    objects.conflicts.store(20, Ordering::Relaxed);
    objects.lost_answers.store(10, Ordering::Relaxed);
    race(&Store::over("memory://faulty", objects as Arc<dyn Objects>), 1_000).await;
}
