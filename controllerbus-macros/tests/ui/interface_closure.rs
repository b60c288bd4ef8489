#[controllerbus::interface]
pub trait Lookup {
    extern "C" fn lookup(&self, back: stabby::dynptr!(&dyn stabby::closure::Call1<u64, u64>));
}

fn main() {}
