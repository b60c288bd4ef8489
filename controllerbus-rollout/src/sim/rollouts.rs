//! Rollouts from their start to their end: good ones, with leaders that die and a store that is away; what operators do; and what
//! somebody who may write to the store cannot do.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{BAKE, PLUGIN, World, rollout};
use crate::chain::Chain;
use crate::link::{Link, Stage, Writer};
use crate::release::ReleaseName;
use crate::rollout::Rollout;
use crate::rollouts::{Status, ask_hosts};
use crate::state::goes_back;

fn release(sequence: u64) -> ReleaseName {
    ReleaseName::new(sequence, semver::Version::new(1, sequence, 0))
}

fn writer() -> Writer {
    Writer { by: "somebody".to_owned(), lease: None, at_ms: 0 }
}

#[tokio::test(start_paused = true)]
async fn a_good_release_is_on_all_hosts_after_its_bakes_and_status_says_so() {
    let world = World::new(20).await;
    let _orchestrator = world.orchestrator("edge-0");
    world.begin().await;
    world.publish(2, "better").await;
    let begun = Instant::now();
    world.rollouts().start(rollout()).await.expect("a rollout");
    let link = world.until_over().await;
    assert_eq!(link.stage, Stage::Done, "{link:?}");
    let took = begun.elapsed();
    assert!(took >= 2 * BAKE && took <= 2 * BAKE + Duration::from_secs(20), "{took:?}");
    world.settle("better").await;
    sleep(Duration::from_secs(40)).await;
    let hosts = ask_hosts(&world.bus.handle(), PLUGIN, Duration::from_secs(5)).await.expect("hosts");
    assert_eq!(hosts.len(), 20);
    let status = Status::of(&link, &hosts);
    assert!(status.is_as_wanted, "{status:?}");
    assert!(status.gates.iter().all(|gate| gate.passes));
}

#[tokio::test(start_paused = true)]
async fn a_rollout_goes_on_whenever_its_leader_dies_after_any_step() {
    let world = World::new(20).await;
    let mut leaders = vec![world.orchestrator("edge-0"), world.orchestrator("edge-1")];
    world.begin().await;
    world.publish(2, "better").await;
    let mut wanted = rollout();
    // A leader that dies is replaced after its lease, and each step may have one more.
    wanted.deadline = Duration::from_secs(600);
    let first = world.rollouts().start(wanted).await.expect("a rollout");
    let mut killed = 0;
    let mut known = first.number;
    let link = loop {
        let link = world.until("a step", |link| link.number > known).await;
        known = link.number;
        if link.stage.is_over() {
            break link;
        }
        // Whoever wrote it loses the store at once, and never gives its lease up.
        let at = leaders.iter().position(|(_, view)| !view.cut.load(Ordering::Relaxed)).expect("a leader");
        let by = link.by.strip_prefix("edge-").and_then(|number| number.parse::<usize>().ok()).unwrap_or(at);
        leaders[by].1.cut.store(true, Ordering::Relaxed);
        let (next, _) = (world.orchestrator(&format!("edge-{}", leaders.len())), killed += 1);
        leaders.push(next);
    };
    assert_eq!(link.stage, Stage::Done, "{link:?}");
    assert!(killed >= 8, "only {killed} leaders died");
    world.settle("better").await;
    let all = world.rollouts().history(PLUGIN).await.expect("history");
    assert!(all.iter().map(|link| link.number).eq(1..=all.len() as u64));
    // What was watched was watched long enough, however often the watcher died.
    let baked =
        all.iter().position(|link| link.stage == Stage::Baking && link.rollout == first.number).expect("a bake");
    assert!(all[baked + 1].at_ms + 60_000 >= all[baked].at_ms, "by clocks that begin anew");
}

