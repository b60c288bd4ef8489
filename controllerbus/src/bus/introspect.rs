//! What tools see of a bus: controllers, directives, values, resolvers and factories, and notice of every change.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::counts::{CountsSnapshot, DirectiveCounts};
use super::engine::Engine;
use super::entry::{ControllerEntry, Execution};
use super::standing::Standing;
use super::{Bus, ConfigState, ControllerId, Source};
use crate::controller::Info;
use crate::directive::{Options, ValueId};
use crate::{BusError, Error, Result};

/// A controller as tools see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ControllerSnapshot {
    /// Its id on this bus.
    pub id: ControllerId,
    /// Who it is.
    pub info: Info,
    /// Where it comes from.
    pub source: Source,
    /// The host of a fleet that it answers for; none for this one.
    #[serde(default)]
    pub host: Option<String>,
    /// The keys of the config sets that it runs for; none if no config asked for it.
    pub keys: Vec<String>,
    /// The ids of the directives that it resolves.
    pub resolves: Vec<String>,
    /// Whether it is being prepared beside the controller that it will replace.
    pub staged: bool,
    /// What its execution is doing.
    pub execution: Execution,
    /// Since when.
    pub since: SystemTime,
    /// Whether its execution has ever got to its first wait, or to its end without an error.
    pub begun: bool,
    /// How often its execution has failed.
    pub failures: u64,
    /// How many active directives it answers.
    pub answers: usize,
}

/// An active directive as tools see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DirectiveSnapshot {
    /// [`crate::Directive::ID`].
    pub id: String,
    /// Its name for people: [`crate::Directive::name`].
    pub name: String,
    /// What distinguishes it from others of its type: [`crate::Directive::debug_values`].
    pub debug: Vec<(String, String)>,
    /// Its options.
    pub options: Options,
    /// The number of strong references, which keep it active.
    pub references: usize,
    /// Whose they are.
    #[serde(default)]
    pub asked_by: Vec<AskerSnapshot>,
    /// The number of weak references, which only read its events.
    pub weak_references: usize,
    /// Whether no resolver has more to add.
    pub idle: bool,
    /// Its values, as far as requesters see them.
    pub values: Vec<ValueSnapshot>,
    /// The controllers that answer it.
    pub resolvers: Vec<ResolverSnapshot>,
}

/// Who asks for a directive, as tools see it: this program or the generation of a plugin whose code it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AskerSnapshot {
    /// Whose code asks.
    pub source: Source,
    /// The number of its strong references.
    pub references: usize,
    /// The host of a fleet that they stand for; none for this one.
    #[serde(default)]
    pub host: Option<String>,
}

/// A value as tools see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ValueSnapshot {
    /// Its id among the values of its directive.
    pub id: ValueId,
    /// The controller that added it.
    pub controller: ControllerId,
    /// Its content.
    pub value: serde_json::Value,
}

/// One controller's answer to a directive as tools see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResolverSnapshot {
    /// Whose.
    pub controller: ControllerId,
    /// Who that is: [`Info::id`].
    pub name: String,
    /// The type of its values as its own code names it, if that is known: [`Info::value_type`].
    #[serde(default)]
    pub value_type: Option<String>,
    /// What it is doing.
    pub state: ResolverState,
    /// How many values it has added that stand.
    pub values: usize,
    /// The host of a fleet that it answers for; none for this one.
    #[serde(default)]
    pub host: Option<String>,
    /// Whether its controller was replaced, and goes on with this directive, which is pinned to it:
    /// [`Options::pin`](crate::directive::Options::pin).
    #[serde(default)]
    pub pinned: bool,
}

/// What a resolver is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
#[non_exhaustive]
pub enum ResolverState {
    /// It may add values.
    Working,
    /// It has nothing more to add for now.
    Idle,
    /// It failed, and is retried with backoff.
    Failed {
        /// Why.
        error: Error,
    },
    /// Its generation does not serve: it is being prepared, or it stays until its successor has a value.
    Held,
}

/// A factory as tools see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FactorySnapshot {
    /// Who its controllers will be.
    pub info: Info,
    /// Where it comes from.
    pub source: Source,
    /// The JSON schema of its configs.
    pub schema: serde_json::Value,
}

/// Everything, taken one part after the other: a change in between may be visible in one part and not in another.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// The controllers.
    pub controllers: Vec<ControllerSnapshot>,
    /// The controllers that were removed and have not ended yet.
    pub leaving: Vec<ControllerSnapshot>,
    /// The active directives.
    pub directives: Vec<DirectiveSnapshot>,
    /// The applied configs.
    pub configs: Vec<ConfigState>,
    /// The factories.
    pub factories: Vec<FactorySnapshot>,
}

