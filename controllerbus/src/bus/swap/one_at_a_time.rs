//! The part of a commit for controllers that cannot run beside their successors: see [`crate::bus::stop_first`].

use std::sync::{Arc, PoisonError};

use tokio::time::{Instant, timeout};

use super::ready::StagedConfig;
use super::successor::{Successor, SuccessorSpec, make_after_stop, note_replacement};
use super::{Pair, Staged, Stop, Stopping};
use crate::bus::handover::Replaces;
use crate::bus::life::save;
use crate::bus::stop_first::{After, Claim, Legacy};
use crate::directive::wire;
use crate::error::ErrorKind;
use crate::{Error, Result};

impl Staged {
    /// Ends the controllers that cannot run beside their successors, and prepares these with their states. Meanwhile values
    /// stay, and new runs wait.
    pub(super) async fn one_at_a_time(&mut self) -> Result<()> {
        let due = loop {
            let due: Vec<_> = (0..self.pairs.len()).filter(|at| matches!(self.pairs[*at].stop, Stop::Due)).collect();
            if due.is_empty() {
                return Ok(());
            }
            match self.claim(&due).await? {
                true => break due,
                // The configs ask for other controllers now.
                false => self.make_ready().await?,
            }
        };
        // Nothing happens to any of them before the states of all have been saved.
        for at in &due {
            let saved = match save(&self.engine, &self.pairs[*at].old).await {
                Err(error) if self.last_states.is_some() => {
                    self.notes.push(error.to_string());
                    None
                }
                saved => saved?,
            };
            if let Stop::Begun(stopping) = &mut self.pairs[*at].stop {
                stopping.before = saved;
            }
        }
        let old = due.iter().filter_map(|at| match &self.pairs[*at] {
            Pair { old, stop: Stop::Begun(stopping), .. } => Some((Arc::clone(old), Arc::clone(&stopping.fate))),
            _ => None,
        });
        let old: Vec<_> = old.collect();
        self.engine.stop_all(&old).await?;
        self.deadline = Instant::now() + self.grace;
        let mut making = Vec::new();
        for at in &due {
            let Pair { old, stop, .. } = &mut self.pairs[*at];
            let Stop::Begun(stopping) = stop else { continue };
            let mut legacy = Legacy::of(old, stopping.before.clone());
            let old = Arc::clone(old);
            let Some((known, (instance, config))) = self.factory_of(&old).zip(old.configured.clone()) else {
                continue;
            };
            let state = legacy.state_for(&known.info.config_id);
            // What has ended can keep nothing.
            let replaces = Replaces::in_line(&old, false);
            let spec = SuccessorSpec { engine: Arc::clone(&self.engine), known, instance, config, replaces };
            let replacements = Arc::clone(&self.replacements);
            let last = self.last_of(&old);
            let claim = Claim::new(&self.engine);
            note_replacement(&replacements, old.id, claim.after());
            // Not aborted with this future, so that its end is known.
            making.push((*at, self.engine.runtime()?.spawn(make_after_stop(spec, state, last, claim, replacements))));
        }
        let mut all = Ok(());
        for (at, made) in making {
            // All are waited for, even after an error, so that the end of each is known.
            let made = match made.await.unwrap_or_else(|error| Err(Error::msg(error))) {
                Err(error) if all.is_ok() => self.make_instead_after_stop(at, error).await,
                made => made.map(|made| (made, None)),
            };
            match made {
                Ok((made, instead)) => {
                    self.notes.extend(made.note);
                    let pair = &mut self.pairs[at];
                    pair.instead = instead;
                    pair.restored = made.state;
                    pair.has_own_state = made.has_own_state;
                    pair.new = Some(made.controller.keep());
                }
                Err(error) => all = all.and(Err(error)),
            }
        }
        all?;
        self.start(&due);
        self.make_ready().await
    }

    /// Constructs the successor of an old controller that has ended from the pending config of its keys, with the same state: as
    /// [`Staged::make_instead`].
    async fn make_instead_after_stop(&mut self, at: usize, error: Error) -> Result<(Successor, Option<StagedConfig>)> {
        let Pair { old, stop: Stop::Begun(stopping), .. } = &self.pairs[at] else { return Err(error) };
        // What was constructed in its place may still be there.
        let is_over = {
            let replacements = self.replacements.lock().unwrap_or_else(PoisonError::into_inner);
            replacements.get(&old.id).is_none_or(After::is_over)
        };
        if !is_over || self.last_states.is_some() {
            return Err(error);
        }
        let known = self.factory_of(old);
        let claimed = known.and_then(|known| {
            let (instead, wanted) = self.engine.life().stage_config_instead(&self.engine, old, &known)?;
            Some((known, instead, wanted))
        });
        let Some((known, instead, wanted)) = claimed else { return Err(error) };
        let state = Legacy::of(old, stopping.before.clone()).state_for(&known.info.config_id);
        let engine = Arc::clone(&self.engine);
        let config = wire::encode(&wanted.config)?;
        let replaces = Replaces::with_another_config(old);
        let spec = SuccessorSpec { engine, known, instance: instead.instance, config, replaces };
        let claim = Claim::new(&self.engine);
        note_replacement(&self.replacements, old.id, claim.after());
        let making = make_after_stop(spec, state, None, claim, Arc::clone(&self.replacements));
        let made = self.engine.runtime()?.spawn(making).await.unwrap_or_else(|error| Err(Error::msg(error)));
        self.deadline = Instant::now() + self.grace;
        match made {
            Ok(made) => Ok((made, Some(instead))),
            Err(other) => Err(error.and(format_args!("constructing it with the pending config failed, too: {other}"))),
        }
    }

    /// Claims the instances of these pairs, so that no config replaces their controllers meanwhile; waits if one is doing so.
    /// False if one of the controllers has been replaced.
    async fn claim(&mut self, pairs: &[usize]) -> Result<bool> {
        let engine = Arc::clone(&self.engine);
        let mut changed = engine.changed.subscribe();
        let claiming = async {
            loop {
                changed.borrow_and_update();
                {
                    let mut life = engine.life();
                    let mut is_free = true;
                    for Pair { old, .. } in pairs.iter().map(|at| &self.pairs[*at]) {
                        let instance = old.instance().and_then(|instance| life.configs.instances.get(&instance));
                        let Some(instance) = instance else { return false };
                        // An instance without users is about to be removed.
                        is_free &= !instance.is_claimed() && instance.users > 0;
                        if !instance.is_claimed()
                            && instance.running.as_ref().is_none_or(|running| running.id != old.id)
                        {
                            return false;
                        }
                    }
                    if is_free {
                        for at in pairs {
                            let claim = Claim::new(&engine);
                            let instance = self.pairs[*at].old.instance();
                            let instance = instance.and_then(|instance| life.configs.instances.get_mut(&instance));
                            instance.into_iter().for_each(|instance| instance.claim(&claim));
                            let stopping = Stopping { claim, fate: Arc::default(), before: None };
                            self.pairs[*at].stop = Stop::Begun(stopping);
                        }
                        return true;
                    }
                }
                if changed.changed().await.is_err() {
                    return false;
                }
            }
        };
        timeout(self.grace, claiming)
            .await
            .map_err(|_| Error::new(ErrorKind::TimedOut, "a controller of this generation is still being replaced"))
    }
}
