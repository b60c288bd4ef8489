//! How long a thread's turns on a core are.
#![allow(unsafe_code)]

/// While there is one, the thread that has made it takes short turns on its core: it can yield often without losing more of its
/// share than that of such a turn. What the thread starts meanwhile would take short turns, too.
///
/// Linux has this since 6.12; elsewhere turns stay as long as they are.
pub(crate) struct ShortTurns {
    #[cfg(target_os = "linux")]
    before: Option<libc::sched_attr>,
    /// It is the thread's own.
    _stays: std::marker::PhantomData<*const ()>,
}

impl ShortTurns {
    /// Begins them.
    pub(crate) fn begin() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            before: linux::shorten(),
            _stays: std::marker::PhantomData,
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for ShortTurns {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            linux::set(before);
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use libc::{SCHED_BATCH, SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, sched_attr, syscall};

    /// The length of a short turn, in nanoseconds; the shortest that Linux has is half of that.
    const SHORT: u64 = 200_000;

    /// Shortens the turns of this thread, and returns what it had before; `None` if they stay as they are.
    pub(super) fn shorten() -> Option<sched_attr> {
        let before = get()?;
        let shares = [SCHED_OTHER, SCHED_BATCH].iter().any(|policy| before.sched_policy == *policy as u32);
        // Before 6.12 it has no length.
        let is_longer = before.sched_runtime > SHORT;
        let shorter = sched_attr { sched_runtime: SHORT, ..before };
        (shares && is_longer && set(&shorter)).then_some(before)
    }

    pub(super) fn get() -> Option<sched_attr> {
        let size = size_of::<sched_attr>() as u32;
        let mut found = sched_attr {
            size,
            sched_policy: 0,
            sched_flags: 0,
            sched_nice: 0,
            sched_priority: 0,
            sched_runtime: 0,
            sched_deadline: 0,
            sched_period: 0,
        };
        // SAFETY: the system writes at most `size` bytes to `found`, which has as many. 0 is this thread.
        let done = unsafe { syscall(SYS_sched_getattr, 0, &raw mut found, size, 0) };
        (done == 0).then_some(found)
    }

    pub(super) fn set(to: &sched_attr) -> bool {
        // SAFETY: the system reads as many bytes of `to` as its first field says, which is its size. 0 is this thread.
        unsafe { syscall(SYS_sched_setattr, 0, std::ptr::from_ref(to), 0) == 0 }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn turns_are_short_as_long_as_that_is_asked_for_and_those_of_other_threads_never() {
        let turn = || linux::get().map_or(0, |found| found.sched_runtime);
        let (before, other) = (turn(), std::thread::spawn(turn).join().expect("a turn"));
        assert_eq!(before, other);
        let short = ShortTurns::begin();
        let meanwhile = turn();
        drop(short);
        assert_eq!(turn(), before);
        // An older system has no such length.
        assert!(before == 0 || meanwhile < before, "{meanwhile} instead of {before}");
        assert!(linux::get().is_none_or(|found| found.sched_policy == 0 && found.sched_nice == 0));
    }
}
