//! Prepares successors beside the controllers that serve: constructs them, restores their states, executes them, and waits until
//! they have answered the standing directives.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::roll_back::roll_back;
use super::successor::{AbortOnDrop, Successor, SuccessorSpec, make_successor};
use super::{Pair, Staged, Stop};
use crate::bus::Source;
use crate::bus::config_state::RunState;
use crate::bus::configs::Changes;
use crate::bus::engine::{Engine, Life};
use crate::bus::entry::ControllerEntry;
use crate::bus::factories::KnownFactory;
use crate::bus::handover::Replaces;
use crate::bus::owning::with_advice;
use crate::bus::standing::Standing;
use crate::bus::stop_first::After;
use crate::config::Entry as ConfigEntry;
use crate::controller::{State, SwapMode};
use crate::directive::wire;
use crate::error::ErrorKind;
use crate::{Error, Result};

/// A pending config, which the old generation cannot use, and from which the new one constructs a controller. Until this is
/// dropped nobody else does. Must not be dropped under the lock of `Life`.
pub(super) struct StagedConfig {
    engine: Arc<Engine>,
    pub(super) instance: u64,
}

impl Drop for StagedConfig {
    fn drop(&mut self) {
        let mut changes = Changes::default();
        if let Some(instance) = self.engine.life().configs.instances.get_mut(&self.instance) {
            instance.is_staged = false;
            changes.nudged.push(Arc::clone(&instance.nudge));
        }
        self.engine.carry_out(changes);
    }
}

impl Life {
    /// The controllers of a source that configs ask for: the others get no successors.
    pub(super) fn serving(&self, source: Source) -> Vec<Arc<ControllerEntry>> {
        let serves = |entry: &&Arc<ControllerEntry>| entry.is_of(source) && entry.configured.is_some();
        self.controllers.values().filter(serves).cloned().collect()
    }

    /// Stages the pending config of an old controller's keys, if constructing it has failed and this factory is for it.
    pub(super) fn stage_config_instead(
        &mut self,
        engine: &Arc<Engine>,
        old: &ControllerEntry,
        known: &KnownFactory,
    ) -> Option<(StagedConfig, ConfigEntry)> {
        let id = self.configs.wanted_instead_of(old.instance()?)?;
        let instance = self.configs.instances.get_mut(&id)?;
        let config = instance.config.clone();
        let fits = config.id == known.info.config_id
            && config.version.as_ref().is_none_or(|range| range.matches(&known.info.version))
            && matches!(instance.state(), RunState::Failed { .. })
            && !instance.is_claimed()
            && !instance.is_at_stake()
            && instance.after().iter().all(After::is_over)
            && !std::mem::replace(&mut instance.is_staged, true);
        fits.then(|| (StagedConfig { engine: Arc::clone(engine), instance: id }, config))
    }

    /// Whether a pair's new controller, if there is one, is still on the bus, and its factory known: whoever has added that by hand
    /// may have removed it.
    pub(super) fn has_new(&self, pair: &Pair, to: Source) -> bool {
        pair.new.as_ref().is_none_or(|new| {
            self.controllers.contains_key(&new.id) && (new.source == to || self.factories.has(new.source))
        })
    }

    /// Whether the pending config that a pair's new controller was constructed from is still asked for.
    pub(super) fn is_asked_for(&self, pair: &Pair) -> bool {
        pair.instead.as_ref().is_none_or(|instead| {
            pair.old.instance().and_then(|old| self.configs.wanted_instead_of(old)) == Some(instead.instance)
        })
    }
}

impl Staged {
    pub(super) async fn make_ready(&mut self) -> Result<()> {
        let deadline = self.deadline;
        let grace = self.grace;
        let prepared = timeout_at(deadline, self.prepare()).await.unwrap_or_else(|_| {
            let what = format!("the new generation was not ready within {grace:?}");
            let error = Error::new(ErrorKind::TimedOut, what);
            let waits_for = self.waits_for();
            Err(if waits_for.is_empty() { error } else { error.and(format_args!("it waits for {waits_for}")) })
        });
        prepared.map_err(|error| match self.waits_in_vain().filter(|_| error.kind() == ErrorKind::TimedOut) {
            Some(why) => error.and(why),
            None => error,
        })
    }

    /// What is not ready, in words.
    fn waits_for(&self) -> String {
        let serving = self.engine.life().serving(self.from);
        let is_made = |old: &ControllerEntry| self.pairs.iter().any(|pair| pair.old.id == old.id);
        let mut all = Vec::new();
        for old in serving.iter().filter(|old| !is_made(old)) {
            all.push(format!("the construction of {}", old.info.id));
        }
        for pair in &self.pairs {
            let Some(new) = &pair.new else { continue };
            if !new.handover.has_begun.load(Ordering::Acquire) {
                all.push(format!("the first wait of `execute` of {}", new.info.id));
            } else if let Some(standing) = pair.unready.as_ref().and_then(|unready| unready.last()) {
                all.push(format!("the answer of {} to {}", new.info.id, standing.directive.id()));
            }
        }
        all.join(", and for ")
    }

