//! A reference to a standing directive: its events, and the usual ways to wait for values.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{AnyValue, Directive, ValueId};
use crate::{Error, Result};

/// What happens to a standing directive, as one requester sees it.
#[derive(Clone, Debug)]
pub enum Event<V> {
    /// A value came.
    Added(ValueId, Arc<V>),
    /// A value that was added before is gone.
    Removed(ValueId),
    /// Every resolver has, for now, nothing more to add.
    Idle,
    /// A resolver works again after `Idle`.
    Busy,
    /// A resolver failed; it is tried again with backoff while the directive stands.
    Failed(Error),
}

/// An [`Event`] whose value's type is not known.
#[derive(Clone)]
pub enum RawEvent {
    /// A value came.
    Added(ValueId, AnyValue),
    /// A value that was added before is gone.
    Removed(ValueId),
    /// Every resolver has, for now, nothing more to add.
    Idle,
    /// A resolver works again after `Idle`.
    Busy,
    /// A resolver failed.
    Failed(Error),
}

/// A reference to a standing directive whose type is not known. Dropping it releases the reference.
pub trait RawRequest: Send {
    /// The next event; `None` when the bus is closed or the directive was superseded.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RawEvent>>;

    /// Another reference to the same standing directive; a weak one does not keep it.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Closed`] when the directive does not stand any more.
    fn reference(&self, strong: bool) -> Result<Box<dyn RawRequest>> {
        let kind = if strong { "strong" } else { "weak" };
        Err(Error::msg(format!("this request cannot be referred to again ({kind})")))
    }
}

/// A reference to a standing directive. While one exists the directive stands; dropping it releases it.
///
/// It is a stream of [`Event`]s: [`Request::next`] waits for one, and it implements `futures_core::Stream`.
#[must_use = "dropping the request releases the directive"]
pub struct Request<D: Directive> {
    raw: Box<dyn RawRequest>,
    directive: PhantomData<fn() -> D>,
}

impl<D: Directive> Request<D> {
    pub(crate) fn new(raw: Box<dyn RawRequest>) -> Self {
        Self { raw, directive: PhantomData }
    }

    /// The next event; `None` when the bus is closed or the directive was superseded. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event<D::Value>> {
        poll_fn(|cx| self.poll_typed(cx)).await
    }

    /// A weak reference to the same directive: it reads the same events, and an end when the directive goes, which it
    /// does not keep from going.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Closed`] when the directive does not stand any more.
    pub fn weak(&self) -> Result<Self> {
        self.raw.reference(false).map(Self::new)
    }

    /// Another strong reference to the same directive; of a weak one too, as long as the directive stands.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Closed`] when the directive does not stand any more.
    pub fn strong(&self) -> Result<Self> {
        self.raw.reference(true).map(Self::new)
    }

    fn poll_typed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event<D::Value>>> {
        self.raw.poll_event(cx).map(|event| {
            event.map(|event| match event {
                RawEvent::Added(id, value) => match value.get::<D::Value>() {
                    Ok(value) => Event::Added(id, value),
                    Err(error) => Event::Failed(error.context(format!("directive {}", D::ID))),
                },
                RawEvent::Removed(id) => Event::Removed(id),
                RawEvent::Idle => Event::Idle,
                RawEvent::Busy => Event::Busy,
                RawEvent::Failed(error) => Event::Failed(error),
            })
        })
    }

    /// Waits for a value. Cancel-safe.
    ///
    /// # Errors
    /// A resolver's error, once no resolver is at work on a value; [`crate::error::ErrorKind::Closed`] when the bus closes.
    pub async fn value(&mut self) -> Result<Arc<D::Value>> {
        let mut failure = None;
        loop {
            match self.next().await {
                Some(Event::Added(_, value)) => return Ok(value),
                Some(Event::Failed(error)) => failure = Some(error),
                Some(Event::Idle) => {
                    if let Some(error) = failure.take() {
                        return Err(error);
                    }
                }
                Some(_) => {}
                None => return Err(closed::<D>()),
            }
        }
    }

    /// Waits for a value, or for the directive to be idle without one. Cancel-safe.
    ///
    /// # Errors
    /// As [`Request::value`].
    pub async fn value_unless_idle(&mut self) -> Result<Option<Arc<D::Value>>> {
        let mut failure = None;
        loop {
            match self.next().await {
                Some(Event::Added(_, value)) => return Ok(Some(value)),
                Some(Event::Failed(error)) => failure = Some(error),
                Some(Event::Idle) => return failure.map_or(Ok(None), Err),
                Some(_) => {}
                None => return Err(closed::<D>()),
            }
        }
    }

    /// Waits until the directive is idle and returns the values that stand then. Cancel-safe.
    ///
    /// # Errors
    /// A resolver's error if no value stands; [`crate::error::ErrorKind::Closed`] when the bus closes.
    pub async fn values(&mut self) -> Result<Vec<Arc<D::Value>>> {
        let mut standing: Vec<(ValueId, Arc<D::Value>)> = Vec::new();
        let mut failure = None;
        loop {
            match self.next().await {
                Some(Event::Added(id, value)) => standing.push((id, value)),
                Some(Event::Removed(id)) => standing.retain(|(other, _)| *other != id),
                Some(Event::Failed(error)) => failure = Some(error),
                Some(Event::Idle) => {
                    return match failure {
                        Some(error) if standing.is_empty() => Err(error),
                        _ => Ok(standing.into_iter().map(|(_, value)| value).collect()),
                    };
                }
                Some(Event::Busy) => {}
                None => return Err(closed::<D>()),
            }
        }
    }
}

fn closed<D: Directive>() -> Error {
    superseded(D::ID)
}

/// The error of a directive that stands no more.
pub(crate) fn superseded(id: &str) -> Error {
    Error::new(crate::error::ErrorKind::Closed, format!("the bus closed, or {id} was superseded or released"))
}

impl<D: Directive> futures_core::Stream for Request<D> {
    type Item = Event<D::Value>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_typed(cx)
    }
}
