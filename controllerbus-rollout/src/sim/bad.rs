//! Releases that are bad in twelve ways: only the canary ever runs one, and it is back soon.

use std::time::Duration;

use controllerbus::controller::{Closures, Info};
use tokio::time::Instant;

use super::{BAKE, PLUGIN, World, key, rollout};
use crate::health::PluginHealth;
use crate::link::Stage;
use crate::release::{artifact_path, now_ms};
use crate::rollouts::ask_hosts;

/// Rolls a bad release out to twenty hosts. `after` is what the world does when the canary has it.
async fn rolls_back(name: &str, expected: &str, runs: bool, prepare: impl AsyncFnOnce(&World) -> String) {
    let mut world = World::new(20).await;
    let _orchestrator = world.orchestrator("edge-0");
    world.begin().await;
    let behaviour = prepare(&world).await;
    world.rollouts().start(rollout()).await.expect("a rollout");
    let rolling = world.until("it begins", |link| link.turn > 0).await;
    let (canary, begun) = (rolling.order[0].clone(), Instant::now());
    let mut frozen = None;
    if runs && expected.contains("reachable") {
        let at = world.hosts.iter().position(|host| host.name == canary).expect("the canary");
        world.until("the canary has it", |link| link.stage == Stage::Baking).await;
        if name == "freezes" {
            frozen = Some(freezes(&world, &canary).await);
        }
        world.hosts[at].agent = None;
    }
    let link = world.until_over().await;
    let took = begun.elapsed();
    assert_eq!(link.stage, Stage::RolledBack, "{name}: {link:?}");
    assert!(link.why.contains(expected), "{name}: {}", link.why);
    // One that freezes just before is waited for: hosts may be silent for 10 s.
    let most = Duration::from_secs(if name == "freezes" { 11 } else { 5 });
    assert!(took <= BAKE + most, "{name}: back after {took:?}");
    if runs && expected.contains("reachable") {
        drop(frozen);
        let at = world.hosts.iter().position(|host| host.name == canary).expect("the canary");
        let mut host = world.hosts.remove(at);
        world.start(&mut host);
        world.hosts.push(host);
    }
    world.settle("good").await;
    let ran: Vec<_> = world.hosts.iter().filter(|host| host.plugins.ran().contains(&behaviour)).collect();
    assert_eq!(ran.iter().map(|host| &host.name).collect::<Vec<_>>(), vec![&canary; usize::from(runs)], "{name}");
    // It never comes back by itself.
    let error = world.rollouts().start(rollout()).await.expect_err("it is marked").to_string();
    assert!(error.contains("failed a rollout"), "{name}: {error}");
}

/// Has a host freeze shortly before its bake is over: what it has said last stands, and it hears nothing any more.
async fn freezes(world: &World, canary: &str) -> controllerbus::bus::Running {
    tokio::time::sleep(BAKE - Duration::from_secs(1)).await;
    let hosts = ask_hosts(&world.bus.handle(), PLUGIN, Duration::from_secs(5)).await.expect("hosts");
    let last = hosts.into_iter().find(|host| host.host == canary).expect("the canary");
    assert!(last.runs.is_some());
    let stands = Closures::new().resolves(move |asked: PluginHealth, values| {
        if asked.call == 0 {
            values.add(last.clone());
        }
        std::future::ready(Ok(()))
    });
    let info = Info::new("frozen", semver::Version::new(0, 1, 0), "frozen");
    world.bus.handle().add_controller(std::sync::Arc::new(stands), info).expect("a controller")
}

macro_rules! bad {
    ($($test:ident: $name:literal, $expected:literal, $runs:literal, $prepare:expr;)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $test() {
                rolls_back($name, $expected, $runs, $prepare).await;
            }
        )*
    };
}

