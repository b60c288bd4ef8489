//! What a swap needs from a controller: to be notified of changes, and to hold back runs of its resolvers while its state is
//! handed over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::entry::LaneRef;
use super::standing::Standing;

/// One controller's part in a swap. Outside of swaps it costs two loads.
#[derive(Default)]
pub(super) struct Handover {
    watched: AtomicBool,
    watchers: Mutex<Vec<Arc<Notify>>>,
    /// Whether its execution has reached its first `.await` that is pending, or its end.
    pub(super) has_begun: AtomicBool,
    /// The controller that it replaces.
    replaces: OnceLock<u64>,
    /// False only if the gate is open: spares the lock.
    guarded: AtomicBool,
    held: Mutex<HeldRuns>,
}

/// What happens to a run of a resolver that is about to start.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Gate {
    /// It starts.
    #[default]
    Open,
    /// It waits for [`Handover::release`].
    Holding,
    /// It never starts, because another controller has taken over.
    Shut,
}

/// A run of a resolver that waits at the gate.
pub(super) type HeldRun = (Arc<Standing>, Arc<LaneRef>, u32);

#[derive(Default)]
struct HeldRuns {
    gate: Gate,
    runs: Vec<HeldRun>,
}

impl Handover {
    fn watchers(&self) -> MutexGuard<'_, Vec<Arc<Notify>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies this watcher of each change of the controller from now on.
    pub(super) fn watch(&self, watcher: &Arc<Notify>) {
        self.watchers().push(Arc::clone(watcher));
        self.watched.store(true, Ordering::SeqCst);
    }

    pub(super) fn unwatch(&self, watcher: &Arc<Notify>) {
        let mut watchers = self.watchers();
        watchers.retain(|other| !Arc::ptr_eq(other, watcher));
        self.watched.store(!watchers.is_empty(), Ordering::SeqCst);
    }

    /// Something changed that a swap may be waiting for.
    pub(super) fn notify(&self) {
        if !self.watched.load(Ordering::SeqCst) {
            return;
        }
        self.watchers().iter().for_each(|watcher| watcher.notify_one());
    }

    /// Notes the controller that it replaces; once, before it is routed to.
    pub(super) fn set_replaces(&self, old: u64) {
        let _ = self.replaces.set(old);
    }

    /// The controller that it replaces.
    pub(super) fn replaces(&self) -> Option<u64> {
        self.replaces.get().copied()
    }

    /// Notes that its execution has begun.
    pub(super) fn set_begun(&self) {
        self.has_begun.store(true, Ordering::Release);
        self.notify();
    }

    fn held(&self) -> MutexGuard<'_, HeldRuns> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds back the runs that are about to start from now on.
    pub(super) fn hold(&self) {
        self.held().gate = Gate::Holding;
        self.guarded.store(true, Ordering::SeqCst);
    }

    /// Asks for a run to start; if the gate is holding, the run waits there. Called under the directive's lock.
    pub(super) fn pass(&self, standing: &Arc<Standing>, lane_ref: &Arc<LaneRef>, run: u32) -> Gate {
        if !self.guarded.load(Ordering::SeqCst) {
            return Gate::Open;
        }
        let mut held = self.held();
        if held.gate == Gate::Holding {
            held.runs.push((Arc::clone(standing), Arc::clone(lane_ref), run));
        }
        held.gate
    }

    /// Whether runs are held back.
    pub(super) fn is_holding(&self) -> bool {
        self.guarded.load(Ordering::SeqCst) && self.held().gate == Gate::Holding
    }

    /// Whether a run on this directive waits at the gate.
    pub(super) fn is_held(&self, standing: &Standing) -> bool {
        self.held().runs.iter().any(|(held, ..)| std::ptr::eq(&raw const **held, standing))
    }

    /// Opens the gate, and returns the runs that waited.
    pub(super) fn release(&self) -> Vec<HeldRun> {
        self.end_holding(Gate::Open)
    }

    /// Shuts the gate for good, and returns the runs that waited.
    pub(super) fn shut(&self) -> Vec<HeldRun> {
        self.end_holding(Gate::Shut)
    }

    fn end_holding(&self, gate: Gate) -> Vec<HeldRun> {
        let mut held = self.held();
        held.gate = gate;
        self.guarded.store(gate != Gate::Open, Ordering::SeqCst);
        std::mem::take(&mut held.runs)
    }
}
