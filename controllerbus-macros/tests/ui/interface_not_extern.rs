#[controllerbus::interface]
pub trait Lookup {
    fn lookup(&self) -> u64;
}

fn main() {}
