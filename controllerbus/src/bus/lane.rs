//! Lanes: reference counts that are striped, so that threads count on different cache lines.
//!
//! An `Arc` that every operation clones and drops is one word that all threads write. Moving it from core to core takes more
//! time than the rest of the operation. So whatever is shared that much has an `Arc` of its own for each lane, and a thread
//! uses the one of its lane.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The number of lanes. More threads than that share them, which only costs time.
pub(super) const LANES: usize = if cfg!(all(test, cbus_loom)) { 2 } else { 16 };

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The calling thread's lane.
pub(super) fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // When a thread ends, its thread-locals may be gone; any lane will do then.
    LANE.try_with(|lane| {
        if lane.get() == usize::MAX {
            lane.set(NEXT.fetch_add(1, Ordering::Relaxed) % LANES);
        }
        lane.get()
    })
    .unwrap_or(0)
}

/// One `T` for each lane, created when a thread first needs it.
pub(super) struct Lanes<T>([OnceLock<T>; LANES]);

impl<T> Lanes<T> {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }

    pub(super) fn get(&self, make: impl FnOnce(usize) -> T) -> &T {
        let lane = lane();
        self.0[lane].get_or_init(|| make(lane))
    }
}

impl<T> Lanes<T> {
    /// Those that have been created.
    pub(super) fn made(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(OnceLock::get)
    }
}

/// One lane's way to what all lanes share: an `Arc` of this is counted by the threads of one lane only.
pub(super) struct PerLane<T>(Arc<T>);

impl<T> PerLane<T> {
    pub(super) fn new(shared: &Arc<T>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(shared)))
    }
}

impl<T> Deref for PerLane<T> {
    type Target = Arc<T>;
    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}

/// Keeps its content on cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
pub(super) struct CachePadded<T>(pub(super) T);
