//! Constructs an instance's controller, once its predecessors have ended, and installs it.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{ConstructFailure, Predecessor};
use crate::Result;
use crate::bus::Source;
use crate::bus::configs::Changes;
use crate::bus::engine::{Engine, Life};
use crate::bus::entry::ControllerEntry;
use crate::bus::factories::KnownFactory;
use crate::bus::handover::Replaces;
use crate::bus::life::save;
use crate::bus::stop_first::{After, Claim, Legacy};
use crate::config::Entry as ConfigEntry;
use crate::directive::wire;
use crate::listen::Service;

/// A controller that is to be constructed.
pub(super) struct Construct {
    pub(super) known: KnownFactory,
    pub(super) config: ConfigEntry,
    /// Set if no other may exist, or be constructed, meanwhile.
    pub(super) claim: Option<Claim>,
    /// What was left to it.
    pub(super) legacy: Option<Legacy>,
    /// The instances whose controllers end before.
    pub(super) predecessors: Vec<Predecessor>,
}

impl Construct {
    /// The controllers whose values and waiting runs are kept for it.
    fn old(&self) -> Vec<Arc<ControllerEntry>> {
        let left = self.predecessors.iter().filter_map(|predecessor| predecessor.legacy.as_ref()).chain(&self.legacy);
        left.filter_map(|legacy| legacy.old.clone()).collect()
    }
}

impl Life {
    /// Installs a controller, unless no key wants it any more or its factory is gone. Its predecessors are replaced by it.
    fn install(&mut self, id: u64, made: &Arc<ControllerEntry>, predecessors: &[Predecessor]) -> Option<Changes> {
        let known = self.factories.has(made.source);
        let instance = self.configs.instances.get_mut(&id).filter(|instance| instance.users > 0 && known)?;
        instance.run(made);
        self.controllers.insert(made.id, Arc::clone(made));
        let mut changes = Changes::default();
        for predecessor in predecessors {
            let Some(instance) = self.configs.instances.get_mut(&predecessor.instance) else { continue };
            instance.give_up();
            self.configs.unclaim(predecessor.instance, &mut changes);
        }
        self.configs.unclaim(id, &mut changes);
        self.configs.runs(id, &mut changes);
        // One may have come while it was constructed.
        self.configs.supersede(&self.factories, &mut changes);
        Some(changes)
    }

    /// Removes the instances of controllers that no key wants any more, here and now: a key that asked for one before its
    /// keeper looks would be given a controller that leaves.
    fn take_released(&mut self, changes: &mut Changes) {
        for entry in &changes.released {
            let unused = entry.instance().and_then(|instance| self.configs.remove_unused(instance));
            let left = unused.and_then(|unused| unused.legacy).and_then(|legacy| legacy.old);
            changes.ended.extend([Arc::clone(entry)].into_iter().chain(left));
        }
    }

    /// Whether a controller under construction is still wanted, from a factory of this source.
    fn is_wanted(&self, id: u64, source: Source) -> bool {
        self.is_used(id) && self.factories.has(source)
    }
}

impl Engine {
    /// Constructs an instance's controller, once its predecessors have ended.
    pub(super) async fn bring_up(self: &Arc<Self>, id: u64, mut what: Construct, nudge: &Notify) {
        self.notify_changed();
        let is_alone = what.claim.is_some();
        let source = what.known.source;
        let making = async {
            self.end_predecessors(&mut what.predecessors).await?;
            let mut left: Vec<_> =
                what.predecessors.iter_mut().filter_map(|predecessor| predecessor.legacy.as_mut()).collect();
            left.extend(what.legacy.as_mut());
            let state = match &mut left[..] {
                [only] => only.state_for(&what.config.id),
                // Of several states none is the one.
                _ => None,
            };
            let config = wire::encode(&what.config.config)?;
            match state {
                Some(state) => self.make(&what.known, id, config, Some(state), is_alone).await,
                None => self.make_with_kept(&what.known, id, config, is_alone).await,
            }
        };
        let unwanted = async {
            loop {
                nudge.notified().await;
                // If there cannot be two, construction is not interrupted, so that its end is known.
                if !is_alone && !self.life().is_wanted(id, source) {
                    return;
                }
            }
        };
        let made = tokio::select! {
            biased;
            made = making => Some(made),
            () = unwanted => None,
        };
        match made {
            Some(Ok(made)) => self.constructed(id, Arc::new(made), what).await,
            Some(Err(failure)) => self.construct_failed(id, failure, what).await,
            None => self.construct_unwanted(id, None, what),
        }
    }

