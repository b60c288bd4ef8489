#[controllerbus::hot]
pub struct Greeter;

fn main() {}
