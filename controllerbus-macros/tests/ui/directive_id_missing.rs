use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(value = u32)]
struct Ask;

fn main() {}
