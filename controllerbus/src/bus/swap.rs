//! A generation of controllers takes over from another: made ready beside it, then switched in one step.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedMutexGuard};

use super::configs::RunState;
use super::engine::Engine;
use super::entry::{ControllerEntry, closing, contained};
use super::resolver::run;
use super::standing::Standing;
use super::{ControllerId, Source};
use crate::controller::State;
use crate::controller::factory::Factory;
use crate::error::ErrorKind;
use crate::{Error, Result};

/// How long saving and restoring the last states may take before the swap is rolled back.
const HAND_OVER: Duration = Duration::from_secs(1);

/// How long an old answer may outlast a swap when its successor has nothing.
const OUTLAST: Duration = Duration::from_secs(5);

/// A new generation that is ready beside the old one. Dropping it rolls back.
#[must_use = "dropping it rolls the new generation back"]
pub struct Staged {
    engine: Arc<Engine>,
    from: Source,
    to: Source,
    factories: Vec<Arc<dyn Factory>>,
    pairs: Vec<Pair>,
    /// Woken when something changes about a controller of either generation.
    stirred: Arc<Notify>,
    _turn: OwnedMutexGuard<()>,
}

/// An old controller and the one that takes over, `None` where the new generation has no factory for it.
struct Pair {
    old: Arc<ControllerEntry>,
    new: Option<Arc<ControllerEntry>>,
    /// What the new one has restored so far.
    restored: Option<State>,
}

/// A swap that has happened; the old controllers are on their way out.
pub struct Committed {
    old: Vec<Arc<ControllerEntry>>,
}

impl Committed {
    /// Ends when the old controllers are closed and answer nothing any more.
    pub async fn drained(self) {
        for entry in self.old {
            entry.closed.cancelled().await;
        }
    }
}

impl Engine {
    pub(super) async fn stage(
        self: &Arc<Self>,
        from: Source,
        to: Source,
        factories: Vec<Arc<dyn Factory>>,
        grace: Duration,
    ) -> Result<Staged> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let old: Vec<_> = self.controllers().values().filter(|entry| entry.source == from).cloned().collect();
        let (engine, stirred) = (Arc::clone(self), Arc::default());
        let mut staged = Staged { engine, from, to, factories, pairs: Vec::new(), stirred, _turn: turn };
        // An error drops `staged`, which takes back what was done.
        tokio::time::timeout(grace, staged.prepare(old)).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::TimedOut, format!("the new generation was not ready within {grace:?}")))
        })?;
        Ok(staged)
    }
}

impl Staged {
    async fn prepare(&mut self, old: Vec<Arc<ControllerEntry>>) -> Result<()> {
        for old in old {
            let (new, restored) = self.successor(&old).await?.unzip();
            self.pairs.push(Pair { old, new, restored: restored.flatten() });
        }
        for pair in &self.pairs {
            pair.old.handover.watch(&self.stirred);
            pair.new.iter().for_each(|new| new.handover.watch(&self.stirred));
        }
        // Routes first, then what stands: so each directive is offered to them, whenever it came.
        let new: Vec<_> = self.pairs.iter().filter_map(|pair| pair.new.clone()).collect();
        for entry in &new {
            self.engine.controllers().insert(entry.id, Arc::clone(entry));
            self.engine.run(entry);
        }
        self.engine.route(&new, &[]);
        for entry in &new {
            self.engine.offer_standing(entry);
        }
        while !self.is_ready()? {
            self.stirred.notified().await;
        }
        Ok(())
    }

