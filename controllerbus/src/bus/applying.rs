//! Applies config sets and takes them back, and says what became of each key.

use std::collections::HashSet;
use std::sync::Arc;

use super::config_state::{ConfigState, RunState};
use super::configs::{Changes, Earlier, Owner};
use super::engine::{Engine, Life};
use super::entry::ControllerEntry;
use super::{Bus, ControllerSnapshot};
use crate::config::ConfigSet;
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
}
