//! Twenty hosts: good releases are on all of them, bad ones come no further than the canaries and are back at once, and no request
//! is lost; whoever leads is killed at every step, and the store goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use controllerbus_rollout::Stage;

use crate::bad::{ALL, Bad, Twist};
use crate::fleet::{Fleet, LEADS, alone, is_at_rest};
use crate::releases::{PLUGIN, at_version};

const HOSTS: usize = 20;

const LONG: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long after its bake a bad release may be somewhere: as promised where the machine has nothing else to do, which
/// `CBUS_TEST_TIMES=1` says, and otherwise so that it shows what never ends.
fn slack() -> Duration {
    Duration::from_secs(if is_at_rest() { 5 } else { 120 })
}

/// Twenty hosts that run the first release, and are asked. One test at a time has them, until the last of them has ended.
fn twenty() -> (MutexGuard<'static, ()>, Fleet) {
    let one = alone();
    let fleet = Fleet::start(HOSTS);
    fleet.releases.publish("good", "k", LONG);
    fleet.met();
    fleet.roll("steps: [{ percent: 100 }]\n");
    assert_eq!(fleet.over().stage, Stage::Done);
    fleet.put_load_on();
    fleet.all_answer(1);
    (one, fleet)
}

/// No request was lost.
fn none_lost(fleet: &Fleet) {
    let (asked, lost) = (fleet.counts.asked.load(Ordering::Relaxed), fleet.counts.lost.load(Ordering::Relaxed));
    println!("{asked} requests, {lost} lost");
    assert!(asked > 1000, "{asked}");
    assert_eq!(lost, 0);
}

#[test]
fn good_releases_go_everywhere_bad_ones_no_further_than_the_canaries_and_no_request_is_lost() {
    let (_one, mut fleet) = twenty();
    let begun = Instant::now();
    fleet.releases.publish("good", "k", LONG);
    fleet.roll("steps: [{ hosts: 1, bake: 1s }, { percent: 50, bake: 1s }, { percent: 100, at_a_time: 25% }]\n");
    let link = fleet.over();
    assert_eq!(link.stage, Stage::Done, "{}", link.why);
    println!("a good release: {:.1} s, with 2 s of bakes", begun.elapsed().as_secs_f64());
    fleet.all_answer(2);
    for bad in &ALL {
        is_taken_back(&mut fleet, bad, 2);
    }
    none_lost(&fleet);
}

#[test]
fn a_rollout_goes_on_whoever_is_killed_and_waits_for_the_store_and_no_request_is_lost() {
    let (_one, mut fleet) = twenty();
    let serves = goes_on_whoever_is_killed(&mut fleet, 1);
    waits_for_the_store(&mut fleet, serves);
    none_lost(&fleet);
}

/// The generations that each host has had.
fn generations(fleet: &Fleet) -> BTreeMap<String, u64> {
    let newest = |host: &String| {
        let plugins = fleet.daemons[host].json(&["plugins"]);
        let all = plugins[0]["generations"].as_array().into_iter().flatten();
        all.filter_map(|generation| generation["number"].as_u64()).max().unwrap_or(0)
    };
    fleet.hosts.iter().map(|host| (host.clone(), newest(host))).collect()
}

fn is_taken_back(fleet: &mut Fleet, bad: &Bad, serves: u64) {
    let before = generations(fleet);
    let number = bad.publish(fleet);
    let begun = Instant::now();
    bad.roll(fleet);
    let mut frozen = Vec::new();
    if bad.twist == Twist::Freeze {
        frozen = fleet.until(Stage::Baking).in_turn().to_vec();
        signal(fleet, &frozen, "-STOP");
        // They come back when it is taken back already, and hear of it then.
        fleet.until(Stage::RollingBack);
        signal(fleet, &frozen, "-CONT");
    }
    let link = fleet.over();
    let took = begun.elapsed();
    assert_eq!(link.stage, Stage::RolledBack, "{}: {}", bad.name, link.why);
    assert!(bad.says.iter().any(|expected| why(fleet).contains(expected)), "{}: {}", bad.name, why(fleet));
    let canaries: BTreeSet<&String> = link.in_turn().iter().collect();
    assert_eq!(canaries.len(), 2, "{}: {canaries:?}", bad.name);
    println!("{:<20} {}", bad.name, why(fleet));
    println!("{:<20} back after {:.1} s, with a bake of {} s", bad.name, took.as_secs_f64(), bad.bake);
    assert!(took < Duration::from_secs(bad.bake) + slack(), "{}: it was back after {took:?}", bad.name);
    fleet.all_answer(serves);
    let ran = fleet.counts.hosts_of(number);
    assert!(ran.iter().all(|host| canaries.contains(host)), "{}: it has answered on {ran:?}", bad.name);
    for (host, after) in generations(fleet) {
        let is_as_before = before[&host] == after;
        assert!(is_as_before || canaries.contains(&host), "{}: {host} has loaded something", bad.name);
    }
    assert!(frozen.iter().all(|host| canaries.contains(host)));
}

