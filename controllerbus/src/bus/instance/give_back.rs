//! Brings back controllers that have ended for one that could not be constructed.

use std::sync::Arc;

use tokio::time::timeout;

use super::Predecessor;
use crate::bus::config_state::RunState;
use crate::bus::configs::Changes;
use crate::bus::engine::{Engine, Life};
use crate::bus::stop_first::{After, Legacy};
use crate::error::ErrorKind;
use crate::{Error, Result};

impl Engine {
    /// Brings back the controllers of these instances: one that has ended is constructed again, with what it has left, once
    /// `after` is over.
    pub(in crate::bus) fn give_back(self: &Arc<Self>, predecessors: Vec<Predecessor>, after: Option<After>) {
        let mut changes = Changes::default();
        let mut untouched = Vec::new();
        let mut claims = Vec::new();
        {
            let mut life = self.life();
            for Predecessor { instance, claim, fate, running, before, legacy } in predecessors {
                let spared = fate.spare();
                let legacy = legacy.or_else(|| running.as_ref().filter(|_| !spared).map(|old| Legacy::of(old, before)));
                let Some(mut legacy) = legacy else {
                    untouched.extend(running);
                    life.configs.unclaim(instance, &mut changes);
                    claims.push((claim, Vec::new()));
                    continue;
                };
                legacy.wait_for(after.clone());
                let ended = legacy.old.clone();
                let Life { configs, factories, .. } = &mut *life;
                let found = configs.instances.get_mut(&instance);
                if legacy.is_free().is_err() || found.is_none() {
                    changes.ended.extend(legacy.old.take());
                }
                // Whoever waits for the claim goes on to wait for these.
                claims.push((claim, legacy.after_all().collect()));
                if let Some(found) = found {
                    found.stop();
                    found.inherit(legacy);
                    found.unclaim();
                    found.look(factories);
                }
                life.leave(&ended);
                life.configs.unclaim(instance, &mut changes);
            }
        }
        untouched.iter().for_each(|entry| entry.open_gate());
        self.carry_out(changes);
        for (claim, after) in claims {
            self.release_after(claim, after);
        }
    }

    /// Waits until these instances run again.
    ///
    /// # Errors
    /// Why one of them does not.
    pub(in crate::bus) async fn come_back(self: &Arc<Self>, instances: &[u64]) -> Result<()> {
        let mut changed = self.changed.subscribe();
        let all = async {
            loop {
                changed.borrow_and_update();
                let mut is_settled = true;
                let mut all = Ok(());
                {
                    let life = self.life();
                    for instance in instances.iter().filter_map(|id| life.configs.instances.get(id)) {
                        match instance.shown() {
                            RunState::Failed { error, .. } => all = all.and(Err(error)),
                            RunState::Constructing => is_settled = false,
                            RunState::Running(_) | RunState::Queued | RunState::Removed => {}
                        }
                    }
                }
                if is_settled || changed.changed().await.is_err() {
                    return all;
                }
            }
        };
        let limit = self.limits.part() + self.limits.construct + self.limits.restore;
        timeout(limit, all)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, format!("timed out after {limit:?}"))))
    }
}
