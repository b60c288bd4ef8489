//! Keeps account of what would tie a library to a thread: threads it made, thread-locals with destructors, keys.
//!
//! The bundle defines hidden functions of the C library's names that come here (see `bundle.rs`). glibc keeps a library
//! mapped while a thread has thread-local destructors of it pending, and it calls the destructors of keys whether the
//! library is there or not. So on the host's threads neither are registered, and what that leaves behind is counted; on
//! the library's own threads all of them run when the thread ends.
//!
//! Nothing here allocates through the library's allocator, which may be what calls.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{c_int, c_void, pthread_attr_t, pthread_key_t, pthread_t};

use super::hooks::{Host, Real, host};

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type Destructor = unsafe extern "C" fn(*mut c_void);
type RegisterDestructor = unsafe extern "C" fn(Destructor, *mut c_void, *mut c_void) -> c_int;
type Create = unsafe extern "C" fn(*mut pthread_t, *const pthread_attr_t, Start, *mut c_void) -> c_int;
type CreateKey = unsafe extern "C" fn(*mut pthread_key_t, Option<Destructor>) -> c_int;
type DeleteKey = unsafe extern "C" fn(pthread_key_t) -> c_int;

// SAFETY: the C library's symbol of this name has this type (glibc's stdlib/cxa_thread_atexit_impl.c).
static REGISTER_DESTRUCTOR: Real<RegisterDestructor> = unsafe { Real::new(c"__cxa_thread_atexit_impl") };
// SAFETY: this and the following have these types by POSIX.
static CREATE: Real<Create> = unsafe { Real::new(c"pthread_create") };
// SAFETY: as above.
static CREATE_KEY: Real<CreateKey> = unsafe { Real::new(c"pthread_key_create") };
// SAFETY: as above.
static DELETE_KEY: Real<DeleteKey> = unsafe { Real::new(c"pthread_key_delete") };

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
    if OWN.get()
        && let Some(real) = REGISTER_DESTRUCTOR.get()
    {
        // SAFETY: the caller's promise, passed on.
        return unsafe { real(destructor, object, library) };
    }
    LEAKED.fetch_add(1, Ordering::Relaxed);
    0
}

/// The threads that an initialiser of the library has made before the host could be told. There is room for some; when others
/// end is not known, and the library stays.
struct Early {
    /// How many were made, but for those below.
    created: usize,
    /// Those that run.
    running: [i32; 32],
    count: usize,
}

static EARLY: Mutex<Early> = Mutex::new(Early { created: 0, running: [0; 32], count: 0 });

fn early() -> MutexGuard<'static, Early> {
    EARLY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the host of the threads that there are already. `set` makes the hooks known meanwhile.
pub(super) fn tell_early(host: &Host, set: impl FnOnce()) {
    let early = early();
    set();
    for _ in 0..early.created + early.count {
        host.created();
    }
    early.running[..early.count].iter().for_each(|thread| host.entered(*thread));
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
    let Some(real) = CREATE.get() else { return libc::EAGAIN };
    {
        let mut early = early();
        match host() {
            Some(host) => host.created(),
            None => early.created += 1,
        }
    }
    // SAFETY: it has no preconditions.
    let launch = unsafe { libc::malloc(size_of::<Launch>()) }.cast::<Launch>();
    let status = if launch.is_null() {
        libc::EAGAIN
    } else {
        // SAFETY: as large as a launch, and aligned for anything.
        unsafe { launch.write(Launch { start, argument }) };
        // SAFETY: the caller's promise, passed on; `run` takes the launch back.
        unsafe { real(thread, attributes, run, launch.cast()) }
    };
    if status != 0 {
        // SAFETY: no thread was made, so the launch is still ours; or it is null.
        unsafe { libc::free(launch.cast()) };
        let mut early = early();
        match host() {
            Some(host) => host.failed(),
            None => early.created = early.created.saturating_sub(1),
        }
    }
    status
}

