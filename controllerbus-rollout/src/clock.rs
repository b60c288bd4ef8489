//! Time: a clock that never jumps and goes on while the machine sleeps, and the one on the wall.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The clocks of a host. Another pair is for tests.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Duration + Send + Sync>,
    wall_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self { now: Arc::new(since_boot), wall_ms: Arc::new(crate::release::now_ms) }
    }

    /// Other clocks: the time since any fixed point, and milliseconds since 1970.
    pub fn new(
        now: impl Fn() -> Duration + Send + Sync + 'static,
        wall_ms: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), wall_ms: Arc::new(wall_ms) }
    }

    pub(crate) fn now(&self) -> Duration {
        (self.now)()
    }

    pub(crate) fn wall_ms(&self) -> u64 {
        (self.wall_ms)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// `std::time::Instant` stands still while a laptop sleeps, and so a lease would last too long there.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn since_boot() -> Duration {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
