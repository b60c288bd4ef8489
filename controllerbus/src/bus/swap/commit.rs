//! The commit of a swap: hands over the states once more, and switches in one step.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::ready::StagedConfig;
use super::{Committed, LastStates, Pair, Staged, Stop};
use crate::bus::Source;
use crate::bus::configs::Changes;
use crate::bus::engine::Life;
use crate::bus::entry::ControllerEntry;
use crate::bus::factories::KnownFactory;
use crate::bus::life::{restore, save};
use crate::bus::standing::Standing;
use crate::bus::stop_first::{After, is_at_work};
use crate::error::ErrorKind;
use crate::{BusError, Error, Result};

impl Staged {
    /// Hands over the states as they are now, and makes the new generation the one that serves.
    ///
    /// Where there is a state, requests in progress get `patience` to finish, during which new ones wait. Successors of
    /// controllers whose configs have changed since [`Bus::stage`](crate::bus::Bus::stage) are prepared first. A controller that
    /// cannot run beside its successor is ended here, and its successor is prepared after that.
    ///
    /// # Errors
    /// Why a state could not be saved or restored, or what was not ready in time. The running generation keeps serving then; a
    /// controller of it that has ended already is restarted with its state, and the error says whether that has worked.
    pub async fn commit(mut self, patience: Duration) -> Result<Committed, BusError> {
        let limit = self.engine.limits.hand_over + patience;
        loop {
            let handing_over = async {
                self.one_at_a_time().await?;
                timeout(limit, self.hand_over(patience)).await.unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::TimedOut, format!("the state was not handed over within {limit:?}")))
                })
            };
            if let Err(error) = handing_over.await {
                return Err(self.taken_back(error).await.into());
            }
            self = match self.switch() {
                Ok(committed) => return Ok(committed),
                Err(staged) => *staged,
            };
            if let Err(error) = self.make_ready().await {
                return Err(self.taken_back(error).await.into());
            }
        }
    }

    /// Hands over the states that have changed since they were restored. From here to the switch, or the roll-back, no run
    /// begins on a controller with a state.
    async fn hand_over(&mut self, patience: Duration) -> Result<()> {
        let with_state: Vec<_> = self
            .pairs
            .iter_mut()
            .filter(|pair| pair.is_beside() && pair.restored.is_some() && !pair.has_own_state)
            .collect();
        // The new one first: what the old one does not do any more, the new one does after its state is restored.
        let held: Vec<_> = with_state.iter().flat_map(|pair| pair.new.iter().chain([&pair.old])).cloned().collect();
        held.iter().for_each(|entry| entry.handover.hold());
        let leaves_pins = self.last_states.is_none();
        let stays = |standing: &Standing| leaves_pins && standing.options.pinned_for().is_some();
        let at_rest = async {
            for entry in &held {
                while entry.answers().iter().any(|standing| !stays(standing) && is_at_work(standing, entry)) {
                    self.activity.notified().await;
                }
            }
        };
        // Runs that take longer are not waited for: see `Controller::save`.
        let _ = tokio::time::timeout(patience, at_rest).await;
        for pair in with_state {
            let Some(new) = &pair.new else { continue };
            let state = match save(&self.engine, &pair.old).await {
                // The generation that is taken back may be unhealthy.
                Err(error) if self.last_states.is_some() => {
                    self.notes.push(error.to_string());
                    continue;
                }
                saved => saved?,
            };
            if let Some(state) = state.filter(|state| pair.restored.as_ref() != Some(state)) {
                // This state does not have what was offered to the new one only.
                for standing in new.answers() {
                    standing.change(|state, effects| {
                        if state.resolver_of(pair.old.id).is_none() {
                            state.do_again(&standing, new.id, effects);
                        }
                    });
                }
                match restore(&self.engine, new, state.clone()).await {
                    Err(error) if self.last_states.is_some() => self.notes.push(error.to_string()),
                    restored => restored?,
                }
                pair.restored = Some(state);
            }
        }
        Ok(())
    }

    /// Rolls back, and adds to the error what became of the controllers that have ended.
    async fn taken_back(mut self, error: Error) -> Error {
        let has_ended = |pair: &&Pair| matches!(&pair.stop, Stop::Begun(stopping) if stopping.fate.is_sealed());
        let ended: Vec<_> = self.pairs.iter().filter(has_ended).map(|pair| Arc::clone(&pair.old)).collect();
        self.roll_back();
        if ended.is_empty() {
            return error;
        }
        let names = ended.iter().map(|old| old.info.id.as_str()).collect::<Vec<_>>().join(", ");
        let instances: Vec<_> = ended.iter().filter_map(|old| old.instance()).collect();
        match self.engine.come_back(&instances).await {
            Ok(()) => error.and(format_args!("{names} was restarted with the previous code and its state")),
            Err(other) => error.and(format_args!(
                "{names} could not be restarted with the previous code either ({other}); its state is kept for the next controller"
            )),
        }
    }

    /// The one step. Gives the generation back if there are new controllers, which have no successors yet.
    fn switch(mut self) -> Result<Committed, Box<Self>> {
        let engine = Arc::clone(&self.engine);
        let (gone, others, changes) = {
            let mut life = engine.life();
            let serving: HashSet<u64> = life.serving(self.from).iter().map(|entry| entry.id).collect();
            let is_whole =
                self.pairs.len() == serving.len() && self.pairs.iter().all(|pair| serving.contains(&pair.old.id));
            let is_whole = is_whole && !self.pairs.iter().any(|pair| matches!(pair.stop, Stop::Due));
            let is_whole =
                is_whole && self.pairs.iter().all(|pair| life.is_asked_for(pair) && life.has_new(pair, self.to));
            if !is_whole {
                drop(life);
                self.open_gates();
                return Err(Box::new(self));
            }
            let gone = life.switch((self.from, self.to), std::mem::take(&mut self.factories), &self.pairs);
            // From here on new values are visible immediately.
            self.pairs.iter().filter_map(|pair| pair.new.as_ref()).for_each(|new| new.go_live());
            gone
        };
        drop(gone);
        let mut pairs = std::mem::take(&mut self.pairs);
        for Pair { new, stop, .. } in &mut pairs {
            // If the config was removed meanwhile, whoever waits for the claim goes on to wait for the new controller.
            if let (Some(new), Stop::Begun(stopping)) = (new, std::mem::replace(stop, Stop::Beside)) {
                let is_used = new.instance().is_some_and(|instance| engine.life().is_used(instance));
                if !is_used {
                    new.is_waited_for.store(true, Ordering::Release);
                    engine.release_after(stopping.claim, vec![After::of(new)]);
                }
            }
        }
        for entry in pairs.iter().flat_map(|pair| pair.new.iter().chain([&pair.old])) {
            entry.handover.unwatch(&self.activity);
        }
        let mut switched: Vec<_> = pairs.iter().map(|pair| (Arc::clone(&pair.old), pair.new.clone())).collect();
        switched.extend(others.iter().map(|other| (Arc::clone(other), None)));
        engine.take_over(&switched);
        // Other configs may have waited for the factories of this generation.
        engine.carry_out(changes);
        let mut states = LastStates::default();
        let mut old = others;
        for pair in pairs {
            let instance = pair.new.as_ref().and_then(|new| new.instance()).or_else(|| pair.old.instance());
            if let (Some(instance), Some(state)) = (instance, pair.restored) {
                states.0.insert(instance, state);
            }
            old.push(pair.old);
        }
        Ok(Committed { engine, old, states, notes: std::mem::take(&mut self.notes) })
    }

    /// Opens the gates of both generations again.
    fn open_gates(&self) {
        // Not where the old one has ended: its runs have to wait for the new one.
        for pair in self.pairs.iter().filter(|pair| !matches!(pair.stop, Stop::Begun(_))) {
            pair.new.iter().chain([&pair.old]).for_each(|entry| entry.open_gate());
        }
    }
}

