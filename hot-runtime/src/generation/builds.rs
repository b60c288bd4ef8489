//! What each plugin's last build has come to, for whoever waits for the plugin.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::event::RuntimeEvent;
use crate::message::MessageLevel;
use crate::text::coloured_text;

/// What a plugin is doing, unless it serves what was built last.
enum Build {
    /// It is being built or loaded.
    Going,
    /// It does not build, or could not be loaded, and why.
    Failed(String),
}

/// The plugins that do not serve what was built last, by id.
#[derive(Default)]
pub(crate) struct Builds(Mutex<BTreeMap<String, Build>>);

impl Builds {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Build>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, event: &RuntimeEvent) {
        let (plugin, build) = match event {
            RuntimeEvent::BuildStarted { plugin } | RuntimeEvent::Loading { plugin, .. } => {
                (plugin, Some(Build::Going))
            }
            RuntimeEvent::BuildFailed { plugin, rendered, messages, .. } => {
                let error = messages.iter().find(|message| message.level == MessageLevel::Error);
                let text = error.map_or_else(|| coloured_text(rendered, false), |error| error.text.clone());
                let line = text.lines().next().unwrap_or_default();
                (plugin, Some(Build::Failed(format!("does not build: {line}"))))
            }
            RuntimeEvent::RolledBack { plugin, reason, .. } => {
                (plugin, Some(Build::Failed(format!("could not be loaded: {reason}"))))
            }
            RuntimeEvent::Swapped { plugin, .. }
            | RuntimeEvent::Unchanged { plugin, .. }
            | RuntimeEvent::SourceRemoved { plugin } => (plugin, None),
            _ => return,
        };
        match build {
            Some(build) => drop(self.lock().insert(plugin.clone(), build)),
            None => drop(self.lock().remove(plugin)),
        }
    }

    /// Whether a plugin is being built or loaded.
    pub(crate) fn is_going(&self) -> bool {
        self.lock().values().any(|build| matches!(build, Build::Going))
    }

    /// What they are doing, in words.
    pub(crate) fn said(&self) -> Vec<(String, String)> {
        let said = |build: &Build| match build {
            Build::Going => "is being built".to_owned(),
            Build::Failed(why) => why.clone(),
        };
        self.lock().iter().map(|(plugin, build)| (plugin.clone(), said(build))).collect()
    }
}

#[cfg(test)]
mod tests {
    use controllerbus::error::Code;

    use super::*;
    use crate::event::{RollBackCause, Timeline};

    #[test]
    fn what_a_plugin_is_doing_is_known_until_it_serves() {
        let builds = Builds::default();
        let plugin = || "greeter".to_owned();
        builds.note(&RuntimeEvent::BuildStarted { plugin: plugin() });
        assert!(builds.is_going());
        assert_eq!(builds.said(), [(plugin(), "is being built".to_owned())]);
        let rendered = "\u{1b}[31merror\u{1b}[0m: oops\n --> src/lib.rs".to_owned();
        builds.note(&RuntimeEvent::BuildFailed {
            plugin: plugin(),
            code: Code::BUILD,
            rendered,
            messages: Vec::new(),
            serving: None,
        });
        assert!(!builds.is_going());
        assert_eq!(builds.said(), [(plugin(), "does not build: error: oops".to_owned())]);
        builds.note(&RuntimeEvent::RolledBack {
            plugin: plugin(),
            code: Code::LOAD,
            cause: RollBackCause::NotLoaded,
            reason: "no tea".to_owned(),
            serving: None,
        });
        assert_eq!(builds.said(), [(plugin(), "could not be loaded: no tea".to_owned())]);
        builds.note(&RuntimeEvent::Swapped { plugin: plugin(), from: None, to: 1, timeline: Timeline::default() });
        assert!(builds.said().is_empty());
    }
}
