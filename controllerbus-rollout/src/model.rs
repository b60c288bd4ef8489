//! A model of a fleet that rolls a plugin out: hosts that behave in every way, orchestrators that die after every step and between
//! any two, clocks that are wrong, and a store that is away for a while, by seeds and in simulated time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Clock;
use crate::elapsed::{Elapsed, Note};
use crate::health::{FailedRelease, HostHealth};
use crate::link::{Link, Stage, Wanted, Writer};
use crate::release::ReleaseName;
use crate::rollout::{Amount, Errors, Rollout, Step};
use crate::state::{Observed, next, verdicts};

/// A tick, in milliseconds.
const TICK: u64 = 250;

/// The store is read by agents at least that often, and orchestrators replaced within that.
const SOON: u64 = 2_000;

const LOST: u64 = 10_000;

/// What a host has said stands for so long after it has frozen.
const STANDS: u64 = 3_000;

/// How the release behaves on a host.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Good,
    /// It cannot be installed.
    Refused,
    /// It crashes, so long after it began to run, and the host takes it back itself.
    Crashes(u64),
    /// Its requests fail, from so long after it began to run.
    Errors(u64),
    /// The host is out of reach from so long after.
    Vanishes(u64),
    /// It never comes to run it.
    Stalls,
}

struct Host {
    runs: u64,
    since: u64,
    failed: Option<FailedRelease>,
    crashes: u64,
    step: u64,
    next_look: u64,
    vanished: Option<u64>,
    ever_ran_bad: bool,
    back_at: Option<u64>,
}

struct World {
    random: fastrand::Rng,
    now: u64,
    kind: Kind,
    hosts: Vec<Host>,
    links: Vec<Link>,
    away: std::ops::Range<u64>,
    /// Whether no leader dies, and the store is there all the time.
    is_calm: bool,
}

fn name(host: usize) -> String {
    format!("edge-{host}")
}

fn release(sequence: u64) -> ReleaseName {
    ReleaseName::new(sequence, semver::Version::new(1, sequence, 0))
}

/// The bakes, in milliseconds.
const BAKE: u64 = 30_000;

fn rollout() -> Rollout {
    let bake = Duration::from_millis(BAKE);
    let mut rollout = Rollout::new("greeter", semver::Version::new(1, 7, 0)).with_steps(vec![
        Step::new(Amount::Hosts(1), bake),
        Step::new(Amount::Percent(30.0), bake),
        Step::new(Amount::Percent(100.0), Duration::ZERO).at_a_time(Amount::Percent(20.0)),
    ]);
    rollout.deadline = Duration::from_secs(120);
    rollout.gates.errors = Some(Errors { of: "example/greet".to_owned(), most_percent: 1.0, of_at_least: 5 });
    rollout
}

impl World {
    fn is_away(&self) -> bool {
        self.away.contains(&self.now)
    }

    fn newest(&self) -> &Link {
        self.links.last().expect("a link")
    }

    /// What the agent of a host does in a tick.
    fn agent(&mut self, at: usize) {
        let (now, kind) = (self.now, self.kind);
        let newest = (!self.is_away()).then(|| self.newest().clone());
        let jitter = self.random.u64(0..SOON / 2);
        let host = &mut self.hosts[at];
        if host.vanished.is_some() {
            return;
        }
        let runs_for = now - host.since;
        if host.runs == 7 {
            match kind {
                Kind::Crashes(after) if runs_for >= after => {
                    host.failed = Some(FailedRelease::new(7, "crashed", true));
                    (host.crashes, host.runs, host.since, host.back_at) = (host.crashes + 1, 6, now, Some(now));
                }
                Kind::Vanishes(after) if runs_for >= after => host.vanished = Some(now),
                _ => {}
            }
        }
        let Some(link) = newest.filter(|_| now >= host.next_look) else { return };
        host.next_look = now + TICK + jitter;
        host.step = link.number;
        match link.wanted_on(&name(at), &BTreeMap::new()) {
            Wanted::Release(wanted) if wanted.sequence != host.runs && host.failed.is_none() => match kind {
                Kind::Refused => host.failed = Some(FailedRelease::new(7, "restore refused it", false)),
                Kind::Stalls => {}
                _ => {
                    (host.runs, host.since) = (7, now);
                    host.ever_ran_bad |= kind != Kind::Good;
                }
            },
            Wanted::Before(Some(before)) if before.sequence != host.runs => {
                (host.runs, host.since, host.back_at) = (before.sequence, now, Some(now));
            }
            _ => {}
        }
    }

