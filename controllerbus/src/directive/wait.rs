//! A wait for values: a future that can be given a deadline and a condition.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::request::{closed, describe};
use super::{Directive, Event, Request};
use crate::error::ErrorKind;
use crate::{BusError, Error, Result};

/// Waits for values of a directive. It is a future: await it as it is, or give it a condition or a deadline first.
///
/// [`crate::Bus::resolve`] and its kind return one that has the reference to the directive: the directive stands from that
/// call on, until the wait ends or is dropped. [`Request::value`] and its kind borrow the request. All of them are cancel-safe.
///
/// ```
/// use std::time::Duration;
///
/// use controllerbus::error::ErrorKind;
/// use controllerbus::prelude::*;
///
/// #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// #[directive(id = "example/temperature", value = i64)]
/// struct Temperature {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let bus = Bus::new();
/// let warm = bus.resolve(Temperature {}).matching(|degrees| *degrees > 20).within(Duration::from_millis(20)).await;
/// let error = warm.expect_err("there is no thermometer");
/// assert_eq!(error.kind(), ErrorKind::TimedOut);
/// assert_eq!(error.to_string(), "no value of example/temperature that matches within 20ms: no controller resolves it");
/// # Ok(())
/// # }
/// ```
#[must_use = "futures do nothing unless you `.await` or poll them"]
pub struct Wait<'a, D: Directive, T> {
    asked: Asked<'a, D>,
    check: Option<Check<'a, D::Value>>,
    poll: PollFor<D, T>,
}

enum Asked<'a, D: Directive> {
    Own(Request<D>),
    Lent(&'a mut Request<D>),
    /// It was not added; the error is told once.
    Refused(Option<BusError>),
}

type Check<'a, V> = Box<dyn FnMut(&V) -> Result<bool> + Send + 'a>;

type PollFor<D, T> = for<'a, 'b> fn(
    &mut Request<D>,
    &mut Option<Check<'a, <D as Directive>::Value>>,
    &mut Context<'b>,
) -> Poll<Result<T, BusError>>;

/// What a condition on a value says: a `bool`, or a `Result<bool>`, whose error ends the wait.
pub trait Verdict {
    /// Whether the value will do.
    ///
    /// # Errors
    /// Why that cannot be said.
    fn verdict(self) -> Result<bool>;
}

impl Verdict for bool {
    fn verdict(self) -> Result<bool> {
        Ok(self)
    }
}

impl Verdict for Result<bool> {
    fn verdict(self) -> Result<bool> {
        self
    }
}

impl<D: Directive, T> std::fmt::Debug for Wait<'_, D, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wait")
            .field("directive", &D::ID)
            .field("has_condition", &self.check.is_some())
            .finish_non_exhaustive()
    }
}

impl<'a, D: Directive, T> Wait<'a, D, T> {
    fn own(request: Result<Request<D>, BusError>, poll: PollFor<D, T>) -> Self {
        let asked = match request {
            Ok(request) => Asked::Own(request),
            Err(error) => Asked::Refused(Some(error)),
        };
        Self { asked, check: None, poll }
    }

    fn lent(request: &'a mut Request<D>, poll: PollFor<D, T>) -> Self {
        Self { asked: Asked::Lent(request), check: None, poll }
    }

    /// Considers only values for which a function returns true; the others are read and passed over. An error of the function
    /// ends the wait.
    pub fn matching<R: Verdict>(mut self, mut check: impl FnMut(&D::Value) -> R + Send + 'a) -> Self {
        self.check = Some(Box::new(move |value| check(value).verdict()));
        self
    }

    /// Waits for this long at most.
    ///
    /// # Errors
    /// As without a deadline, or [`ErrorKind::TimedOut`] with who is at work on the directive.
    pub async fn within(mut self, limit: Duration) -> Result<T, BusError> {
        match tokio::time::timeout(limit, &mut self).await {
            Ok(result) => result,
            Err(_) => Err(self.late(limit).into()),
        }
    }

