//! Contains panics of user code.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::{Error, Result};

pin_project_lite::pin_project! {
    /// User code whose panic is an error. As a type of its own it is as large as what it runs; an async function would be twice that.
    struct Contained<F> {
        #[pin]
        work: F,
    }
}

impl<T, F: Future<Output = Result<T>>> Future for Contained<F> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        catch_unwind(AssertUnwindSafe(|| self.project().work.poll(cx)))
            .unwrap_or_else(|payload| Poll::Ready(Err(Error::from_panic(payload))))
    }
}

/// Runs user code and turns a panic into an error.
///
/// # Errors
/// The code's own, or [`ErrorKind::Panicked`](crate::error::ErrorKind::Panicked).
pub fn contained<T>(work: impl Future<Output = Result<T>>) -> impl Future<Output = Result<T>> {
    Contained { work }
}

/// Runs user code whose result nobody needs, such as a destructor, and logs a panic.
pub(crate) fn contain(what: &str, work: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
        let error = Error::from_panic(payload);
        tracing::error!(%error, "{what} panicked");
    }
}
