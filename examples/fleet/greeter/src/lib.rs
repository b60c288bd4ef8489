//! A controller that greets, and says on which host: two hosts of the example run it, and one swaps it.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use controllerbus::prelude::*;

/// What is said first. The example edits it.
const GREETING: &str = "Hello";

/// Asks for a greeting.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "fleet/greet", value = Greeting)]
pub struct Greet {
    /// Who to greet.
    pub name: String,
}

/// A greeting.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
pub struct Greeting {
    /// It.
    pub text: String,
    /// The host that greets.
    pub host: String,
    /// Which run of a resolver gave it, counted on that host.
    pub run: u64,
}

/// The config.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "fleet/greeter")]
pub struct GreeterConfig {
    /// The host that it runs on.
    pub host: String,
}

/// The controller.
pub struct Greeter {
    config: GreeterConfig,
    runs: AtomicU64,
}

/// Greets people by name, in the name of a host.
#[hot_plugin(id = "fleet/greeter", version = "1.0.0")]
impl Controller for Greeter {
    type Config = GreeterConfig;

    async fn construct(config: GreeterConfig, _: &Context) -> Result<Self> {
        Ok(Self { config, runs: AtomicU64::new(0) })
    }

    #[resolves]
    async fn greet(&self, request: Greet, values: Values<Greeting>) -> Result<()> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        let text = format!("{GREETING}, {}!", request.name);
        values.add(Greeting { text, host: self.config.host.clone(), run });
        Ok(())
    }
}