    /// The controller that takes over from an old one, and the state that it has restored.
    async fn successor(&self, old: &Arc<ControllerEntry>) -> Result<Option<(Arc<ControllerEntry>, Option<State>)>> {
        let Some(config) = old.config.clone() else { return Ok(None) };
        let Some(factory) = self.factories.iter().find(|factory| factory.info().config_id == old.info.config_id) else {
            return Ok(None);
        };
        let info = factory.info();
        let name = info.id.clone();
        let told = |error: Error, what: &str| error.context(format!("{what} {name}"));
        let (controller, cancel) = self
            .engine
            .construct_raw(&info, Arc::clone(factory), config.clone())
            .await
            .map_err(|error| told(error, "constructing"))?;
        let new = ControllerEntry::new(
            self.engine.next_id(),
            info,
            self.to,
            controller,
            old.key.clone(),
            Some(config),
            cancel,
            true,
        );
        new.handover.replaces.store(old.id, Ordering::Relaxed);
        let state = match save(old).await {
            Ok(state) => state,
            Err(error) => {
                close(new);
                return Err(error);
            }
        };
        if let Some(state) = state.clone()
            && let Err(error) = restore(&new, state).await
        {
            close(new);
            return Err(error);
        }
        Ok(Some((new, state)))
    }

    /// Hands over what has changed in the states since they were restored. From here to the commit, or to the drop,
    /// no call begins on a controller with a state.
    async fn hand_over(&mut self, patience: Duration) -> Result<()> {
        let with_state: Vec<_> = self.pairs.iter_mut().filter(|pair| pair.restored.is_some()).collect();
        // The new one first: so what the old one does not do any more, the new one does after it is restored.
        let held: Vec<_> = with_state.iter().flat_map(|pair| pair.new.iter().chain([&pair.old])).cloned().collect();
        held.iter().for_each(|entry| entry.handover.hold());
        let at_rest = async {
            for entry in &held {
                while entry.answers().iter().any(|standing| is_at_work(standing, entry)) {
                    self.stirred.notified().await;
                }
            }
        };
        // Whoever takes longer is not waited for: see `Controller::save`.
        let _ = tokio::time::timeout(patience, at_rest).await;
        for pair in with_state {
            let Some(new) = &pair.new else { continue };
            let state = save(&pair.old).await?;
            if let Some(state) = state.filter(|state| pair.restored.as_ref() != Some(state)) {
                // What the new one alone has done, since the old one was not asked, is not in that state.
                for standing in new.answers() {
                    standing.change(|state, effects| {
                        if state.resolver_of(pair.old.id).is_none() {
                            state.do_again(&standing, new.id, effects);
                        }
                    });
                }
                restore(new, state.clone()).await?;
                pair.restored = Some(state);
            }
        }
        Ok(())
    }

