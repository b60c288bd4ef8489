use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "ui/ask", value = u32)]
struct Ask;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "ui")]
struct UiConfig;

struct Ui;

#[hot_plugin(id = "ui", version = "1.0.0")]
impl Controller for Ui {
    type Config = UiConfig;

    async fn construct(_: UiConfig, _: &Context) -> Result<Self> {
        Ok(Ui)
    }

    #[resolves]
    async fn ask(&self, _: Ask, values: Values<u32>) -> bool {
        values.add(1).is_some()
    }
}

fn main() {}
