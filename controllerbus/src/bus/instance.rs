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

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::configs::{Changes, RunState};
use super::engine::{Engine, Life};
use super::entry::{ControllerEntry, Ties};
use super::factories::{Factories, KnownFactory};
use super::life::{limited, restore, save};
use super::stop_first::{After, Claim, Fate, Legacy};
use super::{ControllerId, Source};
use crate::config::Entry as ConfigEntry;
use crate::controller::exclusive::Exclusive;
use crate::controller::{AnyController, State, SwapMode};
use crate::directive::wire;
use crate::error::ErrorKind;
use crate::listen::Service;
use crate::{Backoff, Error, Result};

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
                let error = error.context("waiting for the one before to end");
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

/// What a keeper does next.
enum Step {
    Construct(Box<Construct>),
    /// Until somebody nudges, or the time has come.
    Wait(Option<Instant>),
    /// Nobody wants it any more.
    End(Vec<Arc<ControllerEntry>>),
}

/// A controller that is to be made.
struct Construct {
    known: KnownFactory,
    config: ConfigEntry,
    /// Where no other may be there, or be made, meanwhile.
    claim: Option<Claim>,
    /// What has been left for it.
    legacy: Option<Legacy>,
    /// Those that end before.
    predecessors: Vec<Predecessor>,
}

impl Construct {
    /// The controllers whose values stand, and whose calls are held, for it.
    fn old(&self) -> Vec<Arc<ControllerEntry>> {
        let left = self.predecessors.iter().filter_map(|predecessor| predecessor.legacy.as_ref()).chain(&self.legacy);
        left.filter_map(|legacy| legacy.old.clone()).collect()
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

impl Life {
    fn step(&mut self, engine: &Arc<Engine>, id: u64) -> Step {
        if let Some(unused) = self.configs.remove_unused(id) {
            let left = unused.legacy.and_then(|legacy| legacy.old);
            let ending: Vec<_> = unused.running.into_iter().chain(left).collect();
            self.leave(&ending);
            return Step::End(ending);
        }
        let Some(instance) = self.configs.instances.get_mut(&id) else { return Step::End(Vec::new()) };
        let tried = instance.tried;
        let Some(known) = instance.look(&self.factories) else { return Step::Wait(instance.retry_at) };
        let predecessors = self.configs.predecessors_of(id, known.swap);
        let any = |is: fn(&Instance) -> bool| {
            predecessors.iter().filter_map(|predecessor| self.configs.instances.get(predecessor)).any(is)
        };
        if any(Instance::is_claimed) {
            return Step::Wait(None);
        }
        if tried == Some(known.source) && any(|predecessor| predecessor.running.is_some()) {
            self.configs.instances.get_mut(&id).into_iter().for_each(Instance::stop_retrying);
            return Step::Wait(None);
        }
        let claim = |predecessor: u64| {
            let instance = self.configs.instances.get_mut(&predecessor)?;
            let claim = Claim::new(engine);
            instance.claim(&claim);
            let running = instance.running.clone();
            let legacy = instance.legacy.take();
            Some(Predecessor { instance: predecessor, claim, fate: Arc::default(), running, before: None, legacy })
        };
        let predecessors: Vec<_> = predecessors.into_iter().filter_map(claim).collect();
        let Some(instance) = self.configs.instances.get_mut(&id) else { return Step::End(Vec::new()) };
        instance.tried = Some(known.source);
        instance.set_state(RunState::Constructing);
        let legacy = instance.legacy.take();
        let is_alone = known.swap == SwapMode::StopFirst || legacy.is_some() || !predecessors.is_empty();
        let claim = is_alone.then(|| Claim::new(engine));
        claim.iter().for_each(|claim| instance.claim(claim));
        Step::Construct(Box::new(Construct { known, config: instance.config.clone(), claim, legacy, predecessors }))
    }

    /// Notes a controller that was made; gives it back if it is not wanted any more, or its factory has gone. Those in whose
    /// place it comes go with it.
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
        Some(changes)
    }
}

impl Engine {
    /// Does what a change of configs or factories entails.
    pub(super) fn carry_out(self: &Arc<Self>, changes: Changes) {
        for id in changes.born {
            let nudge = self.life().configs.instances.get(&id).map(|instance| Arc::clone(&instance.nudge));
            if let Some(nudge) = nudge {
                self.spawn(keep(Arc::downgrade(self), id, nudge));
            }
        }
        changes.nudged.iter().for_each(|nudge| nudge.notify_one());
        if !changes.ended.is_empty() {
            self.dismiss(&changes.ended);
        }
        #[cfg(unix)]
        for key in &changes.keys_gone {
            let gone = self.sockets().key_gone(key);
            drop(gone);
        }
        self.notify_changed();
    }