impl Engine {
    /// A controller as tools see it.
    pub(super) fn snapshot_of(&self, entry: &Arc<ControllerEntry>) -> ControllerSnapshot {
        let (execution, since) = entry.execution();
        let keys = entry.configured.as_ref().map(|(instance, _)| self.life().configs.keys_of(*instance));
        ControllerSnapshot {
            id: ControllerId(entry.id),
            info: Info::clone(&entry.info),
            source: entry.source.shown(entry.library),
            host: entry.host.shown(),
            keys: keys.filter(|_| !entry.is_removed()).unwrap_or_default(),
            resolves: entry.resolves.clone(),
            staged: entry.is_staged(),
            execution,
            since,
            begun: entry.handover.has_begun.load(std::sync::atomic::Ordering::Acquire),
            failures: entry.failures.load(std::sync::atomic::Ordering::Relaxed),
            answers: entry.answer_count(),
        }
    }
}

impl Engine {
    /// The controllers on the bus.
    pub(super) fn controllers(&self) -> Vec<ControllerSnapshot> {
        let entries: Vec<_> = self.life().controllers.values().cloned().collect();
        entries.iter().map(|entry| self.snapshot_of(entry)).collect()
    }

    /// The factories that the bus knows.
    pub(super) fn factories(&self) -> Vec<FactorySnapshot> {
        let known: Vec<_> = self.life().factories.all().cloned().collect();
        let snapshot = |known: &super::factories::KnownFactory| FactorySnapshot {
            info: known.info.clone(),
            source: known.source.shown(known.library),
            schema: serde_json::from_str(&known.factory.schema()).unwrap_or_default(),
        };
        known.iter().map(snapshot).collect()
    }
}

impl Bus {
    /// Everything at once.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            controllers: self.controllers(),
            leaving: self.leaving(),
            directives: self.directives(),
            configs: self.configs(),
            factories: self.factories(),
        }
    }

    /// The controllers on the bus, in the order in which they were added.
    pub fn controllers(&self) -> Vec<ControllerSnapshot> {
        self.0.controllers()
    }

    /// The controllers that were removed and have not ended yet, because they finish calls, are closing, or are stuck.
    pub fn leaving(&self) -> Vec<ControllerSnapshot> {
        let entries: Vec<_> = self.0.life().leaving.values().cloned().collect();
        entries.iter().map(|entry| self.0.snapshot_of(entry)).collect()
    }

    /// What the controllers on the bus did for directives, by controller and directive id.
    pub fn counts(&self) -> Vec<CountsSnapshot> {
        let entries: Vec<_> = self.0.life().controllers.values().cloned().collect();
        entries.iter().flat_map(|entry| self.0.types.counts_of(entry)).collect()
    }

    /// How many directives are active, by id. Unlike [`Bus::directives`] it asks no user code for names and values, and so costs
    /// little, however many there are.
    pub fn directive_counts(&self) -> Vec<DirectiveCounts> {
        let mut all = self.0.types.directive_counts();
        all.sort_by(|a, b| a.directive.cmp(&b.directive));
        all
    }

    /// The active directives, sorted by id and name.
    pub fn directives(&self) -> Vec<DirectiveSnapshot> {
        let mut all: Vec<_> = self.0.types.standing().iter().map(Standing::snapshot).collect();
        all.sort_by(|a, b| (&a.id, &a.name, &a.debug).cmp(&(&b.id, &b.name, &b.debug)));
        all
    }

    /// The factories that the bus knows, with the schemas of their configs.
    pub fn factories(&self) -> Vec<FactorySnapshot> {
        self.0.factories()
    }

    /// Marked as changed whenever configs, controllers, their executions, factories or generations change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Marked as changed whenever directives, their references, values or resolvers change. Adding and releasing a directive
    /// costs more while such a receiver exists.
    pub fn directive_changes(&self) -> watch::Receiver<u64> {
        self.0.directives_changed.subscribe()
    }

    /// Watches the state of one key of the config sets.
    pub fn watch_config(&self, key: impl Into<String>) -> ConfigWatch {
        ConfigWatch { bus: self.clone(), changed: self.changes(), key: key.into(), last: None }
    }
}

/// Watches the state of one config: see [`Bus::watch_config`].
#[derive(Debug)]
pub struct ConfigWatch {
    bus: Bus,
    changed: watch::Receiver<u64>,
    key: String,
    last: Option<Option<ConfigState>>,
}

impl ConfigWatch {
    /// The state: immediately on the first call, and then whenever it has changed; `None` while there is no such key.
    /// Short-lived states may be skipped. Cancel-safe.
    pub async fn next(&mut self) -> Option<ConfigState> {
        loop {
            self.changed.borrow_and_update();
            let state = self.bus.config(&self.key);
            if self.last.as_ref() != Some(&state) {
                self.last = Some(state.clone());
                return state;
            }
            // We hold the bus, and so the sender exists.
            let _ = self.changed.changed().await;
        }
    }

    /// Waits until the controller is running.
    ///
    /// # Errors
    /// Its first error, if it fails before that.
    pub async fn running(&mut self) -> Result<ControllerId, BusError> {
        loop {
            match self.next().await.map(|state| state.state) {
                Some(super::RunState::Running(id)) => return Ok(id),
                Some(super::RunState::Failed { error, .. }) => return Err(error.into()),
                _ => {}
            }
        }
    }
}
