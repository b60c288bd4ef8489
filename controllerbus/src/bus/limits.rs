//! How long each step of a controller's life may take before the bus goes on without it.

use std::time::Duration;

/// How long each step of a controller's life may take.
///
/// When a limit has passed, the future is dropped, the controller's state says so, and nothing else waits for it, but for a
/// controller that cannot run beside it (`swap = "stop-first"`).
///
/// ```
/// use std::time::Duration;
/// use controllerbus::bus::{Bus, Limits};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # let _inside = runtime.enter();
/// let bus = Bus::with_limits(Limits::default().construct(Duration::from_secs(60)));
/// assert_eq!(bus.limits().construct, Duration::from_secs(60));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// `construct`, before it counts as failed. The default is 30 s.
    pub construct: Duration,
    /// `execute` after its cancellation, before its future is dropped. The default is 5 s.
    pub cancel: Duration,
    /// `close`, before its future is dropped; and then the controller's destructor. The default is 5 s.
    pub close: Duration,
    /// With `swap = "stop-first"`: requests in progress when their controller is about to end, before they are dropped and
    /// started over by the next one. The default is 5 s.
    pub finish: Duration,
    /// `save`, before the swap is rolled back. The default is 5 s.
    pub save: Duration,
    /// `restore`, before the swap is rolled back. The default is 10 s.
    pub restore: Duration,
    /// The last `save` and `restore` together, during which new requests wait, before the swap is rolled back. The default is 1 s.
    pub hand_over: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            construct: Duration::from_secs(30),
            cancel: Duration::from_secs(5),
            close: Duration::from_secs(5),
            finish: Duration::from_secs(5),
            save: Duration::from_secs(5),
            restore: Duration::from_secs(10),
            hand_over: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// Sets how long `construct` may take.
    #[must_use]
    pub fn construct(mut self, limit: Duration) -> Self {
        self.construct = limit;
        self
    }

    /// Sets how long `execute` may take to end once it is cancelled.
    #[must_use]
    pub fn cancel(mut self, limit: Duration) -> Self {
        self.cancel = limit;
        self
    }

    /// Sets how long `close` may take.
    #[must_use]
    pub fn close(mut self, limit: Duration) -> Self {
        self.close = limit;
        self
    }

    /// Sets how long requests in progress may take to finish when their controller has to end before its successor is
    /// constructed.
    #[must_use]
    pub fn finish(mut self, limit: Duration) -> Self {
        self.finish = limit;
        self
    }

    /// Sets how long `save` may take.
    #[must_use]
    pub fn save(mut self, limit: Duration) -> Self {
        self.save = limit;
        self
    }

    /// Sets how long `restore` may take.
    #[must_use]
    pub fn restore(mut self, limit: Duration) -> Self {
        self.restore = limit;
        self
    }

    /// Sets how long the last `save` and `restore` of a swap may take together.
    #[must_use]
    pub fn hand_over(mut self, limit: Duration) -> Self {
        self.hand_over = limit;
        self
    }

    /// From a controller's cancellation until it is closed or has been given up.
    pub(super) fn end(&self) -> Duration {
        self.cancel + self.close + super::life::GRACE * 3
    }

    /// The same for one whose state is saved, and which is dropped, before it is closed.
    pub(super) fn part(&self) -> Duration {
        self.end() + self.save + self.close + super::life::GRACE
    }
}
