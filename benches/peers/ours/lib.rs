//! The plugin as a controller.

use controllerbus::prelude::*;

mod logic;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "bench/ask", value = Answer)]
pub struct Ask;

#[derive(Serialize, Deserialize)]
pub struct Answer(pub u64);

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "bench")]
pub struct BenchConfig {}

pub struct Bench;

#[hot_plugin(id = "bench", version = "1.0.0")]
impl Controller for Bench {
    type Config = BenchConfig;

    async fn construct(_: BenchConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn ask(&self, _: Ask, values: Values<Answer>) -> Result<()> {
        values.add(Answer(logic::run().await));
        Ok(())
    }
}