extern "C" fn run(launch: *mut c_void) -> *mut c_void {
    // SAFETY: `create` made it for this thread alone.
    let Launch { start, argument } = unsafe { launch.cast::<Launch>().read() };
    // SAFETY: it was made by `malloc`, and is not used any more.
    unsafe { libc::free(launch) };
    OWN.set(true);
    let thread = number();
    let told = {
        let mut early = early();
        let host = host();
        let at = early.count;
        if host.is_none()
            && let Some(place) = early.running.get_mut(at)
        {
            *place = thread;
            early.count += 1;
            early.created = early.created.saturating_sub(1);
        }
        host
    };
    // Others need not wait for that.
    if let Some(host) = told {
        host.entered(thread);
    }
    let at_end = told.is_some_and(|host| host.at_end(call_destructors));
    let result = start(argument);
    if !at_end {
        call_destructors();
    }
    result
}

/// The current thread's number, as the system has it.
fn number() -> i32 {
    // SAFETY: it has no preconditions.
    unsafe { libc::gettid() }
}

/// A key for thread-local data that this library has made, with its destructor, which the C library does not know of.
struct Key {
    made: AtomicBool,
    destructor: AtomicPtr<c_void>,
}

/// By their numbers. A process has so many; the standard library makes one in each library that it is linked into, and never
/// gives it back.
static KEYS: [Key; 1024] =
    [const { Key { made: AtomicBool::new(false), destructor: AtomicPtr::new(std::ptr::null_mut()) } }; 1024];

fn key(number: pthread_key_t) -> Option<&'static Key> {
    KEYS.get(usize::try_from(number).ok()?)
}

/// Calls the destructors of what the current thread has stored under the library's keys, as the C library does: again as
/// long as a destructor stores something, but not forever.
extern "C" fn call_destructors() {
    const ROUNDS: usize = 4;
    for _ in 0..ROUNDS {
        let mut called = false;
        for (number, key) in (0..).zip(&KEYS) {
            let destructor = key.destructor.load(Ordering::Acquire);
            if !key.made.load(Ordering::Acquire) || destructor.is_null() {
                continue;
            }
            // SAFETY: for a key that was deleted since, this is null.
            let stored = unsafe { libc::pthread_getspecific(number) };
            if !stored.is_null() {
                // SAFETY: the key is there, as what is stored under it shows.
                unsafe { libc::pthread_setspecific(number, std::ptr::null()) };
                called = true;
                // SAFETY: `create_key` stored a destructor.
                let destructor = unsafe { std::mem::transmute::<*mut c_void, Destructor>(destructor) };
                // SAFETY: the code that made the key promised that its destructor may be called with what a thread stores under it.
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
pub unsafe fn create_key(place: *mut pthread_key_t, destructor: Option<Destructor>) -> c_int {
    let Some(real) = CREATE_KEY.get() else { return libc::EAGAIN };
    // SAFETY: the caller's promise, passed on.
    let status = unsafe { real(place, None) };
    if status == 0 {
        // SAFETY: the call has filled the caller's place.
        let number = unsafe { *place };
        let Some(key) = key(number) else {
            // SAFETY: it was just made, and nothing else knows it.
            unsafe { really_delete(number) };
            return libc::EAGAIN;
        };
        let destructor = destructor.map_or(std::ptr::null_mut(), |destructor| destructor as *mut c_void);
        key.destructor.store(destructor, Ordering::Release);
        key.made.store(true, Ordering::Release);
    }
    status
}

/// The bundle's `pthread_key_delete`.
///
/// # Safety
/// As the C library's.
pub unsafe fn delete_key(number: pthread_key_t) -> c_int {
    if let Some(key) = key(number) {
        key.made.store(false, Ordering::Release);
    }
    // SAFETY: the caller's promise, passed on.
    unsafe { really_delete(number) }
}

/// # Safety
/// As the C library's `pthread_key_delete`.
unsafe fn really_delete(key: pthread_key_t) -> c_int {
    let Some(real) = DELETE_KEY.get() else { return libc::EINVAL };
    // SAFETY: the caller's promise, passed on.
    unsafe { real(key) }
}

/// Gives the library's keys back; says how many. The destructors of what host threads have stored under them are not called,
/// then or later.
///
/// # Safety
/// No other code of the library runs any more, or will.
pub(super) unsafe fn give_keys_back() -> u32 {
    let made = (0..).zip(&KEYS).filter(|(_, key)| key.made.swap(false, Ordering::AcqRel));
    // SAFETY: this library made the keys and has not deleted them, and nothing uses them any more.
    let given = made.filter(|(number, _)| unsafe { really_delete(*number) } == 0);
    given.count() as u32
}
