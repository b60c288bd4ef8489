use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "ui/ask", value = u32, max = 1)]
struct Ask;

fn main() {}
