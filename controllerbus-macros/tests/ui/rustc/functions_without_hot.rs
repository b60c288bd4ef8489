use controllerbus::hot_plugin;

pub trait Greeter {
    fn greet(&self);
}

#[derive(Default)]
struct Polite;

#[hot_plugin]
impl Greeter for Polite {
    fn greet(&self) {}
}

fn main() {}
