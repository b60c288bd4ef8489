//! The thread of a plugin host that ends it: when the runtime's process is gone, and when its deadline has passed. Whatever the
//! plugin's code does, and whether the runtime reads or not, nothing here waits for them.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::end_group;
use crate::host::moment::Moment;

/// Timers stand still while the machine sleeps, and the deadline does not: so it looks again soon.
const LOOK: Duration = Duration::from_millis(250);

/// When this process ends itself, unless it is told otherwise.
#[derive(Clone)]
pub(super) struct Deadline(Arc<Shared>);

struct Shared {
    at: Mutex<Option<Moment>>,
    /// A byte has the thread look at it.
    wake: UnixStream,
}

impl Deadline {
    /// Sets it. One that has passed ends the process before this returns.
    pub(super) fn set(&self, at: Option<Moment>) {
        *self.0.at.lock().unwrap_or_else(PoisonError::into_inner) = at;
        if self.has_passed() {
            end_group();
        }
        // If there is no room, bytes are there that were not read yet.
        let _ = (&self.0.wake).write(&[0]);
    }

    fn at(&self) -> Option<Moment> {
        *self.0.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_passed(&self) -> bool {
        self.at().is_some_and(|at| at.left().is_zero())
    }
}

/// Starts the thread.
pub(super) fn start(socket: UnixStream, at: Option<Moment>) -> std::io::Result<Deadline> {
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let deadline = Deadline(Arc::new(Shared { at: Mutex::new(at), wake }));
    let watched = deadline.clone();
    std::thread::Builder::new().name("plugin-host".to_owned()).spawn(move || {
        while !watched.has_passed() && is_as_before(&watched, &socket, &woken) {}
        end_group();
    })?;
    Ok(deadline)
}

/// Waits for the deadline, or for another one. False if the runtime is gone.
fn is_as_before(deadline: &Deadline, socket: &UnixStream, mut woken: &UnixStream) -> bool {
    let within = deadline.at().map(|at| timespec(at.left().min(LOOK)));
    let mut both = [PollFd::new(socket, HANGUP), PollFd::new(&woken, PollFlags::IN)];
    match poll(&mut both, within.as_ref()) {
        Err(rustix::io::Errno::INTR) => return true,
        Err(_) => return false,
        Ok(_) => {}
    }
    let (has_hung_up, is_woken) = (!both[0].revents().is_empty(), !both[1].revents().is_empty());
    if is_woken {
        let _ = std::io::Read::read(&mut woken, &mut [0; 64]);
    }
    !has_hung_up
}

#[cfg(target_os = "linux")]
const HANGUP: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP);
#[cfg(not(target_os = "linux"))]
const HANGUP: PollFlags = PollFlags::HUP;

/// Whether the runtime's end of a socket is closed.
pub(super) fn has_hung_up(socket: &UnixStream) -> bool {
    loop {
        match poll(&mut [PollFd::new(socket, HANGUP)], Some(&Timespec::default())) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return ended.is_ok_and(|ready| ready > 0),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}
