//! What the host puts before a plugin's factory: it says what the factory says, but for what it is there to change.

use std::sync::Arc;
use std::time::Duration;

use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Context, Info, SwapMode};
use controllerbus::error::Result;

/// What is changed of a factory.
pub(super) trait Change: Send + Sync + 'static {
    /// What it says of its controllers.
    fn info(&self, info: Info) -> Info {
        info
    }

    /// Makes a controller.
    fn construct(
        self: Arc<Self>,
        factory: Arc<dyn Factory>,
        config: Vec<u8>,
        context: Context,
    ) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        factory.construct(config, context)
    }
}

/// A factory with a change.
struct Changed<C> {
    factory: Arc<dyn Factory>,
    change: Arc<C>,
}

/// The factory with this change.
pub(super) fn changed<C: Change>(factory: Arc<dyn Factory>, change: &Arc<C>) -> Arc<dyn Factory> {
    Arc::new(Changed { factory, change: Arc::clone(change) })
}

/// The factories, which know what the types of their values are called in the plugin's code, for messages.
pub(crate) fn with_value_types(
    factories: Vec<Arc<dyn Factory>>,
    value_types: &[(String, String)],
) -> Vec<Arc<dyn Factory>> {
    if value_types.is_empty() {
        return factories;
    }
    let types = Arc::new(ValueTypes(value_types.to_vec()));
    factories.into_iter().map(|factory| changed(factory, &types)).collect()
}

/// What the manifest says of the values, by directive id.
struct ValueTypes(Vec<(String, String)>);

impl Change for ValueTypes {
    fn info(&self, info: Info) -> Info {
        info.with_value_types(self.0.clone())
    }
}

impl<C: Change> Factory for Changed<C> {
    fn info(&self) -> Info {
        self.change.info(self.factory.info())
    }

    fn schema(&self) -> String {
        self.factory.schema()
    }

    fn swap_mode(&self) -> SwapMode {
        self.factory.swap_mode()
    }

    fn persist(&self) -> Option<Duration> {
        self.factory.persist()
    }

    fn ends_when_cancelled(&self) -> bool {
        self.factory.ends_when_cancelled()
    }

    fn construct(
        self: Arc<Self>,
        config: Vec<u8>,
        context: Context,
    ) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Arc::clone(&self.change).construct(Arc::clone(&self.factory), config, context)
    }
}
