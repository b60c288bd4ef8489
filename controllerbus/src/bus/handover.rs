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
    watcher: Mutex<Option<Arc<Notify>>>,
    /// Whether its execution has got to its first wait, or its end.
    pub(super) began: AtomicBool,
    /// The controller that it replaces; 0 for none.
    pub(super) replaces: AtomicU64,
    holding: AtomicBool,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    open: bool,
    begun: Vec<(Arc<Standing>, Arc<Seat>)>,
}

impl Handover {
    /// From now on each change about the controller wakes the watcher.
    pub(super) fn watch(&self, watcher: &Arc<Notify>) {
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(watcher));
        self.watched.store(true, Ordering::SeqCst);
    }

    pub(super) fn unwatch(&self) {
        self.watched.store(false, Ordering::SeqCst);
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Something changed that a swap may wait for.
    pub(super) fn stir(&self) {
        if !self.watched.load(Ordering::SeqCst) {
            return;
        }
        if let Some(watcher) = &*self.watcher.lock().unwrap_or_else(PoisonError::into_inner) {
            watcher.notify_one();
        }
    }

    pub(super) fn begin(&self) {
        self.began.store(true, Ordering::Release);
        self.stir();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on resolvers that begin are held, and not started before [`Handover::release`].
    pub(super) fn hold(&self) {
        self.held().open = true;
        self.holding.store(true, Ordering::SeqCst);
    }

    /// Keeps a resolver that has begun from being started; false when nothing is held now.
    pub(super) fn holds(&self, standing: &Arc<Standing>, seat: &Arc<Seat>) -> bool {
        if !self.holding.load(Ordering::SeqCst) {
            return false;
        }
        let mut held = self.held();
        if held.open {
            held.begun.push((Arc::clone(standing), Arc::clone(seat)));
        }
        held.open
    }

    /// Whether a resolver is among those that are held.
    pub(super) fn is_held(&self, standing: &Arc<Standing>) -> bool {
        self.held().begun.iter().any(|(held, _)| Arc::ptr_eq(held, standing))
    }

    /// Ends the holding, and hands out what was held.
    pub(super) fn release(&self) -> Vec<(Arc<Standing>, Arc<Seat>)> {
        let mut held = self.held();
        held.open = false;
        self.holding.store(false, Ordering::SeqCst);
        std::mem::take(&mut held.begun)
    }
}