    /// Configs for which only this generation has added a factory, which does not count before it serves: whoever waits for one of
    /// their controllers before that waits in vain.
    fn waits_in_vain(&self) -> Option<String> {
        let life = self.engine.life();
        let queued = life.configs.instances.iter().filter(|(_, instance)| *instance.state() == RunState::Queued);
        let is_added = |config_id: &str| life.factories.find_added_by(self.to, config_id).is_some();
        let in_vain = queued.filter(|(_, instance)| is_added(&instance.config.id));
        let named: Vec<_> = in_vain.map(|(_, instance)| format!("`{}`", instance.config.id)).collect();
        (!named.is_empty()).then(|| {
            format!(
                "{} waits for a factory that this generation has added, and that makes controllers only once the generation serves: \
                 ask for such a controller in a task, and not before `construct` and the first wait of `execute`",
                named.join(" and ")
            )
        })
    }

    /// Constructs a successor for each old controller that has none yet, and waits until all are ready. Configs may change
    /// meanwhile, which removes old controllers and adds others; and new controllers may add factories of others' successors.
    async fn prepare(&mut self) -> Result<()> {
        loop {
            let (serving, gone) = {
                let life = self.engine.life();
                let serving = life.serving(self.from);
                let (kept, gone) = std::mem::take(&mut self.pairs).into_iter().partition(|pair| {
                    serving.iter().any(|entry| entry.id == pair.old.id)
                        && life.is_asked_for(pair)
                        && life.has_new(pair, self.to)
                });
                self.pairs = kept;
                (serving, gone)
            };
            roll_back(&self.engine, gone, &self.replacements, &self.activity);
            self.look_again();
            let known: HashSet<u64> = self.pairs.iter().map(|pair| pair.old.id).collect();
            let missing: Vec<_> = serving.into_iter().filter(|entry| !known.contains(&entry.id)).collect();
            if missing.is_empty() {
                return self.until_ready().await;
            }
            self.construct(missing).await?;
            self.until_ready().await?;
        }
    }

    /// The factory of an old one's successor: of the new generation, or added by its controllers.
    pub(super) fn factory_of(&self, old: &ControllerEntry) -> Option<KnownFactory> {
        let config_id = &old.info.config_id;
        let own = self.factories.iter().find(|known| known.info.config_id == *config_id).cloned();
        own.or_else(|| self.engine.life().factories.find_added_by(self.to, config_id).cloned())
    }

    /// Forgets the pairs of old ones for which the new generation's controllers have added a factory since.
    fn look_again(&mut self) {
        let pairs = std::mem::take(&mut self.pairs);
        let is_late = |pair: &Pair| pair.new.is_none() && pair.is_beside() && self.factory_of(&pair.old).is_some();
        self.pairs = pairs.into_iter().filter(|pair| !is_late(pair)).collect();
    }

    /// If an older generation comes back: the last state of an old controller's successor.
    pub(super) fn last_of(&self, old: &ControllerEntry) -> Option<Option<State>> {
        self.last_states.as_ref().map(|last| old.instance().and_then(|instance| last.0.get(&instance).cloned()))
    }

    /// Constructs successors concurrently, with the states of the controllers that they will replace, and starts each; except for
    /// those that are constructed after these have ended.
    async fn construct(&mut self, old: Vec<Arc<ControllerEntry>>) -> Result<()> {
        let runtime = self.engine.runtime()?;
        let (mut making, mut replaced) = (JoinSet::new(), HashMap::new());
        for old in old {
            let Some((known, (instance, config))) = self.factory_of(&old).zip(old.configured.clone()) else {
                self.pairs.push(Pair::new(old, None, Stop::Beside));
                continue;
            };
            if [known.swap, old.swap].contains(&SwapMode::StopFirst) {
                self.pairs.push(Pair::new(old, None, Stop::Due));
                continue;
            }
            // Going back, nothing is left to the generation that is taken back.
            let replaces = Replaces::in_line(&old, self.last_states.is_none());
            let spec = SuccessorSpec { engine: Arc::clone(&self.engine), known, instance, config, replaces };
            let making_one = make_successor(spec, Arc::clone(&old), self.last_of(&old));
            replaced.insert(making.spawn_on(making_one, &runtime).id(), old);
        }
        while let Some(made) = making.join_next_with_id().await {
            let (task, made) = made.unwrap_or_else(|error| (error.id(), Err(Error::msg(error))));
            let Some(old) = replaced.remove(&task) else { continue };
            let (made, instead) = match made {
                Err(error) if self.last_states.is_none() => self.make_instead(&old, error).await?,
                made => (made?, None),
            };
            self.notes.extend(made.note);
            let pair = Pair::new(old, Some(made.controller.keep()), Stop::Beside);
            self.pairs.push(Pair { restored: made.state, has_own_state: made.has_own_state, instead, ..pair });
            // Not once all are: to be constructed, another one may need what this one resolves.
            self.start(&[self.pairs.len() - 1]);
        }
        Ok(())
    }

