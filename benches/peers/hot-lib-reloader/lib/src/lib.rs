//! The plugin as hot-lib-reloader wants it.

mod logic;

#[unsafe(no_mangle)]
pub fn plugin_value() -> u64 {
    logic::value()
}
