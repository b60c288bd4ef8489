//! Calls the signal handlers of plugins, so that none is called once its library is gone.
//!
//! A plugin has its own table of actions: it finds what it has set, and nothing of others. For a signal that some
//! plugin handles, the process's handler is [`deliver`], which calls the handlers of all plugins and then the one that was
//! there before. When the last plugin's goes, that one is put back. Host code that sets another one meanwhile has to call
//! what was there, as handlers do; that is `deliver`.
//!
//! A handler may run at any moment on any thread, and must not wait for anybody. So it reads a list that is replaced, never
//! changed (`current.rs`); a library whose handler was taken off it stays until the previous list is no longer read.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use libc::{SIG_DFL, SIG_IGN, c_int, c_void, siginfo_t};

use super::current::{Before, Current};

type Action = libc::sigaction;

/// How many signals there are, and one, for none has the number 0.
const SIGNALS: usize = 65;

/// Whom [`deliver`] calls for each signal, in this order; made before it is first installed.
static CALLED: OnceLock<[Current<Vec<Action>>; SIGNALS]> = OnceLock::new();

/// What is wanted of a signal.
struct Wanted {
    /// By plugins, under the numbers of theirs; the last one decides how it is delivered.
    by: Vec<(usize, Action)>,
    /// What was there before the first of them.
    before: Action,
}

/// The signals that plugins want something of, and lists that may still be read.
struct Table {
    wanted: Vec<(c_int, Wanted)>,
    retired: Vec<(c_int, Before<Vec<Action>>)>,
}

static TABLE: Mutex<Table> = Mutex::new(Table { wanted: Vec::new(), retired: Vec::new() });

fn called() -> &'static [Current<Vec<Action>>; SIGNALS] {
    CALLED.get_or_init(|| std::array::from_fn(|_| Current::new()))
}

/// Locks the table, with all signals blocked: a handler on this thread may ask for it too.
fn locked<T>(work: impl FnOnce(&mut MutexGuard<'static, Table>) -> T) -> T {
    // SAFETY: sets of signals may be zero, and the calls fill them.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: both are valid places.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
    }
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let result = work(&mut table);
    drop(table);
    // SAFETY: what the first call has filled.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    result
}

/// `sigaction` for a plugin of this number.
///
/// # Safety
/// As the C library's.
pub(super) unsafe fn action(owner: usize, signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    let there = (1..SIGNALS as c_int).contains(&signal);
    // Those between are the C library's own.
    if !there || (32..libc::SIGRTMIN()).contains(&signal) || signal == libc::SIGKILL || signal == libc::SIGSTOP {
        // SAFETY: the place of this thread's error number.
        unsafe { *libc::__errno_location() = libc::EINVAL };
        return -1;
    }
    locked(|table| {
        if !old.is_null() {
            let known = table.wanted.iter().find(|(known, _)| *known == signal);
            let known = known.and_then(|(_, wanted)| wanted.by.iter().find(|(known, _)| *known == owner));
            // SAFETY: the caller's promise: a place for it.
            unsafe { old.write(known.map_or_else(none, |(_, action)| *action)) };
        }
        if !new.is_null() {
            // SAFETY: the caller's promise: an action.
            table.want(owner, signal, unsafe { new.read() });
        }
    });
    0
}

/// Stops calling this plugin's handlers. False if one of them still runs at the deadline.
pub(super) fn forget(owner: usize, deadline: Instant) -> bool {
    locked(|table| {
        let theirs = |(_, wanted): &&(c_int, Wanted)| wanted.by.iter().any(|(known, _)| *known == owner);
        let signals: Vec<_> = table.wanted.iter().filter(theirs).map(|(signal, _)| *signal).collect();
        signals.into_iter().for_each(|signal| table.want(owner, signal, none()));
    });
    let mut pause = Duration::from_micros(50);
    // Every reader of the previous list has finished once there is a moment without readers.
    CALLED.get().into_iter().flatten().all(|list| {
        while list.is_read() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        true
    })
}

