#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self) -> Option<&str>;
}

fn main() {}
