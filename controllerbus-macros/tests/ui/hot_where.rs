#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self) where Self: Sized;
}

fn main() {}
