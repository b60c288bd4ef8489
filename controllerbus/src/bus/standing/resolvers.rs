//! The resolvers of a directive: one for each controller that answers it, from its first offer to its removal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::task::AbortHandle;

use super::effects::Effects;
use super::{Standing, StandingState};
use crate::Error;
use crate::bus::entry::LaneRef;
use crate::bus::handover::Gate;
use crate::directive::{Callback, Options, RawEvent};

/// One controller's answer to this directive.
pub(in crate::bus) struct Resolver {
    pub(super) lane_ref: Arc<LaneRef>,
    /// Where its controller remembers the directive.
    pub(super) slot: usize,
    /// Which run of its function it is; handles of an earlier one, which failed, say nothing any more.
    pub(super) run: u32,
    pub(super) idle: bool,
    /// Its function has returned.
    pub(super) done: bool,
    /// There are values enough without it: it does not run, and begins again when there is room.
    pub(super) parked: bool,
    pub(super) error: Option<Error>,
    /// Its controller has ended, and its values stand on: whatever is left of it takes none back.
    pub(super) suspended: bool,
    pub(super) task: Option<Arc<ResolverTask>>,
    /// Since when it has been at work without an answer, where it did not answer at once.
    pub(super) works_since: Option<Instant>,
    /// Told when its values are gone: it failed, or it is taken away.
    pub(in crate::bus) gone: Vec<Callback>,
    /// Set when its generation was replaced before its successor had anything: it goes when that has.
    pub(super) successor: Option<u64>,
}

impl Resolver {
    /// Makes it one that is about to run again, and says which run that is.
    pub(super) fn run_again(&mut self, effects: &mut Effects) -> u32 {
        self.stop(effects);
        self.parked = false;
        self.done = false;
        self.idle = false;
        self.error = None;
        self.run
    }

    /// Counts how long it took to answer, where it did not do so at once.
    pub(super) fn answered(&mut self) {
        if let Some(since) = self.works_since.take() {
            self.lane_ref.counts.answered(since.elapsed());
        }
    }

    /// Ends its run; what handles of it say from now on is not heard.
    pub(super) fn stop(&mut self, effects: &mut Effects) {
        self.run += 1;
        self.works_since = None;
        effects.callbacks.append(&mut self.gone);
        effects.tasks.extend(self.task.take());
    }
}

/// The task that a resolver goes on in. It is noted before there is one, so that nobody has to look for it afterwards.
#[derive(Default)]
pub(in crate::bus) struct ResolverTask {
    task: OnceLock<AbortHandle>,
    ended: AtomicBool,
}

