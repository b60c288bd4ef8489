//! The directives that hosts ask each other, and the controller that answers them.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use controllerbus::prelude::*;
use tokio::sync::watch;

/// A greeting by name. `abort` ends the process, `never` is worked on for ever, `wrong` fails.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "test/greet", value = String)]
pub struct Greet {
    /// Who.
    pub name: String,
}

/// Asked of one host only.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "test/stock", value = String)]
pub struct Stock {
    /// What.
    pub item: u64,
}

/// A value that is there while the lamp is on.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "test/lamp", value = String)]
pub struct Lamp {}

/// One value at most.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "test/capped", value = String, max_values = 1, hard_cap)]
pub struct Capped {}

/// Many values, or large ones.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "test/many", value = String)]
pub struct Many {
    /// How many.
    pub values: u64,
    /// How long each is.
    pub bytes: u64,
}

/// How often resolvers have run.
pub static RUNS: AtomicU64 = AtomicU64::new(0);

/// Whether the lamp is on.
pub static LAMP: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::channel(true).0);

/// Says who answers.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/answerer")]
pub struct AnswererConfig {
    /// Who answers.
    pub says: String,
}

/// Answers all of them.
#[derive(Debug)]
pub struct Answerer {
    says: String,
}

/// Answers the tests' directives.
#[hot_plugin(id = "test/answerer", version = "1.0.0")]
impl Controller for Answerer {
    type Config = AnswererConfig;

    async fn construct(config: AnswererConfig, _: &Context) -> Result<Self> {
        Ok(Self { says: config.says })
    }

    #[resolves]
    async fn greet(&self, request: Greet, values: Values<String>) -> Result<()> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        match request.name.as_str() {
            "abort" => std::process::abort(),
            "never" => std::future::pending().await,
            "wrong" => return Err(Error::msg("it is wrong").permanent()),
            name => values.add(format!("{}: hello {name}", self.says)),
        };
        Ok(())
    }

    #[resolves]
    async fn stock(&self, request: Stock) -> Result<String> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        Ok(format!("{}: {}", self.says, request.item))
    }

    #[resolves]
    async fn lamp(&self, _: Lamp, values: Values<String>) -> Result<()> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        let (mut lamp, mut lit) = (LAMP.subscribe(), None);
        loop {
            match (*lamp.borrow_and_update(), lit) {
                (true, None) => lit = values.add(format!("{}: light", self.says)),
                (false, Some(id)) => {
                    values.remove(id);
                    lit = None;
                }
                _ => {}
            }
            values.idle();
            if lamp.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    #[resolves]
    async fn capped(&self, _: Capped, values: Values<String>) -> Result<()> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        values.add(self.says.clone());
        Ok(())
    }

    #[resolves]
    async fn many(&self, request: Many, values: Values<String>) -> Result<()> {
        RUNS.fetch_add(1, Ordering::Relaxed);
        for number in 0..request.values {
            let mut text = format!("{number}");
            text.push_str(&"x".repeat(usize::try_from(request.bytes)?.saturating_sub(text.len())));
            values.add(text);
            if number % 256 == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}
