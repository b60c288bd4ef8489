#[controllerbus::hot]
pub trait Greeter {
    fn greet(&mut self) -> u64;
}

fn main() {}