impl ResolverTask {
    /// Notes the task, which ends at once if the run is over already.
    pub(in crate::bus) fn began(&self, task: AbortHandle) {
        let _ = self.task.set(task);
        if self.ended.load(Ordering::SeqCst) {
            self.end();
        }
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl StandingState {
    pub(super) fn resolver(&mut self, controller: u64) -> Option<&mut Resolver> {
        self.resolvers.iter_mut().find(|resolver| resolver.lane_ref.id == controller)
    }

    pub(in crate::bus) fn resolver_of(&self, controller: u64) -> Option<&Resolver> {
        self.resolvers.iter().find(|resolver| resolver.lane_ref.id == controller)
    }

    /// A controller's resolver, if it is still in this run.
    pub(in crate::bus) fn resolver_in(&mut self, controller: u64, run: u32) -> Option<&mut Resolver> {
        self.resolver(controller).filter(|resolver| resolver.run == run)
    }

    /// Adds a resolver that is at work, and says whether it may start; [`Gate::Shut`] if there is one of this
    /// controller, or none may come any more.
    pub(in crate::bus) fn begin(
        &mut self,
        standing: &Arc<Standing>,
        lane_ref: &Arc<LaneRef>,
        slot: usize,
        effects: &mut Effects,
    ) -> Gate {
        if self.ended || lane_ref.is_removed() || self.resolver(lane_ref.id).is_some() {
            return Gate::Shut;
        }
        let parked = self.is_full(lane_ref, &standing.options);
        let gate = if parked { Gate::Holding } else { self.pass(standing, lane_ref, 0, effects) };
        if gate == Gate::Shut {
            return gate;
        }
        self.resolvers.push(Resolver {
            lane_ref: Arc::clone(lane_ref),
            slot,
            run: 0,
            idle: parked,
            done: false,
            parked,
            error: None,
            suspended: false,
            task: None,
            works_since: None,
            gone: Vec::new(),
            successor: None,
        });
        gate
    }

    /// Whether a run of a resolver may start. Where it is held because its controller's state is being handed over,
    /// the controller that is given the state has to do it after that, too; one that has the state already does it once.
    pub(in crate::bus) fn pass(
        &mut self,
        standing: &Arc<Standing>,
        lane_ref: &Arc<LaneRef>,
        run: u32,
        effects: &mut Effects,
    ) -> Gate {
        let gate = lane_ref.handover.pass(standing, lane_ref, run);
        if gate == Gate::Holding
            && let Some(successor) = self.successor_of(lane_ref.id)
        {
            self.do_again(standing, successor, effects);
        }
        gate
    }

    /// Notes the task in which a run of a resolver goes on; false if it is over already.
    pub(in crate::bus) fn set_task(&mut self, controller: u64, run: u32, task: &Arc<ResolverTask>) -> bool {
        let has_values = self.has_values(controller);
        let Some(resolver) = self.resolver_in(controller, run) else { return false };
        resolver.task = Some(Arc::clone(task));
        resolver.works_since = (!resolver.idle && !has_values).then(Instant::now);
        true
    }

    pub(in crate::bus) fn set_idle(&mut self, controller: u64, run: u32, idle: bool, effects: &mut Effects) {
        if let Some(resolver) = self.resolver_in(controller, run) {
            // A handle that outlives its resolver's function says nothing any more.
            if resolver.done && !idle {
                return;
            }
            resolver.idle = idle;
            if idle {
                resolver.answered();
            }
        }
        self.finish_retired(effects);
    }

    /// A resolver's function has returned: its values stay.
    pub(in crate::bus) fn finish(&mut self, controller: u64, run: u32, effects: &mut Effects) {
        if let Some(resolver) = self.resolver_in(controller, run) {
            resolver.answered();
            resolver.idle = true;
            resolver.done = true;
        }
        self.finish_retired(effects);
    }

    /// A resolver failed: its values go, its error is told, and until it is tried again it counts as idle.
    pub(in crate::bus) fn fail(&mut self, lane_ref: &LaneRef, run: u32, error: Error, effects: &mut Effects) {
        let Some(resolver) = self.resolver_in(lane_ref.id, run) else { return };
        resolver.idle = true;
        resolver.run += 1;
        resolver.error = Some(error.clone());
        resolver.works_since = None;
        effects.callbacks.append(&mut resolver.gone);
        lane_ref.counts.failed(&error);
        lane_ref.resolver_failed.store(true, Ordering::Release);
        self.remove_values_of(lane_ref.id, effects);
        if !lane_ref.is_staged() {
            self.emit(&RawEvent::Failed(error), effects);
        }
        self.finish_retired(effects);
    }

    /// Begins another run after a failure, and says which; `None` if there is nothing to run for.
    pub(in crate::bus) fn retry(
        &mut self,
        standing: &Arc<Standing>,
        lane_ref: &Arc<LaneRef>,
        failed: u32,
        effects: &mut Effects,
    ) -> Option<u32> {
        let run = failed + 1;
        let resolver = self.resolver_in(lane_ref.id, run).filter(|resolver| resolver.successor.is_none())?;
        resolver.idle = false;
        resolver.error = None;
        resolver.works_since = Some(Instant::now());
        (self.pass(standing, lane_ref, run, effects) == Gate::Open).then_some(run)
    }

    /// Takes a resolver away with its values.
    pub(in crate::bus) fn remove_resolver(&mut self, controller: u64, effects: &mut Effects) {
        let Some(at) = self.resolvers.iter().position(|resolver| resolver.lane_ref.id == controller) else { return };
        effects.resolvers.push(self.resolvers.remove(at));
        self.remove_values_of(controller, effects);
        self.finish_retired(effects);
    }

    /// Stops resolvers that have no value while there are values enough without theirs, and starts them again once there
    /// is room.
    pub(super) fn balance(&mut self, options: &Options, effects: &mut Effects) {
        if options.max_values.is_none() || self.ended {
            return;
        }
        for at in 0..self.resolvers.len() {
            let resolver = &self.resolvers[at];
            if resolver.successor.is_some() {
                continue;
            }
            let full = self.is_full(&resolver.lane_ref, options);
            let has_values = full && self.has_values(resolver.lane_ref.id);
            let resolver = &mut self.resolvers[at];
            if full && !resolver.parked && !resolver.done && !has_values {
                resolver.stop(effects);
                resolver.parked = true;
                resolver.idle = true;
                resolver.error = None;
            } else if !full && resolver.parked {
                let run = resolver.run_again(effects);
                effects.again.push((Arc::clone(&resolver.lane_ref), run));
            }
        }
    }

    /// Whether a controller's resolver should stop: it is gone, or there are values enough.
    pub(in crate::bus) fn is_cancelled(&self, controller: u64, run: u32, options: &Options) -> bool {
        let resolver = self.resolver_of(controller).filter(|resolver| resolver.run == run && !self.ended);
        let Some(resolver) = resolver else { return true };
        self.is_full(&resolver.lane_ref, options)
    }

    pub(in crate::bus) fn error_of(&self, entry: u64) -> Option<&Error> {
        self.resolver_of(entry).and_then(|resolver| resolver.error.as_ref())
    }
}
