use controllerbus::hot_plugin;

#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self);
}

#[derive(Default)]
struct Polite;

#[hot_plugin(config = 1)]
impl Greeter for Polite {
    fn greet(&self) {}
}

fn main() {}