    fn health(&self, at: usize) -> Option<HostHealth> {
        let host = &self.hosts[at];
        if host.vanished.is_some_and(|at| self.now >= at + STANDS) {
            return None;
        }
        let mut health = HostHealth::of(name(at), "greeter");
        health.runs = Some(release(host.runs));
        health.failed.clone_from(&host.failed);
        (health.crashes, health.step) = (host.crashes, host.step);
        if let (Kind::Errors(after), 7) = (self.kind, host.runs) {
            let requests = (self.now - host.since) / 1000;
            let failures = (self.now - host.since).saturating_sub(after) / 1000;
            health.counts.insert("example/greet".to_owned(), crate::Counts::new(requests, failures, 0));
        }
        Some(health)
    }
}

/// One that leads, until it dies.
struct Leader {
    clock: Clock,
    time: std::sync::Arc<std::sync::atomic::AtomicU64>,
    elapsed: Option<Elapsed>,
    begun: u64,
    heard: BTreeMap<String, u64>,
}

impl Leader {
    fn new(world: &mut World) -> Self {
        let time = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(world.now));
        // Its clock is wrong by up to half a minute.
        let (of_boot, of_wall) = (time.clone(), time.clone());
        let skew = world.random.u64(0..60_000);
        let read = |of: &std::sync::atomic::AtomicU64| of.load(std::sync::atomic::Ordering::Relaxed);
        let boot = world.random.u64(0..1_000_000);
        let clock =
            Clock::new(move || Duration::from_millis(read(&of_boot) + boot), move || 1_000_000 + read(&of_wall) + skew);
        Self { clock, time, elapsed: None, begun: world.now, heard: BTreeMap::new() }
    }

    /// One look, and a step if there is one. `note` is what the lease has.
    fn look(&mut self, world: &mut World, note: &mut Option<(Note, u64)>) -> Option<Link> {
        self.time.store(world.now, std::sync::atomic::Ordering::Relaxed);
        let link = world.newest().clone();
        if self.elapsed.as_ref().is_none_or(|elapsed| !elapsed.is_of(&link)) {
            let noted = note.as_ref().map(|(note, _)| note);
            let ago = note.as_ref().map_or(0, |(_, at)| world.now - at);
            self.elapsed = Some(Elapsed::begin(&link, &self.clock, noted, Duration::from_millis(ago)));
        }
        let elapsed = self.elapsed.as_ref().expect("it was just set");
        if !world.is_away() {
            *note = Some((elapsed.note(&self.clock), world.now));
        }
        let mut seen = Observed { is_complete: world.now - self.begun >= 2_000, ..Observed::default() };
        for at in 0..world.hosts.len() {
            // Those that live answer at once.
            if world.hosts[at].vanished.is_none() {
                self.heard.insert(name(at), world.now);
            }
            let heard = self.heard.get(&name(at)).map(|heard| world.now - heard);
            if heard.unwrap_or(world.now - self.begun) >= LOST {
                seen.lost.insert(name(at));
            } else if let Some(health) = world.health(at) {
                seen.hosts.insert(name(at), health);
            }
            seen.lived.extend(heard.map(|ago| (name(at), Duration::from_millis(ago))));
        }
        let change = next(&link, &seen, elapsed.spent(&self.clock))?;
        if change.stage == Stage::Done {
            assert!(verdicts(&link, &seen).iter().all(|verdict| verdict.passes), "done while a gate fails: {link:?}");
        }
        let writer = Writer { by: "a".to_owned(), lease: Some(1), at_ms: self.clock.wall_ms() };
        Some(link.followed_by(change, writer))
    }
}

/// Runs one rollout to its end. Returns the world, and when its failure was there to be seen.
fn run(seed: u64, kind: Kind) -> World {
    let mut random = fastrand::Rng::with_seed(seed);
    let number = random.usize(1..30);
    let away_from = random.u64(0..200_000);
    let away = if random.bool() { away_from..away_from + 60_000 } else { 0..0 };
    let host = || Host {
        runs: 6,
        since: 0,
        failed: None,
        crashes: 0,
        step: 0,
        next_look: 0,
        vanished: None,
        ever_ran_bad: false,
        back_at: None,
    };
    let writer = Writer { by: "a person".to_owned(), lease: None, at_ms: 1_000_000 };
    let first = Link::first(1, rollout(), release(7), Some(release(6)), writer);
    let mut world = World {
        random,
        now: 0,
        kind,
        hosts: (0..number).map(|_| host()).collect(),
        links: vec![first],
        away,
        is_calm: false,
    };
    let (mut leader, mut note, mut dead_until) = (None::<Leader>, None, 0);
    let dies_in = [0, 4, 40][world.random.usize(0..3)];
    world.is_calm = dies_in == 0 && world.away.end == 0;
    while !world.newest().stage.is_over() {
        assert!(world.now < 3_600_000, "it does not end: {:?}", world.newest());
        (0..number).for_each(|at| world.agent(at));
        if world.now >= dead_until {
            if leader.is_none() {
                leader = Some(Leader::new(&mut world));
            }
            let leading = leader.as_mut().expect("it was just made");
            let link = leading.look(&mut world, &mut note);
            let dies = dies_in > 0 && world.random.u64(0..dies_in * 10) == 0;
            // It may die before and after it has written, and with a store that is away nothing is written.
            let writes = !world.is_away() && (!dies || world.random.bool());
            let wrote = link.filter(|_| writes).map(|link| world.links.push(link)).is_some();
            if dies || (wrote && dies_in > 0 && world.random.u64(0..3) == 0) {
                leader = None;
                dead_until = world.now + world.random.u64(0..SOON);
            }
        }
        world.now += TICK;
    }
    // Those that were away come back, and look once more.
    world.now = world.now.max(world.away.end);
    for _ in 0..SOON / TICK * 2 {
        world.hosts.iter_mut().for_each(|host| host.vanished = None);
        (0..number).for_each(|at| world.agent(at));
        world.now += TICK;
    }
    world
}

