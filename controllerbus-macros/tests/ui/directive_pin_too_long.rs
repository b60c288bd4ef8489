use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "ui/ask", value = u32, pin = "721h")]
struct Ask;

fn main() {}
