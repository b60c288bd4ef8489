//! Counts the threads that a loaded library made, up to the very end of each.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use crate::plugin::abi::ThreadHooks;

/// How many threads of one library run.
#[derive(Default)]
pub(super) struct ThreadCount {
    live: Mutex<usize>,
    changed: Condvar,
}

impl ThreadCount {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn count(&self) -> usize {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn remove(&self) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        *live = live.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Waits until no thread runs, or the deadline; returns how many run then.
    pub(super) fn wait_until_zero(&self, deadline: Instant) -> usize {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        while *live > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            live = self.changed.wait_timeout(live, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *live
    }
}

/// The hooks over a counter. The guest's copy of the pointer is backed by a count that is never given back:
/// 48 bytes a generation, so that a thread that outlives everything still finds its counter.
pub(super) fn hooks(count: &Arc<ThreadCount>) -> ThreadHooks {
    ThreadHooks { context: Arc::into_raw(Arc::clone(count)).cast(), created, entered, failed }
}

fn counter<'a>(context: *const ()) -> &'a ThreadCount {
    // SAFETY: `hooks` made the pointer from an Arc and keeps one count of it forever.
    unsafe { &*context.cast::<ThreadCount>() }
}

extern "C" fn created(context: *const ()) {
    counter(context).add();
}

extern "C" fn failed(context: *const ()) {
    counter(context).remove();
}

/// Marks the current thread, so that the host hears of its end: the key's destructor runs after the
/// thread-local destructors of the library, and it is the host's code.
extern "C" fn entered(context: *const ()) {
    static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: `key` is a valid place, and `ended` is a function of the process's own binary.
        (unsafe { libc::pthread_key_create(&raw mut key, Some(ended)) } == 0).then_some(key)
    });
    if let Some(key) = *key {
        // SAFETY: the key was created above. If this fails, the thread counts as running forever: the safe side.
        unsafe { libc::pthread_setspecific(key, context.cast()) };
    }
}

unsafe extern "C" fn ended(context: *mut libc::c_void) {
    counter(context.cast_const().cast()).remove();
}