/// So many seeds, or as many as the variable says, from the one that another variable says.
fn seeds(number: u64) -> std::ops::Range<u64> {
    let number =
        std::env::var("CONTROLLERBUS_ROLLOUT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(number);
    let from = std::env::var("CONTROLLERBUS_ROLLOUT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    from..from + number
}

#[test]
fn a_good_release_comes_to_all_hosts_whoever_dies_and_is_never_done_before_its_bakes() {
    for seed in seeds(60) {
        let world = run(seed, Kind::Good);
        assert_eq!(world.newest().stage, Stage::Done, "seed {seed}: {:?}", world.newest());
        assert!(world.hosts.iter().all(|host| host.runs == 7), "seed {seed}");
        assert!(world.now >= 2 * BAKE, "seed {seed}: hosts were watched for too short a time");
        let numbers: Vec<_> = world.links.iter().map(|link| link.number).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "seed {seed}");
    }
}

#[test]
fn a_bad_release_runs_on_the_canary_only_and_is_back_within_its_bake() {
    let kinds = |random: &mut fastrand::Rng| {
        let after = random.u64(0..BAKE - 10_000);
        [
            Kind::Refused,
            Kind::Crashes(after),
            // Enough requests are needed to judge, and they come once a second.
            Kind::Errors(after),
            // Also shortly before the bake is over, when what the host has said last still stands.
            Kind::Vanishes(random.u64(0..BAKE - 2 * TICK)),
            Kind::Stalls,
        ]
    };
    for seed in seeds(30) {
        let mut random = fastrand::Rng::with_seed(seed ^ 0xbad);
        for kind in kinds(&mut random) {
            let world = run(seed, kind);
            assert_eq!(world.newest().stage, Stage::RolledBack, "seed {seed}, {kind:?}: {:?}", world.newest());
            assert!(world.hosts.iter().all(|host| host.runs == 6), "seed {seed}, {kind:?}");
            let ran = world.hosts.iter().filter(|host| host.ever_ran_bad).count();
            assert!(ran <= 1, "seed {seed}, {kind:?}: it ran on {ran} hosts");
            let away = world.away.end - world.away.start;
            let ran_since = world.links.iter().find(|link| link.stage == Stage::Rolling).expect("a step").at_ms;
            let back = world.hosts.iter().filter_map(|host| host.back_at).max();
            // Clocks are wrong by a minute, and the store may have been away. A host that is out of reach goes back when it is
            // there again.
            if let Some(back) = back.filter(|_| !matches!(kind, Kind::Vanishes(_))) {
                let within = (1_000_000 + back).saturating_sub(ran_since);
                let most = BAKE + 5_000 + 60_000 + away + LOST;
                assert!(within <= most, "seed {seed}, {kind:?}: back after {within} ms");
            }
        }
    }
}

#[test]
fn with_a_store_and_leaders_that_stay_all_are_back_within_the_bake_and_five_seconds() {
    let mut tried = 0;
    for seed in seeds(200) {
        let mut random = fastrand::Rng::with_seed(seed ^ 0xface);
        for kind in [Kind::Crashes(random.u64(0..BAKE - 10_000)), Kind::Errors(random.u64(0..BAKE - 10_000))] {
            let world = run(seed, kind);
            if !world.is_calm {
                continue;
            }
            tried += 1;
            let canary = world.newest().order.first().expect("a canary").clone();
            let host = (0..world.hosts.len()).find(|at| name(*at) == canary).expect("it is there");
            let back = world.hosts[host].back_at.expect("it went back");
            // Hosts answer for two seconds before the first step, and the canary looks for it within another.
            assert!(back <= 2_000 + SOON + BAKE + 5_000, "seed {seed}, {kind:?}: back at {back} ms");
        }
    }
    assert!(tried > 20, "only {tried} worlds were calm");
}
