//! The plugin as a relib module.

mod logic;

#[relib_module::export]
fn main() -> u64 {
    logic::value()
}
