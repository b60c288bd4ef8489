//! One controller that configs ask for, whatever the number of keys: constructed as soon as there is a factory, retried on
//! failure, and ended when the last key releases it.
//!
//! ```text
//!          no factory                    constructed
//! Queued <------------- Constructing ----------------> Running
//!    |   factory added      |    ^                        | its source is removed
//!    +--------------------->|    | after its backoff, or  v
//!                           v    | applied again       Queued / Constructing
//!                           Failed (error, retry_in)
//! ```
//!
//! A controller that is taken off by hand leaves its instance `Removed`, until its config is applied again.
//!
//! A controller that cannot run beside another one is constructed after that has ended, with what it has left: see
//! [`super::stop_first`]. If that fails, the previous one is constructed again; after that there is no retry, because it would
//! end what is running.
//!
//! Each instance has a keeper, a task that takes every step. Everybody else changes counts and states under the lock of `Life`
//! and nudges the keeper. So nobody waits for the constructor of another key, and a caller that is dropped while it waits
//! leaves nothing undone.

mod bring_up;
mod construct;
mod give_back;
mod keeper;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::config_state::RunState;
use super::entry::ControllerEntry;
use super::factories::{Factories, KnownFactory};
use super::loading::LoadFactory;
use super::stop_first::{After, Claim, Fate, Legacy};
use super::{ControllerId, Source};
use crate::config::Entry as ConfigEntry;
use crate::controller::{State, SwapMode};
use crate::{Backoff, Error};

/// An instance, under the lock of `Life`.
pub(super) struct Instance {
    /// The config. Its revision is meaningless here.
    pub(super) config: ConfigEntry,
    /// The number of keys that want it or are served by it.
    pub(super) users: usize,
    /// Written by `set_state` only.
    state: RunState,
    since: SystemTime,
    /// Its controller. `Some` only while the state is `Running`; see `stop`.
    pub(super) running: Option<Arc<ControllerEntry>>,
    /// Somebody is replacing its controller, or constructing one that cannot run beside another. Nobody else may meanwhile.
    claim: Option<After>,
    /// A generation that is being prepared constructs its controller.
    pub(super) is_staged: bool,
    /// What is left to its next controller.
    legacy: Option<Legacy>,
    /// Whether its next controller, which may be under construction, inherits something.
    at_stake: bool,
    /// The source whose factory was tried last; `None` if the next look is to try.
    tried: Option<Source>,
    retry_at: Option<Instant>,
    backoff: Backoff,
    /// The error of the last try, so that it is logged once.
    last_error: Option<Error>,
    /// Wakes its keeper.
    pub(super) nudge: Arc<Notify>,
}

impl Instance {
    pub(super) fn new(config: ConfigEntry) -> Self {
        let retry = config.retry.unwrap_or_default();
        Self {
            config,
            users: 1,
            state: RunState::Queued,
            since: SystemTime::now(),
            running: None,
            claim: None,
            is_staged: false,
            legacy: None,
            at_stake: false,
            tried: None,
            retry_at: None,
            backoff: Backoff::new(retry),
            last_error: None,
            nudge: Arc::default(),
        }
    }

    /// What its controller is doing.
    pub(super) fn state(&self) -> &RunState {
        &self.state
    }

    /// Since when.
    pub(super) fn since(&self) -> SystemTime {
        self.since
    }

    fn set_state(&mut self, state: RunState) {
        self.state = state;
        self.since = SystemTime::now();
    }

    /// Forgets previous tries.
    pub(super) fn reset_tries(&mut self) {
        self.tried = None;
        self.retry_at = None;
        self.last_error = None;
        self.backoff.reset();
    }

    /// Makes the next look try again, whenever that was due.
    pub(super) fn retry_now(&mut self) {
        self.tried = None;
        self.retry_at = None;
    }

    /// Its config was applied again: one whose controller was taken off by hand is asked for again. False for others.
    pub(super) fn is_asked_for_again(&mut self) -> bool {
        let was_removed = self.state == RunState::Removed;
        if was_removed {
            self.set_state(RunState::Queued);
        }
        was_removed
    }

    /// Notes its controller.
    pub(super) fn run(&mut self, entry: &Arc<ControllerEntry>) {
        self.reset_tries();
        self.claim = None;
        self.legacy = None;
        self.at_stake = false;
        self.running = Some(Arc::clone(entry));
        self.set_state(RunState::Running(ControllerId(entry.id)));
    }

    /// Notes that its controller is gone. The next one waits for its end if there cannot be two.
    pub(super) fn stop(&mut self) {
        self.reset_tries();
        let gone = self.running.take().filter(|gone| gone.swap == SwapMode::StopFirst);
        self.legacy = gone.map(|gone| Legacy::after(&gone));
    }

    /// Notes that its controller was taken off by hand.
    pub(super) fn take_off(&mut self) {
        self.stop();
        self.set_state(RunState::Removed);
    }

    /// Leaves something to its next controller.
    pub(super) fn inherit(&mut self, legacy: Legacy) {
        self.at_stake = legacy.is_estate();
        self.legacy = Some(legacy);
    }

    /// What is left to its next controller, to be changed.
    pub(super) fn legacy(&mut self) -> Option<&mut Legacy> {
        self.legacy.as_mut()
    }

    /// Notes that another instance's controller has replaced its own.
    fn give_up(&mut self) {
        self.stop();
        self.legacy = None;
        self.at_stake = false;
    }

