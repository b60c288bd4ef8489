type Object = stabby::future::DynFuture<'static, u64>;

#[controllerbus::interface]
pub trait Lookup {
    extern "C" fn lookup(&self) -> Object;
}

fn main() {}
