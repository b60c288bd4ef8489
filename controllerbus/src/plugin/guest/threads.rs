//! Keeps account of what would tie a library to a thread: threads it made, thread-locals with destructors, keys.
//!
//! The bundle defines hidden functions of the C library's names that come here (see `bundle.rs`). glibc keeps a library
//! mapped while a thread has thread-local destructors of it pending, and it calls the destructors of keys whether the
//! library is there or not. So on the host's threads neither are registered, and what that leaves behind is counted; on
//! the library's own threads all of them run when the thread ends.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libc::{c_int, c_void, pthread_attr_t, pthread_key_t, pthread_t};

use super::hooks::{hooks, real};
use crate::plugin::abi::Hooks;

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type Destructor = unsafe extern "C" fn(*mut c_void);

static LEAKED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this library made the current thread. Constant and without a destructor, so it registers nothing.
    static OWN: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn leaked() -> u64 {
    LEAKED.load(Ordering::Relaxed)
}

/// The bundle's `__cxa_thread_atexit_impl`.
///
/// # Safety
/// As the C library's: `destructor` may be called with `object` when the thread ends.
pub unsafe fn register_destructor(destructor: Destructor, object: *mut c_void, library: *mut c_void) -> c_int {
    type Real = unsafe extern "C" fn(Destructor, *mut c_void, *mut c_void) -> c_int;
    static REAL: OnceLock<Option<Real>> = OnceLock::new();
    if OWN.get() {
        // SAFETY: the C library's symbol of this name has this type (glibc's stdlib/cxa_thread_atexit_impl.c).
        let real = *REAL.get_or_init(|| unsafe { real(c"__cxa_thread_atexit_impl") });
        if let Some(real) = real {
            // SAFETY: the caller's promise, passed on.
            return unsafe { real(destructor, object, library) };
        }
    }
    LEAKED.fetch_add(1, Ordering::Relaxed);
    0
}

/// The threads that an initialiser of the library has made, before the host could be told of any.
#[derive(Default)]
struct Early {
    /// How many are about to run.
    created: usize,
    /// Those that run.
    running: Vec<i32>,
}

static EARLY: Mutex<Early> = Mutex::new(Early { created: 0, running: Vec::new() });

fn early() -> MutexGuard<'static, Early> {
    EARLY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the host of the threads that there are already. `set` makes the hooks known meanwhile.
pub(super) fn tell_early(hooks: &Hooks, set: impl FnOnce()) {
    let mut early = early();
    set();
    for _ in 0..early.created + early.running.len() {
        (hooks.created)(hooks.context);
    }
    for thread in std::mem::take(&mut early.running) {
        (hooks.entered)(hooks.context, thread);
    }
}

struct Launch {
    start: Start,
    argument: *mut c_void,
}

/// The bundle's `pthread_create`.
///
/// # Safety
/// As the C library's.
pub unsafe fn create(
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    type Real = unsafe extern "C" fn(*mut pthread_t, *const pthread_attr_t, Start, *mut c_void) -> c_int;
    static REAL: OnceLock<Option<Real>> = OnceLock::new();
    // SAFETY: the C library's symbol of this name has this type (POSIX).
    let Some(real) = *REAL.get_or_init(|| unsafe { real(c"pthread_create") }) else { return libc::EAGAIN };
    {
        let mut early = early();
        match hooks() {
            Some(hooks) => (hooks.created)(hooks.context),
            None => early.created += 1,
        }
    }
    let launch = Box::into_raw(Box::new(Launch { start, argument }));
    // SAFETY: the caller's promise, passed on; `run` takes the launch back.
    let status = unsafe { real(thread, attributes, run, launch.cast()) };
    if status != 0 {
        // SAFETY: no thread was made, so the launch is still ours.
        drop(unsafe { Box::from_raw(launch) });
        let mut early = early();
        match hooks() {
            Some(hooks) => (hooks.failed)(hooks.context),
            None => early.created = early.created.saturating_sub(1),
        }
    }
    status
}

