//! What is asked of the fleet is not idle before the fleet is known.

use std::sync::Arc;

use controllerbus::Result;
use controllerbus::controller::{AnyController, BoxFuture};
use controllerbus::directive::{AnyDirective, ValueSink};
use tokio::sync::watch;

/// Holds asked ids busy until it is opened.
pub(crate) struct Gate {
    pub(crate) ids: Vec<String>,
    pub(crate) open: watch::Receiver<bool>,
}

impl AnyController for Gate {
    fn resolves(&self) -> Vec<String> {
        self.ids.clone()
    }

    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        _: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        // A call is answered by whoever takes it first, and so waits by itself.
        if *self.open.borrow() || directive.options().once {
            return None;
        }
        let mut open = self.open.clone();
        Some(Box::pin(async move {
            // Without a sender the fleet is left.
            let _ = open.wait_for(|open| *open).await;
            Ok(())
        }))
    }
}
