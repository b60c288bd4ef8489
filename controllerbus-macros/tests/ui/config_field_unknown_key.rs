use controllerbus::prelude::*;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "example/greeter")]
struct GreeterConfig {
    #[config(hidden)]
    greeting: String,
}

fn main() {}
