//! Lanes: threads that work at the same time count their references on different cache lines.
//!
//! An `Arc` that every operation clones and drops is one memory word that all threads change; the time that it takes
//! from one core to the other is more than all the rest of an operation. So what is shared that much has a copy of its
//! `Arc` for each lane, and a thread uses that of its own lane.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// How many lanes there are. More threads than that share them, which costs time and nothing else.
pub(super) const LANES: usize = 16;

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The calling thread's lane.
pub(super) fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // At a thread's end its locals may be gone; any lane will do.
    LANE.try_with(|lane| {
        if lane.get() == usize::MAX {
            lane.set(NEXT.fetch_add(1, Ordering::Relaxed) % LANES);
        }
        lane.get()
    })
    .unwrap_or(0)
}

/// One `T` for each lane, made when a thread first wants it.
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
    /// Those that there are.
    pub(super) fn made(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(OnceLock::get)
    }
}

/// What is shared by all lanes; an `Arc` of this is counted in one lane only.
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