    /// Whether what a controller has left is here or with the keeper.
    pub(super) fn is_at_stake(&self) -> bool {
        self.at_stake
    }

    /// The state for others: a controller counts as running once directives are routed to it.
    pub(super) fn shown(&self) -> RunState {
        let is_unrouted = |running: &Arc<ControllerEntry>| !running.is_routed.load(Ordering::Acquire);
        if self.running.as_ref().is_some_and(is_unrouted) { RunState::Constructing } else { self.state.clone() }
    }

    /// Notes that it is claimed.
    pub(super) fn claim(&mut self, claim: &Claim) {
        self.claim = Some(claim.after());
    }

    pub(super) fn unclaim(&mut self) {
        self.claim = None;
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.claim.is_some()
    }

    /// The request for its factory.
    fn asks_for(&self) -> LoadFactory {
        LoadFactory { config_id: self.config.id.clone(), version: self.config.version.clone() }
    }

    /// Whether there is a better factory than that of its controller, and its config wants it.
    pub(super) fn is_outdated(&self, factories: &Factories) -> bool {
        let Some(running) = self.running.as_ref().filter(|_| self.config.supersede) else { return false };
        let best = factories.find(&self.config.id, self.config.version.as_ref());
        best.is_some_and(|best| best.source != running.source && best.info.version > running.info.version)
    }

    /// What has to be over before another controller is constructed in place of its own, if there cannot be two.
    pub(super) fn after(&self) -> Vec<After> {
        let running = self.running.iter().filter(|running| running.swap == SwapMode::StopFirst);
        let waits = self.legacy.iter().flat_map(Legacy::after_all);
        running.map(|running| After::of(running)).chain(self.claim.clone()).chain(waits).collect()
    }

    /// Makes its next controller wait until these are over.
    pub(super) fn wait_for(&mut self, after: Vec<After>) {
        self.legacy.get_or_insert_default().wait_for(after);
    }

    pub(super) fn waits_for(&self, controller: u64) -> bool {
        self.legacy.as_ref().is_some_and(|legacy| legacy.waits_for(controller))
    }

    /// The factory to construct its controller with now, if it should be. Sets the state, so that it is never `Queued` while
    /// there is a factory.
    pub(super) fn look(&mut self, factories: &Factories) -> Option<KnownFactory> {
        if self.running.is_some() || self.is_claimed() || self.is_staged || self.state == RunState::Removed {
            return None;
        }
        let found = factories.find(&self.config.id, self.config.version.as_ref());
        let wanted = match found {
            None => {
                self.reset_tries();
                if self.state != RunState::Queued {
                    self.set_state(RunState::Queued);
                }
                None
            }
            Some(known) if self.tried == Some(known.source) => {
                let is_due = self.retry_at.is_some_and(|due| due <= Instant::now());
                (matches!(self.state, RunState::Failed { .. }) && is_due).then(|| known.clone())
            }
            Some(known) => {
                if self.state != RunState::Constructing {
                    self.set_state(RunState::Constructing);
                }
                Some(known.clone())
            }
        };
        // Not before what it replaces is over.
        match wanted.as_ref().and(self.legacy.as_mut()).map(Legacy::is_free) {
            None | Some(Ok(true)) => wanted,
            Some(Ok(false)) => None,
            Some(Err(error)) => {
                self.is_held_up(&error);
                None
            }
        }
    }

    /// Notes what keeps the controller that it replaces from ending.
    fn is_held_up(&mut self, by: &Error) {
        let error = by.clone().context("waiting for the previous controller to end");
        self.set_state(RunState::Failed { error, retry_in: None });
    }

    /// It was not tried, because the controller that it replaces is not over: it is as soon as that is.
    fn try_once_free(&mut self) {
        self.retry_at = Some(Instant::now());
        if let RunState::Failed { retry_in, .. } = &mut self.state {
            *retry_in = None;
        }
    }

    /// Notes a failure; false if it is the same as that of the last try.
    fn fail(&mut self, error: &Error) -> bool {
        let retry_in = if error.is_permanent() { None } else { self.backoff.next() };
        self.retry_at = retry_in.map(|wait| Instant::now() + wait);
        self.set_state(RunState::Failed { error: error.clone(), retry_in });
        self.last_error.replace(error.clone()).as_ref() != Some(error)
    }

    /// Does not retry, because that would end what is running.
    fn stop_retrying(&mut self) {
        self.retry_at = None;
        if let RunState::Failed { retry_in, .. } = &mut self.state {
            // Not `set_state`: it is still the same failure, with the same time.
            *retry_in = None;
        }
    }
}

/// An instance whose controller ends, or has ended, because another one is constructed in its place.
pub(super) struct Predecessor {
    pub(super) instance: u64,
    pub(super) claim: Claim,
    pub(super) fate: Arc<Fate>,
    pub(super) running: Option<Arc<ControllerEntry>>,
    /// The state that it had saved before it was told to end.
    pub(super) before: Option<State>,
    /// What it has left, once it has ended.
    pub(super) legacy: Option<Legacy>,
}

/// Why a controller could not be constructed.
pub(super) struct ConstructFailure {
    pub(super) error: Error,
    /// A controller that was constructed, failed to restore its state, and is not over yet.
    pub(super) after: Option<After>,
}

impl From<Error> for ConstructFailure {
    fn from(error: Error) -> Self {
        Self { error, after: None }
    }
}
