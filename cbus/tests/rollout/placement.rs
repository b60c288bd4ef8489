//! Published sets with real daemons: who runs what, and what is exclusive under kills, cuts and freezes. Each test has daemons of its
//! own; one at a time has them, because leases are short here. The log says it: nothing is ever written under a number after a higher one.

use std::time::{Duration, Instant};

use crate::fleet::alone;
use crate::placed::{Note, Placed, SETTLE, send};

/// Hosts that may all run what is exclusive.
const CORES: [(&str, &str); 3] =
    [("core-1", "{ role: core }"), ("core-2", "{ role: core }"), ("core-3", "{ role: core }")];

const LEASE: Duration = Duration::from_secs(3);

/// Three hosts of which one runs what is exclusive; how it behaves, and what it has written first.
fn exclusive(hangs: &str, lease: Duration) -> (Placed, Note) {
    let placed = Placed::start(&CORES, lease);
    push(&placed, hangs);
    let first = placed.above(0);
    (placed, first)
}

fn push(placed: &Placed, hangs: &str) {
    push_on(placed, "{ role: core }", hangs);
}

fn push_on(placed: &Placed, on: &str, hangs: &str) {
    let config = format!("{{ log: \"{}\", hangs: \"{hangs}\" }}", placed.log());
    placed.push(&format!("nightly: {{ id: nightly, on: {on}, exclusive: true, config: {config} }}\n"));
}

/// The next one has it: nothing of the one before runs any more, nor comes back.
fn is_taken_over(placed: &Placed, before: Note) -> Note {
    let next = placed.above(before.fence);
    let (last, first) = at_the_change(placed, before.fence);
    println!("{:.0} ms after the last note of {} the first of {}", ms_between(last, first), before.fence, first.fence);
    assert!(last.at < first.at, "{last:?} was written after {first:?}");
    next
}

fn ms_between(last: Note, first: Note) -> f64 {
    (first.at as f64 - last.at as f64) / 1e6
}

/// The last note under a number, and the first one after it.
fn at_the_change(placed: &Placed, fence: u64) -> (Note, Note) {
    let notes = placed.notes();
    let at = notes.iter().position(|note| note.fence > fence).expect("another one");
    (notes[at - 1], notes[at])
}

/// Waits until a host has nothing of what it ran, and the one that runs it has written again.
fn has_let_go(placed: &Placed, host: &str) {
    placed.until(&format!("{host} does not run it"), |placed| (!placed.runs(host, "nightly")).then_some(()));
    let last = placed.last().expect("a note");
    placed.until("another note", |placed| placed.last().filter(|note| note.at > last.at));
}

#[test]
fn those_that_should_run_an_entry_do_and_another_one_when_one_is_killed() {
    let _alone = alone();
    let hosts = [
        ("core-1", "{ role: core, zone: eu }"),
        ("core-2", "{ role: core, zone: us }"),
        ("core-3", "{ role: core, zone: us }"),
        ("edge-1", "{ role: edge, zone: us }"),
    ];
    let mut placed = Placed::start(&hosts, LEASE);
    placed.push(
        "edges: { id: nightly, on: { role: edge } }\n\
         two: { id: nightly, on: { role: core }, count: 2, spread: zone }\n\
         all: { id: nightly }\n",
    );
    placed.until("two of two zones", |placed| {
        let two = placed.running("two");
        (two.len() == 2 && two[0] == "core-1" && two[1].starts_with("core-")).then_some(())
    });
    placed.until("all", |placed| (placed.running("all").len() == 4).then_some(()));
    assert_eq!(placed.running("edges"), ["edge-1"]);
    let lost = placed.running("two")[1];
    let other = if lost == "core-2" { "core-3" } else { "core-2" };
    let begun = Instant::now();
    placed.kill(lost);
    placed.until("another one", |placed| (placed.running("two") == ["core-1", other]).then_some(()));
    let took = begun.elapsed();
    // It was heard of at least at a quarter of that before it was killed.
    assert!(took > SETTLE / 2, "it was not waited for: {took:?}");
    placed.begin(lost);
    placed.until("as before", |placed| {
        let before = [["core-1", lost], ["core-1", other]].map(|both| both.to_vec());
        (before.contains(&placed.running("two")) && placed.running("all").len() == 4).then_some(())
    });
    placed.push("edges: { id: nightly, on: { role: core } }\ntwo: { id: nightly, on: { role: edge }, count: 2 }\n");
    placed.until("it has moved", |placed| {
        let is_so = placed.running("two") == ["edge-1"] && placed.running("edges") == ["core-1", "core-2", "core-3"];
        (is_so && placed.running("all").is_empty()).then_some(())
    });
}

#[test]
fn an_exclusive_controller_that_hangs_is_killed_when_its_host_has_lost_the_store_and_only_then_another_host_runs_it() {
    let _alone = alone();
    for hangs in ["end", "construct", ""] {
        let mut placed = exclusive(hangs, LEASE).0;
        let (host, first) = placed.holder();
        placed.cut(host);
        is_taken_over(&placed, first);
        assert!(hangs.is_empty() || !tests::process::runs(first.pid), "{hangs}: its process still runs");
        if hangs == "end" {
            let said = placed.said(host);
            let ways = ["did not end in time, and its process is killed", "at its deadline"];
            assert!(ways.iter().any(|way| said.contains(way)), "{said}");
        }
        // It wants it again, and waits.
        placed.heal(host);
        has_let_go(&placed, host);
    }
}