    /// Ends the controllers of the predecessors. Nothing happens to any of them before the states of all have been saved.
    async fn end_predecessors(self: &Arc<Self>, predecessors: &mut [Predecessor]) -> Result<()> {
        for predecessor in &mut *predecessors {
            if let Some(running) = &predecessor.running {
                predecessor.before = save(self, running).await?;
            }
        }
        let running = predecessors
            .iter()
            .filter_map(|predecessor| Some((predecessor.running.clone()?, Arc::clone(&predecessor.fate))));
        self.stop_all(&running.collect::<Vec<_>>()).await?;
        for predecessor in predecessors {
            if let Some(running) = &predecessor.running {
                predecessor.legacy = Some(Legacy::of(running, predecessor.before.take()));
            }
        }
        Ok(())
    }

    async fn constructed(self: &Arc<Self>, id: u64, made: Arc<ControllerEntry>, what: Construct) {
        let old = what.old();
        let installed = {
            let mut life = self.life();
            let mut installed = life.install(id, &made, &what.predecessors);
            if let Some(changes) = &mut installed {
                life.take_released(changes);
                life.leave(changes.ended.iter().chain(&old));
            }
            installed
        };
        let Some(changes) = installed else {
            let after = if what.claim.is_some() {
                self.end_made(made).await
            } else {
                self.discard(made);
                None
            };
            return self.construct_unwanted(id, after, what);
        };
        // It answers before the controller that it replaces is taken off, and is executed after that has ended.
        let before: Vec<_> = changes.released.iter().map(|entry| entry.closed.clone()).collect();
        if let [replaced] = &[&changes.released[..], &old[..]].concat()[..] {
            let is_the_same = replaced.instance() == made.instance();
            made.handover.set_replaces(match is_the_same {
                true => Replaces::in_line(replaced, false),
                false => Replaces::with_another_config(replaced),
            });
        }
        changes.released.iter().for_each(|entry| entry.set_service(Service::Replaced));
        self.attach(&made, before);
        let pairs: Vec<_> = old.into_iter().map(|old| (old, Some(Arc::clone(&made)))).collect();
        self.take_over(&pairs);
        self.carry_out(changes);
    }

    /// It could not be constructed. The predecessors that have ended for it are constructed again first.
    async fn construct_failed(self: &Arc<Self>, id: u64, failure: ConstructFailure, what: Construct) {
        let ConstructFailure { mut error, after } = failure;
        let Construct { predecessors, mut legacy, claim, .. } = what;
        let replaced: Vec<u64> = predecessors.iter().map(|predecessor| predecessor.instance).collect();
        let has_ended = predecessors.iter().any(|predecessor| predecessor.fate.is_sealed());
        // Told to end, and not over.
        let is_held_up = predecessors.iter().any(|predecessor| {
            predecessor.running.is_some() && predecessor.legacy.is_none() && predecessor.fate.is_sealed()
        });
        let mut comes_back = false;
        if !predecessors.is_empty() {
            self.give_back(predecessors, after.clone());
            let back = self.come_back(&replaced).await;
            comes_back = back.is_ok();
            error = match back {
                _ if !has_ended => error,
                Ok(()) => error.and("the previous config runs again, with its state"),
                Err(other) => error.and(format_args!(
                    "the previous config cannot run again either ({other}); its state is kept for the next controller"
                )),
            };
        }
        let old = legacy.as_mut().and_then(|legacy| legacy.old.take());
        if after.is_some() && claim.is_some() {
            legacy.get_or_insert_default();
        }
        if let Some(legacy) = &mut legacy {
            legacy.wait_for(after.clone());
            if legacy.is_estate() {
                error = error.and("the previous controller's state is kept for the next one");
            }
        }
        let mut changes = Changes::default();
        let keys = {
            let mut life = self.life();
            life.leave(&old);
            let keys = life.configs.keys_of(id);
            life.configs.unclaim(id, &mut changes);
            life.configs.instances.get_mut(&id).and_then(|instance| {
                legacy.into_iter().for_each(|legacy| instance.inherit(legacy));
                let is_news = instance.fail(&error);
                if comes_back {
                    instance.stop_retrying();
                } else if is_held_up {
                    instance.try_once_free();
                }
                is_news.then_some(keys)
            })
        };
        changes.ended.extend(old);
        if let Some(keys) = keys {
            tracing::warn!(config_key = keys.join(", "), %error, "a controller could not be constructed");
        }
        self.carry_out(changes);
        if let Some(claim) = claim {
            self.release_after(claim, after.into_iter().collect());
        }
    }

    /// It is not wanted any more, or its factory is gone: everything is as before.
    fn construct_unwanted(self: &Arc<Self>, id: u64, after: Option<After>, what: Construct) {
        self.give_back(what.predecessors, after.clone());
        let mut changes = Changes::default();
        {
            let mut life = self.life();
            life.configs.unclaim(id, &mut changes);
            if let Some(instance) = life.configs.instances.get_mut(&id) {
                instance.reset_tries();
                if let Some(mut legacy) = what.legacy {
                    legacy.wait_for(after.clone());
                    instance.inherit(legacy);
                }
            }
        }
        self.carry_out(changes);
        if let Some(claim) = what.claim {
            self.release_after(claim, after.into_iter().collect());
        }
    }
}
