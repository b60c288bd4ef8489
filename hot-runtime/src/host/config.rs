//! What a config set says of one plugin.

use controllerbus::error::ErrorKind;
use controllerbus::{Config, Error, Result};
use serde::{Deserialize, Serialize};

use crate::host::capability::Capabilities;
use crate::host::{Isolation, ProcessOptions};

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
