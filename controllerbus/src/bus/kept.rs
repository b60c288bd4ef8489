//! The directives that nobody refers to and that stand on for their time: counted for the whole bus, so that they do not
//! grow without bound, whoever says how long that time is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::task::AbortHandle;

use super::standing::Standing;

/// How many a bus keeps; of more the oldest end at once.
pub(super) const MOST: usize = 10_000;

type Queue = VecDeque<(Weak<Standing>, u64)>;

#[derive(Default)]
pub(super) struct KeptDirectives {
    /// How many are kept now.
    count: AtomicUsize,
    /// In the order in which they were let go of; what was referred to again since is in it still.
    queue: Mutex<Queue>,
}

/// Counts one while it is kept; dropped when it is referred to again, or ends.
pub(super) struct KeepGuard {
    kept: Arc<KeptDirectives>,
    /// Ends it when its time is over.
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

    /// One more is kept.
    pub(super) fn count(self: &Arc<Self>) -> KeepGuard {
        self.count.fetch_add(1, Ordering::Relaxed);
        KeepGuard { kept: Arc::clone(self), timer: None }
    }

    /// Notes that it is kept from this epoch of it on.
    pub(super) fn note(&self, standing: &Arc<Standing>, epoch: u64) {
        let crowded = {
            let mut queue = self.queue();
            queue.push_back((Arc::downgrade(standing), epoch));
            if queue.len() > 2 * MOST { std::mem::take(&mut *queue) } else { return }
        };
        // Without the lock: whoever lets go of a directive last drops it.
        let is_kept = |(kept, epoch): &(Weak<Standing>, u64)| {
            kept.upgrade().is_some_and(|kept| kept.lock().is_kept_since(*epoch))
        };
        let mut left: Queue = crowded.into_iter().filter(is_kept).collect();
        let mut queue = self.queue();
        left.append(&mut queue);
        *queue = left;
    }

    /// The oldest, if there are too many. It need not be kept any more.
    pub(super) fn excess(&self) -> Option<(Weak<Standing>, u64)> {
        if self.count.load(Ordering::Relaxed) > MOST { self.queue().pop_front() } else { None }
    }
}
