use controllerbus::hot_plugin;

#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self);
}

struct Polite;

#[hot_plugin(construct = |_| Polite)]
impl Greeter for Polite {
    fn greet(&self) {}
}

fn main() {}
