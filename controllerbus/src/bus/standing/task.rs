//! The task of a resolver's run, which can be ended before it exists.

use tokio::task::AbortHandle;

use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicBool, Ordering};

/// What can be ended.
pub(in crate::bus) trait End {
    fn end(&self);
}

impl End for AbortHandle {
    fn end(&self) {
        self.abort();
    }
}

/// The task of a run that was not done when it was first polled. It is noted before it exists, so that it can always be ended.
pub(in crate::bus) struct ResolverTask<T = AbortHandle> {
    task: OnceLock<T>,
    ended: AtomicBool,
}

impl<T> Default for ResolverTask<T> {
    fn default() -> Self {
        Self { task: OnceLock::new(), ended: AtomicBool::new(false) }
    }
}

impl<T: End> ResolverTask<T> {
    /// Notes the task, and ends it if the run is over already.
    pub(in crate::bus) fn began(&self, task: T) {
        let _ = self.task.set(task);
        // A change that changes nothing: either this comes first and `end` sees the task, or this sees that it is over.
        let unchanged = self.ended.compare_exchange(false, false, Ordering::AcqRel, Ordering::Acquire);
        if unchanged.is_err() {
            self.end();
        }
    }

    pub(super) fn end(&self) {
        self.ended.swap(true, Ordering::AcqRel);
        if let Some(task) = self.task.get() {
            task.end();
        }
    }
}

#[cfg(all(test, cbus_loom))]
mod loom_tests {
    use std::sync::Arc;

    use super::*;

    struct Task(Arc<AtomicBool>);

    impl End for Task {
        fn end(&self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn loom_a_task_whose_run_is_over_before_or_while_it_begins_is_ended() {
        loom::model(|| {
            let (ended, task) = (Arc::new(AtomicBool::new(false)), Arc::<ResolverTask<Task>>::default());
            let ending = Arc::clone(&task);
            let ends = loom::thread::spawn(move || ending.end());
            task.began(Task(Arc::clone(&ended)));
            ends.join().expect("it ends");
            assert!(ended.load(Ordering::Relaxed));
        });
    }
}