#[test]
fn one_that_hangs_when_it_is_moved_is_killed_before_its_lease_is_given_up_however_long_that_would_be() {
    let _alone = alone();
    // By then the bus no longer knows what hangs in a process.
    let lease = Duration::from_secs(15);
    let hosts = [("core-1", "{ zone: eu }"), ("core-2", "{ zone: us }")];
    let placed = Placed::start(&hosts, lease);
    push_on(&placed, "{ zone: eu }", "end");
    let first = placed.above(0);
    push_on(&placed, "{ zone: us }", "end");
    is_taken_over(&placed, first);
    assert!(!tests::process::runs(first.pid), "its process still runs");
}

#[test]
fn one_that_hangs_when_its_config_has_changed_is_killed_and_the_new_one_runs_under_the_same_number() {
    let _alone = alone();
    let mut placed = exclusive("end", LEASE).0;
    let (host, first) = placed.holder();
    push(&placed, "");
    let next = placed.until("another process", |placed| placed.last().filter(|note| note.pid != first.pid));
    assert_eq!(next.fence, first.fence);
    assert!(!tests::process::runs(first.pid), "the one before still runs");
    // Else the runtime would have ended it, long after that.
    let said = placed.said(host);
    assert!(said.contains("did not end in time, and its process is killed"), "{said}");
}

#[test]
fn the_process_of_a_host_that_is_killed_ends_with_it_and_another_host_runs_it_after_the_lease() {
    let _alone = alone();
    let mut placed = exclusive("", LEASE).0;
    let (host, first) = placed.holder();
    placed.kill(host);
    let killed = Instant::now();
    placed.until("the end of its process", |_| (!tests::process::runs(first.pid)).then_some(()));
    println!("its process has ended {} ms after it", killed.elapsed().as_millis());
    is_taken_over(&placed, first);
    let (last, next) = at_the_change(&placed, first.fence);
    // A holder that writes has a third of its lease left, as others count it.
    assert!(ms_between(last, next) > LEASE.as_millis() as f64 / 4.0, "it was not waited for: {last:?}, {next:?}");
    placed.begin(host);
    placed.until("it is back", |placed| placed.plugin(host));
    has_let_go(&placed, host);
}

#[test]
fn the_process_of_a_host_that_is_frozen_ends_before_its_lease_and_does_not_come_back_when_it_goes_on() {
    let _alone = alone();
    for hangs in ["", "construct"] {
        let placed = exclusive(hangs, LEASE).0;
        let (host, first) = placed.holder();
        placed.signal(host, "-STOP");
        let next = is_taken_over(&placed, first);
        assert!(!tests::process::runs(first.pid), "{hangs}: its process still runs");
        // Longer than the lease of its successor, too.
        placed.until("time", |placed| placed.last().filter(|note| note.at > next.at + LEASE.as_nanos() as u64));
        placed.signal(host, "-CONT");
        placed.until("its plugin is there again", |placed| placed.plugin(host));
        has_let_go(&placed, host);
        let last = placed.last().expect("a note");
        placed.until("notes after that", |placed| {
            placed.last().filter(|note| note.at > last.at + LEASE.as_nanos() as u64)
        });
    }
}

#[test]
fn numbers_in_the_log_only_rise_under_random_kills_cuts_and_freezes() {
    let _alone = alone();
    let seed = std::env::var("CBUS_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11_u64);
    println!("CBUS_TEST_SEED={seed}");
    let mut random = seed;
    let mut below = move |limit: u64| {
        // SplitMix64
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15_u64);
        let mut mixed = random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit).expect("a small number")
    };
    let (mut placed, first) = exclusive("end", Duration::from_secs(2));
    // Each once, and one of them again.
    let mut order = vec!["kill", "cut", "freeze", "kill its process", "cut all"];
    order.push(order[below(5)]);
    for round in 0..6 {
        let (host, now) = placed.holder();
        let (what, hangs) = (order.swap_remove(below(order.len() as u64)), ["end", ""][below(2)]);
        println!("round {round}: {what} {host}, which runs {}", now.fence);
        match what {
            "kill" => {
                placed.kill(host);
                is_taken_over(&placed, now);
                placed.begin(host);
            }
            "cut" => {
                placed.cut(host);
                is_taken_over(&placed, now);
                placed.heal(host);
            }
            "freeze" => {
                placed.signal(host, "-STOP");
                is_taken_over(&placed, now);
                placed.signal(host, "-CONT");
            }
            "kill its process" => {
                // It is started anew, under the same number as long as its host has the lease.
                send("-KILL", now.pid);
                placed.until("another process", |placed| placed.last().filter(|note| note.pid != now.pid));
            }
            _ => {
                CORES.iter().for_each(|(host, _)| placed.cut(host));
                placed.until("it runs nowhere", |placed| placed.running("nightly").is_empty().then_some(()));
                CORES.iter().for_each(|(host, _)| placed.heal(host));
                placed.above(now.fence);
            }
        }
        // Those that hang do so at this change, too.
        push(&placed, hangs);
    }
    let last = placed.above(first.fence);
    println!("{} notes, under numbers from {} to {}", placed.notes().len(), first.fence, last.fence);
}
