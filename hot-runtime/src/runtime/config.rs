//! Where a plugin runs, as an entry of a config set:
//!
//! ```yaml
//! greeter-in-its-own-process:
//!   id: hot-runtime/plugin
//!   config: { plugin: greeter, isolation: process }
//! ```

use std::sync::{Arc, Weak};

use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Context, Info};
use controllerbus::{Config, Result};

use crate::host::config::PluginConfig;
use crate::host::placement::Override;
use crate::runtime::Inner;
use crate::runtime::loaders::{decoded, info, upgraded};

/// The factory of [`PluginConfig`] entries.
pub(crate) struct PluginSettings {
    runtime: Weak<Inner>,
}

impl PluginSettings {
    pub(crate) fn of(runtime: Weak<Inner>) -> Arc<dyn Factory> {
        Arc::new(Self { runtime })
    }
}

impl Factory for PluginSettings {
    fn info(&self) -> Info {
        info(PluginConfig::ID, "Where a plugin runs.")
    }

    fn schema(&self) -> String {
        PluginConfig::SCHEMA.to_json()
    }

    fn construct(self: Arc<Self>, config: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let config = decoded::<PluginConfig>(&config)?;
            let runtime = upgraded(&self.runtime)?;
            // Later loads follow the entry at once; what is already loaded is moved in the background, because that may take
            // longer than a construction may. The runtime's events report how that goes.
            let said =
                Override { isolation: config.isolation, process: config.process, capabilities: config.capabilities };
            runtime.shared.placements.set_override(&config.plugin, said);
            let plugin = config.plugin;
            drop(tokio::spawn(async move { runtime.bring(&plugin).await }));
            Ok(Arc::new(Noted) as Arc<dyn AnyController>)
        })
    }
}

/// The controller of an entry, which has nothing left to do.
struct Noted;

impl AnyController for Noted {}
