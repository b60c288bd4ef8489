#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self, name: impl Into<String>);
}

fn main() {}
