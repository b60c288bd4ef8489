//! Where nothing is hooked: the host learns of no thread and no thread-local, and so must not unload the library.

use crate::plugin::abi::Hooks;

/// # Safety
/// As on Linux; nothing is called here.
pub(super) unsafe fn set(_: Hooks) {}

pub(super) fn with_runtime<T>(make: impl FnOnce() -> T) -> T {
    make()
}

pub(super) fn leaked() -> u64 {
    0
}

/// # Safety
/// As on Linux; nothing is done here.
pub(super) unsafe extern "C" fn give_keys_back() -> u32 {
    0
}
