//! Where each plugin is to run: what the host said of all, what its spec says, and what was said since.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::process::{Isolation, ProcessOptions};

/// Where a plugin runs, and how if in a process of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Placement {
    pub(crate) isolation: Isolation,
    pub(crate) process: ProcessOptions,
}

/// What was said of one plugin.
type Said = (Option<Isolation>, Option<ProcessOptions>);

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
    pub(crate) fn specify(&self, plugin: &str, isolation: Option<Isolation>, process: Option<ProcessOptions>) {
        let mut specs = self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        specs.insert(plugin.to_owned(), (isolation, process));
    }

    /// What was said while the runtime runs, by its config set or its program: it counts before everything else.
    pub(crate) fn choose(&self, plugin: &str, isolation: Isolation, process: Option<ProcessOptions>) {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = chosen.remove(plugin).and_then(|(_, process)| process);
        chosen.insert(plugin.to_owned(), (Some(isolation), process.or(before)));
    }

    /// Where a plugin is to run now.
    pub(crate) fn of(&self, plugin: &str) -> Placement {
        let said = |of: &Mutex<HashMap<String, Said>>| {
            of.lock().unwrap_or_else(PoisonError::into_inner).get(plugin).cloned().unwrap_or_default()
        };
        let (chosen, spec) = (said(&self.chosen), said(&self.specs));
        Placement {
            isolation: chosen.0.or(spec.0).unwrap_or(self.default.isolation),
            process: chosen.1.or(spec.1).unwrap_or_else(|| self.default.process.clone()),
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
        placing.specify("one", Some(Isolation::Process), None);
        assert_eq!(placing.of("one").isolation, Isolation::Process);
        assert_eq!(placing.of("one").process.watchdog_ms, 1);
        placing.choose("one", Isolation::None, Some(ProcessOptions { watchdog_ms: 2, ..ProcessOptions::default() }));
        placing.choose("one", Isolation::Process, None);
        assert_eq!(placing.of("one").process.watchdog_ms, 2);
        assert_eq!(placing.of("two"), placing.default);
    }
}
