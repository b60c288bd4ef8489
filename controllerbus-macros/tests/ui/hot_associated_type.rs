#[controllerbus::hot]
pub trait Greeter {
    type Name;
}

fn main() {}
