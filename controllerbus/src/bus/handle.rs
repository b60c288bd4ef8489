//! The bus as controllers see it: directives go in, values come out; the same in the host and in a plugin.

use std::sync::Arc;

use crate::directive::{AnyDirective, Directive, RawRequest, Request, Wait};
use crate::{BusError, Result};

/// What adds directives: the engine in this process, or the connection to the host's across the plugin boundary.
pub trait Backend: Send + Sync {
    /// Adds a reference to a directive; equal directives are merged.
    ///
    /// # Errors
    /// The directive is invalid, or the bus is closed.
    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>>;
}

/// A handle to a bus. Cheap to clone.
#[derive(Clone)]
pub struct BusHandle(Arc<dyn Backend>);

impl std::fmt::Debug for BusHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BusHandle").finish_non_exhaustive()
    }
}

impl BusHandle {
    /// A handle on top of a backend.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self(backend)
    }

    /// Adds a directive and returns a reference to it. It stays active until the last reference is dropped.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Invalid`] if the directive refuses itself,
    /// [`crate::error::ErrorKind::Closed`] if the bus is closed.
    pub fn request<D: Directive>(&self, directive: D) -> Result<Request<D>, BusError> {
        Ok(Request::new(self.0.add(Arc::new(directive))?))
    }

    /// [`BusHandle::request`] for a directive whose type is known only at run time.
    ///
    /// # Errors
    /// As [`BusHandle::request`].
    pub fn raw(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>, BusError> {
        Ok(self.0.add(directive)?)
    }

    /// The first value of a directive; waits until a controller provides one. The [`Wait`] takes a deadline and a condition:
    /// `bus.resolve(directive).matching(check).within(limit)`. Cancel-safe.
    ///
    /// # Errors
    /// As [`BusHandle::request`], or a resolver's error when no other resolver is still working on a value.
    pub fn resolve<D: Directive>(&self, directive: D) -> Wait<'static, D, Arc<D::Value>> {
        Wait::first(self.request(directive))
    }

    /// All values, once no resolver has more to add. Cancel-safe.
    ///
    /// # Errors
    /// As [`BusHandle::request`], or a resolver's error if there is no value.
    pub fn resolve_all<D: Directive>(&self, directive: D) -> Wait<'static, D, Vec<Arc<D::Value>>> {
        Wait::all(self.request(directive))
    }

    /// The first value, or `None` once no resolver has anything to add. Cancel-safe.
    ///
    /// # Errors
    /// As [`BusHandle::resolve_all`].
    pub fn try_resolve<D: Directive>(&self, directive: D) -> Wait<'static, D, Option<Arc<D::Value>>> {
        Wait::if_any(self.request(directive))
    }
}
