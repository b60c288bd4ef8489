#[controllerbus::interface]
pub trait Lookup {
    extern "C" fn lookup(&self, back: impl Fn());
}

fn main() {}
