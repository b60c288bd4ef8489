//! A controller that greets: the smallest useful hot plugin.
#![forbid(unsafe_code)]

use controllerbus::prelude::*;

/// Asks for a greeting.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "example/greet", value = Greeting)]
pub struct Greet {
    /// Who to greet.
    pub name: String,
}

/// The greeting.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
pub struct Greeting(pub String);

/// The config.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "example/greeter")]
pub struct GreeterConfig {
    /// The first word, such as `Hello`.
    pub greeting: String,
}

/// The controller.
pub struct Greeter {
    config: GreeterConfig,
}

/// Greets people by name.
#[hot_plugin(id = "example/greeter", version = "1.0.0")]
impl Controller for Greeter {
    type Config = GreeterConfig;

    async fn construct(config: GreeterConfig, _: &Context) -> Result<Self> {
        Ok(Self { config })
    }

    #[resolves]
    async fn greet(&self, request: Greet, values: Values<Greeting>) -> Result<()> {
        values.add(Greeting(format!("{}, {}!", self.config.greeting, request.name)));
        Ok(())
    }
}
