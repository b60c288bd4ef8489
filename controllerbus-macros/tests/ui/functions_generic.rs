use controllerbus::hot_plugin;

#[controllerbus::hot]
pub trait Greeter {
    fn greet(&self);
}

#[derive(Default)]
struct Polite<T>(T);

#[hot_plugin]
impl<T: Send + Sync> Greeter for Polite<T> {
    fn greet(&self) {}
}

fn main() {}
