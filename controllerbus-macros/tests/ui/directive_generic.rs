use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "ui/ask", value = u32)]
struct Ask<T>(T);

fn main() {}
