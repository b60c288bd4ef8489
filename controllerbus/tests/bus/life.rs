//! The life of a controller: each one's is its own. What one does not do in time costs nobody else anything.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::loading::LoadControllerWithConfig;
use controllerbus::bus::{Bus, RunState, Source};
use controllerbus::controller::factory::{Factory, erase};
use controllerbus::controller::{AnyController, BoxFuture, Info};
use controllerbus::prelude::*;

use crate::kit::{Words, factory, info, soon};

/// How long what is nobody else's business may take on the busiest machine.
const AT_ONCE: Duration = Duration::from_secs(4);

async fn at_once<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(AT_ONCE, work).await.unwrap_or_else(|_| panic!("{what} did not end within {AT_ONCE:?}"))
}

#[derive(Config, Serialize, Deserialize, PartialEq, Clone, Default)]
#[config(id = "test/good")]
struct GoodConfig {
    #[serde(default)]
    number: u64,
}

/// Harmless: answers with its number.
struct Good(u64);

impl Controller for Good {
    type Config = GoodConfig;
    async fn construct(config: GoodConfig, _: &Context) -> Result<Self> {
        Ok(Self(config.number))
    }
    fn routes(routes: &mut controllerbus::Routes<Self>) {
        routes.add::<Words>(|this, _, values| {
            values.add(format!("good {}", this.0));
            Box::pin(std::future::ready(Ok(())))
        });
    }
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/stubborn")]
struct StubbornConfig {
    #[serde(default)]
    number: u64,
}

/// Ignores that it is cancelled.
struct Stubborn;

impl Controller for Stubborn {
    type Config = StubbornConfig;
    async fn construct(_: StubbornConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }
    async fn execute(&self, _: &Context) -> Result<()> {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/black-hole")]
struct BlackHoleConfig {
    #[serde(default)]
    number: u64,
}

/// Waits in its constructor for what never comes.
struct BlackHole;

impl Controller for BlackHole {
    type Config = BlackHoleConfig;
    async fn construct(_: BlackHoleConfig, _: &Context) -> Result<Self> {
        std::future::pending().await
    }
}

fn bus() -> Bus {
    let bus = Bus::new();
    bus.add_factories(Source(1), vec![factory::<Good>("good", "1.0.0")]);
    bus.add_factories(Source(2), vec![factory::<Stubborn>("stubborn", "1.0.0")]);
    bus.add_factories(Source(3), vec![factory::<BlackHole>("black-hole", "1.0.0")]);
    bus
}

fn set(text: &str) -> ConfigSet {
    ConfigSet::from_yaml(text).expect("a config set")
}

async fn runs(bus: &Bus, key: &str) {
    let mut watch = bus.watch_config(key);
    soon(async { while !matches!(watch.next().await.map(|state| state.state), Some(RunState::Running(_))) {} }).await;
}

async fn others_go_on(bus: &Bus) {
    at_once("the apply of another key", bus.apply(set("good: { id: test/good, config: { number: 7 } }")))
        .await
        .unwrap();
    assert_eq!(*at_once("a request", bus.resolve(Words { number: 1 })).await.unwrap(), "good 7");
    let staging = bus.stage(Source(1), Source(11), vec![factory::<Good>("good", "1.1.0")], Duration::from_secs(20));
    let staged = at_once("the staging of another source", staging).await.expect("it is ready");
    at_once("its commit", staged.commit(Duration::ZERO)).await.expect("it is swapped");
    at_once("the removal of another source", bus.remove_source(Source(11))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_ignores_cancellation_keeps_nobody_else_waiting() {
    let bus = bus();
    bus.apply(set("stub: { id: test/stubborn, config: { number: 1 } }")).await.unwrap();
    runs(&bus, "stub").await;
    let changing = bus.clone();
    let changed = tokio::spawn(async move {
        changing.apply(set("stub: { id: test/stubborn, config: { number: 2 } }")).await.map(drop)
    });
    tokio::task::yield_now().await;
    others_go_on(&bus).await;
    soon(changed).await.expect("the apply of the stubborn one returns").unwrap();
    soon(bus.remove_source(Source(2))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constructor_that_waits_for_a_black_hole_keeps_nobody_else_waiting() {
    let bus = bus();
    let applying = bus.clone();
    let applied = tokio::spawn(async move { applying.apply(set("hole: { id: test/black-hole }")).await.map(drop) });
    let mut watch = bus.watch_config("hole");
    soon(async { while watch.next().await.map(|state| state.state) != Some(RunState::Constructing) {} }).await;
    others_go_on(&bus).await;
    applied.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_that_is_dropped_has_happened_all_the_same() {
    struct Slow(Arc<AtomicUsize>);
    impl Factory for Slow {
        fn info(&self) -> Info {
            info("test/slow")
        }
        fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                self.0.fetch_add(1, Ordering::SeqCst);
                Ok(erase(Good(1)))
            })
        }
    }
    let bus = bus();
    let made = Arc::<AtomicUsize>::default();
    bus.add_factories(Source(4), vec![Arc::new(Slow(Arc::clone(&made)))]);
    let applying = bus.apply(set("slow: { id: test/slow }"));
    assert!(tokio::time::timeout(Duration::from_millis(20), applying).await.is_err(), "it is slow");
    runs(&bus, "slow").await;
    assert_eq!(made.load(Ordering::SeqCst), 1);

    // While the one before is being closed.
    bus.apply(set("stub: { id: test/stubborn, config: { number: 1 } }")).await.unwrap();
    runs(&bus, "stub").await;
    let first = bus.config("stub").unwrap().state;
    let applying = bus.apply(set("stub: { id: test/stubborn, config: { number: 2 } }"));
    assert!(tokio::time::timeout(Duration::from_millis(20), applying).await.is_err(), "the first does not end soon");
    soon(async {
        while bus.config("stub").unwrap().state == first {
            tokio::task::yield_now().await;
        }
    })
    .await;
    runs(&bus, "stub").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_bus_closes_all_are_cancelled_at_once_and_each_is_closed() {
    struct Closes(Arc<AtomicBool>);
    impl Controller for Closes {
        type Config = GoodConfig;
        async fn construct(_: GoodConfig, _: &Context) -> Result<Self> {
            Err(Error::msg("it is made by hand"))
        }
        async fn close(&self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let bus = bus();
    bus.add_controller(erase(Stubborn), info("test/stubborn"));
    let closed = Arc::<AtomicBool>::default();
    bus.add_controller(erase(Closes(Arc::clone(&closed))), info("test/closes"));
    let closing = bus.clone();
    let all = tokio::spawn(async move { closing.close().await });
    soon(async {
        while !closed.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    soon(all).await.expect("closing ends though one controller does not");
}

/// Asks in its constructor for another controller.
struct Nested;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/nested")]
struct NestedConfig {}

impl Controller for Nested {
    type Config = NestedConfig;
    async fn construct(_: NestedConfig, context: &Context) -> Result<Self> {
        let wanted = LoadControllerWithConfig::of(&GoodConfig { number: 3 })?;
        let mut request = context.bus().request(wanted)?;
        request.value().await?;
        let words = context.resolve(Words { number: 1 }).await?;
        if *words == "good 3" { Ok(Self) } else { Err(Error::msg(format!("{words}?"))) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constructor_may_ask_for_other_controllers() {
    let bus = bus();
    bus.add_factories(Source(5), vec![factory::<Nested>("nested", "1.0.0")]);
    at_once("the apply", bus.apply(set("nested: { id: test/nested }"))).await.unwrap();
    runs(&bus, "nested").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn constructors_run_side_by_side() {
    struct Meets(Arc<tokio::sync::Barrier>);
    impl Factory for Meets {
        fn info(&self) -> Info {
            info("test/meets")
        }
        fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
            Box::pin(async move {
                self.0.wait().await;
                Ok(erase(Good(1)))
            })
        }
    }
    let bus = bus();
    bus.add_factories(Source(6), vec![Arc::new(Meets(Arc::new(tokio::sync::Barrier::new(3))))]);
    let three = "a: { id: test/meets, config: { n: 1 } }\nb: { id: test/meets, config: { n: 2 } }\nc: { id: test/meets, config: { n: 3 } }\n";
    at_once("the apply of three that wait for each other", bus.apply(set(three))).await.unwrap();
    assert_eq!(bus.controllers().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_configs_share_one_controller_until_the_last_key_lets_it_go() {
    let bus = bus();
    let two = "a: { id: test/good, config: { number: 1 } }\nb: { id: test/good, config: { number: 1 } }\n";
    bus.apply(set(two)).await.unwrap();
    assert_eq!(bus.controllers().len(), 1);
    assert_eq!(bus.config("a").unwrap().state, bus.config("b").unwrap().state);
    let running = bus.controllers()[0].id;
    bus.apply(set("a: { id: test/good, config: { number: 2 } }")).await.unwrap();
    assert_eq!(bus.controllers().len(), 2);
    assert_eq!(bus.config("b").unwrap().state, RunState::Running(running));
    bus.apply(set("a: { id: test/good, config: { number: 1 } }")).await.unwrap();
    assert_eq!(bus.controllers().len(), 1);
    assert!(bus.remove_config("b").await);
    assert_eq!(bus.config("a").unwrap().state, RunState::Running(running));
    assert!(bus.remove_config("a").await);
    assert!(bus.controllers().is_empty());
}

/// Notes how it is treated.
type Log = Arc<Mutex<Vec<&'static str>>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_cannot_be_used_leaves_the_one_before_running() {
    let bus = bus();
    bus.apply(set("good: { id: test/good, config: { number: 1 } }")).await.unwrap();
    let running = bus.config("good").unwrap().state;
    bus.apply(set("good: { id: test/good, config: { number: many }, revision: 1 }")).await.unwrap();
    assert_eq!(*at_once("a request", bus.resolve(Words { number: 1 })).await.unwrap(), "good 1");
    let state = bus.config("good").unwrap();
    assert_eq!(state.state, running);
    let problem = state.problem.expect("a problem").to_string();
    assert!(problem.contains("number"), "{problem}");
    let log = Log::default();
    drop(log);
}