    /// Makes a controller, within the limit; it neither runs nor is it routed to yet.
    pub(super) async fn construct(
        self: &Arc<Self>,
        known: &KnownFactory,
        instance: u64,
        config: Vec<u8>,
    ) -> Result<ControllerEntry> {
        let ties = Ties::new(self.next_id());
        let context = self.context(&ties, Arc::new(known.info.clone()), Some(instance));
        let factory = Arc::clone(&known.factory);
        let what = format!("constructing {}", known.info.id);
        let known = known.clone();
        let guard = ties.cancel.clone().drop_guard();
        let bytes = config.clone();
        let source = known.source;
        let swap = known.swap;
        let entry = move |controller: Arc<dyn AnyController>| {
            let controller = match swap {
                SwapMode::StopFirst => Arc::new(Exclusive::new(controller)),
                SwapMode::Beside => controller,
            };
            ControllerEntry::new(ties, known.info, source, controller).configured(instance, bytes, swap)
        };
        let engine = Arc::clone(self);
        let late = move |made: ControllerEntry| engine.discard(Arc::new(made));
        let work = async move { factory.construct(config, context).await.map(entry) };
        let made = limited(self, self.limits.construct, &what, work, late).await?;
        guard.disarm();
        Ok(made)
    }

    /// Makes a controller and gives it a state. One that does not take it is ended.
    pub(super) async fn make(
        self: &Arc<Self>,
        known: &KnownFactory,
        instance: u64,
        config: Vec<u8>,
        state: Option<State>,
    ) -> Result<ControllerEntry, ConstructFailure> {
        let made = self.construct(known, instance, config).await?;
        let Some(state) = state else { return Ok(made) };
        match restore(self, Arc::clone(&made.controller), &known.info.id, state).await {
            Ok(()) => Ok(made),
            Err(error) => Err(ConstructFailure { error, after: self.end_made(Arc::new(made)).await }),
        }
    }

    /// Ends a controller that is not wanted, and waits until it is over. If it is not within its limits, that is for others to
    /// wait for.
    pub(super) async fn end_made(self: &Arc<Self>, made: Arc<ControllerEntry>) -> Option<After> {
        let after = After::of(&made);
        made.is_waited_for.store(true, Ordering::Release);
        let closed = made.closed.clone();
        self.discard(made);
        timeout(self.limits.part(), closed.cancelled()).await.is_err().then_some(after)
    }

