//! A plugin's serving generation, its history, and how an unhealthy generation is rolled back.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use controllerbus::Bus;
use controllerbus::bus::{ConfigState, LastStates, ResolverCounts, RunState, Source};
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::artifact::Verified;
use crate::error::{Error, Result};
use crate::event::{RollBackCause, RuntimeEvent, SwapReport, Timeline, UnloadReport};
use crate::generation::context::Shared;
use crate::generation::history::{History, Past};
use crate::generation::probation::counts_of;
use crate::generation::swap::{self, Generation, Unfit};
use crate::host::Isolation;
use crate::util::blocking;

/// How often a generation on probation is checked.
const LOOK: Duration = Duration::from_millis(100);

/// How often its controllers are asked for their health, and how long they may take to answer.
const ASK: Duration = Duration::from_secs(1);

/// How many builds that were taken back to remember.
const REFUSED: usize = 64;

/// The serving side of one plugin.
pub(crate) struct Serving {
    id: String,
    shared: Arc<Shared>,
    /// Held during a swap, which only this plugin waits for.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Generation>,
    history: History,
    /// The hashes of artifacts that were taken back, with the reasons. They are not swapped in again.
    refused: VecDeque<(String, String)>,
    /// Ends the probation of the serving generation.
    probation: Option<DropGuard>,
    /// The last generation that was rolled back, which a change of config may fix.
    waiting: Option<Waiting>,
}

/// A generation that was rolled back, and is tried again when a config of its controllers changes.
struct Waiting {
    past: Past,
    _watching: DropGuard,
}

