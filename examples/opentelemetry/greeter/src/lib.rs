//! A controller that greets, and says in spans what it does. It needs nothing of OpenTelemetry.
#![forbid(unsafe_code)]

use std::time::Duration;

use controllerbus::prelude::*;
use tracing::{Instrument, info_span};

/// Asks for a greeting.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "traced/greet", value = String, key = name)]
pub struct Greet {
    /// Who to greet.
    pub name: String,
    /// The span within which this is asked, as W3C's Trace Context writes it.
    #[serde(default)]
    pub traceparent: String,
}

/// No settings.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "traced/greeter")]
pub struct GreeterConfig {}

/// The controller.
pub struct Greeter;

/// Greets people by name.
#[hot_plugin(id = "traced/greeter", version = "1.0.0")]
impl Controller for Greeter {
    type Config = GreeterConfig;

    async fn construct(_: GreeterConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn greet(&self, request: Greet, values: Values<String>) -> Result<()> {
        let span = info_span!("greet", name = request.name, traceparent = request.traceparent);
        let work = async {
            let title = title_of(&request.name).instrument(info_span!("look up the title")).await;
            values.add(format!("Hello, {title} {}!", request.name));
            Ok(())
        };
        work.instrument(span).await
    }
}

/// As a database would say it.
async fn title_of(_: &str) -> &'static str {
    tokio::time::sleep(Duration::from_millis(5)).await;
    "Countess"
}
