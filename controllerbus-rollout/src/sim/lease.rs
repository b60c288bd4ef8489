//! A lease has one holder at most, whoever is killed, cut off or asleep.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Faulty, View};
use crate::clock::Clock;
use crate::lease::Candidate;
use crate::store::{Objects, Store};

const LASTS: Duration = Duration::from_secs(15);

/// What a holder did: its number, and when.
type Log = Arc<Mutex<Vec<(u64, Duration)>>>;

/// A clock that runs a little fast or slow.
fn clock(start: Instant, percent: u32) -> Clock {
    Clock::new(move || start.elapsed() * (100 + percent) / 105, || 0)
}

/// Works while it holds the lease, until it is killed.
async fn worker(view: Arc<View>, name: String, clock: Clock, killed: Arc<AtomicBool>, start: Instant, log: Log) {
    let store = Store::over("memory://lease", Arc::clone(&view) as Arc<dyn Objects>);
    let mut candidate = Candidate::new(&store, "nightly", &name, LASTS, &clock);
    while !killed.load(Ordering::Relaxed) {
        if let Ok(Some(mut held)) = candidate.try_acquire().await {
            let mut renew = start.elapsed();
            while held.is_held() && !killed.load(Ordering::Relaxed) {
                // What it does while it holds the lease by its own clock.
                log.lock().expect("log").push((held.fence(), start.elapsed()));
                sleep(Duration::from_millis(250)).await;
                if start.elapsed() - renew > LASTS / 3 {
                    renew = start.elapsed();
                    if matches!(held.renew(serde_json::Value::Null).await, Ok(false)) {
                        break;
                    }
                }
            }
            if fastrand::u8(0..3) == 0 {
                let _ = held.release().await;
            }
        }
        sleep(candidate.interval().mul_f64(0.5 + fastrand::f64())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn numbers_in_the_log_of_all_holders_only_rise_under_kills_and_cuts() {
    for seed in 0..10 {
        fastrand::seed(seed);
        let objects = Arc::new(Faulty::default());
        objects.latency_ms.store(30, Ordering::Relaxed);
        objects.conflicts.store(5, Ordering::Relaxed);
        objects.lost_answers.store(5, Ordering::Relaxed);
        let (start, log) = (Instant::now(), Log::default());
        let mut workers = Vec::new();
        let hire = |number: u32| {
            let (view, killed) = (View::new(&objects), Arc::new(AtomicBool::new(false)));
            let name = format!("core-{number}");
            let work = worker(view.clone(), name, clock(start, number % 10), killed.clone(), start, log.clone());
            (view, killed, tokio::spawn(work))
        };
        for number in 0..4 {
            workers.push(hire(number));
        }
        for round in 0..120 {
            sleep(Duration::from_secs(fastrand::u64(1..30))).await;
            let at = fastrand::usize(0..workers.len());
            match fastrand::u8(0..4) {
                0 => {
                    // Killed, without a word.
                    let (_, killed, task) = workers.remove(at);
                    killed.store(true, Ordering::Relaxed);
                    task.abort();
                    workers.push(hire(10 + round));
                }
                1 => workers[at].0.cut.store(true, Ordering::Relaxed),
                2 => workers.iter().for_each(|worker| worker.0.cut.store(false, Ordering::Relaxed)),
                _ => {
                    objects.away.store(true, Ordering::Relaxed);
                    sleep(Duration::from_secs(fastrand::u64(0..40))).await;
                    objects.away.store(false, Ordering::Relaxed);
                }
            }
        }
        for (_, killed, task) in workers {
            killed.store(true, Ordering::Relaxed);
            task.abort();
        }
        let log = log.lock().expect("log");
        let tenures = log.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
        assert!(tenures > 10, "seed {seed}: only {tenures} changes of the holder");
        for pair in log.windows(2) {
            assert!(pair[0].0 <= pair[1].0, "seed {seed}: two holders: {pair:?}");
        }
        assert!(objects.paths().len() < 60, "seed {seed}: old objects stay: {}", objects.paths().len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_given_up_is_taken_at_once_and_one_whose_holder_died_after_its_time() {
    let objects = Arc::new(Faulty::default());
    let store = Store::over("memory://lease", objects as Arc<dyn Objects>);
    let clock = clock(Instant::now(), 5);
    let candidate = |name: &str| Candidate::new(&store, "nightly", name, LASTS, &clock);
    let (mut a, mut b) = (candidate("a"), candidate("b"));
    let first = a.try_acquire().await.expect("the store").expect("it is free");
    assert!(b.try_acquire().await.expect("the store").is_none());
    assert_eq!(b.holder(), Some("a"));
    let fence = first.fence();
    first.release().await.expect("giving it up");
    let second = b.try_acquire().await.expect("the store").expect("it was given up");
    assert!(second.fence() > fence);
    let begun = Instant::now();
    let third = loop {
        if let Some(held) = a.try_acquire().await.expect("the store") {
            break held;
        }
        sleep(Duration::from_millis(100)).await;
    };
    assert!(begun.elapsed() >= LASTS && begun.elapsed() < LASTS * 2, "{:?}", begun.elapsed());
    assert!(!second.is_held() && third.fence() > second.fence());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_counts_from_when_others_may_have_seen_it() {
    let objects = Arc::new(Faulty::default());
    let view = View::new(&objects);
    let clock = clock(Instant::now(), 5);
    let store = |objects: Arc<dyn Objects>| Store::over("memory://lease", objects);
    let mut a = Candidate::new(&store(Arc::clone(&view) as Arc<dyn Objects>), "nightly", "a", LASTS, &clock);
    let mut b = Candidate::new(&store(objects as Arc<dyn Objects>), "nightly", "b", LASTS, &clock);
    let mut held = a.try_acquire().await.expect("the store").expect("it is free");
    sleep(Duration::from_secs(5)).await;
    view.cut_by_put.store(true, Ordering::Relaxed);
    held.renew(serde_json::Value::Null).await.expect_err("the answer is lost");
    assert!(b.try_acquire().await.expect("the store").is_none());
    // As if this host had been asleep in between.
    sleep(Duration::from_secs(7)).await;
    view.cut.store(false, Ordering::Relaxed);
    assert!(held.renew(serde_json::Value::Null).await.expect("the store"), "it was written");
    let taken = loop {
        if let Some(taken) = b.try_acquire().await.expect("the store") {
            break taken;
        }
        sleep(Duration::from_millis(100)).await;
    };
    assert!(taken.is_held() && !held.is_held(), "two holders");
}

#[tokio::test(start_paused = true)]
async fn of_those_who_try_at_the_same_time_one_gets_it() {
    let objects = Arc::new(Faulty::default());
    objects.latency_ms.store(30, Ordering::Relaxed);
    let store = Store::over("memory://lease", objects as Arc<dyn Objects>);
    let clock = clock(Instant::now(), 5);
    let candidate = |name: &str| Candidate::new(&store, "nightly", name, LASTS, &clock);
    let (mut a, mut b, mut c) = (candidate("a"), candidate("b"), candidate("c"));
    for round in 0..10 {
        let tried = tokio::join!(a.try_acquire(), b.try_acquire(), c.try_acquire());
        let held = [tried.0, tried.1, tried.2].map(|held| held.expect("the store"));
        let mut held: Vec<_> = held.into_iter().flatten().collect();
        assert_eq!(held.len(), 1, "round {round}");
        held.remove(0).release().await.expect("giving it up");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_was_asleep_between_his_look_and_his_write_does_not_get_it_although_his_object_is_new() {
    let objects = Arc::new(Faulty::default());
    let view = View::new(&objects);
    let clock = clock(Instant::now(), 5);
    let store = |objects: Arc<dyn Objects>| Store::over("memory://lease", objects);
    let mut sleeper = Candidate::new(&store(Arc::clone(&view) as Arc<dyn Objects>), "nightly", "a", LASTS, &clock);
    let mut b = Candidate::new(&store(Arc::clone(&objects) as Arc<dyn Objects>), "nightly", "b", LASTS, &clock);
    let (asleep, is_asleep) = tokio::sync::oneshot::channel();
    let (wake, awake) = tokio::sync::oneshot::channel();
    *view.asleep.lock().expect("asleep") = Some((asleep, awake));
    let sleeping = tokio::spawn(async move { sleeper.try_acquire().await.expect("the store") });
    is_asleep.await.expect("he falls asleep");
    // Another one takes it, and holds it for so long that the first objects are deleted.
    let mut held = b.try_acquire().await.expect("the store").expect("it is free");
    let first = objects.paths();
    for _ in 0..6 {
        assert!(held.renew(serde_json::Value::Null).await.expect("the store"));
    }
    assert!(objects.paths().iter().all(|path| !first.contains(path)), "the place is free again");
    wake.send(()).expect("he wakes up");
    assert!(sleeping.await.expect("his try").is_none(), "two holders");
    assert!(held.is_held() && held.renew(serde_json::Value::Null).await.expect("the store"));
    assert!(objects.paths().iter().all(|path| !first.contains(path)), "and he has taken it away");
}
