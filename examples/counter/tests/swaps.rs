//! The count goes on over swaps: to the same code, from the previous shape of its state, and not from an unknown one.

use std::time::Duration;

use controllerbus::prelude::*;
use controllerbus::testing::TestBus;
use counter::{Count, Counter, CounterConfig, Watch};

/// An earlier or later version of the counter, which has counted to 41.
struct Other<const SCHEMA: u32>;

impl<const SCHEMA: u32> Controller for Other<SCHEMA> {
    type Config = CounterConfig;

    async fn construct(_: CounterConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    fn save(&self) -> Result<Option<State>> {
        #[derive(Serialize)]
        struct Counted {
            count: u64,
        }
        State::encode(SCHEMA, &Counted { count: 41 }).map(Some)
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_code_goes_on_counting() -> Result<()> {
    let bus = TestBus::new();
    bus.run(CounterConfig { every_ms: 1_000 }).await?;
    bus.advance(Duration::from_secs(10)).await;
    let before = bus.ask(Watch).await?;
    bus.swap::<Counter>().await?;
    let after = bus.resolve(Watch).matching(|count: &Count| count.generations == 2).await?;
    assert!(after.ticks >= before.ticks && before.ticks >= 10, "{before:?}, {after:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_previous_shape_of_the_state_is_migrated_and_an_unknown_one_is_refused() -> Result<()> {
    let bus = TestBus::new();
    bus.swap::<Other<1>>().await?;
    bus.run(CounterConfig { every_ms: 1_000 }).await?;
    bus.swap::<Counter>().await?;
    let count = bus.ask(Watch).await?;
    assert!(count.ticks >= 41 && count.generations == 2, "{count:?}");

    bus.swap::<Other<3>>().await?;
    let error = bus.swap::<Counter>().await.expect_err("it is newer").to_string();
    assert!(error.contains("a count with schema 3 is not supported; the latest is 2"), "{error}");
    Ok(())
}