impl Serving {
    /// For a plugin that is not loaded yet.
    pub(crate) fn new(id: &str, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { id: id.to_owned(), shared, state: Mutex::default() })
    }

    /// The number of the serving generation.
    pub(crate) async fn number(&self) -> Option<u64> {
        self.state.lock().await.current.as_ref().map(|current| current.number)
    }

    /// Whether the serving generation is of this build.
    pub(crate) async fn is_build(&self, build_hash: &str) -> bool {
        self.state.lock().await.current.as_ref().is_some_and(|current| current.build_hash == build_hash)
    }

    /// Swaps a verified artifact in.
    pub(crate) async fn swap(
        self: &Arc<Self>,
        artifact: Verified,
        timeline: Timeline,
        edited: Option<Instant>,
    ) -> Result<SwapReport> {
        let mut state = self.state.lock().await;
        state.waiting = None;
        if let Some((_, reason)) = state.refused.iter().find(|(refused, _)| *refused == artifact.hash) {
            let (plugin, build) = (self.id.clone(), artifact.bundle.build_hash.clone());
            let error = Error::TakenBack { plugin, build, reason: reason.clone() };
            return Err(self.rolled_back(&state, error));
        }
        self.swap_now(&mut state, artifact, timeline, edited, None).await.map(|(report, _)| report)
    }

    /// Stops waiting to try a rolled-back build again.
    pub(crate) async fn forget(&self, build_hash: &str) {
        let mut state = self.state.lock().await;
        let waiting = state.waiting.take_if(|waiting| waiting.past.build_hash == build_hash);
        drop(state);
        drop(waiting);
    }

    /// Tries a rolled-back generation again once a config of its controllers changes.
    fn wait_for_config(self: &Arc<Self>, unfit: Unfit, before: Vec<(String, u64)>) -> Waiting {
        let Unfit { past, config_ids } = unfit;
        let stop = CancellationToken::new();
        let (bus, stopped) = (self.shared.bus.clone(), stop.clone());
        let (serving, hash) = (Arc::downgrade(self), past.copy.hash().to_owned());
        tokio::spawn(async move {
            let has_changed = tokio::select! {
                () = another_config(&bus, &config_ids, &before) => true,
                () = stopped.cancelled() => false,
            };
            if let Some(serving) = serving.upgrade().filter(|_| has_changed) {
                serving.try_again(&hash).await;
            }
        });
        Waiting { past, _watching: stop.drop_guard() }
    }

    async fn try_again(self: &Arc<Self>, hash: &str) {
        let mut state = self.state.lock().await;
        let Some(waiting) = state.waiting.take_if(|waiting| waiting.past.copy.hash() == hash) else { return };
        let (begun, copy) = (Instant::now(), waiting.past.copy.clone());
        let tried = match blocking(move || Verified::again(&copy)).await {
            Ok(artifact) => {
                let timeline = Timeline { verify: begun.elapsed(), ..Timeline::default() };
                self.swap_now(&mut state, artifact, timeline, None, None).await.map(drop)
            }
            Err(error) => Err(self.rolled_back(&state, error)),
        };
        if let Err(error) = tried {
            let error = error.with_causes();
            tracing::debug!(plugin = self.id, %error, "it could not be swapped in with the new config either");
        }
    }

    async fn swap_now(
        self: &Arc<Self>,
        state: &mut State,
        artifact: Verified,
        timeline: Timeline,
        edited: Option<Instant>,
        back: Option<LastStates>,
    ) -> Result<(SwapReport, Vec<String>)> {
        let (shared, is_back) = (&self.shared, back.is_some());
        let before = state.current.as_ref().map(|current| counts_of(&shared.bus, current.number));
        let ids: Vec<_> = artifact.factories.iter().map(|factory| factory.config.clone()).collect();
        let configs = shared.bus.wanted_configs(&ids);
        let mut unfit = None;
        let current = (state.current.as_ref(), back);
        let swapped = swap::replace(shared, &self.id, current, artifact, timeline, edited, &mut unfit).await;
        let (generation, report, committed) = match swapped {
            Ok(swapped) => swapped,
            Err(error) => {
                let serves = state.current.as_ref().map(|current| current.copy.hash());
                if let Some(unfit) = unfit.filter(|unfit| !is_back && serves != Some(unfit.past.copy.hash())) {
                    state.waiting = Some(self.wait_for_config(unfit, configs));
                }
                return Err(self.rolled_back(state, error));
            }
        };
        let notes = committed.as_ref().map(|committed| committed.notes().to_vec()).unwrap_or_default();
        let is_new = state.current.as_ref().is_some_and(|old| old.copy.hash() != generation.copy.hash());
        state.probation = None;
        if let (true, false, Some(before)) = (is_new, is_back, before) {
            state.probation = self.watch(generation.number, before);
        }
        if let Some(old) = state.current.replace(generation) {
            let states = committed.as_ref().map(controllerbus::bus::Committed::last_states).unwrap_or_default();
            if is_new {
                self.remember(state, &old, states).await;
            }
            shared.retiring.spawn(swap::retire(Arc::clone(shared), self.id.clone(), old, committed, true));
        }
        Ok((report, notes))
    }

    /// Keeps the artifact of a generation that was replaced.
    async fn remember(&self, state: &mut State, old: &Generation, states: LastStates) {
        let (number, build, copy) = (old.number, old.build_hash.clone(), old.copy.clone());
        match blocking(move || Past::of(number, build, &copy, states)).await {
            Ok(past) => {
                state.history.add(past, self.shared.settings.keep);
                self.shared.registry.set_kept(&self.id, &state.history.numbers());
            }
            Err(error) => {
                let error = error.with_causes();
                tracing::warn!(plugin = self.id, %error, "cannot keep the artifact of a replaced generation");
            }
        }
    }

    /// Moves the serving generation to where it is to run now.
    pub(crate) async fn place(self: &Arc<Self>) -> Result<Option<SwapReport>> {
        let mut state = self.state.lock().await;
        let Some(current) = &state.current else { return Ok(None) };
        let wanted = self.shared.placements.resolve(&self.id);
        let same_place = wanted.isolation == current.placement.isolation;
        let same_place = same_place && wanted.capabilities == current.placement.capabilities;
        if wanted == current.placement || (same_place && wanted.isolation == Isolation::None) {
            return Ok(None);
        }
        let begun = Instant::now();
        let artifact = match blocking(current.artifact()).await {
            Ok(artifact) => artifact,
            Err(error) => return Err(self.rolled_back(&state, error)),
        };
        let timeline = Timeline { verify: begun.elapsed(), ..Timeline::default() };
        self.swap_now(&mut state, artifact, timeline, None, None).await.map(|(report, _)| Some(report))
    }

    /// Takes it off the bus and unloads it in the background, so that nothing waits for code that does not end.
    pub(crate) async fn unload(&self, answer: Option<oneshot::Sender<Result<UnloadReport>>>) {
        let mut state = self.state.lock().await;
        state.probation = None;
        state.waiting = None;
        match (state.current.take(), answer) {
            (Some(generation), answer) => swap::remove(&self.shared, &self.id, generation, answer),
            (None, Some(answer)) => {
                drop(answer.send(Err(Error::UnknownPlugin { id: self.id.clone(), nearest: None })));
            }
            (None, None) => {}
        }
    }

    /// Goes back to the previous generation, or to that of a build; the serving one is not swapped in again.
    pub(crate) async fn roll_back(self: &Arc<Self>, to: Option<&str>) -> Result<SwapReport> {
        let mut state = self.state.lock().await;
        state.waiting = None;
        self.go_back(&mut state, to, (RollBackCause::Requested, "it was requested")).await
    }

    async fn go_back(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, State>,
        to: Option<&str>,
        (cause, reason): (RollBackCause, &str),
    ) -> Result<SwapReport> {
        let Some(current) = &state.current else {
            return Err(Error::UnknownPlugin { id: self.id.clone(), nearest: None });
        };
        let (from, hash) = (current.number, current.copy.hash().to_owned());
        let is_left = |past: &str| past == hash || state.refused.iter().any(|(refused, _)| refused == past);
        let Some(past) = state.history.find(is_left, to) else {
            let (plugin, known) = (self.id.clone(), state.history.builds());
            return Err(Error::NothingToGoBackTo { plugin, to: to.map(str::to_owned), known });
        };
        let (copy, states, was) = (past.copy.clone(), past.states.clone(), past.number);
        let wanted = past.copy.hash().to_owned();
        let begun = Instant::now();
        let artifact = blocking(move || Verified::again(&copy)).await?;
        let timeline = Timeline { verify: begun.elapsed(), ..Timeline::default() };
        state.refused.retain(|(refused, _)| *refused != wanted);
        if hash != wanted {
            state.refused.push_back((hash, reason.to_owned()));
            if state.refused.len() > REFUSED {
                state.refused.pop_front();
            }
        }
        let (report, notes) = self.swap_now(state, artifact, timeline, None, Some(states)).await?;
        self.shared.registry.taken_back(from, reason);
        for note in &notes {
            tracing::warn!(plugin = self.id, note, "going back to an earlier generation went differently than usual");
        }
        let (plugin, reason) = (self.id.clone(), reason.to_owned());
        self.shared.emit(RuntimeEvent::TakenBack { plugin, from, to: report.to, was, cause, reason, notes });
        Ok(report)
    }

    /// Reports why nothing was swapped in.
    fn rolled_back(&self, state: &State, error: Error) -> Error {
        self.shared.emit(RuntimeEvent::RolledBack {
            plugin: self.id.clone(),
            cause: match &error {
                Error::Swap { .. } => RollBackCause::NotReady,
                Error::TakenBack { .. } => RollBackCause::TakenBackBefore,
                _ => RollBackCause::NotLoaded,
            },
            code: error.code(),
            reason: error.with_causes().to_string(),
            serving: state.current.as_ref().map(|current| current.number),
        });
        error
    }

    /// As [`Serving::rolled_back`], for what was not even tried.
    pub(crate) async fn refused(&self, error: Error) -> Error {
        let state = self.state.lock().await;
        self.rolled_back(&state, error)
    }

    /// Watches a generation that just took over, until its probation is over or the guard is dropped.
    fn watch(self: &Arc<Self>, generation: u64, before: ResolverCounts) -> Option<DropGuard> {
        if self.shared.settings.probation.time.is_zero() {
            return None;
        }
        let stop = CancellationToken::new();
        let watching = on_probation(Arc::downgrade(self), Arc::clone(&self.shared), generation, before);
        let stopped = stop.clone();
        tokio::spawn(async move {
            // A verdict is carried out even if the probation is stopped meanwhile: `take_back` checks what serves then.
            let found = tokio::select! {
                found = watching => found,
                () = stopped.cancelled() => None,
            };
            if let Some((serving, (cause, reason))) = found {
                serving.take_back(generation, (cause, &reason)).await;
            }
        });
        Some(stop.drop_guard())
    }

    async fn take_back(self: &Arc<Self>, generation: u64, (cause, reason): (RollBackCause, &str)) {
        let mut state = self.state.lock().await;
        if state.current.as_ref().is_none_or(|current| current.number != generation) {
            return;
        }
        tracing::warn!(plugin = self.id, generation, reason, "a new generation is unhealthy and is rolled back");
        if let Err(error) = self.go_back(&mut state, None, (cause, reason)).await {
            let error = error.with_causes();
            tracing::error!(plugin = self.id, generation, %error, "an unhealthy generation could not be taken back");
        }
    }
}

