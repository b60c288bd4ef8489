//! A controller template: a config, an `execute` that ends when it is cancelled, and a directive with a result.
#![forbid(unsafe_code)]

use controllerbus::prelude::*;

/// Asks the boilerplate controller to do its work.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "boilerplate/work", value = BoilerplateResult, validate = Boilerplate::check)]
pub struct Boilerplate {
    /// Identifies the work: requests with equal ids share one result.
    pub boilerplate_id: String,
}

impl Boilerplate {
    fn check(&self) -> Result<()> {
        if self.boilerplate_id.is_empty() {
            Err(Error::msg("boilerplate_id is empty; give the work an id"))
        } else {
            Ok(())
        }
    }
}

/// The result of the work.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
pub struct BoilerplateResult {
    /// A line that describes it.
    pub print_output: String,
}

/// The controller's config.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "boilerplate/1")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BoilerplateConfig {
    /// The prefix of each result.
    pub example_field: String,
}

/// The controller.
pub struct BoilerplateController {
    config: BoilerplateConfig,
}

/// A template: does little, in all the right places.
#[hot_plugin(id = "boilerplate/1", version = "0.1.0")]
impl Controller for BoilerplateController {
    type Config = BoilerplateConfig;

    async fn construct(config: BoilerplateConfig, _: &Context) -> Result<Self> {
        Ok(Self { config })
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        tracing::info!(example_field = %self.config.example_field, "hello from the boilerplate controller");
        context.cancelled().await;
        Ok(())
    }

    #[resolves]
    async fn work(&self, request: Boilerplate) -> Result<BoilerplateResult> {
        Ok(BoilerplateResult {
            print_output: format!("{}: {} is done", self.config.example_field, request.boilerplate_id),
        })
    }
}
