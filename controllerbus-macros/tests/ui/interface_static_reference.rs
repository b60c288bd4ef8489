#[controllerbus::interface]
pub trait Lookup {
    extern "C" fn lookup(&self, of: &'static u64);
}

fn main() {}
