//! What a controller is given: its bus, its cancellation, who it is.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Info;
use crate::bus::BusHandle;
use crate::{Directive, Result};

/// A controller's surroundings. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    bus: BusHandle,
    cancel: CancellationToken,
    info: Arc<Info>,
}

impl Context {
    /// A context on a bus, cancelled by a token.
    pub fn new(bus: BusHandle, cancel: CancellationToken, info: Arc<Info>) -> Self {
        Self { bus, cancel, info }
    }

    /// The same surroundings under another token.
    #[must_use]
    pub fn with_token(&self, cancel: CancellationToken) -> Self {
        Self { bus: self.bus.clone(), cancel, info: Arc::clone(&self.info) }
    }

    /// The bus that the controller runs on.
    pub fn bus(&self) -> &BusHandle {
        &self.bus
    }

    /// Who the controller is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The token behind [`Context::cancelled`].
    pub fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Waits until the controller shall end.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Whether the controller shall end.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The first value of a directive. See [`BusHandle::resolve`].
    ///
    /// # Errors
    /// As [`BusHandle::resolve`].
    pub async fn resolve<D: Directive>(&self, directive: D) -> Result<Arc<D::Value>> {
        self.bus.resolve(directive).await
    }
}
