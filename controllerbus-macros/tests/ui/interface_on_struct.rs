#[controllerbus::interface]
pub struct Lookup;

fn main() {}
