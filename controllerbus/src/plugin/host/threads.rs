//! The threads that a loaded library made, up to the very end of each.
//!
//! A thread runs code of the library until the system has no such thread any more: the destructors of its thread-locals and
//! of what it stored under keys come after its function, and none of them is known to be the last. So the system is asked.

use std::fs::File;
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The threads of one library.
#[derive(Default)]
pub(super) struct Threads(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// How many are about to run.
    created: usize,
    /// Those that ran when it was last looked at.
    running: Vec<Thread>,
    /// At how many it is looked at again.
    limit: usize,
}

/// A thread, which is not another one that has got its number since.
struct Thread {
    number: i32,
    /// In the system's own unit.
    began: Option<u64>,
}

impl Threads {
    pub(super) fn created(&self) {
        self.known().created += 1;
    }

    pub(super) fn failed(&self) {
        let mut known = self.known();
        known.created = known.created.saturating_sub(1);
    }

    pub(super) fn entered(&self, number: i32) {
        // Before others have to wait.
        let began = began(number);
        let mut known = self.known();
        known.created = known.created.saturating_sub(1);
        if known.running.len() >= known.limit {
            known.running.retain(Thread::runs);
            known.limit = (2 * known.running.len()).max(32);
        }
        known.running.push(Thread { number, began });
    }

    /// How many there are now.
    pub(super) fn count(&self) -> usize {
        let mut known = self.known();
        known.running.retain(Thread::runs);
        known.created + known.running.len()
    }

    /// Their names, as the system has them: the first 15 characters.
    pub(super) fn names(&self) -> Vec<String> {
        let known = self.known();
        let running = known.running.iter().filter(|thread| thread.runs());
        let names = running.filter_map(|thread| std::fs::read(format!("{}/comm", folder(thread.number))).ok());
        names.map(|name| String::from_utf8_lossy(&name).trim_end().to_owned()).collect()
    }

    /// Waits until there is none, or the deadline; returns how many there are then.
    pub(super) fn wait_until_none(&self, deadline: Instant) -> usize {
        let mut pause = Duration::from_micros(200);
        loop {
            let left = self.count();
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            // Only the thread that joins another one learns of its end.
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Thread {
    fn runs(&self) -> bool {
        let now = began(self.number);
        now.is_some() && now == self.began
    }
}

fn folder(thread: i32) -> String {
    format!("/proc/self/task/{thread}")
}

/// When a thread of this process began; `None` if there is none of this number.
fn began(thread: i32) -> Option<u64> {
    // More than the line ever has, so that the system is asked once.
    let mut line = [0; 2048];
    let length = File::open(format!("{}/stat", folder(thread))).and_then(|mut file| file.read(&mut line)).ok()?;
    let line = line.get(..length)?;
    // Its second field is a name in brackets, which may contain anything, and end within a character; this is the 22nd.
    let name_ends = line.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&line[name_ends + 1..]).ok()?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_counts_until_the_system_has_none_of_it() {
        let threads = std::sync::Arc::<Threads>::default();
        threads.created();
        assert_eq!(threads.count(), 1);
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let theirs = std::sync::Arc::clone(&threads);
        let thread = std::thread::Builder::new().name("counted".to_owned()).spawn(move || {
            // SAFETY: it has no preconditions.
            theirs.entered(unsafe { libc::gettid() });
            let _ = ends.recv();
        });
        let thread = thread.expect("a thread");
        while threads.names() != ["counted"] {
            std::thread::yield_now();
        }
        assert_eq!(threads.wait_until_none(Instant::now()), 1);
        drop(end);
        thread.join().expect("it ends");
        assert_eq!(threads.wait_until_none(Instant::now() + Duration::from_secs(10)), 0);
        assert!(threads.names().is_empty());
    }

    #[test]
    fn a_thread_counts_whose_name_the_system_cuts_within_a_character() {
        let threads = Threads::default();
        let (said, number) = std::sync::mpsc::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        // Of these 18 bytes the system keeps 15.
        let thread = std::thread::Builder::new().name("überwachung-füü".to_owned()).spawn(move || {
            // SAFETY: it has no preconditions.
            said.send(unsafe { libc::gettid() }).expect("who asks");
            let _ = ends.recv();
        });
        let thread = thread.expect("a thread");
        threads.created();
        threads.entered(number.recv().expect("its number"));
        assert_eq!(threads.count(), 1);
        assert_eq!(threads.names(), ["überwachung-f\u{fffd}"]);
        drop(end);
        thread.join().expect("it ends");
    }

    #[test]
    fn another_thread_of_the_same_number_is_not_the_one_that_was() {
        // SAFETY: it has no preconditions.
        let number = unsafe { libc::gettid() };
        assert!(Thread { number, began: began(number) }.runs());
        assert!(!Thread { number, began: Some(1) }.runs());
    }
}
