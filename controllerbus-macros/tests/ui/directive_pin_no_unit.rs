use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "ui/ask", value = u32, pin = "10")]
struct Ask;

fn main() {}