    /// Makes what an instance is to run, once what it comes in place of has ended.
    async fn bring_up(self: &Arc<Self>, id: u64, mut what: Construct, nudge: &Notify) {
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
                // Of several there is none that is it.
                _ => None,
            };
            let config = wire::encode(&what.config.config)?;
            self.make(&what.known, id, config, state).await
        };
        let unwanted = async {
            loop {
                nudge.notified().await;
                // Where there cannot be two, one that is being made is made to its end, so that it is known when it is over.
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

    /// Ends the controllers in whose place another one comes. Until all of them have been saved nothing happens to any.
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
            let installed = life.install(id, &made, &what.predecessors);
            life.leave(installed.iter().flat_map(|changes| changes.released.iter().chain(&old)));
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
        // It answers before the one in whose place it comes is taken off, and executes after that has ended.
        let before: Vec<_> = changes.released.iter().map(|entry| entry.closed.clone()).collect();
        if let [replaced] = &[&changes.released[..], &old[..]].concat()[..] {
            made.handover.set_replaces(replaced.id);
        }
        changes.released.iter().for_each(|entry| entry.set_service(Service::Replaced));
        self.attach(&made, before);
        let pairs: Vec<_> = old.into_iter().map(|old| (old, Some(Arc::clone(&made)))).collect();
        self.take_over(&pairs);
        self.carry_out(changes);
    }

    /// There is no controller. Those that have ended for it come back first.
    async fn construct_failed(self: &Arc<Self>, id: u64, failure: ConstructFailure, what: Construct) {
        let ConstructFailure { mut error, after } = failure;
        let Construct { predecessors, mut legacy, claim, .. } = what;
        let replaced: Vec<u64> = predecessors.iter().map(|predecessor| predecessor.instance).collect();
        let has_ended = predecessors.iter().any(|predecessor| predecessor.fate.is_sealed());
        let mut comes_back = false;
        if !predecessors.is_empty() {
            self.give_back(predecessors, after.clone());
            let back = self.come_back(&replaced).await;
            comes_back = back.is_ok();
            error = match back {
                _ if !has_ended => error,
                Ok(()) => error.and("the config before runs again, with the state that it had"),
                Err(other) => error.and(format_args!(
                    "the config before cannot run again either ({other}), and its state is kept for what comes next"
                )),
            };
        }
        let old = legacy.as_mut().and_then(|legacy| legacy.old.take());
        if let Some(legacy) = &mut legacy {
            legacy.wait_for(after.clone());
            if legacy.is_estate() {
                error = error.and("the state of the one before is kept for what comes next");
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
                }
                is_news.then_some(keys)
            })
        };
        changes.ended.extend(old);
        if let Some(keys) = keys {
            tracing::warn!(key = keys.join(", "), %error, "a controller could not be constructed");
        }
        self.carry_out(changes);
        if let Some(claim) = claim {
            self.release_after(claim, after.into_iter().collect());
        }
    }

    /// A controller is not wanted any more, or its factory has gone: it is as before.
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

    /// The controllers of these instances are made again, with what they have left, where they have ended for another one;
    /// once that, where it was made, is over.
    pub(super) fn give_back(self: &Arc<Self>, predecessors: Vec<Predecessor>, after: Option<After>) {
        let mut changes = Changes::default();
        let mut untouched = Vec::new();
        let mut claims = Vec::new();
        {
            let mut life = self.life();
            for Predecessor { instance, claim, fate, running, before, legacy } in predecessors {
                let spared = fate.spare();
                let legacy = legacy.or_else(|| running.as_ref().filter(|_| !spared).map(|old| Legacy::of(old, before)));
                let Some(mut legacy) = legacy else {
                    untouched.extend(running);
                    life.configs.unclaim(instance, &mut changes);
                    claims.push((claim, Vec::new()));
                    continue;
                };
                legacy.wait_for(after.clone());
                let ended = legacy.old.clone();
                let Life { configs, factories, .. } = &mut *life;
                let found = configs.instances.get_mut(&instance);
                if legacy.is_free().is_err() || found.is_none() {
                    changes.ended.extend(legacy.old.take());
                }
                // Who waits for the claim waits for what is left to wait for.
                claims.push((claim, legacy.after_all().collect()));
                if let Some(found) = found {
                    found.stop();
                    found.inherit(legacy);
                    found.unclaim();
                    found.look(factories);
                }
                life.leave(&ended);
                life.configs.unclaim(instance, &mut changes);
            }
        }
        untouched.iter().for_each(|entry| entry.open_gate());
        self.carry_out(changes);
        for (claim, after) in claims {
            self.release_after(claim, after);
        }
    }

    /// Waits until these instances run again; why one of them does not.
    pub(super) async fn come_back(self: &Arc<Self>, instances: &[u64]) -> Result<()> {
        let mut changed = self.changed.subscribe();
        let all = async {
            loop {
                changed.borrow_and_update();
                let mut is_settled = true;
                let mut all = Ok(());
                {
                    let life = self.life();
                    for instance in instances.iter().filter_map(|id| life.configs.instances.get(id)) {
                        match instance.shown() {
                            RunState::Failed { error, .. } => all = all.and(Err(error)),
                            RunState::Constructing => is_settled = false,
                            RunState::Running(_) | RunState::Queued => {}
                        }
                    }
                }
                if is_settled || changed.changed().await.is_err() {
                    return all;
                }
            }
        };
        let limit = self.limits.part() + self.limits.construct + self.limits.restore;
        timeout(limit, all)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, format!("not within {limit:?}"))))
    }
}

/// Keeps an instance until nobody wants it, or the bus is gone.
async fn keep(engine: Weak<Engine>, id: u64, nudge: Arc<Notify>) {
    loop {
        let step = {
            let Some(engine) = engine.upgrade() else { return };
            engine.life().step(&engine, id)
        };
        match step {
            Step::End(ending) => {
                if let Some(engine) = engine.upgrade().filter(|_| !ending.is_empty()) {
                    engine.dismiss(&ending);
                }
                return;
            }
            Step::Wait(None) => nudge.notified().await,
            Step::Wait(Some(due)) => tokio::select! {
                () = nudge.notified() => {}
                () = tokio::time::sleep_until(due) => {}
            },
            Step::Construct(what) => {
                let Some(engine) = engine.upgrade() else { return };
                engine.bring_up(id, *what, &nudge).await;
            }
        }
    }
}

impl Life {
    /// Whether a controller that is being made is still wanted, from a factory of that source.
    fn is_wanted(&self, id: u64, source: Source) -> bool {
        self.is_used(id) && self.factories.has(source)
    }

    /// Whether some key wants an instance, or is served by it.
    pub(super) fn is_used(&self, id: u64) -> bool {
        self.configs.instances.get(&id).is_some_and(|instance| instance.users > 0)
    }
}
