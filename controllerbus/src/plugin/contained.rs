//! Keeps the panics of destructors from what drops: an `extern "C"` function, out of which a panic ends the process.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Error;

/// What may panic when it is dropped. That is told then, and goes no further.
pub(super) struct Contained<T>(ManuallyDrop<T>);

impl<T> Contained<T> {
    pub(super) fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        // SAFETY: it is not used after this.
        let value = unsafe { ManuallyDrop::take(&mut self.0) };
        contain("a destructor", move || drop(value));
    }
}

/// Does something of which nobody wants to know more than whether it panicked; that is told.
pub(super) fn contain(what: &str, work: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
        let error = Error::from_panic(payload);
        // A subscriber may panic too.
        if let Err(payload) = catch_unwind(|| tracing::error!(%error, "{what}")) {
            drop(Error::from_panic(payload));
        }
    }
}
