//! What would outlive a guest's code, its threads and signal handlers: the guest reports them here, and the host waits for
//! their end.

use std::sync::Arc;
use std::time::Instant;

#[cfg(target_os = "linux")]
use super::signals;
use super::threads::Threads;
use crate::plugin::abi::Hooks;

/// What of one library the system holds on to.
#[derive(Default)]
pub(super) struct Ties {
    pub(super) threads: Threads,
}

impl Ties {
    /// The hooks by which a guest reports it. Its copy of the pointer is backed by a count that is never given back, some
    /// 100 bytes a generation, so that a thread that outlives everything still finds it.
    pub(super) fn hooks(self: &Arc<Self>) -> Hooks {
        let context = Arc::into_raw(Arc::clone(self)).cast();
        Hooks { context, created, entered, at_end, failed, signal_action }
    }

    /// Stops calling the library's signal handlers. False if one still runs at the deadline.
    pub(super) fn let_go_of_signals(&self, deadline: Instant) -> bool {
        #[cfg(target_os = "linux")]
        return signals::forget(std::ptr::from_ref(self).addr(), deadline);
        #[cfg(not(target_os = "linux"))]
        return deadline >= deadline;
    }
}

/// # Safety
/// `context` must be what [`Ties::hooks`] has made of an Arc, of which it keeps one count forever.
unsafe fn ties<'a>(context: *const ()) -> &'a Ties {
    // SAFETY: the caller's promise.
    unsafe { &*context.cast::<Ties>() }
}

unsafe extern "C" fn created(context: *const ()) {
    // SAFETY: the guest hands over the context that came with this function.
    unsafe { ties(context) }.threads.created();
}

unsafe extern "C" fn entered(context: *const (), thread: i32) {
    // SAFETY: as above.
    unsafe { ties(context) }.threads.entered(thread);
}

unsafe extern "C" fn failed(context: *const ()) {
    // SAFETY: as above.
    unsafe { ties(context) }.threads.failed();
}

/// Stores a function where the C library finds it at the end of this thread: after the destructors of thread-locals.
#[cfg(target_os = "linux")]
extern "C" fn at_end(function: extern "C" fn()) -> bool {
    use std::sync::OnceLock;
    static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: `key` is a valid place, and `ended` is a function of the process's own binary.
        (unsafe { libc::pthread_key_create(&raw mut key, Some(ended)) } == 0).then_some(key)
    });
    // SAFETY: the key was created above.
    key.is_some_and(|key| unsafe { libc::pthread_setspecific(key, function as *const libc::c_void) } == 0)
}

#[cfg(not(target_os = "linux"))]
extern "C" fn at_end(_: extern "C" fn()) -> bool {
    false
}

#[cfg(target_os = "linux")]
unsafe extern "C" fn ended(function: *mut libc::c_void) {
    // SAFETY: `at_end` stored such a function, and its library stays until this thread is gone.
    let function = unsafe { std::mem::transmute::<*mut libc::c_void, extern "C" fn()>(function) };
    function();
}

#[cfg(target_os = "linux")]
unsafe extern "C" fn signal_action(context: *const (), signal: i32, new: *const (), old: *mut ()) -> i32 {
    // SAFETY: the guest passes on what the C library's function was called with.
    unsafe { signals::action(context.addr(), signal, new.cast(), old.cast()) }
}

#[cfg(not(target_os = "linux"))]
unsafe extern "C" fn signal_action(_: *const (), _: i32, _: *const (), _: *mut ()) -> i32 {
    -1
}
