use std::sync::Mutex;

use controllerbus::prelude::*;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "ui/count")]
struct CountConfig {}

#[derive(State)]
struct Count {
    hits: u64,
}

struct Counter {
    count: Mutex<Count>,
}

#[hot_plugin(id = "ui/count", version = "1.0.0", state = count)]
impl Controller for Counter {
    type Config = CountConfig;

    async fn construct(_: CountConfig, _: &Context) -> Result<Self> {
        Ok(Self { count: Mutex::new(Count { hits: 0 }) })
    }

    fn save(&self) -> Result<Option<State>> {
        Ok(None)
    }
}

fn main() {}
