use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "ui/greet", value = String, key = (name, realm))]
struct Greet {
    name: String,
}

fn main() {}
