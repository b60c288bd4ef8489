//! Whom to tell when values of a resolver are gone from a bus that is elsewhere.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::directive::{Callback, ValueId};

/// The callbacks of one resolver.
#[derive(Default)]
pub(crate) struct Removals(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// All values are gone, for good.
    gone: bool,
    values: HashMap<ValueId, Callback>,
    all: Vec<Callback>,
}

impl Removals {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls back when this value is gone; at once if all are.
    pub(crate) fn watch(&self, value: ValueId, callback: Callback) {
        let mut waiting = self.lock();
        if waiting.gone {
            drop(waiting);
            return callback();
        }
        let before = waiting.values.insert(value, callback);
        drop(waiting);
        drop(before);
    }

    /// Calls back when all values are gone; at once if they are.
    pub(crate) fn on_gone(&self, callback: Callback) {
        let mut waiting = self.lock();
        if waiting.gone {
            drop(waiting);
            callback();
        } else {
            waiting.all.push(callback);
        }
    }

    /// A value is gone.
    pub(crate) fn removed(&self, value: ValueId) {
        let callback = self.lock().values.remove(&value);
        if let Some(callback) = callback {
            callback();
        }
    }

    /// All values are gone. Returns the callbacks, to be called by the caller.
    pub(crate) fn end(&self) -> Vec<Callback> {
        let mut waiting = self.lock();
        waiting.gone = true;
        let values = std::mem::take(&mut waiting.values);
        values.into_values().chain(std::mem::take(&mut waiting.all)).collect()
    }
}
