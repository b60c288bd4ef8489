use stabby::alloc::allocators::RustAlloc as Theirs;

#[controllerbus::interface]
pub trait Lookup {
    extern "C" fn lookup(&self) -> stabby::string::String<Theirs>;
}

fn main() {}
