//! One controller that configs ask for, however many keys do: made as soon as there is a factory for it, made again when
//! it could not be, and ended when the last key lets it go.
//!
//! ```text
//!            no factory                    made
//! Queued <------------- Constructing ---------------> Running
//!    |    factory came      |    ^                       | its source goes
//!    +--------------------->|    | time, or "try again"  v
//!                           v    |                    Queued / Constructing
//!                           Failed (error, retry_in)
//! ```
//!
//! One that cannot run beside another is made when that has ended, and is given what it has left: see
//! [`super::stop_first`]. If it could not be made, the one before is made again; then it is not tried by itself any more, for
//! that would end what runs.
//!
//! Each has one keeper, a task that takes every step; all others change counts and states under the bus's lock and
//! nudge it. So nobody waits for another's constructor, and whoever is dropped while waiting leaves nothing undone.

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
use super::stop_first::{After, Claim, Fate, Legacy};
use super::{ControllerId, Source};
use crate::config::Entry as ConfigEntry;
use crate::controller::{State, SwapMode};
use crate::{Backoff, Error};

/// What is known of one. Under the bus's lock.
pub(super) struct Instance {
    /// The config; its revision means nothing here.
    pub(super) config: ConfigEntry,
    /// How many keys want it, or are served by it.
    pub(super) users: usize,
    /// Written by `set_state` only.
    state: RunState,
    since: SystemTime,
    /// Its controller. There is one if and only if the state is `Running`.
    pub(super) running: Option<Arc<ControllerEntry>>,
    /// Somebody replaces its controller, or makes one that cannot run beside another: nobody else may until that is done.
    claim: Option<After>,
    /// A generation that is made ready makes its controller.
    pub(super) is_staged: bool,
    /// What is left for its next controller.
    legacy: Option<Legacy>,
    /// Whether its next controller, which may be in the making, is given what one before has left.
    at_stake: bool,
    /// Whose factory the last try was made with; `None` means that the next look makes one.
    tried: Option<Source>,
    retry_at: Option<Instant>,
    backoff: Backoff,
    /// What the last try said, so that the same is not logged again.
    last_error: Option<Error>,
    /// Wakes its keeper.
    pub(super) nudge: Arc<Notify>,
}

impl Instance {
    pub(super) fn new(config: ConfigEntry) -> Self {
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
            backoff: Backoff::default(),
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

    /// Forgets the tries so far.
    pub(super) fn reset_tries(&mut self) {
        self.tried = None;
        self.retry_at = None;
        self.last_error = None;
        self.backoff = Backoff::default();
    }

    /// The next look makes another try, whenever it was due.
    pub(super) fn retry_now(&mut self) {
        self.tried = None;
        self.retry_at = None;
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

    /// Notes that its controller has gone. The next one waits for its end, where there cannot be two.
    pub(super) fn stop(&mut self) {
        self.reset_tries();
        let gone = self.running.take().filter(|gone| gone.swap == SwapMode::StopFirst);
        self.legacy = gone.map(|gone| Legacy::after(&gone));
    }

    /// Its next controller is given what one before has left.
    pub(super) fn inherit(&mut self, legacy: Legacy) {
        self.at_stake = legacy.is_estate();
        self.legacy = Some(legacy);
    }

    /// What is left for its next controller, to be changed.
    pub(super) fn legacy(&mut self) -> Option<&mut Legacy> {
        self.legacy.as_mut()
    }

    /// Another one has come in the place of its controller.
    fn give_up(&mut self) {
        self.stop();
        self.legacy = None;
        self.at_stake = false;
    }

    /// Whether what a controller has left is here, or in the hands of a keeper.
    pub(super) fn is_at_stake(&self) -> bool {
        self.at_stake
    }

    /// What others are told of it: one that runs is shown as such once it is offered what is asked.
    pub(super) fn shown(&self) -> RunState {
        let is_unrouted = |running: &Arc<ControllerEntry>| !running.is_routed.load(Ordering::Acquire);
        if self.running.as_ref().is_some_and(is_unrouted) { RunState::Constructing } else { self.state.clone() }
    }

    /// From now on it is somebody's.
    pub(super) fn claim(&mut self, claim: &Claim) {
        self.claim = Some(claim.after());
    }

    pub(super) fn unclaim(&mut self) {
        self.claim = None;
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.claim.is_some()
    }

    /// What has to be over before another controller is made in the place of its own, where there cannot be two.
    pub(super) fn after(&self) -> Vec<After> {
        let running = self.running.iter().filter(|running| running.swap == SwapMode::StopFirst);
        let waits = self.legacy.iter().flat_map(Legacy::after_all);
        running.map(|running| After::of(running)).chain(self.claim.clone()).chain(waits).collect()
    }

    /// Its next controller is made after these are over.
    pub(super) fn wait_for(&mut self, after: Vec<After>) {
        self.legacy.get_or_insert_default().wait_for(after);
    }

    pub(super) fn waits_for(&self, controller: u64) -> bool {
        self.legacy.as_ref().is_some_and(|legacy| legacy.waits_for(controller))
    }

    /// What there is to do now. Looking sets the state, so that nobody reads `Queued` of what has a factory.
    pub(super) fn look(&mut self, factories: &Factories) -> Option<KnownFactory> {
        if self.running.is_some() || self.is_claimed() || self.is_staged {
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
        // While what it comes in place of is not over, it is not made.
        match wanted.as_ref().and(self.legacy.as_mut()).map(Legacy::is_free) {
            None | Some(Ok(true)) => wanted,
            Some(Ok(false)) => None,
            Some(Err(error)) => {
                let error = error.context("waiting for the previous controller to end");
                self.set_state(RunState::Failed { error, retry_in: None });
                None
            }
        }
    }

    /// Notes a failure; false if it is that of the last try again.
    fn fail(&mut self, error: &Error) -> bool {
        let retry_in = (!error.is_permanent()).then(|| self.backoff.next());
        self.retry_at = retry_in.map(|wait| Instant::now() + wait);
        self.set_state(RunState::Failed { error: error.clone(), retry_in });
        self.last_error.replace(error.clone()).as_ref() != Some(error)
    }

    /// It is not tried again by itself: that would end what runs.
    fn stop_retrying(&mut self) {
        self.retry_at = None;
        if let RunState::Failed { retry_in, .. } = &mut self.state {
            // The same failure, and so of the same time.
            *retry_in = None;
        }
    }
}

/// An instance whose controller ends, or has ended, because another one is made in its place.
pub(super) struct Predecessor {
    pub(super) instance: u64,
    pub(super) claim: Claim,
    pub(super) fate: Arc<Fate>,
    pub(super) running: Option<Arc<ControllerEntry>>,
    /// What that has saved before it was told to end.
    pub(super) before: Option<State>,
    /// What it has left, once it has ended.
    pub(super) legacy: Option<Legacy>,
}

/// Why there is no controller.
pub(super) struct ConstructFailure {
    pub(super) error: Error,
    /// One that was made, and is not over yet.
    pub(super) after: Option<After>,
}

impl From<Error> for ConstructFailure {
    fn from(error: Error) -> Self {
        Self { error, after: None }
    }
}
