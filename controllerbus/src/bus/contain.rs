//! Contains panics of user code.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::{Error, Result};

/// Runs user code and turns a panic into an error.
///
/// # Errors
/// The code's own, or [`ErrorKind::Panicked`](crate::error::ErrorKind::Panicked).
pub async fn contained<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    poll_fn(move |cx| {
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)))
            .unwrap_or_else(|payload| Poll::Ready(Err(Error::from_panic(payload))))
    })
    .await
}

/// Runs user code whose result nobody needs, such as a destructor, and logs a panic.
pub(crate) fn contain(what: &str, work: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
        let error = Error::from_panic(payload);
        tracing::error!(%error, "{what} panicked");
    }
}
