//! The life of a controller: each one's is its own. What one does not do in time costs nobody else anything.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::loading::LoadControllerWithConfig;
use controllerbus::bus::{Bus, Execution, Limits, RunState, Source};
use controllerbus::controller::factory::{Factory, erase};
use controllerbus::controller::{AnyController, BoxFuture, Info};
use controllerbus::prelude::*;

use crate::kit::{Words, factory, info, resolver_of, soon};

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

#[tokio::test(start_paused = true)]
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
    // One that is not executed yet ends at once.
    let has_begun = || bus.controllers().iter().any(|found| found.info.id == "stubborn" && found.begun);
    soon(async {
        while !has_begun() {
            tokio::task::yield_now().await;
        }
    })
    .await;
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

#[tokio::test(start_paused = true)]
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

/// Waits until a controller answers this.
async fn answers(bus: &Bus, wanted: &str) {
    let asking = async {
        loop {
            let answer = bus.resolve(Words { number: 1 }).await.unwrap();
            if *answer == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(asking).await;
}

/// Waits until there is one controller.
async fn is_alone(bus: &Bus) {
    let mut changes = bus.changes();
    soon(async {
        while bus.controllers().len() != 1 {
            changes.changed().await.unwrap();
        }
    })
    .await;
}

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
    let pending = state.pending.expect("it is pending");
    assert_eq!((state.revision, pending.running_revision), (1, 0));
    // It cannot succeed, and so is not tried again by itself.
    assert!(matches!(pending.state, RunState::Failed { retry_in: None, .. }), "{:?}", pending.state);
    // Code that can use it may come later.
    let lenient = vec![factory::<Lenient>("good", "1.0.0")];
    let staged = bus.stage(Source(1), Source(11), lenient, Duration::from_secs(20)).await.expect("it is ready");
    staged.commit(Duration::ZERO).await.expect("it is swapped");
    let mut watch = bus.watch_config("good");
    soon(async { while watch.next().await.is_some_and(|state| state.pending.is_some()) {} }).await;
    // What ran until then may be asked until it has been dismissed.
    answers(&bus, "lenient many").await;
    is_alone(&bus).await;
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/good")]
struct LenientConfig {
    number: serde_json::Value,
}

/// Takes any number.
struct Lenient(serde_json::Value);

impl Controller for Lenient {
    type Config = LenientConfig;
    async fn construct(config: LenientConfig, _: &Context) -> Result<Self> {
        Ok(Self(config.number))
    }
    fn routes(routes: &mut controllerbus::Routes<Self>) {
        routes.add::<Words>(|this, _, values| {
            let number = this.0.as_str().map_or_else(|| this.0.to_string(), str::to_owned);
            values.add(format!("lenient {number}"));
            Box::pin(std::future::ready(Ok(())))
        });
    }
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/good")]
struct WordyConfig {
    number: String,
}

/// Takes words, and no number.
struct Wordy(String);

impl Controller for Wordy {
    type Config = WordyConfig;
    async fn construct(config: WordyConfig, _: &Context) -> Result<Self> {
        Ok(Self(config.number))
    }
    fn routes(routes: &mut controllerbus::Routes<Self>) {
        routes.add::<Words>(|this, _, values| {
            values.add(format!("wordy {}", this.0));
            Box::pin(std::future::ready(Ok(())))
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_needs_another_config_takes_over_with_that_one_if_it_is_there_already() {
    let bus = bus();
    bus.apply(set("good: { id: test/good, config: { number: 1 } }\nother: { id: test/good, config: { number: 1 } }"))
        .await
        .unwrap();
    bus.apply(set("good: { id: test/good, config: { number: many } }")).await.unwrap();
    let wordy =
        |source| bus.stage(Source(1), Source(source), vec![factory::<Wordy>("good", "1.0.0")], Duration::from_secs(20));
    // It cannot take over from what another key asks for as it is.
    let refused = wordy(11).await.expect_err("there is nothing that it can use").to_string();
    assert!(refused.contains("number"), "{refused}");
    assert_eq!(*at_once("a request", bus.resolve(Words { number: 1 })).await.unwrap(), "good 1");
    bus.apply(set("other: { id: test/good, config: { number: many } }")).await.unwrap();
    // What is rolled back leaves the config to be tried by others.
    drop(wordy(12).await.expect("it is ready"));
    let pending = || bus.config("good").and_then(|state| state.pending).expect("it is pending");
    assert!(matches!(pending().state, RunState::Failed { .. }), "{:?}", pending().state);
    let staged = wordy(13).await.expect("it is ready");
    let standing = bus.request(Words { number: 2 }).unwrap();
    staged.commit(Duration::ZERO).await.expect("it is swapped").drained().await;
    assert_eq!(*at_once("a request", bus.resolve(Words { number: 1 })).await.unwrap(), "wordy many");
    drop(standing);
    for key in ["good", "other"] {
        let state = bus.config(key).unwrap();
        assert!(state.pending.is_none() && matches!(state.state, RunState::Running(_)), "{state:?}");
    }
    is_alone(&bus).await;
    assert!(bus.remove_config("good").await && bus.remove_config("other").await);
    assert!(bus.controllers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_changes_again_while_code_for_it_is_staged_is_not_what_runs() {
    let bus = bus();
    bus.apply(set("good: { id: test/good, config: { number: 1 } }")).await.unwrap();
    bus.apply(set("good: { id: test/good, config: { number: many } }")).await.unwrap();
    let wordy = vec![factory::<Wordy>("good", "1.0.0")];
    let staged = bus.stage(Source(1), Source(11), wordy, Duration::from_secs(20)).await.expect("it is ready");
    bus.apply(set("good: { id: test/good, config: { number: more } }")).await.unwrap();
    staged.commit(Duration::ZERO).await.expect("it is swapped").drained().await;
    answers(&bus, "wordy more").await;
    is_alone(&bus).await;
}

/// What happened to a controller, in order.
type Log = Arc<Mutex<Vec<&'static str>>>;

/// Ends only as it is told to.
struct Odd {
    log: Log,
    /// It blocks its thread until this is set.
    blocks: Option<Arc<AtomicBool>>,
    hangs: bool,
}

impl Controller for Odd {
    type Config = GoodConfig;
    async fn construct(_: GoodConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("it is made by hand"))
    }
    async fn execute(&self, context: &Context) -> Result<()> {
        self.log.lock().unwrap().push("executes");
        context.cancelled().await;
        self.log.lock().unwrap().push("cancelled");
        if let Some(until) = &self.blocks {
            while !until.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
    async fn close(&self) {
        self.log.lock().unwrap().push("close");
        if self.hangs {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        self.log.lock().unwrap().push("dropped");
        if self.hangs {
            panic!("a destructor panics");
        }
    }
}

async fn logged(log: &Log, count: usize) {
    soon(async {
        while log.lock().unwrap().len() < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn impatient() -> Bus {
    Bus::with_limits(Limits::default().cancel(Duration::from_millis(50)).close(Duration::from_millis(50)))
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_limit_execute_is_dropped_and_close_is_called_and_that_is_dropped_too() {
    let (bus, log) = (impatient(), Log::default());
    let odd = Odd { log: Arc::clone(&log), blocks: None, hangs: true };
    let id = bus.add_controller(erase(odd), info("test/odd"));
    logged(&log, 1).await;
    assert!(at_once("the removal", bus.remove_controller(id)).await);
    assert!(bus.leaving().is_empty(), "{:?}", bus.leaving());
    logged(&log, 4).await;
    assert_eq!(*log.lock().unwrap(), ["executes", "cancelled", "close", "dropped"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_blocks_its_thread_is_shown_as_stuck_and_closed_when_it_ends_after_all() {
    let (bus, log, until) = (impatient(), Log::default(), Arc::<AtomicBool>::default());
    let odd = Odd { log: Arc::clone(&log), blocks: Some(Arc::clone(&until)), hangs: false };
    let id = bus.add_controller(erase(odd), info("test/odd"));
    logged(&log, 1).await;
    assert!(at_once("the removal", bus.remove_controller(id)).await);
    assert!(bus.controllers().is_empty());
    let mut changes = bus.changes();
    let stuck = |bus: &Bus| bus.leaving().iter().any(|left| left.execution == Execution::Stuck { what: "execute" });
    soon(async {
        while !stuck(&bus) {
            changes.changed().await.expect("the bus is there");
        }
    })
    .await;
    assert_eq!(*log.lock().unwrap(), ["executes", "cancelled"]);
    until.store(true, Ordering::SeqCst);
    soon(async {
        while !bus.leaving().is_empty() {
            changes.changed().await.expect("the bus is there");
        }
    })
    .await;
    assert_eq!(log.lock().unwrap()[..3], ["executes", "cancelled", "close"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_changes_while_a_generation_is_staged_is_what_the_new_generation_runs() {
    let bus = bus();
    bus.apply(set("good: { id: test/good, config: { number: 1 } }")).await.unwrap();
    let staging = bus.stage(Source(1), Source(11), vec![factory::<Good>("good", "1.1.0")], Duration::from_secs(20));
    let staged = soon(staging).await.expect("it is ready");
    at_once("the apply", bus.apply(set("good: { id: test/good, config: { number: 2 } }"))).await.unwrap();
    bus.apply(set("more: { id: test/good, config: { number: 3 } }")).await.unwrap();
    soon(staged.commit(Duration::ZERO)).await.expect("it is swapped").drained().await;
    let versions: Vec<_> = bus.controllers().iter().map(|found| found.info.version.to_string()).collect();
    assert_eq!(versions, ["1.1.0", "1.1.0"]);
    let mut words = soon(bus.resolve_all(Words { number: 1 })).await.unwrap();
    words.sort();
    assert_eq!(words.iter().map(|word| word.as_str()).collect::<Vec<_>>(), ["good 2", "good 3"]);
    assert!(bus.configs().iter().all(|config| matches!(config.state, RunState::Running(_))));

    // And a key that goes meanwhile stays gone.
    let staging = bus.stage(Source(11), Source(12), vec![factory::<Good>("good", "1.2.0")], Duration::from_secs(20));
    let staged = soon(staging).await.expect("it is ready");
    assert!(bus.remove_config("more").await);
    soon(staged.commit(Duration::ZERO)).await.expect("it is swapped").drained().await;
    assert_eq!(bus.controllers().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_staged_constructor_asks_is_answered_by_the_generation_that_serves() {
    let bus = bus();
    bus.add_factories(Source(5), vec![factory::<Nested>("nested", "1.0.0"), factory::<Good>("good", "2.0.0")]);
    bus.apply(set("nested: { id: test/nested }")).await.unwrap();
    runs(&bus, "nested").await;
    let next = vec![factory::<Nested>("nested", "1.1.0"), factory::<Good>("good", "2.1.0")];
    let staged = soon(bus.stage(Source(5), Source(15), next, Duration::from_secs(20))).await.expect("it is ready");
    soon(staged.commit(Duration::ZERO)).await.expect("it is swapped");
    runs(&bus, "nested").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_owner_takes_back_its_own_configs_only() {
    let bus = bus();
    let shared = || set("shared: { id: test/good, config: { number: 1 } }");
    let (first, second) = (bus.config_owner(), bus.config_owner());
    first.apply(shared()).await.unwrap();
    second.apply(shared()).await.unwrap();
    bus.apply(shared()).await.unwrap();
    let running = bus.config("shared").unwrap().state;
    drop(first);
    second.withdraw().await;
    assert_eq!(bus.config("shared").unwrap().state, running);
    assert_eq!(bus.controllers().len(), 1);
    assert!(bus.remove_config("shared").await);
    assert!(bus.controllers().is_empty() && bus.configs().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_applies_last_counts_also_with_a_lower_revision() {
    let bus = bus();
    let file = bus.config_owner();
    for (revision, number) in [(5, 1), (4, 2), (1, 3)] {
        let text = format!("good: {{ id: test/good, revision: {revision}, config: {{ number: {number} }} }}");
        file.apply(set(&text)).await.unwrap();
        assert_eq!(bus.config("good").unwrap().revision, revision);
        let words = at_once("a request", bus.resolve(Words { number: 1 })).await.unwrap();
        assert_eq!(*words, format!("good {number}"));
    }
    file.apply(set("other: { id: test/good }")).await.unwrap();
    assert_eq!(bus.configs().iter().map(|state| state.key.clone()).collect::<Vec<_>>(), ["other"]);
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_went_well_for_a_while_is_tried_again_soon_when_it_fails() {
    /// Fails each time it is told to.
    struct Fails(tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<()>>);
    impl Controller for Fails {
        type Config = GoodConfig;
        async fn construct(_: GoodConfig, _: &Context) -> Result<Self> {
            Err(Error::msg("it is made by hand"))
        }
        async fn execute(&self, _: &Context) -> Result<()> {
            self.0.lock().await.recv().await;
            Err(Error::msg("it fails"))
        }
    }
    let bus = Bus::new();
    let (fail, fails) = tokio::sync::mpsc::unbounded_channel();
    bus.add_controller(erase(Fails(tokio::sync::Mutex::new(fails))), info("test/fails"));
    let mut changes = bus.changes();
    let mut retry_in = async || loop {
        if let Execution::Failed { retry_in, .. } = bus.controllers()[0].execution {
            while bus.controllers()[0].execution != Execution::Running {
                changes.changed().await.expect("the bus is there");
            }
            return retry_in;
        }
        changes.changed().await.expect("the bus is there");
    };
    let mut waits = Vec::new();
    for _ in 0..8 {
        fail.send(()).unwrap();
        waits.push(retry_in().await);
    }
    assert!(waits[7] > Duration::from_secs(1), "{waits:?}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    fail.send(()).unwrap();
    let wait = retry_in().await;
    assert!(wait <= Duration::from_millis(100), "{wait:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn destructors_that_panic_cost_nobody_anything() {
    #[derive(Serialize, Deserialize)]
    struct Bad(u64);
    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("the destructor of a value panics");
        }
    }
    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "life/bad", value = Bad)]
    struct GetBad(u64);
    let bus = bus();
    resolver_of::<GetBad, _>(&bus, |request, values| {
        for number in 0..3 {
            values.add(Bad(request.0 + number));
        }
        values.on_gone(|| panic!("a callback panics"));
        std::future::ready(Ok(()))
    });
    for number in 0..3 {
        drop(bus.request(GetBad(number)).unwrap());
    }
    let log = Log::default();
    let odd = Odd { log: Arc::clone(&log), blocks: None, hangs: true };
    let id = bus.add_controller(erase(odd), info("test/odd"));
    drop(bus.remove_controller(id));
    others_go_on(&bus).await;
    assert!(bus.directives().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_applied_answers_when_the_apply_returns() {
    let bus = bus();
    let stop = Arc::new(AtomicBool::new(false));
    // Others change something all the time, so that whoever waits for a change looks often.
    let others: Vec<_> = (0..3)
        .map(|other| {
            let (bus, stop) = (bus.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let text = format!("other{other}: {{ id: test/unknown }}");
                    bus.apply(set(&text)).await.unwrap();
                    bus.remove_config(&format!("other{other}")).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for number in 0..200 {
        bus.apply(set(&format!("good: {{ id: test/good, config: {{ number: {number} }} }}"))).await.unwrap();
        let answers = soon(bus.resolve_all(Words { number })).await.unwrap();
        let answers: Vec<_> = answers.iter().map(|answer| answer.as_str()).collect();
        assert_eq!(answers, [format!("good {number}")]);
        assert!(bus.remove_config("good").await);
    }
    stop.store(true, Ordering::SeqCst);
    for other in others {
        other.await.unwrap();
    }
}

/// On one thread, because what happens between a step of the bus and the next one is the point.
#[tokio::test]
async fn a_config_that_is_asked_for_again_while_its_controller_is_replaced_runs_and_ends_as_any_other() {
    let steps = async {
        let bus = Bus::new();
        bus.add_factories(Source(1), vec![factory::<Good>("good", "1.0.0")]);
        let running = |bus: &Bus, key: &str| match bus.config(key)?.state {
            RunState::Running(id) => Some(id),
            _ => None,
        };
        bus.apply(set("a: { id: test/good, config: { number: 1 } }")).await.unwrap();
        runs(&bus, "a").await;
        let first = running(&bus, "a");
        let mut watch = bus.watch_config("a");
        let changing = bus.clone();
        let changed =
            tokio::spawn(
                async move { changing.apply(set("a: { id: test/good, config: { number: 2 } }")).await.map(drop) },
            );
        soon(async {
            while matches!(running(&bus, "a"), id if id.is_none() || id == first) {
                watch.next().await;
            }
        })
        .await;
        // The second has taken over, and the first is about to end.
        bus.apply(set("b: { id: test/good, config: { number: 1 } }")).await.unwrap();
        changed.await.unwrap().unwrap();
        runs(&bus, "b").await;
        let there: Vec<_> = bus.controllers().iter().map(|found| found.id).collect();
        for key in ["a", "b"] {
            let id = running(&bus, key).expect("it runs");
            assert!(there.contains(&id), "{key} runs as {id:?}, and {there:?} are on the bus");
        }
        bus.remove_source(Source(1)).await;
        soon(async {
            while !bus.leaving().is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    };
    tokio::spawn(steps).await.unwrap();
}
