#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self) -> &str;
}

fn main() {}
