//! What the host is told of by the library's hidden functions, and how the C library's own are found.

use std::ffi::CStr;
use std::sync::OnceLock;

use super::{signals, threads};
use crate::plugin::abi::Hooks;

struct Shared(Hooks);
// SAFETY: the context is an object that the host keeps for as long as the library is loaded, and shares among threads.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

static HOOKS: OnceLock<Shared> = OnceLock::new();

/// From now on the host is told; and of what there is already.
pub(super) fn set(hooks: Hooks) {
    threads::tell_early(&hooks, || drop(HOOKS.set(Shared(hooks))));
    signals::tell_early(&hooks);
}

/// How the host is told; `None` before the library is started.
pub(super) fn hooks() -> Option<&'static Hooks> {
    HOOKS.get().map(|Shared(hooks)| hooks)
}

/// The C library's own function of a name.
///
/// # Safety
/// `F` must be the type of a pointer to that function.
pub(super) unsafe fn real<F: Copy>(name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut libc::c_void>()) };
    // SAFETY: a look-up by a valid C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: of the same size; the caller's promise.
    (!found.is_null()).then(|| unsafe { std::mem::transmute_copy::<*mut libc::c_void, F>(&found) })
}
