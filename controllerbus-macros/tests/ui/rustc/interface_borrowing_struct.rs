#[stabby::stabby]
pub struct Word<'a> {
    text: stabby::str::Str<'a>,
}

#[controllerbus::interface]
pub trait Lookup {
    extern "C" fn lookup<'a>(&'a self) -> Word<'a>;
}

fn main() {}
