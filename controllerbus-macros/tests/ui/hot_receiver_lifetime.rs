#[controllerbus::hot]
pub trait Greeter {
    fn greet<'a>(&'a self) -> u64;
}

fn main() {}
