//! Where each plugin is to run: what the host said of all, what its spec says, and what was said since.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::host::capability::Capabilities;
use crate::host::{Isolation, ProcessOptions};

/// Where a plugin runs, and how if in a process of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Placement {
    pub(crate) isolation: Isolation,
    pub(crate) process: ProcessOptions,
    /// What it may do on the bus; everything unless set.
    pub(crate) capabilities: Option<Capabilities>,
}

/// What was said of one plugin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) isolation: Option<Isolation>,
    pub(crate) process: Option<ProcessOptions>,
    pub(crate) capabilities: Option<Capabilities>,
}

/// What was said of where plugins run.
#[derive(Default)]
pub(crate) struct Placing {
    /// Of every plugin of which nothing else was said.
    pub(crate) default: Placement,
    /// The executable of plugin hosts, where it was given.
    pub(crate) plugin_host: Option<PathBuf>,
    specs: Mutex<HashMap<String, Said>>,
    chosen: Mutex<HashMap<String, Said>>,
}

impl Placing {
    pub(crate) fn plugin_host(&self) -> Option<&Path> {
        self.plugin_host.as_deref()
    }

    /// What a plugin's spec says.
    pub(crate) fn specify(&self, plugin: &str, said: Said) {
        let mut specs = self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        specs.insert(plugin.to_owned(), said);
    }

    /// What was said while the runtime runs, by its config set or its program: it counts before everything else. What is
    /// not said now stays as it was said before.
    pub(crate) fn choose(&self, plugin: &str, said: Said) {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = chosen.remove(plugin).unwrap_or_default();
        let said = Said {
            isolation: said.isolation.or(before.isolation),
            process: said.process.or(before.process),
            capabilities: said.capabilities.or(before.capabilities),
        };
        chosen.insert(plugin.to_owned(), said);
    }

    /// Where a plugin is to run now.
    pub(crate) fn of(&self, plugin: &str) -> Placement {
        let said = |of: &Mutex<HashMap<String, Said>>| {
            of.lock().unwrap_or_else(PoisonError::into_inner).get(plugin).cloned().unwrap_or_default()
        };
        let (chosen, spec) = (said(&self.chosen), said(&self.specs));
        Placement {
            isolation: chosen.isolation.or(spec.isolation).unwrap_or(self.default.isolation),
            process: chosen.process.or(spec.process).unwrap_or_else(|| self.default.process.clone()),
            capabilities: chosen.capabilities.or(spec.capabilities).or_else(|| self.default.capabilities.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_last_and_closest_counts() {
        let limited = ProcessOptions { watchdog_ms: 1, ..ProcessOptions::default() };
        let placing = Placing { default: Placement { process: limited, ..Placement::default() }, ..Placing::default() };
        assert_eq!(placing.of("one").isolation, Isolation::None);
        placing.specify("one", Said { isolation: Some(Isolation::Process), ..Said::default() });
        assert_eq!(placing.of("one").isolation, Isolation::Process);
        assert_eq!(placing.of("one").process.watchdog_ms, 1);
        let process = Some(ProcessOptions { watchdog_ms: 2, ..ProcessOptions::default() });
        placing.choose("one", Said { isolation: Some(Isolation::None), process, ..Said::default() });
        placing.choose("one", Said { isolation: Some(Isolation::Process), ..Said::default() });
        assert_eq!(placing.of("one").process.watchdog_ms, 2);
        assert_eq!(placing.of("two"), placing.default);
    }
}
