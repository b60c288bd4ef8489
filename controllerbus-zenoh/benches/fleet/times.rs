//! How soon a killed host's values are withdrawn, a healed connection's are back, and a restarted host has answered what stands; and
//! what an ask costs in memory. As seen by processes over pipes, which adds some ten microseconds.

use std::time::{Duration, Instant};

use benches::Measured;
use serde_json::json;
use zenoh_tests::harness::{Host, State};
use zenoh_tests::places::free_address;
use zenoh_tests::relay::Relay;

use super::HOST;

const KILLS: usize = 50;
const CUTS: usize = 5;
const STANDING: u64 = 10_000;

pub fn measure() -> Vec<Measured> {
    let mut measured = Vec::new();
    for part in [kills, cuts, standing] {
        let part = part();
        part.iter().for_each(Measured::print);
        measured.extend(part);
    }
    measured
}

struct Fleet {
    place: String,
    hub: Host,
    a: Host,
}

impl Fleet {
    fn new() -> Self {
        let place = free_address();
        let mut hub = Host::start(HOST, "hub");
        hub.join(json!({ "name": "bench", "listen": [place] }));
        let mut a = Host::start(HOST, "a");
        a.join(json!({ "name": "bench", "connect": [place], "asks": ["test/greet"] }));
        Self { place, hub, a }
    }

    fn b(&self, place: &str) -> Host {
        Host::joined(HOST, "b", json!({ "name": "bench", "connect": [place], "offers": ["test/**"] }))
    }
}

fn at(state: &State, since: Instant) -> f64 {
    state.last.map_or(f64::NAN, |last| last.saturating_duration_since(since).as_secs_f64() * 1000.0)
}

fn kills() -> Vec<Measured> {
    let mut fleet = Fleet::new();
    let ask = fleet.a.greet("Ada");
    let mut taken = Vec::new();
    for _ in 0..KILLS {
        let mut b = fleet.b(&fleet.place);
        fleet.a.until_values(ask, &["b: hello Ada"]);
        let killed = Instant::now();
        b.kill();
        taken.push(at(&fleet.a.until_values(ask, &[]), killed));
    }
    taken.sort_by(f64::total_cmp);
    let at = |share: usize| taken[(taken.len() * share / 100).min(taken.len() - 1)];
    vec![
        Measured::new("SIGKILL to removed", "ms", taken.clone()),
        Measured::new("SIGKILL to removed, 90th percentile", "ms", vec![at(90)]),
        Measured::new("SIGKILL to removed, 99th percentile", "ms", vec![at(99)]),
    ]
}

fn cuts() -> Vec<Measured> {
    let mut fleet = Fleet::new();
    let relay = Relay::to(&fleet.place);
    let mut b = fleet.b(relay.address());
    let ask = fleet.a.greet("Ada");
    let (mut gone, mut back) = (Vec::new(), Vec::new());
    for _ in 0..CUTS {
        fleet.a.until_values(ask, &["b: hello Ada"]);
        let cut = Instant::now();
        relay.hold();
        gone.push(at(&fleet.a.until_values(ask, &[]), cut));
        let healed = Instant::now();
        relay.heal();
        back.push(at(&fleet.a.until_values(ask, &["b: hello Ada"]), healed));
    }
    let again = b.runs() - 1;
    vec![
        Measured::new("cut to removed", "ms", gone),
        Measured::new("healed to added", "ms", back),
        Measured::new("resolvers run again by these", "", vec![again as f64]),
    ]
}

fn rss(host: &mut Host) -> f64 {
    host.stats()["rss_kib"].as_u64().map_or(f64::NAN, |kib| kib as f64)
}

fn standing() -> Vec<Measured> {
    let mut fleet = Fleet::new();
    let mut b = fleet.b(&fleet.place);
    let warm = fleet.a.greet("Ada");
    fleet.a.until_values(warm, &["b: hello Ada"]);
    let before = [rss(&mut fleet.a), rss(&mut b)];
    let done = fleet.a.tell(json!({ "do": "many", "count": STANDING, "from": 0, "ask": 1_000_000 }));
    let first = done["took_ms"].as_u64().map_or(f64::NAN, |ms| ms as f64);
    let after = [rss(&mut fleet.a), rss(&mut b)];
    let mut restarts = Vec::new();
    for _ in 0..3 {
        b.kill();
        fleet.a.until_values(warm, &[]);
        let mut next = Host::start(HOST, "b");
        next.answer("b");
        let begun = Instant::now();
        next.join(json!({ "name": "bench", "connect": [fleet.place], "offers": ["test/**"] }));
        let limit = begun + Duration::from_secs(60);
        while next.stats()["runs"].as_u64() != Some(STANDING + 1) {
            assert!(Instant::now() < limit, "not all are asked again: {}", next.stats());
            std::thread::sleep(Duration::from_millis(10));
        }
        restarts.push(begun.elapsed().as_secs_f64() * 1000.0);
        b = next;
    }
    let each = |which: usize| vec![(after[which] - before[which]) * 1024.0 / STANDING as f64];
    let idle = idle(&fleet.hub);
    vec![
        Measured::new("10,000 asks, first time", "ms", vec![first]),
        Measured::new("10,000 asks after a restart", "ms", restarts),
        Measured::new("memory of an ask, requester", "bytes", each(0)),
        Measured::new("memory of an ask, responder", "bytes", each(1)),
        idle,
    ]
}

/// What the hub's process uses of a core while nothing changes.
fn idle(hub: &Host) -> Measured {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", hub.pid())).unwrap_or_default();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum::<f64>()
    };
    let (before, begun) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    Measured::new(
        "a hub at rest, 10,000 standing",
        "% of a core",
        vec![(ticks() - before) / begun.elapsed().as_secs_f64()],
    )
}