bad! {
    a_release_that_does_not_load_goes_back: "does not load", "`swaps` failed", false, async |world: &World| {
        world.publish(2, "fails:not-a-library").await;
        "fails:not-a-library".to_owned()
    };
    a_release_that_refuses_the_state_goes_back: "restore", "restore-refused-it", false, async |world: &World| {
        world.publish(2, "fails:restore-refused-it").await;
        "fails:restore-refused-it".to_owned()
    };
    a_release_that_panics_in_construct_goes_back: "construct", "construct-panicked", false, async |world: &World| {
        world.publish(2, "fails:construct-panicked").await;
        "fails:construct-panicked".to_owned()
    };
    a_release_that_crashes_goes_back: "crashes", "`crashes` failed", true, async |world: &World| {
        world.publish(2, "crashes").await;
        "crashes".to_owned()
    };
    a_release_that_answers_errors_goes_back: "errors", "`errors` failed", true, async |world: &World| {
        world.publish(2, "errors").await;
        "errors".to_owned()
    };
    a_release_that_hosts_take_back_by_themselves_goes_back: "taken back", ": 9 of 9 runs of its resolvers failed", true, async |world: &World| {
        world.publish(2, "taken-back").await;
        "taken-back".to_owned()
    };
    a_release_that_answers_slowly_goes_back: "slow", "`slow` failed", true, async |world: &World| {
        world.publish(2, "slow").await;
        "slow".to_owned()
    };
    a_release_that_stalls_goes_back: "stalls", "`health` failed", true, async |world: &World| {
        world.publish(2, "stalls").await;
        "stalls".to_owned()
    };
    a_release_whose_configs_fail_goes_back: "configs", "`configs` failed", true, async |world: &World| {
        world.publish(2, "configs").await;
        "configs".to_owned()
    };
    a_release_that_takes_its_host_away_goes_back: "unreachable", "`reachable` failed", true, async |world: &World| {
        world.publish(2, "vanishes").await;
        "vanishes".to_owned()
    };
    a_release_that_freezes_its_host_just_before_the_bake_is_over_goes_back: "freezes", "`reachable` failed", true, async |world: &World| {
        world.publish(2, "freezes").await;
        "freezes".to_owned()
    };
    a_release_with_a_corrupt_file_goes_back: "corrupt", "other bytes than its hash", false, async |world: &World| {
        let release = world.publish(2, "corrupt").await;
        world.objects.change(&artifact_path(&release.artifacts[0].blake3), |bytes| bytes[20] ^= 1);
        "corrupt".to_owned()
    };
    a_release_whose_file_is_cut_off_goes_back: "truncated", "the release says", false, async |world: &World| {
        let release = world.publish(2, "truncated").await;
        world.objects.change(&artifact_path(&release.artifacts[0].blake3), |bytes| bytes.truncate(500));
        "truncated".to_owned()
    };
    a_release_whose_file_is_longer_than_it_says_goes_back: "longer", "the release says", false, async |world: &World| {
        let release = world.publish(2, "longer").await;
        world.objects.change(&artifact_path(&release.artifacts[0].blake3), |bytes| bytes.push(0));
        "longer".to_owned()
    };
    a_release_by_another_key_goes_back: "wrong key", "none of the accepted keys", false, async |world: &World| {
        let (other, _) = key(world.folder.path(), "other");
        world.publish_with(2, "foreign", &other, Duration::from_secs(3600)).await;
        "foreign".to_owned()
    };
    a_release_that_is_changed_after_it_was_signed_goes_back: "changed", "is not valid", false, async |world: &World| {
        world.publish(2, "changed").await;
        let later = (now_ms() + 999_999_999).to_string();
        world.objects.change("releases/greeter/0000000002.json", |bytes| {
            let text = String::from_utf8(bytes.clone()).expect("text");
            let at = text.find("\"expires_ms\": ").expect("the field") + 14;
            let end = at + text[at..].find(',').expect("its end");
            *bytes = format!("{}{later}{}", &text[..at], &text[end..]).into_bytes();
        });
        "changed".to_owned()
    };
    a_release_that_has_expired_goes_back: "expired", "expired", false, async |world: &World| {
        world.publish_with(2, "expired", &world.secret, Duration::ZERO).await;
        std::thread::sleep(Duration::from_millis(5));
        "expired".to_owned()
    };
}