    /// Constructs an old controller's successor from the pending config of its keys: a config and the code that needs it may
    /// change in either order.
    async fn make_instead(
        &self,
        old: &Arc<ControllerEntry>,
        error: Error,
    ) -> Result<(Successor, Option<StagedConfig>)> {
        let known = self.factory_of(old);
        let claimed = known.and_then(|known| {
            let (instead, wanted) = self.engine.life().stage_config_instead(&self.engine, old, &known)?;
            Some((known, instead, wanted))
        });
        let Some((known, instead, wanted)) = claimed else { return Err(error) };
        let engine = Arc::clone(&self.engine);
        let config = wire::encode(&wanted.config)?;
        let replaces = Replaces::with_another_config(old);
        let spec = SuccessorSpec { engine, known, instance: instead.instance, config, replaces };
        let mut made = AbortOnDrop(self.engine.runtime()?.spawn(make_successor(spec, Arc::clone(old), None)));
        match (&mut made.0).await.unwrap_or_else(|error| Err(Error::msg(error))) {
            Ok(made) => Ok((made, Some(instead))),
            Err(other) => Err(error.and(format_args!("constructing it with the pending config failed, too: {other}"))),
        }
    }

    /// Executes the successors of these pairs, and offers them the standing directives, with their values held back.
    pub(super) fn start(&self, pairs: &[usize]) {
        for pair in pairs.iter().map(|at| &self.pairs[*at]).filter(|pair| pair.new.is_some()) {
            pair.old.handover.watch(&self.activity);
            pair.new.iter().for_each(|new| new.handover.watch(&self.activity));
        }
        // Routes first, standing directives second, so that every directive is offered to them.
        let new: Vec<_> = pairs.iter().filter_map(|at| self.pairs[*at].new.clone()).collect();
        {
            let mut life = self.engine.life();
            life.controllers.extend(new.iter().map(|entry| (entry.id, Arc::clone(entry))));
        }
        for entry in &new {
            self.engine.start_life(entry, Vec::new());
        }
        self.engine.types.route(&new, &[]);
        for entry in &new {
            self.engine.offer_standing(entry);
        }
    }

    async fn until_ready(&mut self) -> Result<()> {
        while !self.is_ready()? {
            self.activity.notified().await;
        }
        Ok(())
    }

    fn is_ready(&mut self) -> Result<bool> {
        for pair in &mut self.pairs {
            let Some(new) = &pair.new else { continue };
            if let Some(error) = new.failure() {
                return Err(with_advice(error.context(format!("executing {}", new.info.id))));
            }
            // Taken off meanwhile: see `Life::has_new`.
            if new.cancel.is_cancelled() {
                continue;
            }
            if !new.handover.has_begun.load(Ordering::Acquire) {
                return Ok(false);
            }
            if new.resolver_failed.swap(false, Ordering::AcqRel) {
                // It does not count if the old one fails, too.
                for standing in new.answers() {
                    // Nobody but its own generation is asked, so that the old one tells nothing about it.
                    if standing.library.is_some() {
                        continue;
                    }
                    let state = standing.lock();
                    if let Some(error) = state.error_of(new.id).filter(|_| state.error_of(pair.old.id).is_none()) {
                        let what = format!("resolving {} with {}", standing.directive.id(), new.info.id);
                        return Err(error.clone().context(what));
                    }
                }
            }
            let is_ready = |standing: &Arc<Standing>| {
                let state = standing.lock();
                !state.has_values(pair.old.id) || state.is_ready(new.id)
            };
            // One after the other, so that a notification costs one look, however many there are.
            let unready = pair.unready.get_or_insert_with(|| new.answers());
            while unready.last().is_some_and(is_ready) {
                unready.pop();
            }
            if !unready.is_empty() {
                return Ok(false);
            }
            // Those that were added or have changed meanwhile.
            unready.extend(new.answers().into_iter().filter(|standing| !is_ready(standing)));
            if !unready.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