impl Life {
    /// Replaces the factories and controllers of one generation by those of the next. Returns the factories, and the controllers
    /// that no config has asked for, which end with their generation.
    fn switch(
        &mut self,
        (from, to): (Source, Source),
        factories: Vec<KnownFactory>,
        pairs: &[Pair],
    ) -> (Vec<KnownFactory>, Vec<Arc<ControllerEntry>>, Changes) {
        self.factories.commit(to);
        let gone = self.factories.replace(from, factories);
        self.leave(pairs.iter().map(|pair| &pair.old));
        let others: Vec<_> = self.controllers.values().filter(|entry| entry.is_of(from)).cloned().collect();
        self.leave(&others);
        let mut changes = Changes::default();
        for pair in pairs {
            let Some(id) = pair.old.instance() else { continue };
            let Some(instance) = self.configs.instances.get_mut(&id) else { continue };
            // If no key uses the instance any more, its keeper ends whichever controller it has.
            match &pair.new {
                Some(new) if new.instance() == Some(id) => instance.run(new),
                _ => instance.stop(),
            }
            if let (Some(StagedConfig { instance: wanted, .. }), Some(new)) = (&pair.instead, &pair.new) {
                self.configs.instances.get_mut(wanted).into_iter().for_each(|instance| instance.run(new));
                self.configs.runs(*wanted, &mut changes);
            }
            if !pair.is_beside() {
                self.configs.unclaim(id, &mut changes);
            }
        }
        self.configs.factories_added(&self.factories, &mut changes);
        (gone, others, changes)
    }
}
