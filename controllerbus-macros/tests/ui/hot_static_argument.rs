#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self, name: &'static str);
}

fn main() {}
