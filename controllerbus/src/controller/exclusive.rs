//! A controller that can be dropped while others still refer to it, because its calls are counted.
//!
//! What only one can own (a database, a lock file) is free once the controller's destructor has run. A plain `Arc` that is
//! still held somewhere would delay that indefinitely, and the holder would not be known.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{AnyController, BoxFuture, Context, OnStarted, State};
use crate::directive::{AnyDirective, ValueSink};
use crate::error::ErrorKind;
use crate::{Error, Result, Retry};

/// A controller whose calls are counted.
pub(crate) struct Exclusive {
    resolves: Vec<String>,
    state: Arc<Mutex<Inner>>,
    /// Woken when the last call has ended.
    unused: Arc<Notify>,
    /// Cancelled when the destructor has run.
    dropped: CancellationToken,
}

struct Inner {
    /// `None` once its destructor has been started.
    controller: Option<Arc<dyn AnyController>>,
    /// It accepts no more calls.
    parting: bool,
    calls: BTreeMap<u64, What>,
    next: u64,
}

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Call(&'static str),
    /// The resolver of one of the directives.
    Resolve(usize),
}

/// A call in progress.
struct Use {
    state: Arc<Mutex<Inner>>,
    unused: Arc<Notify>,
    number: u64,
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut held = lock(&self.state);
        held.calls.remove(&self.number);
        if held.calls.is_empty() && held.parting {
            self.unused.notify_waiters();
        }
    }
}

fn lock(state: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The future of a call. It drops its reference to the controller before the call counts as ended.
struct Used<T> {
    work: Option<BoxFuture<'static, T>>,
    using: Option<Use>,
}

impl<T> Future for Used<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let Some(work) = &mut this.work else { return Poll::Pending };
        let result = ready!(work.as_mut().poll(cx));
        this.work = None;
        this.using = None;
        Poll::Ready(result)
    }
}

impl Exclusive {
    pub(crate) fn new(controller: Arc<dyn AnyController>) -> Self {
        let held = Inner { controller: Some(controller), parting: false, calls: BTreeMap::new(), next: 0 };
        let resolves = held.controller.iter().flat_map(|controller| controller.resolves()).collect();
        let state = Arc::new(Mutex::new(held));
        Self { resolves, state, unused: Arc::default(), dropped: CancellationToken::new() }
    }

    fn begin(&self, what: What) -> Result<(Arc<dyn AnyController>, Use)> {
        let mut held = lock(&self.state);
        let open = held.controller.as_ref().filter(|_| !held.parting).cloned();
        let controller = open.ok_or_else(|| Error::new(ErrorKind::Closed, "the controller is closed"))?;
        let number = held.next;
        held.next += 1;
        held.calls.insert(number, what);
        Ok((controller, Use { state: Arc::clone(&self.state), unused: Arc::clone(&self.unused), number }))
    }

    fn call<T: 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(Arc<dyn AnyController>) -> BoxFuture<'static, T>,
    ) -> Result<BoxFuture<'static, T>> {
        let (controller, using) = self.begin(What::Call(what))?;
        Ok(Box::pin(Used { work: Some(work(controller)), using: Some(using) }))
    }

    /// The calls in progress, in words.
    fn users(&self) -> String {
        let mut counted = BTreeMap::<What, usize>::new();
        for what in lock(&self.state).calls.values() {
            *counted.entry(*what).or_default() += 1;
        }
        let named = counted.iter().map(|(what, count)| {
            let what = match what {
                What::Call(name) => format!("`{name}`"),
                What::Resolve(at) => format!("a resolver of `{}`", self.resolves.get(*at).map_or("", String::as_str)),
            };
            if *count == 1 { what } else { format!("{what} ({count} times)") }
        });
        named.collect::<Vec<_>>().join(", ")
    }

    /// Waits until no call is in progress.
    async fn until_unused(&self) {
        loop {
            let unused = self.unused.notified();
            tokio::pin!(unused);
            unused.as_mut().enable();
            if lock(&self.state).calls.is_empty() {
                return;
            }
            unused.await;
        }
    }
}

impl AnyController for Exclusive {
    fn execute(self: Arc<Self>, context: Context, on_started: OnStarted) -> BoxFuture<'static, Result<()>> {
        let called = self.call("execute", |controller| controller.execute(context, on_started));
        called.unwrap_or_else(refused)
    }

    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        self.call("close", AnyController::close).unwrap_or_else(|_| Box::pin(std::future::ready(())))
    }

    fn part(self: Arc<Self>, within: Duration) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            lock(&self.state).parting = true;
            if timeout(within, self.until_unused()).await.is_err() {
                let what = format!("after {within:?} it is still used by {}", self.users());
                return Err(Error::new(ErrorKind::TimedOut, what));
            }
            let controller = lock(&self.state).controller.clone();
            if let Some(controller) = controller {
                // Kept until that has succeeded: it may be retried.
                controller.part(within).await?;
                let controller = lock(&self.state).controller.take();
                let dropped = self.dropped.clone();
                // Its destructor may block, and must not be interrupted by a future that is dropped.
                tokio::task::spawn_blocking(move || {
                    let dropping = std::panic::AssertUnwindSafe(move || drop(controller));
                    if let Err(payload) = std::panic::catch_unwind(dropping) {
                        let error = Error::from_panic(payload);
                        tracing::error!(%error, "a controller's destructor panicked");
                    }
                    dropped.cancel();
                });
            }
            timeout(within, self.dropped.cancelled())
                .await
                .map_err(|_| Error::new(ErrorKind::TimedOut, format!("its destructor has not ended within {within:?}")))
        })
    }

    fn health(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        self.call("health", AnyController::health).unwrap_or_else(refused)
    }

    fn save(self: Arc<Self>) -> BoxFuture<'static, Result<Option<State>>> {
        self.call("save", AnyController::save).unwrap_or_else(refused)
    }

    fn restore(self: Arc<Self>, state: State) -> BoxFuture<'static, Result<()>> {
        self.call("restore", |controller| controller.restore(state)).unwrap_or_else(refused)
    }

    fn retry(&self, directive: &str) -> Option<Retry> {
        let controller = lock(&self.state).controller.clone();
        controller.and_then(|controller| controller.retry(directive))
    }

    fn resolves(&self) -> Vec<String> {
        self.resolves.clone()
    }

    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        let at = self.resolves.iter().position(|id| id == directive.id()).unwrap_or(usize::MAX);
        match self.begin(What::Resolve(at)) {
            Ok((controller, using)) => {
                let work = controller.resolve(directive, sink)?;
                Some(Box::pin(Used { work: Some(work), using: Some(using) }))
            }
            Err(error) => Some(refused(error)),
        }
    }
}

fn refused<T: Send + 'static>(error: Error) -> BoxFuture<'static, Result<T>> {
    Box::pin(std::future::ready(Err(error)))
}
