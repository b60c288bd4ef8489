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
//! Each has one keeper, a task that takes every step; all others change counts and states under the bus's lock and
//! nudge it. So nobody waits for another's constructor, and whoever is dropped while waiting leaves nothing undone.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::configs::{Changes, RunState};
use super::engine::{Engine, Life};
use super::entry::ControllerEntry;
use super::factories::{Factories, Known};
use super::life::limited;
use super::{ControllerId, Source};
use crate::config::Entry;
use crate::controller::{AnyController, Context, Info};
use crate::directive::wire;
use crate::{Backoff, Error, Result};

/// What is known of one. Under the bus's lock.
pub(super) struct Instance {
    /// The config; its revision means nothing here.
    pub(super) entry: Entry,
    /// How many keys want it, or are served by it.
    pub(super) users: usize,
    pub(super) state: RunState,
    pub(super) since: SystemTime,
    /// Its controller. There is one if and only if the state is `Running`.
    pub(super) running: Option<Arc<ControllerEntry>>,
    /// Whose factory the last try was made with; `None` means that the next look makes one.
    tried: Option<Source>,
    due: Option<Instant>,
    tries: Backoff,
    /// What the last try said, so that the same is not logged again.
    said: Option<Error>,
    /// Wakes its keeper.
    pub(super) nudge: Arc<Notify>,
}

impl Instance {
    pub(super) fn new(entry: Entry) -> Self {
        Self {
            entry,
            users: 1,
            state: RunState::Queued,
            since: SystemTime::now(),
            running: None,
            tried: None,
            due: None,
            tries: Backoff::default(),
            said: None,
            nudge: Arc::default(),
        }
    }

    fn to(&mut self, state: RunState) {
        (self.state, self.since) = (state, SystemTime::now());
    }

    /// Forgets the tries so far.
    pub(super) fn begin_again(&mut self) {
        (self.tried, self.due, self.said) = (None, None, None);
        self.tries = Backoff::default();
    }

    /// The next look makes another try, whenever it was due.
    pub(super) fn try_again(&mut self) {
        (self.tried, self.due) = (None, None);
    }

    /// Notes its controller.
    pub(super) fn run(&mut self, entry: &Arc<ControllerEntry>) {
        self.begin_again();
        self.running = Some(Arc::clone(entry));
        self.to(RunState::Running(ControllerId(entry.id)));
    }

    /// Notes that its controller has gone.
    pub(super) fn stop(&mut self) {
        self.begin_again();
        self.running = None;
    }

    /// What there is to do now. Looking sets the state, so that nobody reads `Queued` of what has a factory.
    pub(super) fn look(&mut self, factories: &Factories) -> Option<Known> {
        if self.running.is_some() {
            return None;
        }
        let found = factories.find(&self.entry.id, self.entry.version.as_ref());
        match found {
            None => {
                self.begin_again();
                if self.state != RunState::Queued {
                    self.to(RunState::Queued);
                }
                None
            }
            Some(known) if self.tried == Some(known.source) => {
                let is_due = self.due.is_some_and(|due| due <= Instant::now());
                (matches!(self.state, RunState::Failed { .. }) && is_due).then(|| known.clone())
            }
            Some(known) => {
                if self.state != RunState::Constructing {
                    self.to(RunState::Constructing);
                }
                Some(known.clone())
            }
        }
    }

    /// Notes a failure; false if it is that of the last try again.
    fn fail(&mut self, error: &Error) -> bool {
        let retry_in = (!error.is_permanent()).then(|| self.tries.next());
        self.due = retry_in.map(|wait| Instant::now() + wait);
        self.to(RunState::Failed { error: error.clone(), retry_in });
        self.said.replace(error.clone()).as_ref() != Some(error)
    }
}

/// What a keeper does next.
enum Step {
    Construct(Box<(Known, Entry)>),
    /// Until somebody nudges, or the time has come.
    Wait(Option<Instant>),
    /// Nobody wants it any more.
    End(Option<Arc<ControllerEntry>>),
}

impl Life {
    fn step(&mut self, id: u64) -> Step {
        if let Some(unused) = self.configs.remove_unused(id) {
            self.leave(unused.running.as_ref());
            return Step::End(unused.running);
        }
        let Some(instance) = self.configs.instances.get_mut(&id) else { return Step::End(None) };
        match instance.look(&self.factories) {
            Some(known) => {
                instance.tried = Some(known.source);
                instance.to(RunState::Constructing);
                Step::Construct(Box::new((known, instance.entry.clone())))
            }
            None => Step::Wait(instance.due),
        }
    }

