#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self, other: &Self);
}

fn main() {}
