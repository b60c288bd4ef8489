#[controllerbus::interface]
pub trait Lookup {
    extern "C" fn lookup(&self) -> stabby::str::Str<'static>;
}

fn main() {}
