//! The testing kit, as a test uses it.
#![allow(missing_docs)]

use std::sync::Mutex;
use std::time::Duration;

use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;
use controllerbus::testing::{TestBus, TestEvent};
use tokio::time::Instant;

/// Adds to a sum, and asks for it.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/add", value = u64, unmerged)]
pub struct Add(pub u64);

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/sum")]
pub struct SumConfig {}

mod one {
    use super::*;

    #[derive(State, Default)]
    struct Kept {
        sum: u64,
    }

    #[derive(Default)]
    pub struct Sum {
        kept: Mutex<Kept>,
    }

    #[hot_plugin(id = "test/sum-one", version = "1.0.0", state = kept)]
    impl Controller for Sum {
        type Config = SumConfig;

        async fn construct(_: SumConfig, _: &Context) -> Result<Self> {
            Ok(Self::default())
        }

        #[resolves]
        async fn add(&self, request: Add) -> Result<u64> {
            let mut kept = self.kept.lock().unwrap();
            kept.sum += request.0;
            Ok(kept.sum)
        }
    }
}

/// It ends before its successor is made, and wants to have been at 5 at least.
mod two {
    use super::*;

    #[derive(Default)]
    pub struct Sum {
        total: Mutex<u64>,
    }

    #[hot_plugin(id = "test/sum-two", version = "2.0.0", swap = "stop-first")]
    impl Controller for Sum {
        type Config = SumConfig;

        async fn construct(_: SumConfig, _: &Context) -> Result<Self> {
            Ok(Self::default())
        }

        async fn execute(&self, context: &Context) -> Result<()> {
            tracing::debug!(total = *self.total.lock().unwrap(), "going on");
            context.cancelled().await;
            Ok(())
        }

        async fn restore(&self, state: State) -> Result<()> {
            #[derive(Deserialize)]
            struct Kept {
                sum: u64,
            }
            let kept: Kept = state.decode()?;
            if kept.sum < 5 {
                return Err(Error::msg(format!("{} is too little", kept.sum)));
            }
            *self.total.lock().unwrap() = kept.sum;
            Ok(())
        }

        #[resolves]
        async fn add(&self, request: Add) -> Result<u64> {
            let mut total = self.total.lock().unwrap();
            *total += request.0;
            Ok(*total)
        }
    }
}

/// Fails to be made as often as it is told.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/flaky")]
struct FlakyConfig {
    fails: usize,
}

struct Flaky;

static TRIES: Mutex<Vec<Instant>> = Mutex::new(Vec::new());

#[hot_plugin(id = "test/flaky", version = "1.0.0")]
impl Controller for Flaky {
    type Config = FlakyConfig;

    async fn construct(config: FlakyConfig, _: &Context) -> Result<Self> {
        let mut tries = TRIES.lock().unwrap();
        tries.push(Instant::now());
        if tries.len() <= config.fails { Err(Error::msg(format!("no {}", tries.len()))) } else { Ok(Self) }
    }
}

/// A question that takes a day.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/ponder", value = u64, keep_for_ms = 3_600_000)]
struct Ponder {}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/thinker")]
struct ThinkerConfig {}

struct Thinker;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[hot_plugin(id = "test/thinker", version = "1.0.0")]
impl Controller for Thinker {
    type Config = ThinkerConfig;

    async fn construct(_: ThinkerConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn ponder(&self, _: Ponder) -> Result<u64> {
        tokio::time::sleep(DAY).await;
        Ok(42)
    }
}

/// What stays in the binary.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/live", value = std::sync::Arc<Mutex<u64>>, local)]
struct Live {}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/lively")]
struct LivelyConfig {}

struct Lively;

#[hot_plugin(id = "test/lively", version = "1.0.0")]
impl Controller for Lively {
    type Config = LivelyConfig;

