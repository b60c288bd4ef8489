use controllerbus::hot_plugin;

#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self);
}

struct Polite;

#[hot_plugin]
impl Greeter for Polite {
    fn greet(&self) {}
}

fn main() {}
