use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "ui/greet", value = String, key = name)]
enum Greet {
    One { name: String },
}

fn main() {}
