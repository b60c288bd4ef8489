//! Factories that know what the types of their values are called in the plugin's code, for messages.

use std::sync::Arc;
use std::time::Duration;

use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Context, Info, SwapMode};
use controllerbus::error::Result;

/// A factory of a plugin, with what its manifest says of its values.
pub(crate) struct WithTypes {
    factory: Arc<dyn Factory>,
    info: Info,
}

impl WithTypes {
    /// The same factory if there is nothing to add.
    pub(crate) fn of(factory: Arc<dyn Factory>, value_types: &[(String, String)]) -> Arc<dyn Factory> {
        if value_types.is_empty() {
            return factory;
        }
        let info = factory.info().with_value_types(value_types.to_vec());
        Arc::new(Self { factory, info })
    }
}

impl Factory for WithTypes {
    fn info(&self) -> Info {
        self.info.clone()
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
        Arc::clone(&self.factory).construct(config, context)
    }
}
