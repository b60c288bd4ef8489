#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self, name: Box<dyn Fn()>);
}

fn main() {}
