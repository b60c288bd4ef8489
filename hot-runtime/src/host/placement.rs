//! Where each plugin is to run: the host's default, the plugin's spec, and overrides since then.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::host::capability::Capabilities;
use crate::host::{Isolation, ProcessOptions};

/// Where and how a plugin runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Placement {
    pub(crate) isolation: Isolation,
    pub(crate) process: ProcessOptions,
    /// What it may do on the bus; everything unless set.
    pub(crate) capabilities: Option<Capabilities>,
}

/// What is set for one plugin; the rest is inherited.
#[derive(Clone, Debug, Default)]
pub(crate) struct Override {
    pub(crate) isolation: Option<Isolation>,
    pub(crate) process: Option<ProcessOptions>,
    pub(crate) capabilities: Option<Capabilities>,
}

/// Where plugins run.
#[derive(Default)]
pub(crate) struct PlacementRules {
    /// For every plugin with nothing more specific.
    pub(crate) default: Placement,
    /// The plugin host's executable, if one was set.
    pub(crate) plugin_host: Option<PathBuf>,
    specs: Mutex<HashMap<String, Override>>,
    overrides: Mutex<HashMap<String, Override>>,
}

impl PlacementRules {
    pub(crate) fn plugin_host(&self) -> Option<&Path> {
        self.plugin_host.as_deref()
    }

    /// Sets what a plugin's spec says.
    pub(crate) fn set_spec(&self, plugin: &str, said: Override) {
        let mut specs = self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        specs.insert(plugin.to_owned(), said);
    }

    /// Overrides a plugin's spec at run time, from a config set or by the program. What this override leaves unset
    /// stays as earlier overrides set it.
    pub(crate) fn set_override(&self, plugin: &str, said: Override) {
        let mut overrides = self.overrides.lock().unwrap_or_else(PoisonError::into_inner);
        let before = overrides.remove(plugin).unwrap_or_default();
        let said = Override {
            isolation: said.isolation.or(before.isolation),
            process: said.process.or(before.process),
            capabilities: said.capabilities.or(before.capabilities),
        };
        overrides.insert(plugin.to_owned(), said);
    }

    /// Where a plugin is to run now.
    pub(crate) fn resolve(&self, plugin: &str) -> Placement {
        let said = |of: &Mutex<HashMap<String, Override>>| {
            of.lock().unwrap_or_else(PoisonError::into_inner).get(plugin).cloned().unwrap_or_default()
        };
        let (overrides, spec) = (said(&self.overrides), said(&self.specs));
        Placement {
            isolation: overrides.isolation.or(spec.isolation).unwrap_or(self.default.isolation),
            process: overrides.process.or(spec.process).unwrap_or_else(|| self.default.process.clone()),
            capabilities: overrides.capabilities.or(spec.capabilities).or_else(|| self.default.capabilities.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_latest_and_most_specific_setting_counts() {
        let limited = ProcessOptions { watchdog: Duration::from_secs(1), ..ProcessOptions::default() };
        let placements = PlacementRules {
            default: Placement { process: limited, ..Placement::default() },
            ..PlacementRules::default()
        };
        assert_eq!(placements.resolve("one").isolation, Isolation::None);
        placements.set_spec("one", Override { isolation: Some(Isolation::Process), ..Override::default() });
        assert_eq!(placements.resolve("one").isolation, Isolation::Process);
        assert_eq!(placements.resolve("one").process.watchdog, Duration::from_secs(1));
        let process = Some(ProcessOptions { watchdog: Duration::from_secs(2), ..ProcessOptions::default() });
        placements.set_override("one", Override { isolation: Some(Isolation::None), process, ..Override::default() });
        placements.set_override("one", Override { isolation: Some(Isolation::Process), ..Override::default() });
        assert_eq!(placements.resolve("one").process.watchdog, Duration::from_secs(2));
        assert_eq!(placements.resolve("two"), placements.default);
    }
}