/// The system's own handling of a signal.
fn none() -> Action {
    // SAFETY: all of it may be zero: no handler (`SIG_DFL` is 0), no flags, no signals blocked.
    unsafe { std::mem::zeroed() }
}

fn calls(action: &Action) -> bool {
    action.sa_sigaction != SIG_DFL && action.sa_sigaction != SIG_IGN
}

fn is_deliver(action: &Action) -> bool {
    action.sa_sigaction == deliver as *const () as usize
}

/// What the process does at a signal now; `new` is what it does from then on.
fn process(signal: c_int, new: Option<&Action>) -> Action {
    let mut old = none();
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: null or an action, and a place for one.
    unsafe { libc::sigaction(signal, new, &raw mut old) };
    old
}

impl Table {
    fn want(&mut self, owner: usize, signal: c_int, action: Action) {
        let known = self.wanted.iter().position(|(known, _)| *known == signal);
        if known.is_none() && action.sa_sigaction == SIG_DFL {
            return;
        }
        let at = known.unwrap_or_else(|| {
            self.wanted.push((signal, Wanted { by: Vec::new(), before: process(signal, None) }));
            self.wanted.len() - 1
        });
        let wanted = &mut self.wanted[at].1;
        wanted.by.retain(|(known, _)| *known != owner);
        if action.sa_sigaction != SIG_DFL {
            wanted.by.push((owner, action));
        }
        let (before, now) = (wanted.before, process(signal, None));
        let last = wanted.by.iter().rev().map(|(_, action)| action).find(|action| calls(action)).copied();
        let called = wanted.by.iter().map(|(_, action)| *action).chain([before]).filter(calls).collect();
        // The list first: a signal delivered from here on finds it.
        let ignored = wanted.by.iter().any(|(_, action)| action.sa_sigaction == SIG_IGN);
        let gone = wanted.by.is_empty();
        self.call(signal, called);
        // A handler that the host has set since stays where it is; it calls what it found.
        let ours = is_deliver(&now) || now.sa_sigaction == before.sa_sigaction || now.sa_sigaction == SIG_IGN;
        if !ours {
            return;
        }
        let wish = match last {
            Some(last) => {
                const KEPT: c_int =
                    libc::SA_RESTART | libc::SA_ONSTACK | libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT | libc::SA_NODEFER;
                let mut action = last;
                (action.sa_sigaction, action.sa_flags) =
                    (deliver as *const () as usize, libc::SA_SIGINFO | (last.sa_flags & KEPT));
                action
            }
            // To ignore a signal is no reason to take it from the host's handler.
            None if ignored && before.sa_sigaction == SIG_DFL => {
                let mut action = none();
                action.sa_sigaction = SIG_IGN;
                action
            }
            None => before,
        };
        process(signal, Some(&wish));
        if gone {
            self.wanted.remove(at);
        }
    }

    /// Has [`deliver`] call these.
    fn call(&mut self, signal: c_int, actions: Vec<Action>) {
        let lists = called();
        let before = lists[signal as usize].replace(actions);
        self.retired.extend(before.map(|before| (signal, before)));
        for (signal, before) in std::mem::take(&mut self.retired) {
            if lists[signal as usize].is_read() {
                self.retired.push((signal, before));
            } else {
                // SAFETY: the list of that signal has not been read since it was replaced.
                unsafe { before.free() };
            }
        }
    }
}

/// The process's handler of the signals that plugins handle.
extern "C" fn deliver(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the place of this thread's error number, which a handler leaves as it was.
    let errno = unsafe { *libc::__errno_location() };
    let list = CALLED.get().and_then(|lists| lists.get(usize::try_from(signal).ok()?));
    list.into_iter().for_each(|list| list.read(|actions| call(actions, signal, info, context)));
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Calls handlers, whose libraries stay while the list is read that they are in.
fn call(actions: &[Action], signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    for action in actions {
        if action.sa_flags & libc::SA_SIGINFO == 0 {
            // SAFETY: without this flag the address is that of such a function.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(action.sa_sigaction) };
            handler(signal);
        } else {
            type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
            // SAFETY: with this flag the address is that of such a function.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(action.sa_sigaction) };
            handler(signal, info, context);
        }
    }
}
