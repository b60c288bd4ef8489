//! The directives without references that stay for their keep time. They are counted for the whole bus and limited, however
//! long that time is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::task::AbortHandle;

use super::standing::Standing;

/// How many a bus keeps. If there are more, the oldest end at once.
pub(super) const MOST: usize = 10_000;

type Queue = VecDeque<(Weak<Standing>, u64)>;

#[derive(Default)]
pub(super) struct KeptDirectives {
    /// How many are kept now.
    count: AtomicUsize,
    /// In the order in which they lost their last reference. Those that got a new one since are still in it.
    queue: Mutex<Queue>,
}

/// Counts a directive as kept; dropped when it gets a reference again, or ends.
pub(super) struct KeepGuard {
    kept: Arc<KeptDirectives>,
    /// Ends the directive when its time is over.
    pub(super) timer: Option<AbortHandle>,
}

impl Drop for KeepGuard {
    fn drop(&mut self) {
        self.kept.count.fetch_sub(1, Ordering::Relaxed);
        if let Some(timer) = &self.timer {
            timer.abort();
        }
    }
}

impl KeptDirectives {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more.
    pub(super) fn count(self: &Arc<Self>) -> KeepGuard {
        self.count.fetch_add(1, Ordering::Relaxed);
        KeepGuard { kept: Arc::clone(self), timer: None }
    }

    /// Notes a directive that is kept, with its epoch.
    pub(super) fn note(&self, standing: &Arc<Standing>, epoch: u64) {
        let crowded = {
            let mut queue = self.queue();
            queue.push_back((Arc::downgrade(standing), epoch));
            if queue.len() > 2 * MOST { std::mem::take(&mut *queue) } else { return }
        };
        // Without the lock, because this may drop the last reference to a directive.
        let is_kept = |(kept, epoch): &(Weak<Standing>, u64)| {
            kept.upgrade().is_some_and(|kept| kept.lock().is_kept_since(*epoch))
        };
        let mut left: Queue = crowded.into_iter().filter(is_kept).collect();
        let mut queue = self.queue();
        left.append(&mut queue);
        *queue = left;
    }

    /// The oldest one, if there are too many. It may have got a reference meanwhile.
    pub(super) fn excess(&self) -> Option<(Weak<Standing>, u64)> {
        if self.count.load(Ordering::Relaxed) > MOST { self.queue().pop_front() } else { None }
    }
}