    async fn construct(_: LivelyConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    async fn execute(&self, _: &Context) -> Result<()> {
        Ok(())
    }

    #[resolves]
    async fn live(&self, _: Live, values: Values<std::sync::Arc<Mutex<u64>>>) -> Result<()> {
        values.add(std::sync::Arc::new(Mutex::new(7)));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn retries_that_take_minutes_are_over_at_once_and_each_waits_as_long_as_it_says() {
    let real = std::time::Instant::now();
    let bus = TestBus::new().within(DAY);
    let error = bus.run(FlakyConfig { fails: 12 }).await.expect_err("the first try fails").to_string();
    assert!(error.contains("no 1"), "{error}");
    bus.until_running("test/flaky").await.unwrap();
    let tries = TRIES.lock().unwrap().clone();
    assert_eq!(tries.len(), 13);
    let waits: Vec<_> = tries.windows(2).map(|two| two[1] - two[0]).collect();
    // From 100 ms, twice as long each time, to 30 s; and half of it at least.
    for (number, wait) in waits.iter().enumerate() {
        let full = Duration::from_millis((100 << number).min(30_000));
        assert!(*wait >= full / 2 && *wait <= full + Duration::from_millis(2), "{number}: {wait:?}");
    }
    let mut events = bus.events();
    for number in 1..=12 {
        events.until(&format!("no {number}; it is tried again in")).await.unwrap();
    }
    events.until("test/flaky: test/flaky 1.0.0 runs").await.unwrap();
    assert!(real.elapsed() < Duration::from_secs(20), "{:?}", real.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_directive_is_kept_and_a_wait_limited_by_the_clock_of_the_test_which_stops_at_whatever_is_due() {
    let bus = TestBus::new().within(2 * DAY);
    bus.run(ThinkerConfig {}).await.unwrap();
    let begun = Instant::now();
    let late = bus.resolve(Ponder {}).within(Duration::from_secs(5)).await.expect_err("it takes a day").to_string();
    assert!(late.contains("`test/thinker` (controller") && late.contains("is still working on it"), "{late}");
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    // It is still kept, and so at work since then.
    assert_eq!(*bus.ask(Ponder {}).await.unwrap(), 42);
    assert_eq!(begun.elapsed(), DAY);
    bus.advance(Duration::from_millis(3_600_000 - 1)).await;
    assert_eq!(bus.directives().len(), 1);
    bus.advance(Duration::from_millis(1)).await;
    assert!(bus.directives().is_empty(), "its hour is over");
}

#[tokio::test(start_paused = true)]
async fn a_swap_hands_the_state_over_and_one_that_is_refused_says_why_and_changes_nothing() {
    let bus = TestBus::new();
    bus.run(LivelyConfig {}).await.unwrap();
    // The first version, although there is a higher one in this binary.
    bus.swap::<one::Sum>().await.unwrap();
    bus.run(SumConfig {}).await.unwrap();
    assert_eq!(*bus.ask(Add(3)).await.unwrap(), 3);
    bus.swap::<one::Sum>().await.unwrap();
    assert_eq!(*bus.ask(Add(1)).await.unwrap(), 4, "the same code goes on");

    let error = bus.swap::<two::Sum>().await.expect_err("it wants more").to_string();
    assert!(error.contains("4 is too little") && error.contains("was restarted with the previous code"), "{error}");
    assert_eq!(*bus.ask(Add(1)).await.unwrap(), 5);
    bus.swap::<two::Sum>().await.unwrap();
    assert_eq!(*bus.ask(Add(1)).await.unwrap(), 6);

    let running: Vec<_> = bus.controllers().into_iter().map(|found| found.info.id).collect();
    assert_eq!(running, ["test/lively", "test/sum-two"], "the other one is as it was");
    let mut events = bus.events();
    for expected in [
        "test/lively: the execution of test/lively has ended",
        "test/sum: 1.0.0 has replaced 2.0.0",
        "test/sum: test/sum-one 1.0.0 runs",
        "test/sum: 1.0.0 has replaced 1.0.0",
        "test/sum: 2.0.0 was refused: ",
        "DEBUG test/sum-two: going on total=5",
        "test/sum: 2.0.0 has replaced 1.0.0",
        "test/sum: test/sum-two 2.0.0 runs",
    ] {
        events.until(expected).await.unwrap();
    }
    // The next one is of the code that was swapped in.
    bus.remove_config("test/sum").await;
    bus.events().until("test/sum: removed").await.unwrap();
    bus.swap::<one::Sum>().await.unwrap();
    bus.run_as("again", SumConfig {}).await.unwrap();
    assert_eq!(*bus.ask(Add(9)).await.unwrap(), 9);
    bus.events().until("again: test/sum-one 1.0.0 runs").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_question_that_nobody_answers_says_who_is_there_and_what_does_not_run() {
    let bus = TestBus::new();
    bus.run(ThinkerConfig {}).await.unwrap();
    bus.apply(ConfigSet::from_json(r#"{ "lamp": { "id": "house/lamp" } }"#).unwrap()).await.unwrap();
    let error = bus.ask(Add(1)).await.expect_err("nobody adds");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let told = error.to_string();
    for part in [
        "no value of test/add within 10s: no controller resolves it",
        "on the bus: test/thinker 1.0.0, which resolves test/ponder",
        "`lamp` waits: ",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let told = bus.ask(Ponder {}).await.expect_err("it takes a day").to_string();
    assert!(told.contains("`test/thinker` (controller") && told.contains("is still working on it"), "{told}");
    let told = bus.until_ready("lamp").await.expect_err("nothing makes lamps").to_string();
    assert!(told.starts_with("`lamp` was not ready within 10s: waits: "), "{told}");
    let told = bus.until_failed("test/thinker").await.expect_err("it is well").to_string();
    assert!(told.starts_with("`test/thinker` did not fail within 10s: runs"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_does_not_come_is_an_error_with_those_that_came_and_is_looked_for_again_from_the_same_place() {
    let bus = TestBus::new();
    tracing::warn!(by = "the test", "before it all");
    let mut events = bus.events();
    events.until("WARN testing: before it all by=\"the test\"").await.unwrap();
    bus.run(LivelyConfig {}).await.unwrap();
    let told = events.until("it rains").await.expect_err("it does not").to_string();
    assert!(told.starts_with("no event was `it rains` within 10s; what happened instead:\n"), "{told}");
    assert!(told.contains("\n  test/lively: test/lively 1.0.0 runs") && !told.contains("before it all"), "{told}");
    events.until("test/lively 1.0.0 runs").await.expect("it was not passed over");
    assert!(matches!(&bus.events().seen()[0], TestEvent::Logged(line) if line.level == tracing::Level::WARN));
    assert_eq!(
        *bus.ask(Live {}).await.unwrap().lock().unwrap(),
        7,
        "live values stay in the binary, and are seen in it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_whose_clock_runs_says_so_and_what_to_do_about_it() {
    let bus = TestBus::in_real_time();
    bus.run(LivelyConfig {}).await.unwrap();
    bus.advance(Duration::from_millis(1)).await;
    let mut events = bus.events();
    events.until("test/lively 1.0.0 runs").await.unwrap();
    events.until("has ended").await.unwrap();
    let refused = tokio::task::spawn(async { drop(TestBus::new()) }).await.expect_err("it cannot be paused");
    let told = refused
        .into_panic()
        .downcast::<String>()
        .map_or_else(|other| (*other.downcast::<&str>().unwrap()).to_owned(), |text| *text);
    assert!(told.contains("TestBus::in_real_time()"), "{told}");
}
