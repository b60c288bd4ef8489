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
use controllerbus::directive::{AnyDirective, ValueSink, wire};
use controllerbus::error::ErrorKind;
use controllerbus::{Config, Error, Result};
use serde::{Deserialize, Serialize};

use crate::capability::Capabilities;
use crate::placing::Said;
use crate::process::{Isolation, ProcessOptions};
use crate::runtime::Inner;

/// What a config set says of one plugin: config ID `hot-runtime/plugin`.
///
/// The plugin is swapped to where it shall run without a gap. Taking the entry out leaves it where it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Config)]
#[config(id = "hot-runtime/plugin", validate = PluginConfig::check)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// The plugin's id.
    pub plugin: String,
    /// Where it runs: `none` for the host's process, `process` for one of its own; as before unless set.
    #[serde(default)]
    pub isolation: Option<Isolation>,
    /// What it may use in a process of its own, and how it is watched; as the runtime says unless set.
    #[serde(default)]
    pub process: Option<ProcessOptions>,
    /// What it may do on the bus; everything, unless set here or by the host.
    #[serde(default)]
    pub capabilities: Option<Capabilities>,
}

impl PluginConfig {
    fn check(&self) -> Result<()> {
        if self.plugin.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "`plugin` is empty; name the plugin that it is about"));
        }
        Ok(())
    }
}

/// Makes the controllers of [`PluginConfig`] entries.
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
        Info {
            id: PluginConfig::ID.to_owned(),
            version: env!("CARGO_PKG_VERSION").parse().unwrap_or(semver::Version::new(0, 0, 0)),
            description: "Where a plugin runs.".to_owned(),
            config_id: PluginConfig::ID.to_owned(),
        }
    }

    fn schema(&self) -> String {
        PluginConfig::SCHEMA.to_json()
    }

    fn construct(self: Arc<Self>, config: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let config: PluginConfig = wire::decode(&config)?;
            config.validate()?;
            let runtime = self.runtime.upgrade();
            let runtime = runtime.ok_or_else(|| Error::new(ErrorKind::Closed, "the runtime has ended"))?;
            // What is loaded from now on goes there; what is loaded follows in the background, because a swap needs the
            // turn on the bus that this construction has. How that went is told by the runtime's events.
            let said = Said { isolation: config.isolation, process: config.process, capabilities: config.capabilities };
            runtime.shared.placing.choose(&config.plugin, said);
            let plugin = config.plugin;
            drop(tokio::spawn(async move { runtime.bring(&plugin).await }));
            Ok(Arc::new(Noted) as Arc<dyn AnyController>)
        })
    }
}

/// The controller of an entry: all that there was to do was done when it was made.
struct Noted;

impl AnyController for Noted {
    fn resolves(&self) -> Vec<String> {
        Vec::new()
    }
    fn resolve(
        self: Arc<Self>,
        _: Arc<dyn AnyDirective>,
        _: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        None
    }
}
