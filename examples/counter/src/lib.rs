//! Counts ticks, and keeps counting when it is swapped for another version of itself.
//!
//! `save` hands the state to the next generation, with a schema version. `restore` accepts it, migrates an older schema,
//! and rejects an unknown one; then the swap is rolled back, and the old code keeps counting.
#![forbid(unsafe_code)]

use std::time::Duration;

use controllerbus::prelude::*;
use tokio::sync::watch;

/// Asks for the count, and reports each change while it is active.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "example/count", value = Count)]
pub struct Watch;

/// The count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Ticks counted by all generations.
    pub ticks: u64,
    /// How many generations of the code have counted them.
    pub generations: u64,
}

/// The config.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "example/counter")]
pub struct CounterConfig {
    /// Milliseconds between ticks.
    pub every_ms: u64,
}

/// The schema version of [`Count`] in the saved state. When its shape changes, raise this and migrate the old one in
/// `restore`.
const SCHEMA: u32 = 2;

/// The previous shape: schema 1.
#[derive(Serialize, Deserialize)]
struct Before {
    count: u64,
}

/// The controller.
pub struct Counter {
    config: CounterConfig,
    count: watch::Sender<Count>,
}

/// Counts ticks across swaps.
#[hot_plugin(id = "example/counter", version = "2.0.0")]
impl Controller for Counter {
    type Config = CounterConfig;

    async fn construct(config: CounterConfig, _: &Context) -> Result<Self> {
        Ok(Self { config, count: watch::Sender::new(Count { ticks: 0, generations: 1 }) })
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_millis(self.config.every_ms.max(1)));
        loop {
            tokio::select! {
                _ = ticks.tick() => self.count.send_modify(|count| count.ticks += 1),
                () = context.cancelled() => return Ok(()),
            }
        }
    }

    fn save(&self) -> Result<Option<State>> {
        State::encode(SCHEMA, &*self.count.borrow()).map(Some)
    }

    async fn restore(&self, state: State) -> Result<()> {
        let before = match state.schema {
            SCHEMA => state.decode()?,
            1 => Count { ticks: state.decode::<Before>()?.count, generations: 1 },
            other => {
                return Err(Error::msg(format!(
                    "a count with schema {other} is not supported; the latest is {SCHEMA}"
                )));
            }
        };
        self.count.send_replace(Count { generations: before.generations + 1, ..before });
        Ok(())
    }

    #[resolves]
    async fn watch(&self, _: Watch, values: Values<Count>) -> Result<()> {
        values.follow(self.count.subscribe()).await
    }
}