extern "C" fn run(launch: *mut c_void) -> *mut c_void {
    // SAFETY: `create` made it with `Box::into_raw` for this thread alone.
    let Launch { start, argument } = *unsafe { Box::from_raw(launch.cast::<Launch>()) };
    OWN.set(true);
    let thread = number();
    let told = {
        let mut early = early();
        let hooks = hooks();
        match hooks {
            Some(hooks) => (hooks.entered)(hooks.context, thread),
            None => {
                early.created = early.created.saturating_sub(1);
                early.running.push(thread);
            }
        }
        hooks
    };
    let at_end = told.is_some_and(|hooks| (hooks.at_end)(call_destructors));
    let result = start(argument);
    if !at_end {
        call_destructors();
    }
    result
}

/// The current thread's number, as the system has it.
fn number() -> i32 {
    // SAFETY: it has no preconditions.
    #[cfg(target_os = "linux")]
    return unsafe { libc::gettid() };
    #[cfg(not(target_os = "linux"))]
    return 0;
}

/// The keys for thread-local data that code of this library has made, with their destructors, of which the C library is
/// not told. A process has 1,024 keys; the standard library makes one in each library that it is linked into, and never
/// gives it back.
static KEYS: Mutex<Vec<(pthread_key_t, Option<Destructor>)>> = Mutex::new(Vec::new());

fn keys() -> MutexGuard<'static, Vec<(pthread_key_t, Option<Destructor>)>> {
    KEYS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls the destructors of what the current thread has stored under the library's keys, as the C library does: again as
/// long as a destructor stores something, but not for ever.
extern "C" fn call_destructors() {
    const ROUNDS: usize = 4;
    for _ in 0..ROUNDS {
        let mut called = false;
        // One after the other, without a copy of the list: an allocator may have such a key too.
        for at in 0.. {
            let Some((key, destructor)) = keys().get(at).copied() else { break };
            // SAFETY: for a key that was deleted since, this is null.
            let stored = unsafe { libc::pthread_getspecific(key) };
            if let Some(destructor) = destructor.filter(|_| !stored.is_null()) {
                // SAFETY: the key is there, as what is stored under it shows.
                unsafe { libc::pthread_setspecific(key, std::ptr::null()) };
                called = true;
                // SAFETY: who made the key promised that its destructor may be called with what a thread stores under it.
                unsafe { destructor(stored) };
            }
        }
        if !called {
            break;
        }
    }
}

/// The bundle's `pthread_key_create`.
///
/// # Safety
/// As the C library's.
pub unsafe fn create_key(key: *mut pthread_key_t, destructor: Option<Destructor>) -> c_int {
    type Real = unsafe extern "C" fn(*mut pthread_key_t, Option<Destructor>) -> c_int;
    static REAL: OnceLock<Option<Real>> = OnceLock::new();
    // SAFETY: the C library's symbol of this name has this type (POSIX).
    let Some(real) = *REAL.get_or_init(|| unsafe { real(c"pthread_key_create") }) else { return libc::EAGAIN };
    // SAFETY: the caller's promise, passed on.
    let status = unsafe { real(key, None) };
    if status == 0 {
        // SAFETY: the call has filled the caller's place.
        keys().push((unsafe { *key }, destructor));
    }
    status
}

/// The bundle's `pthread_key_delete`.
///
/// # Safety
/// As the C library's.
pub unsafe fn delete_key(key: pthread_key_t) -> c_int {
    keys().retain(|(known, _)| *known != key);
    // SAFETY: the caller's promise, passed on.
    unsafe { really_delete(key) }
}

/// # Safety
/// As the C library's `pthread_key_delete`.
unsafe fn really_delete(key: pthread_key_t) -> c_int {
    type Real = unsafe extern "C" fn(pthread_key_t) -> c_int;
    static REAL: OnceLock<Option<Real>> = OnceLock::new();
    // SAFETY: the C library's symbol of this name has this type (POSIX).
    let Some(real) = *REAL.get_or_init(|| unsafe { real(c"pthread_key_delete") }) else { return libc::EINVAL };
    // SAFETY: the caller's promise, passed on.
    unsafe { real(key) }
}

/// Gives the library's keys back; says how many. To be called when no other code of it will run any more.
///
/// The destructors of what host threads have stored under them are not called, then or later.
pub(super) extern "C" fn give_keys_back() -> u32 {
    let keys = std::mem::take(&mut *keys());
    // SAFETY: this library made the keys and has not deleted them, and nobody uses them any more.
    let given = keys.into_iter().filter(|(key, _)| unsafe { really_delete(*key) } == 0);
    given.count() as u32
}
