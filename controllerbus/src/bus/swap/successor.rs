//! One controller that is to take over from another: constructed, with the state of that one.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Result;
use crate::bus::engine::Engine;
use crate::bus::entry::ControllerEntry;
use crate::bus::factories::KnownFactory;
use crate::bus::handover::Replaces;
use crate::bus::instance::ConstructFailure;
use crate::bus::life::{restore, save};
use crate::bus::owning::with_advice;
use crate::bus::stop_first::{After, Claim};
use crate::controller::State;

/// What was, or is being, constructed in place of a controller that has ended, and is not over yet; by that controller.
pub(super) type Replacements = Arc<Mutex<HashMap<u64, After>>>;

pub(super) fn note_replacement(replacements: &Replacements, old: u64, after: After) {
    replacements.lock().unwrap_or_else(PoisonError::into_inner).insert(old, after);
}

/// A successor that is closed when this is dropped, unless it is kept.
pub(super) struct DiscardOnDrop {
    engine: Arc<Engine>,
    entry: Option<Arc<ControllerEntry>>,
    /// Set if it was constructed in place of a controller that has ended.
    claim: Option<Claim>,
}

impl DiscardOnDrop {
    pub(super) fn keep(mut self) -> Arc<ControllerEntry> {
        self.entry.take().expect("kept at most once")
    }
}

impl Drop for DiscardOnDrop {
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        if let Some(claim) = self.claim.take() {
            entry.is_waited_for.store(true, Ordering::Release);
            self.engine.release_after(claim, vec![After::of(&entry)]);
        }
        self.engine.discard(entry);
    }
}

/// A controller that is ready to take over.
pub(super) struct Successor {
    pub(super) controller: DiscardOnDrop,
    /// The state that it has restored.
    pub(super) state: Option<State>,
    pub(super) has_own_state: bool,
    pub(super) note: Option<String>,
}

/// What a successor is constructed from.
pub(super) struct SuccessorSpec {
    pub(super) engine: Arc<Engine>,
    pub(super) known: KnownFactory,
    pub(super) instance: u64,
    pub(super) config: Vec<u8>,
    /// The controller that it replaces.
    pub(super) replaces: Replaces,
}

impl SuccessorSpec {
    /// Constructs it: alone if that which it replaces has ended.
    async fn construct(&self, state: Option<State>, is_alone: bool) -> Result<DiscardOnDrop, ConstructFailure> {
        let made = self.engine.make(&self.known, self.instance, self.config.clone(), state, is_alone).await;
        let entry = made.map_err(|ConstructFailure { error, after }| {
            let what = format!("constructing {}", self.known.info.id);
            let said = !error.is_of_construction() || error.message().starts_with(&what);
            ConstructFailure { error: with_advice(if said { error } else { error.context(what) }), after }
        })?;
        entry.handover.set_replaces(self.replaces);
        Ok(DiscardOnDrop { engine: Arc::clone(&self.engine), entry: Some(Arc::new(entry.staged())), claim: None })
    }

    /// Constructs a controller of an older generation that comes back, with its `last` state if it cannot have the saved one.
    async fn construct_back(
        &self,
        saved: Result<Option<State>>,
        last: Option<State>,
        is_alone: bool,
    ) -> Result<Successor, ConstructFailure> {
        let error = match saved {
            Ok(Some(state)) => match self.construct(Some(state.clone()), is_alone).await {
                Ok(fresh) => {
                    return Ok(Successor { controller: fresh, state: Some(state), has_own_state: false, note: None });
                }
                Err(failure) if failure.after.is_some() => return Err(failure),
                Err(failure) => Some(failure.error),
            },
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let begins = if last.is_some() { "it starts with its own last state" } else { "it starts without a state" };
        let fresh = self.construct(last.clone(), is_alone).await?;
        Ok(Successor {
            controller: fresh,
            state: last,
            has_own_state: true,
            note: error.map(|error| format!("{error}; {begins}")),
        })
    }
}

/// Constructs the successor of a controller that serves, and restores that one's state. `last` is set if an older generation
/// comes back.
pub(super) async fn make_successor(
    spec: SuccessorSpec,
    old: Arc<ControllerEntry>,
    last: Option<Option<State>>,
) -> Result<Successor> {
    let made = match last {
        None => {
            // Constructed first, so that what can fail without the state fails before the old one is asked for it.
            let fresh = spec.construct(None, false).await.map_err(|failure| failure.error)?;
            let state = save(&spec.engine, &old).await?;
            if let (Some(state), Some(entry)) = (state.clone(), &fresh.entry) {
                restore(&spec.engine, entry, state).await?;
            }
            Ok(Successor { controller: fresh, state, has_own_state: false, note: None })
        }
        Some(last) => {
            let saved = save(&spec.engine, &old).await;
            spec.construct_back(saved, last, false).await
        }
    };
    made.map_err(|failure| failure.error)
}

/// Constructs the successor of a controller that has ended, and restores the state that it has left.
pub(super) async fn make_after_stop(
    spec: SuccessorSpec,
    state: Option<State>,
    last: Option<Option<State>>,
    claim: Claim,
    replacements: Replacements,
) -> Result<Successor> {
    let made = match last {
        None => {
            let made = spec.construct(state.clone(), true).await;
            made.map(|fresh| Successor { controller: fresh, state, has_own_state: false, note: None })
        }
        Some(last) => spec.construct_back(Ok(state), last, true).await,
    };
    match made {
        Ok(mut made) => {
            made.controller.claim = Some(claim);
            Ok(made)
        }
        Err(ConstructFailure { error, after }) => {
            if let Some(after) = after {
                note_replacement(&replacements, spec.replaces.controller, after);
            }
            Err(error)
        }
    }
}

/// Aborts the task when it is dropped.
pub(super) struct AbortOnDrop<T>(pub(super) tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
