#[controllerbus::interface]
pub trait Lookup {
    extern "C" fn lookup(&self) -> stabby::boxed::Box<u64>;
}

fn main() {}
