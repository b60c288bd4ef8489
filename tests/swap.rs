//! What a swap promises: interface values live on, failures roll back, nothing is lost.

use controllerbus::prelude::*;
use hot_runtime::{GenerationState, HotRuntime, PluginSpec, RuntimeEvent};
use tests::{Answer, Scratch, events, mapped_below, nonce, wait_for, work_dir};

/// The same directive as in the `caller` fixture.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "caller/ask", value = Answer)]
struct AskCaller {
    what: String,
    nonce: u64,
}

async fn ask_caller(bus: &Bus, what: &str) -> String {
    let answer = bus.resolve(AskCaller { what: what.to_owned(), nonce: nonce() });
    let answer = tokio::time::timeout(std::time::Duration::from_secs(20), answer).await.expect("within 20 s");
    answer.map_or_else(|error| error.to_string(), |answer| answer.0.clone())
}

/// Asks until the answer is the wanted one.
async fn until(bus: &Bus, what: &str, wanted: &str) {
    let answered = async {
        while ask_caller(bus, what).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), answered).await.expect("the answer within 20 s");
}

async fn host(config: &str) -> Bus {
    let bus = Bus::new();
    bus.apply(ConfigSet::from_yaml(config).expect("a config set")).await.expect("applying");
    bus
}

fn swapped(event: &RuntimeEvent) -> Option<u64> {
    match event {
        RuntimeEvent::Swapped { to, .. } => Some(*to),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_value_of_another_plugin_is_called_directly_and_outlives_its_generations_swap() {
    let scratch = Scratch::new(&["doubler-api", "doubler", "caller"]);
    let bus = host("doubler:\n  id: doubler\ncaller:\n  id: caller\n").await;
    let (listener, mut told) = events();
    let work = work_dir().join("interface");
    let runtime = HotRuntime::builder(&bus)
        .plugin(PluginSpec::new("doubler").crate_path(scratch.path("doubler")))
        .plugin(PluginSpec::new("caller").crate_path(scratch.path("caller")).watch(false))
        .work_dir(&work)
        .target_dir(work_dir().join("target"))
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    let generations = [wait_for(&mut told, swapped).await, wait_for(&mut told, swapped).await];
    let find = |plugin: &str| {
        let mut all = runtime.generations().into_iter();
        all.find(|found| generations.contains(&found.generation) && found.plugin == plugin).expect("a generation")
    };
    let (doubler, caller) = (find("doubler").generation, find("caller").generation);
    until(&bus, "call", "times 2: 42").await;
    ask_caller(&bus, "keep").await;

    scratch.edit("doubler", "FACTOR: u64 = 2", "FACTOR: u64 = 3");
    wait_for(&mut told, swapped).await;
    until(&bus, "call", "times 3: 63").await;
    until(&bus, "events", "added times 2, added times 3, removed times 2").await;
    assert_eq!(ask_caller(&bus, "call-kept").await, "times 2: 42");
    let info = |generation| {
        let mut all = runtime.generations().into_iter();
        all.find(|found| found.generation == generation).expect("it is in the registry")
    };
    let old = info(doubler);
    assert_eq!((old.state, old.holders.interfaces, old.mapped), (GenerationState::Draining, 1, true));
    assert!(old.since.elapsed().expect("a time that has passed").as_secs() < 60);

    ask_caller(&bus, "drop-kept").await;
    let unloaded = |wanted| {
        move |event: &RuntimeEvent| match event {
            RuntimeEvent::Unloaded { generation, unmapped, .. } if *generation == wanted => Some(*unmapped),
            _ => None,
        }
    };
    assert!(wait_for(&mut told, unloaded(doubler)).await);

    // A plugin that goes lets go of what it keeps.
    ask_caller(&bus, "keep").await;
    scratch.edit("doubler", "FACTOR: u64 = 3", "FACTOR: u64 = 4");
    let second = find("caller").generation;
    assert_eq!(second, caller);
    wait_for(&mut told, swapped).await;
    until(&bus, "call", "times 4: 84").await;
    assert!(runtime.unload("caller").await.expect("unloading").unmapped);
    let middle = wait_for(&mut told, |event| match event {
        RuntimeEvent::Unloaded { plugin, unmapped, .. } if plugin == "doubler" => Some(*unmapped),
        _ => None,
    });
    assert!(middle.await);
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}