    fn late(&self, limit: Duration) -> Error {
        let request = match &self.asked {
            Asked::Own(request) => request,
            Asked::Lent(request) => request,
            Asked::Refused(_) => return closed::<D>().into(),
        };
        let who = request.resolvers().map_or_else(|error| error.to_string(), |all| describe(&all));
        let matches = if self.check.is_some() { " that matches" } else { "" };
        Error::new(ErrorKind::TimedOut, format!("no value of {}{matches} within {limit:?}: {who}", D::ID))
    }
}

impl<D: Directive, T> Future for Wait<'_, D, T> {
    type Output = Result<T, BusError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { asked, check, poll } = &mut *self;
        match asked {
            Asked::Own(request) => poll(request, check, cx),
            Asked::Lent(request) => poll(request, check, cx),
            Asked::Refused(error) => Poll::Ready(Err(error.take().unwrap_or_else(closed::<D>))),
        }
    }
}

impl<'a, D: Directive> Wait<'a, D, Arc<D::Value>> {
    /// The first value of a new request.
    pub(crate) fn first(request: Result<Request<D>, BusError>) -> Self {
        Self::own(request, poll_value)
    }

    /// The next value of a request.
    pub(super) fn next_of(request: &'a mut Request<D>) -> Self {
        Self::lent(request, poll_value)
    }
}

impl<'a, D: Directive> Wait<'a, D, Option<Arc<D::Value>>> {
    /// The first value of a new request, unless it becomes idle without one.
    pub(crate) fn if_any(request: Result<Request<D>, BusError>) -> Self {
        Self::own(request, poll_value_unless_idle)
    }

    pub(super) fn next_unless_idle_of(request: &'a mut Request<D>) -> Self {
        Self::lent(request, poll_value_unless_idle)
    }
}

impl<'a, D: Directive> Wait<'a, D, Vec<Arc<D::Value>>> {
    /// All values of a new request, once it is idle.
    pub(crate) fn all(request: Result<Request<D>, BusError>) -> Self {
        Self::own(request, poll_values)
    }

    pub(super) fn all_of(request: &'a mut Request<D>) -> Self {
        Self::lent(request, poll_values)
    }
}

fn is_wanted<V>(check: &mut Option<Check<'_, V>>, value: &V) -> Result<bool> {
    check.as_mut().map_or(Ok(true), |check| check(value))
}

fn poll_value<D: Directive>(
    request: &mut Request<D>,
    check: &mut Option<Check<'_, D::Value>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Arc<D::Value>, BusError>> {
    loop {
        match ready!(request.poll_typed(cx)) {
            Some(Event::Added(_, value)) => {
                if is_wanted(check, &value)? {
                    return Poll::Ready(Ok(value));
                }
            }
            Some(Event::Idle) => {
                if let Some(error) = request.take_failure() {
                    return Poll::Ready(Err(error.into()));
                }
            }
            Some(_) => {}
            None => return Poll::Ready(Err(closed::<D>())),
        }
    }
}

fn poll_value_unless_idle<D: Directive>(
    request: &mut Request<D>,
    check: &mut Option<Check<'_, D::Value>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Arc<D::Value>>, BusError>> {
    loop {
        if request.is_idle() {
            return Poll::Ready(request.take_failure().map_or(Ok(None), |error| Err(error.into())));
        }
        match ready!(request.poll_typed(cx)) {
            Some(Event::Added(_, value)) => {
                if is_wanted(check, &value)? {
                    return Poll::Ready(Ok(Some(value)));
                }
            }
            Some(_) => {}
            None => return Poll::Ready(Err(closed::<D>())),
        }
    }
}

fn poll_values<D: Directive>(
    request: &mut Request<D>,
    check: &mut Option<Check<'_, D::Value>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Vec<Arc<D::Value>>, BusError>> {
    loop {
        match request.poll_typed(cx) {
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) => return Poll::Ready(Err(closed::<D>())),
            // What is already there is read first.
            Poll::Pending if request.is_idle() => break,
            Poll::Pending => return Poll::Pending,
        }
    }
    let failure = request.take_failure();
    if let Some(error) = failure.filter(|_| request.standing().next().is_none()) {
        return Poll::Ready(Err(error.into()));
    }
    let mut all = Vec::new();
    for value in request.standing() {
        if is_wanted(check, value)? {
            all.push(Arc::clone(value));
        }
    }
    Poll::Ready(Ok(all))
}
