#[controllerbus::hot]
pub trait Greeter {
    fn greet(name: &str) -> u64;
}

fn main() {}
