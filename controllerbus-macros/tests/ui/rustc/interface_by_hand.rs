trait Lookup {
    fn lookup(&self) -> u64;
}

impl controllerbus::plugin::interface::InterfaceType for dyn Lookup {
    type Table = ();
    const SHAPE: u64 = 0;
}

fn main() {}
