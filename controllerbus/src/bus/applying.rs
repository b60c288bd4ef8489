//! Applies config sets and takes them back, and says what became of each key.

use std::collections::HashSet;
use std::sync::Arc;

use super::configs::{Changes, ConfigState, Earlier, Owner, Pending, RunState};
use super::engine::{Engine, Life};
use super::entry::{ControllerEntry, Execution};
use super::factories::KnownFactory;
use super::{Bus, ControllerSnapshot, Source};
use crate::config::origin::Place;
use crate::config::{ConfigSet, nearest};
use crate::directive::wire;
use crate::error::ErrorKind;
use crate::{Error, Result};

/// What came of applying a config set.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[non_exhaustive]
pub struct ApplyReport {
    /// The set's keys, in their order: each runs, has failed once, or waits for a factory.
    pub configs: Vec<ConfigState>,
    /// Controllers that made room and have not ended within their limits: they end in the background.
    pub leaving: Vec<ControllerSnapshot>,
}

impl ApplyReport {
    /// The keys whose elected config does not run, each with a `problem`.
    pub fn problems(&self) -> impl Iterator<Item = &ConfigState> {
        self.configs.iter().filter(|config| config.problem.is_some())
    }
}

/// Someone who applies configs and may take them back, such as a file that is followed, or a client that is attached.
///
/// Each set that it applies takes the place of its last one. What others have applied for the same keys stays a candidate,
/// and takes over when this owner lets go of them. Dropping it takes its configs back, in the background.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> controllerbus::Result<()> {
/// # use controllerbus::prelude::*;
/// let bus = Bus::new();
/// let file = bus.config_owner();
/// file.apply(ConfigSet::from_yaml("lamp: { id: house/lamp }")?).await?;
/// file.apply(ConfigSet::from_yaml("door: { id: house/door }")?).await?;
/// assert_eq!(bus.configs().len(), 1);
/// file.withdraw().await;
/// assert!(bus.configs().is_empty());
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it takes its configs back"]
#[derive(Debug)]
pub struct ConfigOwner {
    bus: Bus,
    owner: Owner,
}

impl ConfigOwner {
    /// Applies a set in place of this owner's last one, and waits as [`Bus::apply`] does.
    ///
    /// # Errors
    /// As [`Bus::apply`].
    pub async fn apply(&self, set: ConfigSet) -> Result<ApplyReport> {
        self.bus.0.apply(self.owner, set, Earlier::Replace).await
    }

    /// Takes back all that this owner has applied, and waits until the controllers that nobody else wants have ended, or
    /// their limits are over.
    pub async fn withdraw(self) {
        self.bus.0.withdraw_owner(self.owner).await;
    }
}

impl Drop for ConfigOwner {
    fn drop(&mut self) {
        self.bus.0.release_owner(self.owner);
    }
}

impl Bus {
    /// Someone new who applies configs.
    pub fn config_owner(&self) -> ConfigOwner {
        ConfigOwner { bus: self.clone(), owner: self.0.next_id() }
    }
}

impl Engine {
    /// Applies a set and waits until each of its keys runs, has failed once, or waits for a factory. Dropping the future
    /// leaves nothing undone.
    pub(super) async fn apply(self: &Arc<Self>, owner: Owner, set: ConfigSet, earlier: Earlier) -> Result<ApplyReport> {
        let keys: Vec<String> = set.iter().map(|(key, _)| key.to_owned()).collect();
        let before = self.add_candidates(owner, set, earlier)?;
        self.settled(&keys).await;
        let unused = {
            let life = self.life();
            before.into_iter().filter(|entry| !life.configs.uses(entry)).collect()
        };
        let leaving = self.wait_closed(unused).await;
        let configs = keys.iter().filter_map(|key| self.config_state(key)).collect();
        let leaving = leaving.iter().map(|entry| self.snapshot_of(entry)).collect();
        Ok(ApplyReport { configs, leaving })
    }

    /// Makes a set's entries candidates for their keys. Returns the controllers that run for these keys now.
    pub(super) fn add_candidates(
        self: &Arc<Self>,
        owner: Owner,
        set: ConfigSet,
        earlier: Earlier,
    ) -> Result<Vec<Arc<ControllerEntry>>> {
        self.runtime()?;
        let mut changes = Changes::default();
        let before = {
            let mut life = self.life();
            if self.is_closed() {
                return Err(Error::new(ErrorKind::Closed, "the bus is closed; the config set was not applied"));
            }
            let Life { factories, configs, .. } = &mut *life;
            let before =
                configs.running(|key, of| set.get(key).is_some() || earlier == Earlier::Replace && of == owner);
            let kept: HashSet<_> = set.iter().map(|(key, entry)| (key.to_owned(), entry.revision)).collect();
            // Added before the old ones go, so that what stays the same runs on.
            for (key, entry, place) in set.into_entries() {
                configs.add(owner, &key, (entry, place), factories, &mut changes);
            }
            if earlier == Earlier::Replace {
                let gone = |key: &str, of, revision| of == owner && !kept.contains(&(key.to_owned(), revision));
                configs.take_back(gone, factories, &mut changes);
            }
            before
        };
        self.carry_out(changes);
        Ok(before)
    }

    /// Takes back what an owner has applied, and waits for nothing.
    pub(super) fn release_owner(self: &Arc<Self>, owner: Owner) {
        let (_, changes) = self.take_back(|_, of, _| of == owner);
        self.carry_out(changes);
    }