/// Waits until a config with one of these ids has changed and the change has been tried.
async fn another_config(bus: &Bus, ids: &[String], before: &[(String, u64)]) {
    let mut changes = bus.changes();
    loop {
        changes.borrow_and_update();
        let is_tried = |config: &ConfigState| {
            let pending = config.pending.as_ref().map(|pending| &pending.state);
            ![Some(&config.state), pending].contains(&Some(&RunState::Constructing))
        };
        let configs = bus.configs();
        let mut own = configs.iter().filter(|config| ids.contains(&config.config_id));
        if own.all(is_tried) && bus.wanted_configs(ids) != before {
            return;
        }
        if changes.changed().await.is_err() {
            // The bus is gone.
            std::future::pending::<()>().await;
        }
    }
}

/// Checks a generation until its probation is over; returns why it must be taken back, if it must.
async fn on_probation(
    serving: Weak<Serving>,
    shared: Arc<Shared>,
    generation: u64,
    before: ResolverCounts,
) -> Option<(Arc<Serving>, (RollBackCause, String))> {
    let begun = tokio::time::Instant::now();
    let mut asked = begun;
    let mut crashes = shared.registry.crashes();
    while begun.elapsed() < shared.settings.probation.time {
        let _ = tokio::time::timeout(LOOK, crashes.changed()).await;
        let crash = shared.registry.crash_of(generation);
        let mut reason = crash.map(|crash| (RollBackCause::Crashed, crash)).or_else(|| {
            let judged = shared.settings.probation.judge(&shared.bus, generation, before);
            judged.map(|failing| (RollBackCause::Failing, failing))
        });
        if reason.is_none() && asked.elapsed() >= ASK {
            asked = tokio::time::Instant::now();
            let asking = shared.bus.health(Source(generation), ASK).await;
            let ill = asking.into_iter().find_map(|(_, health)| health.err());
            reason = ill.map(|error| (RollBackCause::Unhealthy, format!("its health check failed: {error}")));
        }
        if let Some(reason) = reason {
            return serving.upgrade().map(|serving| (serving, reason));
        }
    }
    None
}
