//! What the library's hidden functions report to the host, and how the C library's own functions are found.

use std::ffi::CStr;
use std::sync::OnceLock;

pub(super) use super::descriptors::with_runtime;
pub(super) use super::threads::leaked;
use super::{descriptors, signals, threads};
use crate::plugin::abi::Hooks;

/// The host's hooks, called with their context.
pub(super) struct Host(Hooks);
// SAFETY: the context is an object that the host keeps for as long as the library is loaded, and shares among threads.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

static HOST: OnceLock<Host> = OnceLock::new();

/// From now on the host is told of threads and handlers, and at once of those that are there already.
///
/// # Safety
/// The hooks must be what the host has started this library with.
pub(super) unsafe fn set(hooks: Hooks) {
    let host = Host(hooks);
    threads::tell_early(&host, || drop(HOST.set(Host(hooks))));
    signals::tell_early(&host);
}

/// The host; `None` before the library is started.
pub(super) fn host() -> Option<&'static Host> {
    HOST.get()
}

/// Gives back what the library's statics have of the system's: descriptors, and keys for thread-local data, of which it says how
/// many.
///
/// # Safety
/// No other code of the library runs any more, or will, and none of its signal handlers is called.
pub(super) unsafe extern "C" fn give_keys_back() -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        descriptors::close();
        threads::give_keys_back()
    }
}

impl Host {
    pub(super) fn created(&self) {
        // SAFETY: the function's own context, by the promise of `set`.
        unsafe { (self.0.created)(self.0.context) }
    }

    pub(super) fn entered(&self, thread: i32) {
        // SAFETY: as above.
        unsafe { (self.0.entered)(self.0.context, thread) }
    }

    pub(super) fn failed(&self) {
        // SAFETY: as above.
        unsafe { (self.0.failed)(self.0.context) }
    }

    /// Registers a function to be called at the end of this thread; false if that is not possible.
    pub(super) fn at_end(&self, function: extern "C" fn()) -> bool {
        (self.0.at_end)(function)
    }

    /// # Safety
    /// As the C library's `sigaction`.
    pub(super) unsafe fn signal_action(
        &self,
        signal: libc::c_int,
        new: *const libc::sigaction,
        old: *mut libc::sigaction,
    ) -> libc::c_int {
        // SAFETY: as above, and the caller's promise.
        unsafe { (self.0.signal_action)(self.0.context, signal, new.cast(), old.cast()) }
    }
}

/// The C library's own function of a name, looked up when it is first called.
pub(super) struct Real<F> {
    name: &'static CStr,
    found: OnceLock<Option<F>>,
}

impl<F: Copy> Real<F> {
    /// # Safety
    /// `F` must be the type of a pointer to that function.
    pub(super) const unsafe fn new(name: &'static CStr) -> Self {
        const { assert!(size_of::<F>() == size_of::<*mut libc::c_void>()) };
        Self { name, found: OnceLock::new() }
    }

    /// The function, if there is one.
    pub(super) fn get(&self) -> Option<F> {
        *self.found.get_or_init(|| {
            // SAFETY: a look-up by a valid C string.
            let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, self.name.as_ptr()) };
            // SAFETY: of the same size, by the assertion; of this type, by the promise of `new`.
            (!found.is_null()).then(|| unsafe { std::mem::transmute_copy::<*mut libc::c_void, F>(&found) })
        })
    }
}