    /// Waits until none of the keys' controllers is being constructed: constructors have a limit.
    async fn settled(self: &Arc<Self>, keys: &[String]) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let is_settled = {
                let life = self.life();
                keys.iter().all(|key| {
                    let wanted =
                        life.configs.by_key.get(key).and_then(|applied| life.configs.instances.get(&applied.wanted));
                    wanted.is_none_or(|instance| instance.shown() != RunState::Constructing)
                })
            };
            if is_settled || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes candidates back of which `gone` says so (told the key, the owner and the revision); whether there was one.
    fn take_back(&self, gone: impl Fn(&str, Owner, u64) -> bool) -> (bool, Changes) {
        let mut life = self.life();
        let Life { factories, configs, .. } = &mut *life;
        let mut changes = Changes::default();
        (configs.take_back(gone, factories, &mut changes), changes)
    }

    async fn withdraw(self: &Arc<Self>, gone: impl Fn(&str, Owner, u64) -> bool) -> bool {
        let (found, changes) = self.take_back(gone);
        let released = changes.released.clone();
        self.carry_out(changes);
        self.wait_closed(released).await;
        found
    }

    pub(super) async fn withdraw_revision(self: &Arc<Self>, key: &str, revision: u64) -> bool {
        let found = self.withdraw(|of, _, candidate| of == key && candidate == revision).await;
        self.settled(&[key.to_owned()]).await;
        found
    }

    pub(super) async fn withdraw_owner(self: &Arc<Self>, owner: Owner) {
        self.withdraw(|_, of, _| of == owner).await;
    }

    pub(super) async fn remove_config(self: &Arc<Self>, key: &str) -> bool {
        self.withdraw(|of, _, _| of == key).await
    }

    /// Makes factories known; what waits for them is constructed in the background.
    pub(super) fn add_factories(self: &Arc<Self>, known: Vec<KnownFactory>) {
        let changes = {
            let mut life = self.life();
            let Life { factories, configs, .. } = &mut *life;
            factories.add(known);
            let mut changes = Changes::default();
            configs.factories_changed(factories, &mut changes);
            changes
        };
        self.carry_out(changes);
    }

    /// Takes a source's factories and controllers off, and waits until these have ended, or their limits are over; those
    /// that have not then.
    pub(super) async fn remove_source(self: &Arc<Self>, source: Source) -> Vec<Arc<ControllerEntry>> {
        let (gone, leaving, changes) = {
            let mut life = self.life();
            let leaving: Vec<_> = life.controllers.values().filter(|entry| entry.source == source).cloned().collect();
            life.leave(&leaving);
            let Life { factories, configs, .. } = &mut *life;
            let gone = factories.remove(source);
            let mut changes = Changes::default();
            configs.source_gone(source, factories, &mut changes);
            (gone, leaving, changes)
        };
        drop(gone);
        self.dismiss(&leaving);
        self.carry_out(changes);
        self.wait_closed(leaving).await
    }

    /// A key's state, as tools see it.
    pub(super) fn config_state(&self, key: &str) -> Option<ConfigState> {
        let life = self.life();
        let applied = life.configs.by_key.get(key)?;
        let wanted = life.configs.instances.get(&applied.wanted)?;
        let place = applied.place.as_ref();
        let mut state = ConfigState {
            key: key.to_owned(),
            config_id: applied.config.id.clone(),
            version: applied.config.version.clone(),
            revision: applied.config.revision,
            candidates: applied.others(),
            state: wanted.shown(),
            since: wanted.since(),
            pending: None,
            location: place.and_then(Place::id),
            problem: None,
            wanted: applied.wanted,
        };
        if let RunState::Failed { error, .. } = &mut state.state {
            *error = placed(error.clone(), place);
        }
        state.problem = match &state.state {
            RunState::Failed { error, .. } => Some(error.clone()),
            RunState::Queued => {
                let error = life.no_factory(&state.config_id, state.version.as_ref());
                Some(match state.location.clone() {
                    Some(location) => error.at(location),
                    None => error.context(format!("config `{key}`")),
                })
            }
            RunState::Constructing | RunState::Running(_) => None,
        };
        let mut running = wanted.running.as_ref();
        if let Some(serving) = applied.serving
            && let Some(before) = life.configs.instances.get(&serving.instance)
            && before.running.is_some()
        {
            running = before.running.as_ref();
            let pending = Pending { state: state.state, since: state.since, running_revision: serving.revision };
            state.pending = Some(pending);
            state.state = before.state().clone();
            state.since = before.since();
        }
        if let Some((Execution::Failed { error, retry_in }, since)) = running.map(|entry| entry.execution()) {
            state.problem.get_or_insert_with(|| error.clone());
            state.state = RunState::Failed { error, retry_in: Some(retry_in) };
            state.since = since;
        }
        Some(state)
    }
}

/// An error about a config with the place in the text that it is about.
fn placed(error: Error, place: Option<&Place>) -> Error {
    match place.and_then(|place| place.config(wire::path_of(&error).unwrap_or_default())) {
        Some(location) => error.at(location),
        None => error,
    }
}

impl Life {
    /// Why there is no factory for a config.
    fn no_factory(&self, config_id: &str, version: Option<&semver::VersionReq>) -> Error {
        let versions = self.factories.versions(config_id);
        let text = match version {
            Some(range) if !versions.is_empty() => {
                let versions = versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!("no factory of `{config_id}` has a version that fits `{range}`; there are {versions}")
            }
            _ => {
                let ids = self.factories.config_ids();
                let meant = nearest(config_id, ids.iter().map(String::as_str));
                let meant = meant.map(|id| format!("; did you mean `{id}`?")).unwrap_or_default();
                format!("no factory makes `{config_id}`{meant}")
            }
        };
        Error::new(ErrorKind::NotFound, text)
    }
}
