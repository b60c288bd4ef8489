//! Two writers race: there is one chain, and each step is one writer's.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::{Faulty, PLUGIN, rollout};
use crate::chain::Chain;
use crate::link::{Link, Stage, Writer};
use crate::release::ReleaseName;
use crate::store::{Objects, Store};

fn writer(by: &str) -> Writer {
    Writer { by: by.to_owned(), lease: None, at_ms: 0 }
}

/// A chain with its first step.
async fn begun(store: &Store) -> (Chain, Link) {
    let chain = Chain::new(store, PLUGIN);
    let release = ReleaseName::new(1, semver::Version::new(1, 0, 0));
    let first = Link::first(1, rollout(), release, None, writer("nobody"));
    assert!(chain.append(&first).await.expect("writing"));
    (chain, first)
}

/// Two writers append until the chain has so many steps. Each counts those that it believes to be its own. Whoever is ahead waits
/// for the other one, so that they race for each step.
async fn race((chain, first): (Chain, Link), steps: u64) {
    let (a_is_at, b_is_at) = (watch::Sender::new(0), watch::Sender::new(0));
    let racer = |by: &'static str, is_at: &watch::Sender<u64>, other: &watch::Sender<u64>| {
        let (chain, mut link) = (chain.clone(), first.clone());
        let (is_at, mut other) = (is_at.clone(), other.subscribe());
        tokio::spawn(async move {
            let mut won = Vec::new();
            while link.number < steps {
                is_at.send_replace(link.number);
                other.wait_for(|number| *number >= link.number).await.expect("the other one");
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
            }
            is_at.send_replace(u64::MAX);
            won
        })
    };
    let (a, b) = tokio::join!(racer("a", &a_is_at, &b_is_at), racer("b", &b_is_at, &a_is_at));
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
    race(begun(&Store::open("memory://race").expect("a store")).await, 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_who_race_in_a_folder_make_one_chain() {
    let folder = tempfile::tempdir().expect("a folder");
    race(begun(&Store::open(&format!("file://{}", folder.path().display())).expect("a store")).await, 200).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_without_a_reason_and_loses_answers_makes_one_chain_too() {
    let objects = Arc::new(Faulty::default());
    let begun = begun(&Store::over("memory://faulty", Arc::clone(&objects) as Arc<dyn Objects>)).await;
    objects.conflicts.store(20, Ordering::Relaxed);
    objects.lost_answers.store(10, Ordering::Relaxed);
    race(begun, 1_000).await;
}