    /// Notes a controller that was made; gives it back if it is not wanted any more, or its factory has gone.
    fn install(&mut self, id: u64, made: Arc<ControllerEntry>) -> Result<Changes, Arc<ControllerEntry>> {
        let has_factory = self.factories.has(made.source);
        let Some(instance) = self.configs.instances.get_mut(&id) else { return Err(made) };
        if !has_factory || instance.users == 0 {
            // Somebody may want it again before its keeper looks.
            instance.begin_again();
            return Err(made);
        }
        instance.run(&made);
        self.controllers.insert(made.id, made);
        let mut changes = Changes::default();
        self.configs.runs(id, &mut changes);
        Ok(changes)
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
        self.touch();
    }

    /// Makes a controller, within the limit; it neither runs nor is it routed to yet.
    pub(super) async fn construct(
        self: &Arc<Self>,
        known: &Known,
        config: Vec<u8>,
    ) -> Result<(Arc<dyn AnyController>, CancellationToken)> {
        let cancel = CancellationToken::new();
        let context = Context::new(self.handle(), cancel.clone(), Arc::new(known.info.clone()));
        let factory = Arc::clone(&known.factory);
        let what = format!("constructing {}", known.info.id);
        let (engine, unused) = (Arc::clone(self), known.clone());
        let late = move |made: Arc<dyn AnyController>| {
            engine.discard(ControllerEntry::new(engine.next_id(), unused.info.clone(), unused.source, made));
        };
        let guard = cancel.clone().drop_guard();
        let work = async move { factory.construct(config, context).await };
        let controller = limited(self, self.limits.construct, &what, work, late).await?;
        Ok((controller, guard.disarm()))
    }

    async fn make(self: &Arc<Self>, id: u64, known: &Known, entry: &Entry) -> Result<Arc<ControllerEntry>> {
        let config = wire::encode(&entry.config)?;
        let (controller, cancel) = self.construct(known, config.clone()).await?;
        let info: Info = known.info.clone();
        let made = ControllerEntry::new(self.next_id(), info, known.source, controller);
        Ok(Arc::new(made.configured(id, config, cancel)))
    }

    fn made(self: &Arc<Self>, id: u64, made: Result<Arc<ControllerEntry>>) {
        match made {
            Ok(made) => {
                let installed = self.life().install(id, Arc::clone(&made));
                match installed {
                    Ok(changes) => {
                        // It answers before the one in whose place it comes is taken off, and executes after that has ended.
                        let before: Vec<_> = changes.released.iter().map(|entry| entry.closed.clone()).collect();
                        if let [replaced] = &*changes.released {
                            made.handover.replaces.store(replaced.id, std::sync::atomic::Ordering::Relaxed);
                        }
                        self.go(&made, before);
                        self.carry_out(changes);
                    }
                    Err(unwanted) => self.discard_made(unwanted),
                }
            }
            Err(error) => {
                let keys = {
                    let mut life = self.life();
                    let keys = life.configs.keys_of(id);
                    let Some(instance) = life.configs.instances.get_mut(&id) else { return };
                    instance.fail(&error).then_some(keys)
                };
                if let Some(keys) = keys {
                    tracing::warn!(key = keys.join(", "), %error, "a controller could not be constructed");
                }
                self.touch();
            }
        }
    }
}

/// Keeps an instance until nobody wants it, or the bus is gone.
async fn keep(engine: Weak<Engine>, id: u64, nudge: Arc<Notify>) {
    loop {
        let step = {
            let Some(engine) = engine.upgrade() else { return };
            engine.life().step(id)
        };
        match step {
            Step::End(running) => {
                if let (Some(engine), Some(entry)) = (engine.upgrade(), running) {
                    engine.dismiss(&[entry]);
                }
                return;
            }
            Step::Wait(None) => nudge.notified().await,
            Step::Wait(Some(due)) => tokio::select! {
                () = nudge.notified() => {}
                () = tokio::time::sleep_until(due) => {}
            },
            Step::Construct(what) => {
                let (known, entry) = *what;
                let Some(engine) = engine.upgrade() else { return };
                engine.touch();
                let making = engine.make(id, &known, &entry);
                let unwanted = async {
                    loop {
                        nudge.notified().await;
                        if !engine.life().is_wanted(id, known.source) {
                            return;
                        }
                    }
                };
                tokio::select! {
                    biased;
                    made = making => engine.made(id, made),
                    () = unwanted => engine.life().start_over(id),
                }
            }
        }
    }
}

impl Life {
    /// Whether a controller that is being made is still wanted, from a factory of that source.
    fn is_wanted(&self, id: u64, source: Source) -> bool {
        let wanted = self.configs.instances.get(&id).is_some_and(|instance| instance.users > 0);
        wanted && self.factories.has(source)
    }

    fn start_over(&mut self, id: u64) {
        if let Some(instance) = self.configs.instances.get_mut(&id) {
            instance.begin_again();
        }
    }
}
