#[controllerbus::hot]
pub trait Greeter {
    #[cfg(unix)] fn greet(&self);
}

fn main() {}
