//! Applies and withdraws config sets, and reports on each key.

use std::collections::HashSet;
use std::sync::Arc;

use super::config_state::{ConfigState, RunState};
use super::configs::{Changes, Earlier, Owner};
use super::engine::{Engine, Life};
use super::entry::ControllerEntry;
use super::{Bus, ControllerSnapshot};
use crate::config::ConfigSet;
use crate::error::ErrorKind;
use crate::{BusError, Error, Result};

/// The outcome of applying a config set.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[non_exhaustive]
pub struct ApplyReport {
    /// The set's keys, in their order: each is running, has failed once, or is waiting for a factory.
    pub configs: Vec<ConfigState>,
    /// Controllers that were replaced and have not ended within their limits; they end in the background.
    pub leaving: Vec<ControllerSnapshot>,
}

impl ApplyReport {
    /// The keys whose elected config is not running, each with a `problem`.
    pub fn problems(&self) -> impl Iterator<Item = &ConfigState> {
        self.configs.iter().filter(|config| config.problem.is_some())
    }

    /// For a caller that has nothing to do unless all of it runs. What waits for a factory may be made by a plugin that is loaded
    /// later.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> controllerbus::Result<()> {
    /// # use controllerbus::prelude::*;
    /// let bus = Bus::new();
    /// let set = ConfigSet::from_yaml("lamp: { id: house/lamp }")?;
    /// let error = bus.apply(set).await?.all_running().unwrap_err().to_string();
    /// assert!(error.starts_with("lamp (house/lamp): ") && error.contains("no factory makes"), "{error}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with each key whose config is not running, and why.
    pub fn all_running(&self) -> Result<(), BusError> {
        let runs = |config: &&ConfigState| {
            config.problem.is_none() && config.pending.is_none() && matches!(config.state, RunState::Running(_))
        };
        let told = |config: &ConfigState| {
            let why =
                config.problem.as_ref().map_or_else(|| "it is being constructed again".to_owned(), ToString::to_string);
            format!("{} ({}): {why}", config.key, config.config_id)
        };
        let problems: Vec<_> = self.configs.iter().filter(|config| !runs(config)).map(told).collect();
        if problems.is_empty() { Ok(()) } else { Err(Error::new(ErrorKind::Invalid, problems.join("; ")).into()) }
    }
}

/// The owner of some configs, such as a file that is watched or a client that is connected.
///
/// Each set that it applies replaces its previous one. Configs that other owners have applied for the same keys remain
/// candidates, and take over when this owner withdraws its own. Dropping it withdraws its configs in the background.
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
#[must_use = "dropping it withdraws its configs"]
#[derive(Debug)]
pub struct ConfigOwner {
    bus: Bus,
    owner: Owner,
}

impl ConfigOwner {
    /// Applies a set in place of this owner's previous one, and waits as [`Bus::apply`] does.
    ///
    /// # Errors
    /// As [`Bus::apply`].
    pub async fn apply(&self, set: ConfigSet) -> Result<ApplyReport, BusError> {
        Ok(self.bus.0.apply(self.owner, set, Earlier::Replace).await?)
    }

    /// Withdraws everything that this owner has applied. Returns when the controllers that no other owner wants have ended
    /// or their limits have passed.
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
    /// The config that is elected for each key, as a set: another bus that applies it does the same. Its secrets are in it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> controllerbus::Result<()> {
    /// # use controllerbus::prelude::*;
    /// let bus = Bus::new();
    /// let set = ConfigSet::from_yaml("lamp: { id: house/lamp, revision: 2, config: { watts: 4 } }")?;
    /// bus.apply(set.clone()).await?;
    /// bus.apply(ConfigSet::from_yaml("lamp: { id: house/lamp, revision: 1 }")?).await?;
    /// assert_eq!(bus.config_set(), set);
    /// # Ok(())
    /// # }
    /// ```
    pub fn config_set(&self) -> ConfigSet {
        let mut set = ConfigSet::new();
        for (key, config) in self.0.life().configs.elected() {
            set.set(key.clone(), config.clone());
        }
        set
    }

    /// A new owner of configs.
    pub fn config_owner(&self) -> ConfigOwner {
        ConfigOwner { bus: self.clone(), owner: self.0.next_id() }
    }
}

impl Engine {
    /// Applies a set and waits until each of its keys is running, has failed once, or is waiting for a factory. If the future
    /// is dropped, the set is applied all the same.
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

    /// Makes a set's entries candidates for their keys. Returns the controllers that have been running for these keys.
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
            // Added before the old ones are withdrawn, so that an unchanged config keeps its controller.
            for (key, entry, place) in set.into_entries() {
                configs.add(owner, &key, (entry, place), factories, &mut changes);
            }
            if earlier == Earlier::Replace {
                let gone = |key: &str, of, revision| of == owner && !kept.contains(&(key.to_owned(), revision));
                configs.take_back(gone, factories, &mut changes);
            }
            before
        };
        // What a set leaves out on purpose.
        self.forget_states(&changes.keys_gone);
        self.carry_out(changes);
        Ok(before)
    }

    /// Makes an owner want, too, what is elected for these keys.
    pub(super) fn keep_configs(self: &Arc<Self>, owner: Owner, keys: &[String]) {
        let has_changed = {
            let mut life = self.life();
            keys.iter().fold(false, |has_changed, key| life.configs.keep(owner, key) | has_changed)
        };
        if has_changed {
            self.notify_changed();
        }
    }

    /// Withdraws what an owner has applied, without waiting.
    pub(super) fn release_owner(self: &Arc<Self>, owner: Owner) {
        let (_, changes) = self.take_back(|_, of, _| of == owner);
        self.carry_out(changes);
    }

    /// Waits until none of the keys' controllers is being constructed. Constructing has a limit.
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

    /// Withdraws the candidates for which `gone` returns true; it is given key, owner and revision. False if there is none.
    fn take_back(&self, gone: impl Fn(&str, Owner, u64) -> bool) -> (bool, Changes) {
        let mut life = self.life();
        let Life { factories, configs, .. } = &mut *life;
        let mut changes = Changes::default();
        (configs.take_back(gone, factories, &mut changes), changes)
    }

    async fn withdraw(self: &Arc<Self>, gone: impl Fn(&str, Owner, u64) -> bool) -> bool {
        let (found, changes) = self.take_back(gone);
        let released = changes.released.clone();
        self.forget_states(&changes.keys_gone);
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
}
