//! A thousand hosts in simulated time: how long a good release takes beside its bakes, and what the store has to do for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{BAKE, World, rollout};
use crate::link::Stage;

/// What a rollout to so many hosts took: the time beside the bakes, and the requests that the store saw meanwhile.
struct Took {
    beside_bakes: Duration,
    gets: u64,
    missed: u64,
    puts: u64,
    lists: u64,
    /// In an hour without a rollout.
    idle: (u64, u64, u64),
}

/// What S3 lists for requests in us-east-1 (S3 Standard, 2026): so many dollars for a thousand reads, and for a thousand writes or lists.
const READS: f64 = 0.0004;
const WRITES_AND_LISTS: f64 = 0.005;

fn dollars(reads: u64, writes: u64, lists: u64) -> f64 {
    (reads as f64 * READS + (writes + lists) as f64 * WRITES_AND_LISTS) / 1000.0
}

async fn measured(hosts: usize) -> Took {
    let world = World::new(hosts).await;
    let _orchestrator = world.orchestrator("edge-0");
    world.begin().await;
    sleep(Duration::from_secs(60)).await;
    let objects = world.objects.clone();
    let count = |of: &AtomicU64| of.swap(0, Ordering::Relaxed);
    let counts = move || (count(&objects.gets), count(&objects.missed), count(&objects.puts), count(&objects.lists));
    world.publish(2, "better").await;
    counts();
    let begun = Instant::now();
    let first = world.rollouts().start(rollout()).await.expect("a rollout");
    crate::rollouts::tell_hosts(&world.bus.handle(), &first, Duration::from_secs(1)).await.expect("telling");
    while !world.hosts.iter().all(|host| host.plugins.serves().as_deref() == Some("better")) {
        assert!(begun.elapsed() < Duration::from_secs(600));
        sleep(Duration::from_millis(100)).await;
    }
    let beside_bakes = begun.elapsed() - 2 * BAKE;
    let link = world.until_over().await;
    assert_eq!(link.stage, Stage::Done);
    let (gets, missed, puts, lists) = counts();
    sleep(Duration::from_secs(3600)).await;
    let (idle_gets, _, idle_puts, idle_lists) = counts();
    Took { beside_bakes, gets, missed, puts, lists, idle: (idle_gets, idle_puts, idle_lists) }
}

#[tokio::test(start_paused = true)]
async fn a_good_release_is_on_a_hundred_hosts_within_ten_seconds_beside_its_bakes() {
    let took = measured(100).await;
    assert!(took.beside_bakes <= Duration::from_secs(10), "{:?}", took.beside_bakes);
}

#[tokio::test(start_paused = true)]
#[ignore = "it takes a minute or two"]
async fn a_good_release_is_on_a_thousand_hosts_within_ten_seconds_beside_its_bakes() {
    let took = measured(1000).await;
    assert!(took.beside_bakes <= Duration::from_secs(10), "{:?}", took.beside_bakes);
}

/// Prints the table of `docs/rollouts.md`.
#[tokio::test(start_paused = true)]
#[ignore = "it prints a table"]
async fn table() {
    println!(
        "| hosts | time beside the bakes | reads (of nothing new) | writes | lists | costs | reads, writes and lists in an idle hour | \
         cost |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for hosts in [10, 100, 1000] {
        let Took { beside_bakes, gets, missed, puts, lists, idle } = measured(hosts).await;
        let (seconds, cost) = (beside_bakes.as_secs_f64(), dollars(gets, puts, lists));
        let (reads, writes, idle_lists) = idle;
        let hourly = dollars(reads, writes, idle_lists);
        println!(
            "| {hosts} | {seconds:.1} s | {gets} ({missed}) | {puts} | {lists} | ${cost:.4} | {reads}, {writes}, {idle_lists} | \
             ${hourly:.4} |"
        );
    }
}