#[tokio::test(start_paused = true)]
async fn with_the_store_away_for_a_minute_everything_runs_on_and_the_rollout_goes_on_afterwards() {
    for (behaviour, stage) in [("better", Stage::Done), ("errors", Stage::RolledBack)] {
        let world = World::new(20).await;
        let _orchestrator = world.orchestrator("edge-0");
        world.begin().await;
        world.publish(2, behaviour).await;
        let mut wanted = rollout();
        wanted.deadline = Duration::from_secs(300);
        world.rollouts().start(wanted).await.expect("a rollout");
        world.until("it begins", |link| link.turn > 0).await;
        sleep(Duration::from_secs(2)).await;
        world.objects.away.store(true, Ordering::Relaxed);
        sleep(Duration::from_secs(60)).await;
        assert!(world.hosts.iter().all(|host| host.plugins.serves().is_some()));
        let hosts = ask_hosts(&world.bus.handle(), PLUGIN, Duration::from_secs(5)).await.expect("hosts");
        assert!(hosts.iter().any(|host| host.problem.as_ref().is_some_and(|why| why.contains("out of reach"))));
        world.objects.away.store(false, Ordering::Relaxed);
        let link = world.until_over().await;
        assert_eq!(link.stage, stage, "{behaviour}: {link:?}");
        world.settle(if stage == Stage::Done { "better" } else { "good" }).await;
        if stage == Stage::RolledBack {
            let ran = world.hosts.iter().filter(|host| host.plugins.ran().contains(&behaviour.to_owned())).count();
            assert_eq!(ran, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn operators_pause_resume_promote_abort_and_take_back_and_are_told_when_there_is_nothing_to_do() {
    let world = World::new(20).await;
    let _orchestrator = world.orchestrator("edge-0");
    world.begin().await;
    let rollouts = world.rollouts();
    for error in [
        rollouts.abort(PLUGIN, "no").await.expect_err("nothing is in progress"),
        rollouts.back(PLUGIN, "no").await.expect_err("nothing is in progress"),
        rollouts.pause(PLUGIN, "no").await.expect_err("nothing is in progress"),
        rollouts.abort("unknown", "no").await.expect_err("there is none"),
    ] {
        assert!(error.to_string().contains("there is nothing to"), "{error}");
    }
    assert_eq!(rollouts.newest(PLUGIN).await.expect("the newest").expect("one").stage, Stage::Done);
    world.publish(2, "better").await;
    let error = rollouts.start(Rollout::new(PLUGIN, semver::Version::new(9, 9, 9))).await.expect_err("unknown");
    assert!(error.to_string().contains("was not published; there is 1.2.0, 1.1.0"), "{error}");
    rollouts.start(rollout()).await.expect("a rollout");
    let error = rollouts.start(rollout()).await.expect_err("one at a time").to_string();
    assert!(error.contains("wait for its end"), "{error}");
    world.until("a bake", |link| link.stage == Stage::Baking).await;
    rollouts.pause(PLUGIN, "lunch").await.expect("pausing");
    sleep(4 * BAKE).await;
    let paused = rollouts.newest(PLUGIN).await.expect("the newest").expect("one");
    assert_eq!((paused.stage, paused.turn), (Stage::Paused, 1), "it waits for somebody");
    rollouts.resume(PLUGIN).await.expect("resuming");
    world.until("a bake", |link| link.stage == Stage::Baking).await;
    let begun = Instant::now();
    rollouts.promote(PLUGIN).await.expect("promoting");
    world.until("the second step", |link| link.step == 1).await;
    assert!(begun.elapsed() < BAKE / 2);
    rollouts.abort(PLUGIN, "enough").await.expect("aborting");
    let link = world.until_over().await;
    assert_eq!(link.stage, Stage::Aborted);
    world.settle("good").await;
    // It was not marked, and may be tried again; this time it is taken back, and marked.
    rollouts.start(rollout()).await.expect("a rollout");
    world.until("it is on a host", |link| link.stage == Stage::Baking).await;
    rollouts.back(PLUGIN, "a customer called").await.expect("taking back");
    assert_eq!(world.until_over().await.stage, Stage::RolledBack);
    world.settle("good").await;
    let error = rollouts.start(rollout()).await.expect_err("it is marked").to_string();
    assert!(error.contains("a customer called") && error.contains("despite"), "{error}");
    let mut despite = rollout();
    despite.despite = true;
    rollouts.start(despite).await.expect("a rollout");
    assert_eq!(world.until_over().await.stage, Stage::Done);
    world.settle("better").await;
}

#[tokio::test(start_paused = true)]
async fn who_can_write_to_the_store_cannot_bring_an_old_release_back() {
    let world = World::new(5).await;
    let orchestrator = world.orchestrator("edge-0");
    world.begin().await;
    world.publish(2, "better").await;
    world.rollouts().start(rollout()).await.expect("a rollout");
    assert_eq!(world.until_over().await.stage, Stage::Done);
    world.settle("better").await;
    drop(orchestrator);
    sleep(Duration::from_secs(60)).await;
    let chain = Chain::new(&world.store, PLUGIN);
    let done = chain.newest(0).await.expect("the newest").expect("one");
    // As if the rollout had failed in the end.
    let back = done.followed_by(goes_back(&done, Stage::RolledBack, "forged".to_owned()), writer());
    assert!(chain.append(&back).await.expect("writing"));
    sleep(Duration::from_secs(120)).await;
    // As if the old release were to be rolled out.
    let mut old = Link::first(back.number + 1, rollout(), release(1), Some(release(2)), writer());
    old.stage = Stage::Done;
    assert!(chain.append(&old).await.expect("writing"));
    sleep(Duration::from_secs(120)).await;
    for host in &world.hosts {
        assert_eq!(host.plugins.ran(), ["good", "better"], "{}", host.name);
    }
    let hosts = ask_hosts(&world.bus.handle(), PLUGIN, Duration::from_secs(5)).await.expect("hosts");
    for host in hosts {
        let why = host.failed.expect("it was refused").why;
        assert!(why.contains("has seen release 2 already"), "{why}");
    }
    let error = world.rollouts().start(Rollout::new(PLUGIN, semver::Version::new(1, 1, 0))).await;
    let _ = error.expect("as the forged step says, 1 is done");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_starts_anew_runs_what_it_ran_without_the_store_and_what_it_crashed_with_it_does_not_try_again() {
    let mut world = World::new(3).await;
    let _orchestrator = world.orchestrator("edge-9");
    world.begin().await;
    world.objects.away.store(true, Ordering::Relaxed);
    let mut host = world.hosts.remove(0);
    host.agent = None;
    sleep(Duration::from_secs(1)).await;
    host.plugins = super::Fake::new();
    world.start(&mut host);
    world.hosts.push(host);
    world.settle("good").await;
    world.objects.away.store(false, Ordering::Relaxed);
    // Now as if the power had failed while it tried the next one.
    world.publish(2, "vanishes").await;
    world.rollouts().start(rollout()).await.expect("a rollout");
    let link = world.until("the canary has it", |link| link.stage == Stage::Baking).await;
    let at = world.hosts.iter().position(|host| host.name == link.order[0]).expect("the canary");
    let mut host = world.hosts.remove(at);
    let seen = world.folder.path().join(&host.name).join("seen/greeter.json");
    let open = std::fs::read(&seen).expect("what it remembers");
    host.agent = None;
    sleep(Duration::from_secs(1)).await;
    std::fs::write(&seen, open).expect("as it was before it ended");
    host.plugins = super::Fake::new();
    world.start(&mut host);
    world.hosts.push(host);
    let link = world.until_over().await;
    assert_eq!(link.stage, Stage::RolledBack);
    assert!(link.why.contains("`crashes` failed"), "{}", link.why);
    world.settle("good").await;
    assert_eq!(world.hosts.last().expect("the canary").plugins.ran(), ["good"]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_comes_later_gets_what_is_done_and_not_what_is_tried() {
    let mut world = World::new(4).await;
    let _orchestrator = world.orchestrator("edge-9");
    world.begin().await;
    world.publish(2, "better").await;
    world.rollouts().start(rollout()).await.expect("a rollout");
    world.until("the canary has it", |link| link.stage == Stage::Baking).await;
    let view = super::View::new(&world.objects);
    let mut late = super::Host { name: "late".to_owned(), plugins: super::Fake::new(), view, agent: None };
    world.start(&mut late);
    world.hosts.push(late);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.hosts[4].plugins.ran(), ["good"]);
    assert_eq!(world.until_over().await.stage, Stage::Done);
    world.settle("better").await;
}

#[tokio::test(start_paused = true)]
async fn the_first_release_of_a_plugin_that_fails_is_not_loaded_any_more() {
    let world = World::new(4).await;
    let _orchestrator = world.orchestrator("edge-9");
    world.publish(2, "errors").await;
    world.rollouts().start(rollout()).await.expect("a rollout");
    assert_eq!(world.until_over().await.stage, Stage::RolledBack);
    sleep(Duration::from_secs(5)).await;
    assert!(world.hosts.iter().all(|host| host.plugins.serves().is_none()));
    assert_eq!(world.hosts.iter().filter(|host| !host.plugins.ran().is_empty()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn hosts_of_a_site_fetch_four_at_a_time_and_others_at_once() {
    for site in [Some("berlin"), None] {
        let world = World::at(site, 30).await;
        let _orchestrator = world.orchestrator("edge-0");
        // Each of them takes longer than it takes to hear of the others.
        world.objects.latency_ms.store(300, Ordering::Relaxed);
        world.begin().await;
        let most = world.objects.most_reading.load(Ordering::Relaxed);
        match site {
            Some(_) => assert!((2..=4).contains(&most), "{most} at a time"),
            None => assert!(most > 20, "{most} at a time"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pinned_work_stays_with_the_release_that_began_it_up_to_a_limit_and_going_back_waits_for_nothing() {
    let world = World::new(5).await;
    let _orchestrator = world.orchestrator("edge-9");
    world.begin().await;
    world.publish(2, "better").await;
    world.hosts.iter().for_each(|host| host.plugins.set_works(2));
    let mut pinned = rollout();
    // Five hosts wait one after the other.
    pinned.deadline = Duration::from_secs(120);
    pinned.pin = Some(crate::Pin::new("example/session", Duration::from_secs(15)));
    world.rollouts().start(pinned.clone()).await.expect("a rollout");
    let link = world.until("it begins", |link| link.turn == 1).await;
    let canary = world.hosts.iter().find(|host| host.name == link.order[0]).expect("the canary");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(canary.plugins.ran(), ["good"]);
    let hosts = ask_hosts(&world.bus.handle(), PLUGIN, Duration::from_secs(5)).await.expect("hosts");
    let said = hosts.iter().find(|host| host.host == canary.name).and_then(|host| host.problem.clone());
    assert!(said.is_some_and(|said| said.contains("waits for 2 of example/session to end, for at most 15s")));
    // The work ends before its time.
    canary.plugins.set_works(0);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(canary.plugins.ran(), ["good", "better"]);
    // On the next hosts it does not end, and goes over.
    assert_eq!(world.until_over().await.stage, Stage::Done);
    world.settle("better").await;
    // A bad one is taken back at once, whatever it has begun.
    world.publish(3, "errors").await;
    world.hosts.iter().for_each(|host| host.plugins.set_works(0));
    pinned.release = semver::Version::new(1, 3, 0);
    world.rollouts().start(pinned).await.expect("a rollout");
    let link = world.until("it bakes", |link| link.stage == Stage::Baking).await;
    let canary = world.hosts.iter().find(|host| host.name == link.order[0]).expect("the canary");
    canary.plugins.set_works(7);
    // How long going back takes is not longer than one look at the store.
    world.until("it goes back", |link| matches!(link.stage, Stage::RollingBack | Stage::RolledBack)).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(canary.plugins.serves().as_deref(), Some("better"));
}
