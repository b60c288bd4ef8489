//! The library's signal handlers are the host's to call, so that none is called once the library is gone.
//!
//! The bundle defines hidden `sigaction` and `signal`, which come here and go to the host (`host/signals.rs`).

use std::sync::{Mutex, PoisonError};

use libc::{c_int, sighandler_t};

use super::hooks::{Host, host};

/// What an initialiser of the library has asked for, by signal, before the host could be told.
static EARLY: Mutex<[Option<libc::sigaction>; 65]> = Mutex::new([None; 65]);

/// Tells the host of the handlers that there are already.
pub(super) fn tell_early(host: &Host) {
    let early = std::mem::replace(&mut *EARLY.lock().unwrap_or_else(PoisonError::into_inner), [None; 65]);
    for (signal, action) in (0..).zip(&early) {
        if let Some(action) = action {
            // SAFETY: an action that was handed over as one.
            unsafe { host.signal_action(signal, action, std::ptr::null_mut()) };
        }
    }
}

/// The bundle's `sigaction`.
///
/// # Safety
/// As the C library's.
pub unsafe fn action(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
    if let Some(host) = host() {
        // SAFETY: the caller's promise, passed on.
        return unsafe { host.signal_action(signal, new, old) };
    }
    let mut early = EARLY.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(known) = usize::try_from(signal).ok().and_then(|signal| early.get_mut(signal)) else { return -1 };
    if !old.is_null() {
        // SAFETY: all of it may be zero, which is the system's own handling of a signal.
        let none = unsafe { std::mem::zeroed() };
        // SAFETY: the caller's promise: it is null or a place for this.
        unsafe { old.write(known.unwrap_or(none)) };
    }
    if !new.is_null() {
        // SAFETY: the caller's promise: it is null or such an action.
        *known = Some(unsafe { new.read() });
    }
    0
}

/// The bundle's `signal`.
///
/// # Safety
/// As the C library's.
pub unsafe fn handler(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: all of it may be zero, which is the system's own handling of a signal.
    let (mut new, mut old): (libc::sigaction, libc::sigaction) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // As glibc's `signal` does it.
    (new.sa_sigaction, new.sa_flags) = (handler, libc::SA_RESTART);
    // SAFETY: both are such actions, and the handler is one by the caller's promise.
    let status = unsafe { action(signal, &raw const new, &raw mut old) };
    if status == 0 { old.sa_sigaction } else { libc::SIG_ERR }
}