    fn is_ready(&self) -> Result<bool> {
        for pair in &self.pairs {
            let Some(new) = &pair.new else { continue };
            if let Some(error) = new.failed.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                return Err(error.context(format!("executing {}", new.info.id)));
            }
            if !new.handover.began.load(Ordering::Acquire) {
                return Ok(false);
            }
            for standing in new.answers() {
                let state = standing.lock();
                // Where the old one fails too, the new one does no worse.
                if let Some(error) = state.error_of(new.id).filter(|_| state.error_of(pair.old.id).is_none()) {
                    let what = format!("resolving {} with {}", standing.directive.id(), new.info.id);
                    return Err(error.clone().context(what));
                }
                if state.has_values(pair.old.id) && !state.is_ready(new.id) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Hands over the states as they are now, and makes the new generation the one that serves. Where there is a
    /// state, calls that are at work without an answer get `patience` to end, for which calls that begin wait.
    ///
    /// # Errors
    /// Why a state could not be saved or restored. The running generation goes on then.
    pub async fn commit(mut self, patience: Duration) -> Result<Committed> {
        let limit = HAND_OVER + patience;
        tokio::time::timeout(limit, self.hand_over(patience)).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::TimedOut, format!("the state was not handed over within {limit:?}")))
        })?;
        Ok(self.switch())
    }

    /// The one step. Nothing can fail here.
    fn switch(mut self) -> Committed {
        let engine = Arc::clone(&self.engine);
        let pairs = std::mem::take(&mut self.pairs);
        let gone = {
            let mut factories = engine.factories.lock().unwrap_or_else(PoisonError::into_inner);
            factories.add(self.to, std::mem::take(&mut self.factories));
            factories.remove(self.from)
        };
        drop(gone);
        // From here on the new values are visible as they come, and new directives go to the new ones only.
        for new in pairs.iter().filter_map(|pair| pair.new.as_ref()) {
            new.go_live();
        }
        let old: Vec<u64> = pairs.iter().map(|pair| pair.old.id).collect();
        engine.route(&[], &old);
        for pair in &pairs {
            engine.controllers().remove(&pair.old.id);
            // What was held is the new one's to do, and so is what is offered to the old one from here on.
            for (standing, ..) in pair.old.handover.shut() {
                standing.change(|state, effects| state.remove_resolver(pair.old.id, effects));
            }
            if let Some(new) = &pair.new {
                // Who adds a directive right now may have offered it to one of the two only.
                for standing in new.answers().into_iter().chain(pair.old.answers()) {
                    standing.change(|state, effects| state.replace(pair.old.id, new.id, effects));
                }
            }
            if let Some(key) = &pair.old.key
                && let Some(applied) = engine.configs().by_key.get_mut(key)
            {
                applied.state = match &pair.new {
                    Some(new) => RunState::Running(ControllerId(new.id)),
                    None => RunState::Queued,
                };
            }
        }
        for pair in &pairs {
            if let Some(new) = &pair.new {
                new.handover.unwatch();
                new.handover.release().iter().for_each(|(standing, seat, number)| run(standing, seat, *number));
            }
            let old = Arc::clone(&pair.old);
            engine.spawn(async move {
                let outlasted = async {
                    let stirred = Arc::default();
                    old.handover.watch(&stirred);
                    while old.answer_count() > 0 {
                        stirred.notified().await;
                    }
                };
                let _ = tokio::time::timeout(OUTLAST, outlasted).await;
                old.handover.unwatch();
                old.withdraw();
                old.cancel.cancel();
            });
        }
        // Factories that are new with this generation may be what other configs wait for.
        let weak = Arc::downgrade(&engine);
        engine.spawn(async move {
            if let Some(engine) = weak.upgrade() {
                let turn = Arc::clone(&engine.turn);
                let _turn = turn.lock_owned().await;
                engine.reconcile_queued().await;
            }
        });
        engine.touch();
        Committed { old: pairs.into_iter().map(|pair| pair.old).collect() }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let pairs = std::mem::take(&mut self.pairs);
        for old in pairs.iter().map(|pair| &pair.old) {
            old.handover.unwatch();
            old.handover.release().iter().for_each(|(standing, seat, number)| run(standing, seat, *number));
        }
        let new: Vec<_> = pairs.into_iter().filter_map(|pair| pair.new).collect();
        let ids: Vec<u64> = new.iter().map(|entry| entry.id).collect();
        if ids.is_empty() {
            return;
        }
        self.engine.route(&[], &ids);
        for entry in new {
            entry.handover.unwatch();
            drop(entry.handover.shut());
            let runs = self.engine.controllers().remove(&entry.id).is_some();
            entry.withdraw();
            if runs { entry.cancel.cancel() } else { close(entry) }
        }
    }
}

/// Whether a controller's resolver of a directive has been started and has neither answered nor nothing to do.
fn is_at_work(standing: &Arc<Standing>, entry: &Arc<ControllerEntry>) -> bool {
    let at_work = standing.lock().is_at_work(entry.id);
    at_work && !entry.handover.is_held(standing)
}

async fn save(old: &Arc<ControllerEntry>) -> Result<Option<State>> {
    let running = Arc::clone(&old.controller);
    let saved = contained(async move { running.save_later().await }).await;
    saved.map_err(|error| error.context(format!("saving the state of {}", old.info.id)))
}

async fn restore(new: &Arc<ControllerEntry>, state: State) -> Result<()> {
    let controller = Arc::clone(&new.controller);
    let restored = contained(async move { controller.restore(state).await }).await;
    restored.map_err(|error| error.context(format!("restoring the state of {}", new.info.id)))
}

/// Closes a controller that never ran.
fn close(entry: Arc<ControllerEntry>) {
    entry.cancel.cancel();
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            let controller = Arc::clone(&entry.controller);
            let _ = contained(closing(controller)).await;
            entry.closed.cancel();
        });
    }
}
