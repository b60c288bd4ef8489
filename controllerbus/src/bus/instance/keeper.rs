//! An instance's keeper: the task that takes all of its steps.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::bring_up::Construct;
use super::{Instance, Predecessor};
use crate::bus::config_state::RunState;
use crate::bus::configs::Changes;
use crate::bus::engine::{Engine, Life};
use crate::bus::entry::ControllerEntry;
use crate::bus::loading::LoadFactory;
use crate::bus::stop_first::{Claim, Legacy};
use crate::controller::SwapMode;
use crate::directive::{Directive, Request};

/// What a keeper does next.
enum Step {
    Construct(Box<Construct>),
    /// Wait for a nudge, or until this time.
    Wait(Option<Instant>),
    /// Wait for a nudge; what for is shown in its state.
    HeldUp,
    /// Ask those who answer it for a factory, and wait for a nudge.
    Ask(LoadFactory),
    /// No key wants it any more.
    End(Vec<Arc<ControllerEntry>>),
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
        let (tried, now) = (instance.tried, Instant::now());
        let Some(known) = instance.look(&self.factories) else {
            // What was due before the look waits for something else, and is nudged then.
            let due = instance.retry_at.filter(|due| *due > now);
            let is_held_up = due.is_none() && instance.legacy().is_some_and(|legacy| legacy.is_free().is_err());
            let asks = *instance.state() == RunState::Queued && self.has_sources();
            return match self.configs.instances.get(&id).filter(|_| asks) {
                Some(queued) => Step::Ask(queued.asks_for()),
                None if is_held_up => Step::HeldUp,
                None => Step::Wait(due),
            };
        };
        if let Some(first) = self.goes_before(id) {
            first.notify_one();
            return Step::Wait(None);
        }
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
        // What has ended for an earlier try may not be over yet.
        let mut is_free = Ok(true);
        for predecessor in &predecessors {
            let legacy = self.configs.instances.get_mut(predecessor).and_then(Instance::legacy);
            let is_over = legacy.map_or(Ok(true), Legacy::is_free);
            is_free = is_free.and_then(|all| Ok(is_over? && all));
        }
        match is_free {
            Ok(true) => {}
            Ok(false) => return Step::Wait(None),
            Err(held) => {
                self.configs.instances.get_mut(&id).into_iter().for_each(|instance| instance.is_held_up(&held));
                return Step::HeldUp;
            }
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

    /// The keeper that constructs a controller before this instance's, which is to come back: one that its keys want instead,
    /// which was not tried, because this one's controller was not over, and which gets what that has left.
    fn goes_before(&mut self, id: u64) -> Option<Arc<Notify>> {
        self.configs.instances.get(&id).filter(|instance| instance.is_at_stake())?;
        let wanted = self.configs.wanted_instead_of(id)?;
        let known = self.configs.instances.get_mut(&wanted)?.look(&self.factories)?;
        let is_only_one = self.configs.predecessors_of(wanted, known.swap) == [id];
        self.configs.instances.get(&wanted).filter(|_| is_only_one).map(|instance| Arc::clone(&instance.nudge))
    }

    /// Whether a controller answers [`LoadFactory`], beside the bus itself.
    fn has_sources(&self) -> bool {
        self.controllers.values().any(|entry| entry.resolves.iter().any(|id| id == LoadFactory::ID))
    }

    /// Whether a key wants an instance or is served by it.
    pub(in crate::bus) fn is_used(&self, id: u64) -> bool {
        self.configs.instances.get(&id).is_some_and(|instance| instance.users > 0)
    }
}

impl Engine {
    /// Does what a change of configs or factories entails.
    pub(in crate::bus) fn carry_out(self: &Arc<Self>, changes: Changes) {
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
}

/// Keeps an instance until no key wants it, or the bus is gone.
async fn keep(engine: Weak<Engine>, id: u64, nudge: Arc<Notify>) {
    // Held until the instance ends: whoever has answered it keeps the factory until then.
    let mut asked: Option<Request<LoadFactory>> = None;
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
            Step::HeldUp => {
                engine.upgrade().iter().for_each(|engine| engine.notify_changed());
                nudge.notified().await;
            }
            Step::Ask(what) => {
                if asked.is_none() {
                    asked = engine.upgrade().and_then(|engine| engine.handle().request(what).ok());
                }
                nudge.notified().await;
            }
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
