//! Contains the panics of destructors: a panic that left an `extern "C"` function would end the process.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Error;

/// A value that may panic when it is dropped. The panic is logged and goes no further.
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

/// Runs something, and logs its panic if it has one.
pub(super) fn contain(what: &str, work: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
        let error = Error::from_panic(payload);
        // A subscriber may panic too.
        if let Err(payload) = catch_unwind(|| tracing::error!(%error, "{what}")) {
            drop(Error::from_panic(payload));
        }
    }
}
