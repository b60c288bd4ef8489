#[controllerbus::interface]
pub trait Lookup<T> {
    extern "C" fn lookup(&self) -> u64;
}

fn main() {}
