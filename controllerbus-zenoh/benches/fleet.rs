//! What an ask across two processes costs, beside the raw engine between the same processes, in alternating pairs; and how soon what
//! is lost is withdrawn and what is back is there.

#[path = "fleet/raw.rs"]
mod raw;
#[path = "fleet/times.rs"]
mod times;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use benches::{Measured, save_all};
use controllerbus::prelude::*;
use controllerbus_zenoh::Joined;
use serde_json::{Value, json};
use zenoh_tests::directives::{Greet, Many};
use zenoh_tests::harness::Host;
use zenoh_tests::places::free_address;

const HOST: &str = env!("CARGO_BIN_EXE_host");

/// How many pairs.
const ROUNDS: usize = 8;
const EACH: usize = 200;
const TASKS: usize = 8;
const BUSY: Duration = Duration::from_secs(1);
const SMALL: u64 = 20_000;

fn main() {
    if raw::serve() {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    // On a task, as servers ask: the thread that blocks on a runtime is one more to be woken.
    let measured = runtime.block_on(async { tokio::spawn(measure()).await.expect("the measurements end") });
    save_all("fleet", &measured);
}

async fn measure() -> Vec<Measured> {
    let mut measured = pairs("direct", false).await;
    measured.extend(pairs("through a hub", true).await);
    measured.extend(tokio::task::spawn_blocking(times::measure).await.expect("the times"));
    measured
}

/// Two processes and perhaps a hub between them, for the raw engine and for a fleet.
struct Pair {
    raw: raw::Ping,
    _processes: Vec<raw::Process>,
    _hosts: Vec<Host>,
    bus: Bus,
    joined: Joined,
}

impl Pair {
    async fn start(hub: bool) -> Self {
        let (mut processes, mut hosts) = (Vec::new(), Vec::new());
        let (raw_place, place) = (free_address(), free_address());
        if hub {
            processes.push(raw::Process::start("hub", &raw_place));
            let mut host = Host::start(HOST, "hub");
            host.join(json!({ "name": "bench", "listen": [place] }));
            hosts.push(host);
        }
        processes.push(raw::Process::start(if hub { "pong" } else { "pong-hub" }, &raw_place));
        let whose = if hub { "connect" } else { "listen" };
        let mut config = json!({ "name": "bench", "offers": ["test/**"] });
        config[whose] = json!([place]);
        hosts.push(Host::joined(HOST, "b", config));
        let bus = Bus::new();
        let joined = join(
            &bus,
            json!({ "name": "bench", "host": "a", "connect": [place], "asks": ["test/greet", "test/many"] }),
        )
        .await;
        let raw = tokio::task::spawn_blocking(move || raw::Ping::start(&raw_place)).await.expect("the engine");
        Self { raw, _processes: processes, _hosts: hosts, bus, joined }
    }
}

async fn join(bus: &Bus, config: Value) -> Joined {
    let config = serde_json::from_value(config).expect("a config");
    controllerbus_zenoh::join(bus, config).await.expect("it joins")
}

/// A name that was not asked before.
fn name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn resolve(bus: &Bus) -> Duration {
    let begun = Instant::now();
    let answer = bus.resolve(Greet { name: name() }).within(Duration::from_secs(20)).await.expect("an answer");
    drop(answer);
    begun.elapsed()
}

fn median(mut taken: Vec<Duration>) -> f64 {
    taken.sort_unstable();
    taken[taken.len() / 2].as_nanos() as f64 / 1000.0
}

async fn pairs(place: &str, hub: bool) -> Vec<Measured> {
    let pair = Pair::start(hub).await;
    for _ in 0..EACH {
        resolve(&pair.bus).await;
    }
    let mut taken: [Vec<f64>; 4] = Default::default();
    for round in 1..=ROUNDS {
        taken[0].push(pair.raw.round_trips(EACH, 64).await);
        let mut ours = Vec::with_capacity(EACH);
        for _ in 0..EACH {
            ours.push(resolve(&pair.bus).await);
        }
        taken[1].push(median(ours));
        taken[2].push(pair.raw.round_trips(10, 1 << 20).await);
        let mut large = Vec::new();
        for _ in 0..10 {
            let (bytes, begun) = ((1 << 20) + fastrand(), Instant::now());
            drop(pair.bus.resolve(Many { values: 1, bytes }).within(Duration::from_secs(20)).await.expect("a value"));
            large.push(begun.elapsed());
        }
        taken[3].push(median(large));
        let [raw, ours, raw_large, large] = [0, 1, 2, 3].map(|which| taken[which].last().copied().unwrap_or_default());
        println!(
            "{place}, pair {round} of {ROUNDS}: raw {raw:.0} us, resolve {ours:.0} us; 1 MiB: raw {raw_large:.0} us, resolve {large:.0} us"
        );
    }
    let more: Vec<f64> = taken[0].iter().zip(&taken[1]).map(|(raw, ours)| ours - raw).collect();
    let ratio: Vec<f64> = taken[2].iter().zip(&taken[3]).map(|(raw, ours)| ours / raw).collect();
    let [raw, ours, raw_large, large] = taken;
    let measured = vec![
        Measured::new(&format!("raw engine, 64 bytes and back, {place}"), "us", raw),
        Measured::new(&format!("resolve, {place}"), "us", ours),
        Measured::new(&format!("a resolve above the raw engine, {place}"), "us", more),
        Measured::new(&format!("raw engine, 1 MiB back, {place}"), "us", raw_large),
        Measured::new(&format!("resolve a value of 1 MiB, {place}"), "us", large),
        Measured::new(&format!("the same by the raw engine's time, {place}"), "x", ratio),
        busy(&format!("resolve by {TASKS} tasks, {place}"), &pair.bus).await,
        small_values(&format!("small values of one request, {place}"), &pair.bus).await,
    ];
    measured.iter().for_each(Measured::print);
    pair.joined.leave().await;
    measured
}

/// A little more each time, so that no value stands already.
fn fastrand() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

async fn busy(what: &str, bus: &Bus) -> Measured {
    let mut rates = Vec::new();
    for _ in 0..3 {
        let (until, done) = (Instant::now() + BUSY, Arc::new(AtomicU64::new(0)));
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (bus, done) = (bus.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    while Instant::now() < until {
                        resolve(&bus).await;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a task");
        }
        rates.push(done.load(Ordering::Relaxed) as f64 / BUSY.as_secs_f64());
    }
    Measured::new(what, "per s", rates)
}

async fn small_values(what: &str, bus: &Bus) -> Measured {
    let mut rates = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        let values = bus.resolve_all(Many { values: SMALL, bytes: 8 + fastrand() % 4 }).await.expect("values").len();
        rates.push(values as f64 / begun.elapsed().as_secs_f64());
    }
    Measured::new(what, "per s", rates)
}
