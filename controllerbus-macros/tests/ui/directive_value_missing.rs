use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "ui/ask")]
struct Ask;

fn main() {}
