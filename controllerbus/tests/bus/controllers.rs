//! Controllers: execution, retries, close, several of one kind; factories and the directives that ask for controllers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use controllerbus::bus::loading::{
    ApplyConfigSet, ExecController, ExecState, LoadConfig, LoadControllerWithConfig, LoadFactory,
};
use controllerbus::bus::{Bus, Execution, RunState, Source};
use controllerbus::controller::factory::erase;
use controllerbus::prelude::*;

use crate::kit::{NoConfig, Words, answers, factory, info, resolver, soon};

/// What happened to a controller, in order.
type Log = Arc<Mutex<Vec<&'static str>>>;

struct Flaky {
    log: Log,
    tries: AtomicUsize,
    clean: bool,
}

impl Controller for Flaky {
    type Config = NoConfig;

    async fn construct(_: NoConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("it is made by hand"))
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        let number = self.tries.fetch_add(1, Ordering::Relaxed);
        self.log.lock().unwrap().push("execute");
        match number {
            _ if self.clean => Ok(()),
            0 => Err(Error::msg("the first time fails")),
            1 => panic!("the second time panics"),
            _ => {
                context.cancelled().await;
                self.log.lock().unwrap().push("cancelled");
                Ok(())
            }
        }
    }

    async fn close(&self) {
        self.log.lock().unwrap().push("close");
    }
}

fn flaky(clean: bool) -> (Log, Arc<dyn controllerbus::controller::AnyController>) {
    let log = Log::default();
    (Arc::clone(&log), erase(Flaky { log, tries: AtomicUsize::new(0), clean }))
}

async fn until(bus: &Bus, reached: impl Fn(&Bus) -> bool) {
    let mut changes = bus.changes();
    soon(async {
        while !reached(bus) {
            changes.changed().await.expect("the bus is there");
        }
    })
    .await;
}

#[tokio::test]
async fn execution_is_tried_again_after_an_error_and_a_panic_and_close_is_called_once() {
    let bus = Bus::new();
    let (log, controller) = flaky(false);
    let id = bus.add_controller(controller, info("test/flaky"));
    until(&bus, |bus| {
        matches!(&bus.controllers()[0].execution, Execution::Failed { error, .. } if error.to_string().contains("first"))
    })
    .await;
    until(&bus, |bus| {
        matches!(&bus.controllers()[0].execution, Execution::Failed { error, .. } if error.to_string().contains("panics"))
    })
    .await;
    until(&bus, |bus| log.lock().unwrap().len() == 3 && bus.controllers()[0].execution == Execution::Running).await;
    assert!(bus.remove_controller(id).await);
    assert!(!bus.remove_controller(id).await);
    assert_eq!(*log.lock().unwrap(), ["execute", "execute", "execute", "cancelled", "close"]);
}

#[tokio::test]
async fn a_clean_end_is_no_reason_to_execute_again_and_the_controller_goes_on_answering() {
    let bus = Bus::new();
    let (log, controller) = flaky(true);
    let id = bus.add_controller(controller, info("test/flaky"));
    until(&bus, |bus| bus.controllers()[0].execution == Execution::Ended).await;
    bus.remove_controller(id).await;
    assert_eq!(*log.lock().unwrap(), ["execute", "close"]);
}

