use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
struct Ask;

fn main() {}
