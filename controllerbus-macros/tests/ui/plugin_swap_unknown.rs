use controllerbus::prelude::*;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "ui")]
struct UiConfig;

struct Ui;

#[hot_plugin(id = "ui", version = "1.0.0", swap = "exclusive")]
impl Controller for Ui {
    type Config = UiConfig;

    async fn construct(_: UiConfig, _: &Context) -> Result<Self> {
        Ok(Ui)
    }
}

fn main() {}
