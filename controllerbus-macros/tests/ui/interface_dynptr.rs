#[controllerbus::interface]
pub trait Lookup {
    extern "C" fn lookup(&self) -> stabby::dynptr!(stabby::boxed::Box<dyn stabby::Any>);
}

fn main() {}
