#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self) -> impl Iterator<Item = u64>;
}

fn main() {}
