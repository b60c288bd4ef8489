//! Panics in a plugin are errors, wherever they come from, also in what an edit has made.

use controllerbus::bus::{RunState, Source};
use controllerbus::prelude::*;
use hot_runtime::artifact::Trust;
use hot_runtime::compile::{BuildOptions, BuiltBy, PluginBuilder};
use hot_runtime::{GenerationState, HotRuntime, PluginSpec};
use tests::{Scratch, events, host, mapped_below, nonce, swapped, target_dir, wait_for, work_dir};
use tokio_util::sync::CancellationToken;

use crate::{AskBad, Do, ask, built, rolled_back};

/// Has the controller `bad` panic in a place, in the stead of what it did before.
async fn put_on(bus: &Bus, place: &str) {
    let config = format!("bad:\n  id: brittle\n  revision: {}\n  config: {{ panics: \"{place}\" }}\n", 1 + nonce());
    bus.apply(ConfigSet::from_yaml(&config).expect("a config set")).await.expect("applying");
}

/// Waits until the controller `bad` is shown as failed, with this text.
async fn fails(bus: &Bus, text: &str) {
    let mut changes = bus.changes();
    let failed = async {
        loop {
            let states = bus.configs().into_iter().filter(|config| config.key == "bad").map(|config| config.state);
            if states
                .into_iter()
                .any(|state| matches!(state, RunState::Failed { error, .. } if error.to_string().contains(text)))
            {
                return;
            }
            changes.changed().await.expect("the bus goes on");
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), failed)
        .await
        .unwrap_or_else(|_| panic!("no `{text}` within 20 s"));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_edit_a_panic_anywhere_in_a_plugin_is_an_error_and_the_host_goes_on() {
    let scratch = Scratch::new(&["brittle"]);
    let bus = host("good:\n  id: brittle\n").await;
    let (listener, mut told) = events();
    let work = work_dir().join("brittle");
    let runtime = HotRuntime::builder(&bus)
        .watch(scratch.path("brittle"))
        .work_dir(&work)
        .target_dir(target_dir())
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    assert_eq!(built(&mut told).await, BuiltBy::Cargo);
    wait_for(&mut told, swapped).await;
    scratch.edit("brittle", "\"first\"", "\"second\"");
    assert_eq!(built(&mut told).await, BuiltBy::Rustc);
    wait_for(&mut told, swapped).await;

    for (what, answer) in [
        ("catch", "caught"),
        ("spawn", "the task panicked"),
        ("thread", "the thread panicked"),
        ("panic", "resolve was told to panic"),
        ("panic later", "resolve was told to panic later"),
        ("bad gone", "watched"),
        ("bad waker", "pending true"),
        ("bad payload", "a payload that is not text"),
        ("bad debug", "told"),
        ("bad directive", "a payload that is not text"),
        ("sentence", "second"),
    ] {
        let said = ask(&bus, what).await;
        assert!(said.contains(answer), "{what}: {said}");
    }
    let bad = bus.resolve(AskBad { nonce: nonce() }).await.map(|value| *value);
    assert!(bad.as_ref().is_ok() || bad.is_err_and(|error| error.to_string().contains("a value's destructor panics")));
    for place in ["construct", "execute"] {
        put_on(&bus, place).await;
        fails(&bus, &format!("{place} was told to panic")).await;
    }
    for place in ["execute's end", "close", "drop"] {
        put_on(&bus, place).await;
        bus.resolve(Do { what: "sentence".to_owned(), nonce: nonce() }).await.expect("an answer");
    }
    assert!(bus.remove_config("bad").await);
    assert_eq!(ask(&bus, "sentence").await, "second");

    put_on(&bus, "health").await;
    let serving = runtime.generations().into_iter().find(|found| found.state == GenerationState::Serving);
    let source = Source(serving.expect("one serves").generation);
    let health = bus.health(source, std::time::Duration::from_secs(20)).await;
    let said: Vec<_> = health.into_iter().map(|(_, health)| health.err().map(|error| error.to_string())).collect();
    assert!(said.contains(&None) && said.contains(&Some("panicked: health was told to panic".to_owned())), "{said:?}");
    assert!(bus.remove_config("bad").await);

    // A swap that fails so changes nothing.
    put_on(&bus, "save").await;
    scratch.edit("brittle", "\"second\"", "\"third\"");
    assert_eq!(built(&mut told).await, BuiltBy::Rustc);
    let reason = wait_for(&mut told, rolled_back).await;
    assert!(reason.contains("save was told to panic"), "{reason}");
    assert!(bus.remove_config("bad").await);
    scratch.edit("brittle", "\"third\"", "\"restore panics\"");
    assert_eq!(built(&mut told).await, BuiltBy::Rustc);
    let reason = wait_for(&mut told, rolled_back).await;
    assert!(reason.contains("restore was told to panic"), "{reason}");
    assert_eq!(ask(&bus, "sentence").await, "second");

    // Destructors that run because the library goes.
    put_on(&bus, "drop").await;
    assert_eq!(runtime.unload("brittle").await.expect("unloading").unmapped, Some(true));
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_blocks_is_given_up_within_the_swaps_limit_and_the_old_generation_serves_on() {
    let scratch = Scratch::new(&["brittle"]);
    let until = scratch.folder().join("until");
    let bus = host(&format!("good:\n  id: brittle\n  config: {{ blocks: {:?} }}\n", until.display())).await;
    let (listener, mut told) = events();
    let work = work_dir().join("brittle-save");
    let runtime = HotRuntime::builder(&bus)
        .watch(scratch.path("brittle"))
        .work_dir(&work)
        .target_dir(target_dir())
        .grace(std::time::Duration::from_secs(1))
        .drain(std::time::Duration::from_secs(1))
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    wait_for(&mut told, swapped).await;
    scratch.edit("brittle", "\"first\"", "\"second\"");
    let reason = wait_for(&mut told, rolled_back).await;
    assert!(reason.contains("within"), "{reason}");
    assert_eq!(ask(&bus, "sentence").await, "first");

    std::fs::write(&until, "").expect("letting it end");
    assert_eq!(runtime.unload("brittle").await.expect("unloading").unmapped, Some(true));
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_aborts_at_a_panic_is_overridden_wherever_it_is_set() {
    let scratch = Scratch::new(&["brittle"]);
    let manifest = scratch.path("brittle").join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).expect("the manifest");
    std::fs::write(&manifest, text + "\n[profile.dev]\npanic = \"abort\"\n").expect("writing");
    // Cargo's own settings come before those of a manifest.
    std::fs::create_dir(scratch.path("brittle").join(".cargo")).expect("a folder");
    let settings = scratch.path("brittle").join(".cargo/config.toml");
    std::fs::write(&settings, "[profile.dev]\npanic = \"abort\"\n").expect("cargo's settings");
    let spec = PluginSpec::new("brittle").crate_path(scratch.path("brittle")).watch(false);
    let options = BuildOptions::new(work_dir().join("brittle-abort")).target_dir(target_dir());
    let built = PluginBuilder::new(spec.clone(), options.clone()).build(&|_| {}, &CancellationToken::new()).await;
    let bus = host("good:\n  id: brittle\n").await;
    let runtime = HotRuntime::builder(&bus)
        .trust(Trust::anyone())
        .work_dir(work_dir().join("brittle-abort"))
        .start()
        .await
        .expect("starting");
    runtime.load_file(&built.expect("a build").artifact).await.expect("loading");
    let said = ask(&bus, "panic").await;
    assert!(said.contains("resolve was told to panic"), "{said}");
    runtime.shutdown().await;

    let error = PluginBuilder::new(spec.profile("panic", "\"abort\""), options).generate().await;
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("a plugin must unwind from a panic"), "{error}");
}

#[ignore = "compiles all dependencies once more"]
#[tokio::test(flavor = "multi_thread")]
async fn flags_that_abort_at_a_panic_are_refused_with_a_sentence() {
    let scratch = Scratch::new(&["brittle"]);
    std::fs::create_dir(scratch.path("brittle").join(".cargo")).expect("a folder");
    let settings = scratch.path("brittle").join(".cargo/config.toml");
    std::fs::write(&settings, "[build]\nrustflags = [\"-Cpanic=abort\"]\n").expect("cargo's settings");
    let spec = PluginSpec::new("brittle").crate_path(scratch.path("brittle")).watch(false);
    let options = BuildOptions::new(work_dir().join("brittle-abort")).target_dir(target_dir());
    let built = PluginBuilder::new(spec, options).build(&|_| {}, &CancellationToken::new()).await;
    let error = built.expect_err("refused").to_string();
    assert!(error.contains("a plugin must unwind from a panic, or one in it would end the host: take"), "{error}");
}
