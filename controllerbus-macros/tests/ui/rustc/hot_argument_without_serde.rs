pub struct Item;

#[controllerbus::hot]
pub trait Shop {
    fn buy(&self, item: Item);
}

fn main() {}
