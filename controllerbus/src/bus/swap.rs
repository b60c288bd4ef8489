//! A generation of controllers takes over from another: made ready beside it, then switched in one step.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::configs::RunState;
use super::engine::Engine;
use super::entry::{ControllerEntry, closing, contained};
use super::{ControllerId, Source};
use crate::controller::factory::Factory;
use crate::error::ErrorKind;
use crate::{Error, Result};

/// How often a staged controller's readiness is looked at, at least.
const LOOK: Duration = Duration::from_millis(2);

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
    _turn: OwnedMutexGuard<()>,
}

/// An old controller and the one that takes over, `None` where the new generation has no factory for it.
struct Pair {
    old: Arc<ControllerEntry>,
    new: Option<Arc<ControllerEntry>>,
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
        let mut staged = Staged { engine: Arc::clone(self), from, to, factories, pairs: Vec::new(), _turn: turn };
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
            let new = self.successor(&old).await?;
            self.pairs.push(Pair { old, new });
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
        // Readiness is spread over many directives; it is looked at again after a moment.
        while !self.is_ready()? {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn successor(&self, old: &Arc<ControllerEntry>) -> Result<Option<Arc<ControllerEntry>>> {
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
        let running = Arc::clone(&old.controller);
        let saved = contained(async move { running.save_later().await }).await;
        let saved = saved.map_err(|error| told(error, "saving the state of"))?;
        if let Some(state) = saved {
            let controller = Arc::clone(&new.controller);
            let restored = contained(async move { controller.restore(state).await }).await;
            if let Err(error) = restored {
                close(new);
                return Err(told(error, "restoring the state of"));
            }
        }
        Ok(Some(new))
    }

    fn is_ready(&self) -> Result<bool> {
        for pair in &self.pairs {
            let Some(new) = &pair.new else { continue };
            if let Some(error) = new.failed.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                return Err(error.context(format!("executing {}", new.info.id)));
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

    /// Makes the new generation the one that serves. Nothing can fail here.
    pub fn commit(mut self) -> Committed {
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
            if let Some(new) = &pair.new {
                for standing in new.answers() {
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
            let old = Arc::clone(&pair.old);
            engine.spawn(async move {
                if !old.answers().is_empty() {
                    let outlasted = async {
                        while !old.answers().is_empty() {
                            tokio::time::sleep(LOOK).await;
                        }
                    };
                    let _ = tokio::time::timeout(OUTLAST, outlasted).await;
                }
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
        let new: Vec<_> = pairs.into_iter().filter_map(|pair| pair.new).collect();
        let ids: Vec<u64> = new.iter().map(|entry| entry.id).collect();
        if ids.is_empty() {
            return;
        }
        self.engine.route(&[], &ids);
        for entry in new {
            let runs = self.engine.controllers().remove(&entry.id).is_some();
            entry.withdraw();
            if runs { entry.cancel.cancel() } else { close(entry) }
        }
    }
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
