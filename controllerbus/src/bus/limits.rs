//! How long each step of a controller's life may take before the bus goes on without it.

use std::time::Duration;

/// How long each step of a controller's life may take.
///
/// What takes longer is given up: the future is dropped, the controller's state says so, and nobody else waits for it.
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
    /// `construct`, until it counts as failed; 30 s unless set.
    pub construct: Duration,
    /// From the cancellation to the end of `execute`, until its future is dropped; 5 s unless set.
    pub cancel: Duration,
    /// `close`, until its future is dropped, and then the controller's destructor; 5 s unless set.
    pub close: Duration,
    /// With `swap = "stop-first"`: calls that are at work without an answer when their controller is to end, until they are
    /// dropped, and done by the next one; 5 s unless set.
    pub finish: Duration,
    /// `save`, until the swap is rolled back; 5 s unless set.
    pub save: Duration,
    /// `restore`, until the swap is rolled back; 10 s unless set.
    pub restore: Duration,
    /// The last `save` and `restore` together, for which calls wait, until the swap is rolled back; 1 s unless set.
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

    /// Sets how long calls may take to end before a controller that has to end for its successor to be made.
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

    /// From the cancellation of a controller until it is closed, or has been given up.
    pub(super) fn end(&self) -> Duration {
        self.cancel + self.close + super::life::GRACE * 3
    }

    /// The same for one whose state is wanted, and which is to be dropped.
    pub(super) fn part(&self) -> Duration {
        self.end() + self.save + self.close + super::life::GRACE
    }
}
