use controllerbus::prelude::*;

#[derive(Config, Serialize, Deserialize, PartialEq)]
struct UiConfig;

fn main() {}
