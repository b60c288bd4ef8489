//! Keeps account of what would tie a library to a thread: threads it made, thread-locals with destructors.
//!
//! The bundle defines hidden `pthread_create` and `__cxa_thread_atexit_impl` that come here (see `bundle.rs`).
//! glibc keeps a library mapped while a thread has destructors of it pending, so on the host's threads they
//! are not registered but counted; on the guest's own threads they are, and run when the thread ends.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::{c_int, c_void, pthread_attr_t, pthread_key_t, pthread_t};

use crate::plugin::abi::ThreadHooks;

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type Destructor = unsafe extern "C" fn(*mut c_void);

struct Hooks(ThreadHooks);
// SAFETY: the context is a counter that the host keeps for as long as the library is loaded, used by atomics only.
unsafe impl Send for Hooks {}
// SAFETY: as above.
unsafe impl Sync for Hooks {}

static HOOKS: OnceLock<Hooks> = OnceLock::new();
static LEAKED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this library made the current thread. Constant and without a destructor, so it registers nothing.
    static OWN: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn set_hooks(hooks: ThreadHooks) {
    let _ = HOOKS.set(Hooks(hooks));
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
        let real = REAL.get_or_init(|| {
            // SAFETY: a look-up by a valid C string.
            let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__cxa_thread_atexit_impl".as_ptr()) };
            // SAFETY: the C library's symbol of this name has this type (glibc's stdlib/cxa_thread_atexit_impl.c).
            (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Real>(found) })
        });
        if let Some(real) = real {
            // SAFETY: the caller's promise, passed on.
            return unsafe { real(destructor, object, library) };
        }
    }
    LEAKED.fetch_add(1, Ordering::Relaxed);
    0
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
    let real = REAL.get_or_init(|| {
        // SAFETY: a look-up by a valid C string.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"pthread_create".as_ptr()) };
        // SAFETY: the C library's symbol of this name has this type (POSIX).
        (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Real>(found) })
    });
    let Some(real) = *real else { return libc::EAGAIN };
    if let Some(Hooks(hooks)) = HOOKS.get() {
        (hooks.created)(hooks.context);
    }
    let launch = Box::into_raw(Box::new(Launch { start, argument }));
    // SAFETY: the caller's promise, passed on; `run` takes the launch back.
    let status = unsafe { real(thread, attributes, run, launch.cast()) };
    if status != 0 {
        // SAFETY: no thread was made, so the launch is still ours.
        drop(unsafe { Box::from_raw(launch) });
        if let Some(Hooks(hooks)) = HOOKS.get() {
            (hooks.failed)(hooks.context);
        }
    }
    status
}

extern "C" fn run(launch: *mut c_void) -> *mut c_void {
    // SAFETY: `create` made it with `Box::into_raw` for this thread alone.
    let Launch { start, argument } = *unsafe { Box::from_raw(launch.cast::<Launch>()) };
    OWN.set(true);
    if let Some(Hooks(hooks)) = HOOKS.get() {
        (hooks.entered)(hooks.context);
    }
    start(argument)
}

/// The keys for thread-local data that code of this library has made. A process has 1,024 of them; the standard library
/// makes one in each library that it is linked into, and never gives it back.
static KEYS: Mutex<Vec<pthread_key_t>> = Mutex::new(Vec::new());

/// The bundle's `pthread_key_create`.
///
/// # Safety
/// As the C library's.
pub unsafe fn create_key(key: *mut pthread_key_t, destructor: Option<unsafe extern "C" fn(*mut c_void)>) -> c_int {
    type Real = unsafe extern "C" fn(*mut pthread_key_t, Option<unsafe extern "C" fn(*mut c_void)>) -> c_int;
    static REAL: OnceLock<Option<Real>> = OnceLock::new();
    let real = REAL.get_or_init(|| {
        // SAFETY: a look-up by a valid C string.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"pthread_key_create".as_ptr()) };
        // SAFETY: the C library's symbol of this name has this type (POSIX).
        (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Real>(found) })
    });
    let Some(real) = *real else { return libc::EAGAIN };
    // SAFETY: the caller's promise, passed on.
    let status = unsafe { real(key, destructor) };
    if status == 0 {
        // SAFETY: the call has filled the caller's place.
        KEYS.lock().unwrap_or_else(PoisonError::into_inner).push(unsafe { *key });
    }
    status
}

/// The bundle's `pthread_key_delete`.
///
/// # Safety
/// As the C library's.
pub unsafe fn delete_key(key: pthread_key_t) -> c_int {
    KEYS.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != key);
    // SAFETY: the caller's promise, passed on.
    unsafe { really_delete(key) }
}

/// # Safety
/// As the C library's `pthread_key_delete`.
unsafe fn really_delete(key: pthread_key_t) -> c_int {
    type Real = unsafe extern "C" fn(pthread_key_t) -> c_int;
    static REAL: OnceLock<Option<Real>> = OnceLock::new();
    let real = REAL.get_or_init(|| {
        // SAFETY: a look-up by a valid C string.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"pthread_key_delete".as_ptr()) };
        // SAFETY: the C library's symbol of this name has this type (POSIX).
        (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Real>(found) })
    });
    let Some(real) = *real else { return libc::EINVAL };
    // SAFETY: the caller's promise, passed on.
    unsafe { real(key) }
}

/// Gives the library's keys back; says how many. To be called when no other code of it will run any more.
///
/// The destructors of what host threads have stored under them are not called then, as they must not be once the
/// library is gone.
pub(super) extern "C" fn give_keys_back() -> u32 {
    let keys = std::mem::take(&mut *KEYS.lock().unwrap_or_else(PoisonError::into_inner));
    // SAFETY: this library made the keys and has not deleted them, and nobody uses them any more.
    let given = keys.into_iter().filter(|key| unsafe { really_delete(*key) } == 0);
    given.count() as u32
}
