use controllerbus::prelude::*;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "ui")]
struct UiConfig {}

#[derive(State, Default)]
struct Kept {
    hits: u64,
}

struct Ui {
    kept: std::sync::Mutex<Kept>,
}

#[hot_plugin(id = "ui", version = "1.0.0", state = kept, persist = "1ms")]
impl Controller for Ui {
    type Config = UiConfig;

    async fn construct(_: UiConfig, _: &Context) -> Result<Self> {
        Ok(Self { kept: std::sync::Mutex::default() })
    }
}

fn main() {}
