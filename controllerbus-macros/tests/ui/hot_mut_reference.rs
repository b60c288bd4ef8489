#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self, names: &mut Vec<String>);
}

fn main() {}
