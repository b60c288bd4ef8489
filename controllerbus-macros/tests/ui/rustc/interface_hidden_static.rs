type Word = stabby::str::Str<'static>;

#[controllerbus::interface]
pub trait Lookup {
    extern "C" fn lookup(&self) -> Word;
}

fn main() {}
