use controllerbus::prelude::*;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "")]
struct UiConfig;

fn main() {}