#[tokio::test]
async fn several_controllers_of_one_kind_all_answer() {
    let bus = Bus::new();
    answers(&bus, "a");
    answers(&bus, "b");
    assert_eq!(soon(bus.resolve_all(Words { number: 1 })).await.unwrap().len(), 2);
    let ids: Vec<_> = bus.controllers().iter().map(|controller| controller.info.id.clone()).collect();
    assert_eq!(ids, ["test/closure", "test/closure"]);
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/versioned")]
struct VersionedConfig {
    #[serde(default)]
    fail: bool,
}

/// Answers with the version that it was made with.
struct Versioned(String);

impl Controller for Versioned {
    type Config = VersionedConfig;

    async fn construct(config: VersionedConfig, context: &Context) -> Result<Self> {
        if config.fail { Err(Error::msg("it was told to fail")) } else { Ok(Self(context.info().version.to_string())) }
    }

    fn routes(routes: &mut controllerbus::Routes<Self>) {
        routes.add::<Words>(|this, _, values| {
            values.add(this.0.clone());
            Box::pin(std::future::ready(Ok(())))
        });
    }
}

fn versions(bus: &Bus, source: u64, versions: &[&str]) {
    let factories = versions.iter().map(|version| factory::<Versioned>("versioned", version)).collect();
    bus.add_factories(Source(source), factories);
}

async fn version(bus: &Bus) -> String {
    soon(bus.resolve(Words { number: 1 })).await.expect("a value").to_string()
}

#[tokio::test]
async fn the_highest_version_is_used_and_a_range_can_be_asked_for() {
    let bus = Bus::new();
    versions(&bus, 1, &["1.2.0", "2.0.0-rc.1"]);
    versions(&bus, 2, &["1.10.0", "1.9.0"]);
    bus.apply(ConfigSet::from_yaml("v: { id: test/versioned, version: ^1 }").unwrap()).await.unwrap();
    assert_eq!(version(&bus).await, "1.10.0");
    bus.apply(ConfigSet::from_yaml("v: { id: test/versioned, version: <1.10, revision: 1 }").unwrap()).await.unwrap();
    assert_eq!(version(&bus).await, "1.9.0");
    bus.apply(ConfigSet::from_yaml("v: { id: test/versioned, revision: 2 }").unwrap()).await.unwrap();
    assert_eq!(version(&bus).await, "2.0.0-rc.1");
}

#[tokio::test]
async fn when_a_source_goes_its_configs_use_another_factory_or_wait() {
    let bus = Bus::new();
    versions(&bus, 1, &["1.0.0"]);
    versions(&bus, 2, &["2.0.0"]);
    bus.apply(ConfigSet::from_yaml("v: { id: test/versioned }").unwrap()).await.unwrap();
    assert_eq!(version(&bus).await, "2.0.0");
    bus.remove_source(Source(2)).await;
    assert_eq!(version(&bus).await, "1.0.0");
    bus.remove_source(Source(1)).await;
    assert_eq!(bus.config("v").unwrap().state, RunState::Queued);
    versions(&bus, 3, &["3.0.0"]);
    assert_eq!(version(&bus).await, "3.0.0");
}

#[tokio::test]
async fn controllers_can_ask_for_factories_and_for_what_is_known_of_a_config() {
    let bus = Bus::new();
    let wanted = LoadFactory { config_id: "test/versioned".into(), version: Some("^1".parse().unwrap()) };
    assert_eq!(soon(bus.try_resolve(wanted.clone())).await.unwrap(), None);
    let mut request = bus.request(wanted).unwrap();
    versions(&bus, 1, &["1.0.0", "2.0.0"]);
    assert_eq!(soon(request.value()).await.unwrap().info.version.to_string(), "1.0.0");
    versions(&bus, 2, &["1.5.0"]);
    let found = soon(request.value()).await.unwrap();
    assert_eq!((found.info.version.to_string(), found.source), ("1.5.0".to_owned(), Source(2)));

    let known = soon(bus.resolve(LoadConfig { config_id: "test/versioned".into() })).await.unwrap();
    assert_eq!(known.versions.iter().map(ToString::to_string).collect::<Vec<_>>(), ["2.0.0", "1.5.0", "1.0.0"]);
    assert_eq!(known.schema["properties"]["fail"]["type"], "boolean");
    // The bus itself is on no list.
    assert!(bus.controllers().is_empty());
}

#[tokio::test]
async fn a_controller_that_is_asked_for_runs_while_somebody_asks() {
    let bus = Bus::new();
    let wanted = LoadControllerWithConfig::of(&VersionedConfig { fail: false }).unwrap();
    let mut request = bus.request(wanted.clone()).unwrap();
    versions(&bus, 1, &["1.0.0"]);
    let running = soon(request.value()).await.unwrap();
    assert_eq!(bus.controllers()[0].id, running.id);
    let mut second = bus.request(wanted).unwrap();
    assert_eq!(soon(second.value()).await.unwrap().id, running.id);
    drop(request);
    assert_eq!(bus.controllers().len(), 1);
    drop(second);
    until(&bus, |bus| bus.controllers().is_empty() && bus.configs().is_empty()).await;
}

#[tokio::test]
async fn whoever_asks_for_a_controller_that_fails_is_told_why_and_it_is_tried_again() {
    let bus = Bus::new();
    versions(&bus, 1, &["1.0.0"]);
    let wanted = LoadControllerWithConfig::of(&VersionedConfig { fail: true }).unwrap();
    let error = soon(bus.resolve(wanted.clone())).await.expect_err("it fails");
    assert!(error.to_string().contains("told to fail"), "{error}");
    let mut states = bus.request(ExecController { load: wanted }).unwrap();
    let mut failures = 0;
    while failures < 2 {
        if let ExecState::Failed(error) = &*soon(states.value()).await.unwrap() {
            assert!(error.to_string().contains("told to fail"), "{error}");
            failures += 1;
        }
    }
    drop(states);
    let good = LoadControllerWithConfig::of(&VersionedConfig { fail: false }).unwrap();
    let mut states = bus.request(ExecController { load: good }).unwrap();
    soon(async { while !matches!(&*states.value().await.unwrap(), ExecState::Running(_)) {} }).await;
    let bad = LoadControllerWithConfig::by_id("test/versioned", "{");
    let error = soon(bus.resolve(bad)).await.expect_err("no JSON");
    assert!(error.to_string().contains("not valid JSON"), "{error}");
}

#[tokio::test]
async fn a_config_set_that_a_directive_applies_is_withdrawn_with_it() {
    let bus = Bus::new();
    versions(&bus, 1, &["1.0.0"]);
    bus.apply(ConfigSet::from_yaml("v: { id: test/versioned, revision: 1 }").unwrap()).await.unwrap();
    let own = bus.controllers()[0].id;
    let set = "v: { id: test/versioned, revision: 2, config: { fail: true } }\nw: { id: test/versioned }\n";
    let mut request = bus.request(ApplyConfigSet { set: set.into() }).unwrap();
    soon(async {
        loop {
            let standing: Vec<_> = request.standing().cloned().collect();
            let failed = standing.iter().any(|key| key.key == "v" && key.revision == 2 && key.problem.is_some());
            let runs = standing.iter().any(|key| key.key == "w" && key.controller.is_some());
            if failed && runs {
                return;
            }
            request.next().await.expect("it stands");
        }
    })
    .await;
    drop(request);
    until(&bus, |bus| {
        bus.config("w").is_none() && matches!(bus.config("v").map(|v| v.state), Some(RunState::Running(_)))
    })
    .await;
    // What could not be made took nothing down.
    assert_eq!(bus.controllers()[0].id, own);
    assert!(bus.request(ApplyConfigSet { set: "v: [".into() }).is_err());
}

#[tokio::test]
async fn resolvers_may_ask_the_bus_they_run_on() {
    let bus = Bus::new();
    let inner = bus.handle();
    resolver(&bus, move |request, values| {
        let inner = inner.clone();
        async move {
            if request.number == 0 {
                values.add("the bottom".to_owned());
                return Ok(());
            }
            let below = inner.resolve(Words { number: request.number - 1 }).await?;
            values.add(format!("above {below}"));
            Ok(())
        }
    });
    let deep = soon(bus.resolve(Words { number: 60 })).await.unwrap();
    assert_eq!(deep.matches("above").count(), 60);
}
