//! What a swap needs of a controller: to hear that something about it changed, and to keep calls from beginning on it
//! for the moment in which its state is handed over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::entry::Seat;
use super::standing::Standing;

/// One controller's part in a swap. Outside of one it costs a look at two flags.
#[derive(Default)]
pub(super) struct Handover {
    watched: AtomicBool,
    watchers: Mutex<Vec<Arc<Notify>>>,
    /// Whether its execution has got to its first wait, or its end.
    pub(super) began: AtomicBool,
    /// The controller that it replaces; 0 for none.
    pub(super) replaces: AtomicU64,
    /// Whether the gate is anything but open.
    guarded: AtomicBool,
    held: Mutex<Held>,
}

/// What becomes of a run of a resolver that is about to start.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Gate {
    /// It starts.
    #[default]
    Open,
    /// It is kept for [`Handover::release`].
    Holding,
    /// It never starts: another controller has taken over.
    Shut,
}

/// A run of a resolver that is kept from starting.
pub(super) type Run = (Arc<Standing>, Arc<Seat>, u32);

#[derive(Default)]
struct Held {
    gate: Gate,
    runs: Vec<Run>,
}

impl Handover {
    fn watchers(&self) -> MutexGuard<'_, Vec<Arc<Notify>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on each change about the controller wakes this watcher, too.
    pub(super) fn watch(&self, watcher: &Arc<Notify>) {
        self.watchers().push(Arc::clone(watcher));
        self.watched.store(true, Ordering::SeqCst);
    }

    pub(super) fn unwatch(&self, watcher: &Arc<Notify>) {
        let mut watchers = self.watchers();
        watchers.retain(|other| !Arc::ptr_eq(other, watcher));
        self.watched.store(!watchers.is_empty(), Ordering::SeqCst);
    }

    /// Something changed that a swap may wait for.
    pub(super) fn stir(&self) {
        if !self.watched.load(Ordering::SeqCst) {
            return;
        }
        self.watchers().iter().for_each(|watcher| watcher.notify_one());
    }

    pub(super) fn begin(&self) {
        self.began.store(true, Ordering::Release);
        self.stir();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on runs are held that would start.
    pub(super) fn hold(&self) {
        self.held().gate = Gate::Holding;
        self.guarded.store(true, Ordering::SeqCst);
    }

    /// Asks to start a run; where the gate is holding, it is kept. Asked under the directive's lock.
    pub(super) fn pass(&self, standing: &Arc<Standing>, seat: &Arc<Seat>, number: u32) -> Gate {
        if !self.guarded.load(Ordering::SeqCst) {
            return Gate::Open;
        }
        let mut held = self.held();
        if held.gate == Gate::Holding {
            held.runs.push((Arc::clone(standing), Arc::clone(seat), number));
        }
        held.gate
    }

    /// Whether runs are held that would start.
    pub(super) fn is_holding(&self) -> bool {
        self.guarded.load(Ordering::SeqCst) && self.held().gate == Gate::Holding
    }

    /// Whether a run on a directive is among those that are held.
    pub(super) fn is_held(&self, standing: &Standing) -> bool {
        self.held().runs.iter().any(|(held, ..)| std::ptr::eq(&raw const **held, standing))
    }

    /// Opens the gate, and hands out what was held.
    pub(super) fn release(&self) -> Vec<Run> {
        self.end_holding(Gate::Open)
    }

    /// Shuts the gate for good, and hands out what was held.
    pub(super) fn shut(&self) -> Vec<Run> {
        self.end_holding(Gate::Shut)
    }

    fn end_holding(&self, gate: Gate) -> Vec<Run> {
        let mut held = self.held();
        held.gate = gate;
        self.guarded.store(gate != Gate::Open, Ordering::SeqCst);
        std::mem::take(&mut held.runs)
    }
}
