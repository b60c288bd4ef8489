#[controllerbus::interface]
pub trait Lookup {
    extern "C" fn lookup(&self, back: extern "C" fn(u64) -> u64);
}

fn main() {}
