//! The bus as controllers see it: directives in, values out; the same in the process and in a plugin.

use std::sync::Arc;

use crate::Result;
use crate::directive::{AnyDirective, Directive, RawRequest, Request};

/// What adds directives: the engine of this process, or the boundary's way to the host's.
pub trait Backend: Send + Sync {
    /// Adds a reference to a directive, merging equal ones.
    ///
    /// # Errors
    /// An invalid directive, or a bus that is closed.
    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>>;
}

/// A handle to a bus. Cheap to clone.
#[derive(Clone)]
pub struct BusHandle(Arc<dyn Backend>);

impl BusHandle {
    /// A handle over something that adds directives.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self(backend)
    }

    /// Adds a directive and returns a reference to it; it stands until the last reference is dropped.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Invalid`] when the directive refuses itself,
    /// [`crate::error::ErrorKind::Closed`] when the bus is closed.
    pub fn request<D: Directive>(&self, directive: D) -> Result<Request<D>> {
        self.0.add(Arc::new(directive)).map(Request::new)
    }

    /// [`BusHandle::request`] for a directive whose type is known only at run time.
    ///
    /// # Errors
    /// As [`BusHandle::request`].
    pub fn raw(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>> {
        self.0.add(directive)
    }

    /// The first value of a directive, waiting for a controller that gives one. Cancel-safe.
    ///
    /// # Errors
    /// As [`BusHandle::request`], or a resolver's error when no resolver is at work on a value.
    pub async fn resolve<D: Directive>(&self, directive: D) -> Result<Arc<D::Value>> {
        self.request(directive)?.value().await
    }

    /// The values that stand when every resolver has nothing more to add. Cancel-safe.
    ///
    /// # Errors
    /// As [`BusHandle::request`], or a resolver's error when there is no value.
    pub async fn resolve_all<D: Directive>(&self, directive: D) -> Result<Vec<Arc<D::Value>>> {
        self.request(directive)?.values().await
    }

    /// The first value, or `None` when every resolver, if there is any, has nothing to add. Cancel-safe.
    ///
    /// # Errors
    /// As [`BusHandle::resolve_all`].
    pub async fn try_resolve<D: Directive>(&self, directive: D) -> Result<Option<Arc<D::Value>>> {
        self.request(directive)?.value_unless_idle().await
    }
}
