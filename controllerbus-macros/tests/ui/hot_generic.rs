#[controllerbus::hot]
pub trait Greeter<T> {
    fn greet(&self) -> u64;
}

fn main() {}
