//! Which directives a controller resolves, and with which functions.

use std::ops::Deref;
use std::sync::Arc;

use super::BoxFuture;
use crate::directive::{AnyDirective, Directive, ValueSink, Values, wire};
use crate::{Error, Result, Retry};

/// A resolver's reference to its controller, to which it derefs.
pub struct Hold<C>(Arc<PerLane<C>>);

/// Counted for the threads of one lane only; see `bus/lane.rs`.
struct PerLane<C>(Arc<C>);

impl<C> Hold<C> {
    pub(crate) fn new(controller: Arc<C>) -> Self {
        Self(Arc::new(PerLane(controller)))
    }

    /// The same with a reference count of its own.
    pub(crate) fn clone_for_lane(&self) -> Self {
        Self::new(Arc::clone(&self.0.0))
    }
}

impl<C: std::fmt::Debug> std::fmt::Debug for Hold<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("controller", &**self).finish()
    }
}

impl<C> Clone for Hold<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> Deref for Hold<C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.0.0
    }
}

type Resolve<C> =
    Box<dyn Fn(Hold<C>, &dyn AnyDirective, Arc<dyn ValueSink>) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A resolver of a directive type: a function, or a closure that captures nothing.
pub type ResolveWith<C, D> = fn(Hold<C>, D, Values<<D as Directive>::Value>) -> BoxFuture<'static, Result<()>>;

/// What a resolver returns, for `#[hot_plugin]`.
#[diagnostic::on_unimplemented(
    message = "a resolver returns a `Result`, not `{Self}`",
    label = "not a `Result`",
    note = "write `-> Result<{Self}>`, and `Ok(..)` around what it returns"
)]
pub trait Answer {
    /// What it returns if it does not fail.
    type Value;
    /// With the error that a resolver fails with.
    ///
    /// # Errors
    /// The resolver's.
    fn answer(self) -> Result<Self::Value>;
}

impl<T, E> Answer for std::result::Result<T, E>
where
    Error: From<E>,
{
    type Value = T;
    #[inline]
    fn answer(self) -> Result<T> {
        Ok(self?)
    }
}

/// The resolvers of a controller type, by directive id.
pub struct Routes<C> {
    routes: Vec<(&'static str, Resolve<C>, Option<Retry>)>,
}

impl<C> std::fmt::Debug for Routes<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|(id, ..)| id)).finish()
    }
}

impl<C: Send + Sync + 'static> Routes<C> {
    pub(crate) fn new() -> Self {
        Self { routes: Vec::new() }
    }

    /// Resolves directives of type `D` with a function.
    pub fn add<D: Directive>(&mut self, resolve: ResolveWith<C, D>) -> &mut Self {
        let erased: Resolve<C> = Box::new(move |controller, directive, sink| match owned::<D>(directive) {
            Ok(owned) => resolve(controller, owned, Values::of::<D>(sink)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        });
        self.routes.push((D::ID, erased, None));
        self
    }

    /// Says how often the resolver that was added last is tried again when it fails; otherwise its controller's config does.
    pub fn retry(&mut self, retry: Retry) -> &mut Self {
        if let Some((.., last)) = self.routes.last_mut() {
            *last = Some(retry);
        }
        self
    }

    pub(crate) fn retry_of(&self, directive: &str) -> Option<Retry> {
        self.routes.iter().find(|(id, ..)| *id == directive).and_then(|(.., retry)| *retry)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.routes.iter().map(|(id, ..)| *id)
    }

    pub(crate) fn resolve(
        &self,
        controller: Hold<C>,
        directive: &dyn AnyDirective,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        let (_, resolve, _) = self.routes.iter().find(|(id, ..)| *id == directive.id())?;
        Some(resolve(controller, directive, sink))
    }
}

/// A copy of a directive for a resolver to own.
pub(super) fn owned<D: Directive>(directive: &dyn AnyDirective) -> Result<D> {
    match directive.as_any().downcast_ref::<D>() {
        Some(typed) => Ok(typed.duplicate()),
        // The type of another build under the same id: the encoding bridges versions.
        None => wire::decode(&directive.encode()?),
    }
}
