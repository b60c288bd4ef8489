//! A reference to a standing directive: its events, and the usual ways to wait for values.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smallvec::SmallVec;

use super::{AnyValue, Directive, ReadFrom, SHARE, ValueId, Wait};
use crate::bus::{ResolverSnapshot, ResolverState};
use crate::error::ErrorKind;
use crate::{BusError, Error, Result};

/// What happens to a standing directive, as one requester sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<V> {
    /// A value came.
    Added(ValueId, Arc<V>),
    /// A value that was added before is gone.
    Removed(ValueId),
    /// No resolver has anything more to add for now.
    Idle,
    /// A resolver works again after `Idle`.
    Busy,
    /// A resolver failed; it is retried with backoff while the directive stands.
    Failed(Error),
}

/// An [`Event`] whose value's type is not known. Its kinds are all that there are, because what passes events on must know
/// each of them.
#[derive(Clone, Debug)]
pub enum RawEvent {
    /// A value came.
    Added(ValueId, AnyValue),
    /// A value that was added before is gone.
    Removed(ValueId),
    /// No resolver has anything more to add for now.
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

    /// Another reference to the same standing directive; a weak one does not keep it standing.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Closed`] when the directive is gone.
    fn reference(&self, strong: bool) -> Result<Box<dyn RawRequest>> {
        let kind = if strong { "strong" } else { "weak" };
        Err(Error::msg(format!("this request has no {kind} references")))
    }

    /// Who answers the directive, and how far each is.
    ///
    /// # Errors
    /// Where that is not known.
    fn resolvers(&self) -> Result<Vec<ResolverSnapshot>> {
        Err(Error::msg("this process does not know which controllers resolve it"))
    }

    /// Those of [`RawRequest::resolvers`] who have values in it, where that is known at once.
    #[doc(hidden)]
    fn givers(&self) -> Vec<ResolverSnapshot> {
        Vec::new()
    }
}

/// A reference to a standing directive. While one exists the directive stands; dropping it releases it.
///
/// It is a stream of [`Event`]s: [`Request::next`] waits for one, and it implements `futures_core::Stream`.
///
/// ```
/// use controllerbus::prelude::*;
///
/// #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// #[directive(id = "example/greet", value = String)]
/// struct Greet { name: String }
///
/// # #[derive(Config, Serialize, Deserialize, PartialEq)]
/// # #[config(id = "example/greeter")]
/// # struct GreeterConfig {}
/// # struct Greeter;
/// # #[hot_plugin(id = "example/greeter", version = "1.0.0")]
/// # impl Controller for Greeter {
/// #     type Config = GreeterConfig;
/// #     async fn construct(_: GreeterConfig, _: &Context) -> Result<Self> { Ok(Self) }
/// #     #[resolves]
/// #     async fn greet(&self, request: Greet) -> Result<String> { Ok(format!("Hello, {}!", request.name)) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let bus = Bus::new();
/// let mut request = bus.request(Greet { name: "Ada".into() })?;
/// // Nobody answers yet: a controller that comes later is asked too, because the directive stands.
/// assert!(request.value_unless_idle().await?.is_none());
/// bus.apply(ConfigSet::from_yaml("greeter: { id: example/greeter }")?).await?;
/// assert_eq!(*request.value().await?, "Hello, Ada!");
/// // And when it goes, its value goes.
/// bus.remove_config("greeter").await;
/// while !matches!(request.next().await, Some(Event::Removed(_))) {}
/// assert_eq!(request.standing().count(), 0);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping the request releases the directive"]
pub struct Request<D: Directive> {
    raw: ReadFrom,
    /// What was read and has not been withdrawn.
    standing: SmallVec<[(ValueId, Arc<D::Value>); 1]>,
    idle: bool,
    /// The last failure since it was last busy.
    failure: Option<Error>,
}

