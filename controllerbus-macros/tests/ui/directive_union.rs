use controllerbus::prelude::*;

#[derive(Directive)]
#[directive(id = "ui/ask", value = u32)]
union Ask {
    a: u32,
    b: f32,
}

fn main() {}
