#[controllerbus::hot]
pub trait Greeter {
    fn greet(self) -> u64;
}

fn main() {}
