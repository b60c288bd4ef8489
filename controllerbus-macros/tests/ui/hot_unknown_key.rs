#[controllerbus::hot(name = "greeter")]
pub trait Greeter {
    fn greet(&self);
}

fn main() {}
