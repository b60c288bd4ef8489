#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self, name: Option<&str>);
}

fn main() {}
