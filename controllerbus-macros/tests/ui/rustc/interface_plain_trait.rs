pub trait Lookup {
    fn lookup(&self) -> u64;
}

fn take(_: controllerbus::Interface<dyn Lookup>) {}

fn main() {}
