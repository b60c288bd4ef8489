//! A controller that greets. The example builds three versions of it, of which one is bad.
#![forbid(unsafe_code)]

use controllerbus::prelude::*;

/// What is said first. The example edits it; a version without a greeting answers with an error.
const GREETING: &str = "Hello";

/// Asks for a greeting.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "rollout/greet", value = String)]
pub struct Greet {
    /// Who to greet.
    pub name: String,
}

/// The config.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "greeter")]
pub struct GreeterConfig {}

/// The controller.
pub struct Greeter;

/// Greets people by name.
#[hot_plugin(id = "greeter", version = "1.0.0")]
impl Controller for Greeter {
    type Config = GreeterConfig;

    async fn construct(_: GreeterConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn greet(&self, request: Greet, values: Values<String>) -> Result<()> {
        if GREETING.is_empty() {
            return Err(Error::msg("it has forgotten how to greet"));
        }
        values.add(format!("{GREETING}, {}!", request.name));
        Ok(())
    }
}