impl<D: Directive> std::fmt::Debug for Request<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("directive", &D::ID)
            .field("standing", &self.standing.len())
            .field("is_idle", &self.idle)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl<D: Directive> Request<D> {
    pub(crate) fn new(raw: ReadFrom) -> Self {
        Self { raw, standing: SmallVec::new(), idle: false, failure: None }
    }

    /// The next event; `None` when the bus is closed or the directive was superseded. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event<D::Value>> {
        poll_fn(|cx| self.poll_typed(cx)).await
    }

    /// A weak reference to the same directive: it reads the same events, does not keep the directive standing, and ends
    /// with it.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Closed`] when the directive is gone.
    pub fn weak(&self) -> Result<Self, BusError> {
        Ok(Self::new(self.raw.another(false)?))
    }

    /// Another strong reference to the same directive; a weak one can be upgraded while the directive stands.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Closed`] when the directive is gone.
    pub fn strong(&self) -> Result<Self, BusError> {
        Ok(Self::new(self.raw.another(true)?))
    }

    /// The values that were read and have not been withdrawn, oldest first.
    pub fn standing(&self) -> impl Iterator<Item = &Arc<D::Value>> {
        self.standing.iter().map(|(_, value)| value)
    }

    /// Whether no resolver had anything more to add, according to the last event.
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// Who answers the directive, how far each is, and how many values each has added. In a plugin that runs in a process of its
    /// own, the thread waits until the host has answered.
    ///
    /// # Errors
    /// Where that is not known: in such a process, when the host has not answered, or the directive is gone.
    pub fn resolvers(&self) -> Result<Vec<ResolverSnapshot>, BusError> {
        Ok(self.raw.resolvers()?)
    }

    /// The errors of the resolvers that have failed and have not succeeded since.
    ///
    /// # Errors
    /// As [`Request::resolvers`].
    pub fn errors(&self) -> Result<Vec<Error>, BusError> {
        let failed = |resolver: ResolverSnapshot| match resolver.state {
            ResolverState::Failed { error } => Some(error),
            _ => None,
        };
        Ok(self.resolvers()?.into_iter().filter_map(failed).collect())
    }

    pub(super) fn poll_typed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event<D::Value>>> {
        self.raw.poll_event(cx).map(|event| match event {
            Some(event) => Some(self.take_in(event)),
            None => {
                self.standing.clear();
                None
            }
        })
    }

    pub(super) fn standing_with_ids(&self) -> impl Iterator<Item = &(ValueId, Arc<D::Value>)> {
        self.standing.iter()
    }

    pub(super) fn newest(&self) -> Option<&(ValueId, Arc<D::Value>)> {
        self.standing.last()
    }

    pub(super) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn take_in(&mut self, event: RawEvent) -> Event<D::Value> {
        match event {
            RawEvent::Added(id, value) => match D::unpack(&value) {
                Ok(value) => {
                    self.standing.push((id, Arc::clone(&value)));
                    Event::Added(id, value)
                }
                Err(error) => {
                    let error = self.misread(error).context(format!("directive {}", D::ID));
                    self.failure = Some(error.clone());
                    Event::Failed(error)
                }
            },
            RawEvent::Removed(id) => {
                self.standing.retain(|(other, _)| *other != id);
                Event::Removed(id)
            }
            RawEvent::Idle => {
                self.idle = true;
                Event::Idle
            }
            RawEvent::Busy => {
                self.idle = false;
                self.failure = None;
                Event::Busy
            }
            RawEvent::Failed(error) => {
                self.failure = Some(error.clone());
                Event::Failed(error)
            }
        }
    }

    /// The error of a value that is not what this side takes it for, with whose it is.
    fn misread(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Encoding || !error.message().starts_with("cannot decode `") {
            return error;
        }
        let mut givers: Vec<String> = self
            .raw
            .givers()
            .into_iter()
            .map(|giver| match giver.value_type {
                Some(of) => format!("`{}` answers with its `{of}`", giver.name),
                None => format!("`{}` answers it", giver.name),
            })
            .collect();
        givers.dedup();
        let from = if givers.is_empty() { "who answers it has another type".to_owned() } else { givers.join(" and ") };
        Error::new(ErrorKind::Encoding, format!("{}; {from}, in another shape: {SHARE}", error.message()))
    }

    /// Waits for the next value. Cancel-safe.
    ///
    /// # Errors
    /// A resolver's error, once no resolver is at work on a value; [`crate::error::ErrorKind::Closed`] when the bus closes.
    pub fn value(&mut self) -> Wait<'_, D, Arc<D::Value>> {
        Wait::next_of(self)
    }

    /// Waits for the next value, or for the directive to be idle without one. Cancel-safe.
    ///
    /// # Errors
    /// As [`Request::value`].
    pub fn value_unless_idle(&mut self) -> Wait<'_, D, Option<Arc<D::Value>>> {
        Wait::next_unless_idle_of(self)
    }

    /// Waits until the directive is idle and returns the values that stand then. Cancel-safe.
    ///
    /// # Errors
    /// A resolver's error if no value stands; [`crate::error::ErrorKind::Closed`] when the bus closes.
    pub fn values(&mut self) -> Wait<'_, D, Vec<Arc<D::Value>>> {
        Wait::all_of(self)
    }
}

pub(super) fn closed<D: Directive>() -> BusError {
    superseded(D::ID).into()
}

/// The error of a directive that is gone.
pub(crate) fn superseded(id: &str) -> Error {
    Error::new(crate::error::ErrorKind::Closed, format!("the bus closed, or {id} was superseded or released"))
}

/// Who is at work on a directive, in words.
pub(super) fn describe(resolvers: &[ResolverSnapshot]) -> String {
    if resolvers.is_empty() {
        return "no controller resolves it".to_owned();
    }
    let one = |resolver: &ResolverSnapshot| {
        let (who, values) = (format!("`{}` (controller {})", resolver.name, resolver.controller.0), resolver.values);
        match &resolver.state {
            ResolverState::Working => format!("{who} is still working on it"),
            ResolverState::Failed { error } => format!("{who} failed: {error}"),
            ResolverState::Held => format!("{who} is not serving yet"),
            ResolverState::Idle if values == 1 => format!("{who} has added one value"),
            ResolverState::Idle if values > 1 => format!("{who} has added {values} values"),
            _ => format!("{who} has nothing to add"),
        }
    };
    resolvers.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl<D: Directive> futures_core::Stream for Request<D> {
    type Item = Event<D::Value>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_typed(cx)
    }
}
