//! What the boundary keeps from the host: panics anywhere in a plugin.

use controllerbus::bus::RunState;
use controllerbus::prelude::*;
use hot_runtime::build::BuiltBy;
use hot_runtime::{HotRuntime, RuntimeEvent};
use tests::{Scratch, events, host, mapped_below, nonce, swapped, target_dir, wait_for, work_dir};
use tokio::sync::mpsc::UnboundedReceiver;

/// The same directive as in the `brittle` fixture.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "brittle/do", value = String)]
struct Do {
    what: String,
    nonce: u64,
}

/// What a brittle controller answers, or its error as text.
async fn ask(bus: &Bus, what: &str) -> String {
    let answer = bus.resolve(Do { what: what.to_owned(), nonce: nonce() });
    let answer = tokio::time::timeout(std::time::Duration::from_secs(20), answer).await.expect("an answer within 20 s");
    answer.map_or_else(|error| error.to_string(), |answer| (*answer).clone())
}

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

/// Waits for a build, and says who made it.
async fn built(told: &mut UnboundedReceiver<RuntimeEvent>) -> BuiltBy {
    wait_for(told, |event| match event {
        RuntimeEvent::Built { by, .. } => Some(*by),
        _ => None,
    })
    .await
}

fn rolled_back(event: &RuntimeEvent) -> Option<String> {
    match event {
        RuntimeEvent::RolledBack { reason, .. } => Some(reason.clone()),
        _ => None,
    }
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
        ("sentence", "second"),
    ] {
        let said = ask(&bus, what).await;
        assert!(said.contains(answer), "{what}: {said}");
    }
    for place in ["construct", "execute"] {
        put_on(&bus, place).await;
        fails(&bus, &format!("{place} was told to panic")).await;
    }
    for place in ["execute's end", "close"] {
        put_on(&bus, place).await;
        bus.resolve(Do { what: "sentence".to_owned(), nonce: nonce() }).await.expect("an answer");
    }
    assert!(bus.remove_config("bad").await);
    assert_eq!(ask(&bus, "sentence").await, "second");

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
    assert!(runtime.unload("brittle").await.expect("unloading").unmapped);
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}