/// Why the newest rollout was taken back: the step in which that was decided says it.
fn why(fleet: &Fleet) -> String {
    let all: serde_json::Value =
        serde_json::from_str(&fleet.cbus(&["rollout", "history", PLUGIN, "--json"])).expect("JSON");
    let steps = all.as_array().expect("steps");
    let rollout = &steps.last().expect("a step")["rollout"];
    let back = steps.iter().find(|step| step["rollout"] == *rollout && step["stage"] == "rolling_back");
    back.and_then(|step| step["why"].as_str()).unwrap_or_default().to_owned()
}

fn signal(fleet: &Fleet, hosts: &[String], signal: &str) {
    for host in hosts {
        let id = fleet.daemons[host].process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("running kill").success());
    }
}

/// Kills the lead that has written each step, at once after it.
fn goes_on_whoever_is_killed(fleet: &mut Fleet, serves: u64) -> u64 {
    let release = fleet.releases.publish("good", "k", LONG).sequence;
    fleet.roll("steps: [{ hosts: 1, bake: 200ms }, { percent: 50, bake: 200ms }, { percent: 100 }]\ndeadline: 5m\n");
    let (mut seen, mut killed) = (fleet.newest().number, BTreeSet::new());
    loop {
        let link = fleet.newest();
        if link.number > seen && LEADS.contains(&link.by.as_str()) {
            seen = link.number;
            if link.stage.is_over() {
                break;
            }
            killed.insert(link.stage.to_string());
            fleet.kill(&link.by);
            fleet.begin(&link.by);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(killed, ["baking", "rolling"].map(str::to_owned).into(), "it was killed in each stage");
    let link = fleet.over();
    assert_eq!(link.stage, Stage::Done, "{}", link.why);
    assert_ne!(release, serves);
    fleet.all_answer(release);
    release
}

/// The store is away for a minute while canaries are watched: nothing moves, all goes on, and the rollout ends when it is back.
fn waits_for_the_store(fleet: &mut Fleet, serves: u64) {
    let (at, away) = (fleet.folder.path().join("store"), fleet.folder.path().join("away"));
    let release = fleet.releases.publish("good", "k", LONG).sequence;
    fleet.roll("steps: [{ hosts: 1, bake: 2s }, { percent: 100 }]\ndeadline: 5m\n");
    let canary = fleet.until(Stage::Baking).in_turn()[0].clone();
    std::fs::rename(&at, &away).expect("taking it away");
    let gone = Instant::now();
    // One that starts meanwhile runs what it ran.
    let other = fleet.hosts.iter().find(|host| **host != canary).expect("another").clone();
    let said = crate::run(fleet.folder.path(), &["rollout", "status", "--connect", &fleet.daemons[&other].address]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let begun = Instant::now();
    let problem = loop {
        let status = fleet.daemons[&other].json(&["rollout", "status"]);
        if let Some(problem) = status["rollouts"][0]["problem"].as_str() {
            break problem.to_owned();
        }
        assert!(begun.elapsed() < crate::fleet::LIMIT, "{status:#}");
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(problem.contains("is out of reach"), "{problem}");
    let refused = crate::run(
        fleet.folder.path(),
        &["rollout", "start", &at_version(), "--store", &crate::releases::url(fleet.folder.path())],
    );
    assert!(refused.code == Some(1) && refused.err.contains("out of reach"), "{}", refused.err);
    std::thread::sleep(Duration::from_secs(60).saturating_sub(gone.elapsed()));
    {
        let last = fleet.counts.last.lock().expect("counts");
        let others = last.iter().filter(|(host, _)| **host != canary);
        assert!(others.map(|(_, number)| *number).all(|number| number == serves), "nothing moves: {last:?}");
    }
    std::fs::rename(&away, &at).expect("bringing it back");
    let link = fleet.over();
    assert_eq!(link.stage, Stage::Done, "{}", link.why);
    fleet.all_answer(release);
}
