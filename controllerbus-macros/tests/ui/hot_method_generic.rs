#[controllerbus::hot]
pub trait Greeter {
    fn greet<T>(&self, name: T) -> u64;
}

fn main() {}
