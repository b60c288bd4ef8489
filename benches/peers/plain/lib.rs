//! The plugin without any framework: one exported function.

mod logic;

/// The value.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_value() -> u64 {
    logic::value()
}
