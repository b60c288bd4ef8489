//! The config-set entry of a plugin.

use controllerbus::error::ErrorKind;
use controllerbus::{Config, Error, Result};
use serde::{Deserialize, Serialize};

use crate::host::capability::Capabilities;
use crate::host::{Isolation, ProcessOptions};

/// How a plugin runs, as an entry of a config set: config ID `hot-runtime/plugin`.
///
/// The plugin moves there by an ordinary swap, without a gap. Removing the entry leaves it where it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Config)]
#[config(id = "hot-runtime/plugin", validate = PluginConfig::check)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PluginConfig {
    /// The plugin's id.
    pub plugin: String,
    /// Where it runs: `none` for the host's process, `process` for one of its own; unchanged unless set.
    #[serde(default)]
    pub isolation: Option<Isolation>,
    /// How it runs in a process of its own; the runtime's default unless set.
    #[serde(default)]
    pub process: Option<ProcessOptions>,
    /// What it may do on the bus; everything unless set here or by the host.
    #[serde(default)]
    pub capabilities: Option<Capabilities>,
}

impl PluginConfig {
    /// An entry that leaves a plugin as it is.
    #[must_use]
    pub fn new(plugin: impl Into<String>) -> Self {
        Self { plugin: plugin.into(), isolation: None, process: None, capabilities: None }
    }

    /// Sets where it runs.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }

    /// Sets how it runs in a process of its own.
    #[must_use]
    pub fn process_options(mut self, options: ProcessOptions) -> Self {
        self.process = Some(options);
        self
    }

    /// Sets what it may do on the bus.
    #[must_use]
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    fn check(&self) -> Result<()> {
        if self.plugin.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "`plugin` is empty; set it to the id of a plugin"));
        }
        Ok(())
    }
}
