//! The descriptors that the library's runtime keeps for as long as the process lives, and which are closed with the library.
//!
//! With its feature `signal`, tokio makes a pair of sockets when its first runtime is made, and keeps it in a static, which nobody
//! drops. The bundle defines a hidden `socketpair`, which comes here: of what is made while the guest's runtime is, only that pair
//! is kept.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use libc::c_int;

use super::hooks::Real;

type SocketPair = unsafe extern "C" fn(c_int, c_int, c_int, *mut c_int) -> c_int;

// SAFETY: the type of that function.
static SOCKET_PAIR: Real<SocketPair> = unsafe { Real::new(c"socketpair") };

/// The thread on which the runtime is being made; 0 if none is.
static MAKING: AtomicI32 = AtomicI32::new(0);

/// The descriptors that were made with it.
static KEPT: Mutex<Vec<c_int>> = Mutex::new(Vec::new());

fn this_thread() -> i32 {
    // SAFETY: it asks for a number.
    unsafe { libc::gettid() }
}

/// Makes the guest's runtime.
pub(super) fn with_runtime<T>(make: impl FnOnce() -> T) -> T {
    struct Made;
    impl Drop for Made {
        fn drop(&mut self) {
            MAKING.store(0, Ordering::Release);
        }
    }
    MAKING.store(this_thread(), Ordering::Release);
    let _made = Made;
    make()
}

/// The bundle's `socketpair`.
///
/// # Safety
/// As the C library's.
pub unsafe fn pair(domain: c_int, kind: c_int, protocol: c_int, pair: *mut c_int) -> c_int {
    let Some(real) = SOCKET_PAIR.get() else { return -1 };
    // SAFETY: the caller's promise, passed on.
    let status = unsafe { real(domain, kind, protocol, pair) };
    if status == 0 && MAKING.load(Ordering::Acquire) == this_thread() {
        // SAFETY: two descriptors were written there.
        let made = unsafe { pair.cast::<[c_int; 2]>().read() };
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).extend(made);
    }
    status
}

/// Closes what was kept.
///
/// # Safety
/// No other code of the library runs any more, or will, and none of its signal handlers is called.
pub(super) unsafe fn close() {
    for descriptor in std::mem::take(&mut *KEPT.lock().unwrap_or_else(PoisonError::into_inner)) {
        // SAFETY: the library's own, which only the code in it knows.
        unsafe { libc::close(descriptor) };
    }
}
