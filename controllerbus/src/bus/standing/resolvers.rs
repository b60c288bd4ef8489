//! The resolvers of a directive: one for each controller that answers it, from its first offer to its removal.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::effects::Effects;
use super::pins::Pin;
use super::task::ResolverTask;
use super::{Standing, StandingState};
use crate::Error;
use crate::bus::entry::LaneRef;
use crate::bus::handover::Gate;
use crate::bus::sink::Run;
use crate::directive::{Callback, Options, RawEvent};
use crate::error::ErrorKind;

/// One controller's answer to this directive.
pub(in crate::bus) struct Resolver {
    pub(in crate::bus) lane_ref: Arc<LaneRef>,
    /// The slot in which its controller remembers the directive.
    pub(super) slot: usize,
    /// The number of its current run. What a handle of an earlier run says is ignored.
    pub(super) run: u32,
    pub(super) idle: bool,
    /// Its function has returned.
    pub(super) done: bool,
    /// There are enough values without it: it does not run, and begins again when there is room.
    pub(super) parked: bool,
    pub(super) error: Option<Box<Error>>,
    /// Its controller has ended, and its values stay: what is left of the controller cannot remove them.
    pub(super) suspended: bool,
    pub(super) task: Option<Arc<ResolverTask>>,
    /// Since when it has been working, if it has not answered at once.
    pub(super) works_since: Option<Instant>,
    /// Called when its values are gone, because it has failed or was removed.
    pub(in crate::bus) gone: Vec<Callback>,
    /// Set when its controller was replaced by this one, which has no answer yet; it goes when that has one.
    pub(super) successor: Option<u64>,
    pub(super) pin: Pin,
    /// Its last run has failed, and the next one has not begun.
    pub(super) failed: bool,
}

impl Resolver {
    /// Ends the current run and prepares the next one. Returns its number.
    pub(super) fn run_again(&mut self, effects: &mut Effects) -> u32 {
        self.stop(effects);
        self.parked = false;
        self.done = false;
        self.idle = false;
        self.error = None;
        self.failed = false;
        self.run
    }

    /// Ends the current run. The next one begins when there is room for its values.
    pub(super) fn park(&mut self, effects: &mut Effects) {
        self.stop(effects);
        self.parked = true;
        self.idle = true;
        self.error = None;
        self.failed = false;
    }

    /// Counts the time that it took to answer, if it has not answered at once.
    pub(super) fn answered(&mut self) {
        if let Some(since) = self.works_since.take() {
            self.lane_ref.counts.answered(since.elapsed());
        }
    }

    /// Ends the current run. What its handles say from now on is ignored.
    pub(super) fn stop(&mut self, effects: &mut Effects) {
        self.run += 1;
        self.works_since = None;
        effects.call(&mut self.gone);
        effects.tasks.extend(self.task.take());
    }
}

impl StandingState {
    pub(super) fn resolver(&mut self, controller: u64) -> Option<&mut Resolver> {
        self.resolvers.iter_mut().find(|resolver| resolver.lane_ref.id == controller)
    }

    pub(in crate::bus) fn resolver_of(&self, controller: u64) -> Option<&Resolver> {
        self.resolvers.iter().find(|resolver| resolver.lane_ref.id == controller)
    }

    /// A controller's resolver, if this is still its current run.
    pub(in crate::bus) fn resolver_in(&mut self, (controller, run): Run) -> Option<&mut Resolver> {
        self.resolver(controller).filter(|resolver| resolver.run == run)
    }

    /// Adds a resolver, and returns whether its first run may start, and the number of that; [`Gate::Shut`] if the controller has
    /// one already, or none may be added now.
    pub(in crate::bus) fn begin(
        &mut self,
        standing: &Arc<Standing>,
        lane_ref: &Arc<LaneRef>,
        slot: usize,
        effects: &mut Effects,
    ) -> (Gate, u32) {
        if self.ended || lane_ref.is_removed() || !self.asks(lane_ref.side) || self.resolver(lane_ref.id).is_some() {
            return (Gate::Shut, 0);
        }
        if standing.options.once && (self.spent || !self.resolvers.is_empty()) {
            return (Gate::Shut, 0);
        }
        if standing.options.pinned_for().is_some() && self.is_taken(lane_ref) {
            return (Gate::Shut, 0);
        }
        let run = self.first_run(lane_ref.side);
        let parked = self.is_full(lane_ref, &standing.options);
        let gate = if parked { Gate::Holding } else { self.pass(standing, lane_ref, run, effects) };
        if gate == Gate::Shut {
            return (gate, run);
        }
        self.resolvers.push(Resolver {
            lane_ref: Arc::clone(lane_ref),
            slot,
            run,
            idle: parked,
            done: false,
            parked,
            error: None,
            suspended: false,
            task: None,
            works_since: None,
            gone: Vec::new(),
            successor: None,
            pin: Pin::default(),
            failed: false,
        });
        (gate, run)
    }

    /// Whether a run may start. If it is held back because the state of its controller is being handed over, the successor, which
    /// gets the state, has to do it again afterwards, too.
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

    /// Notes the task of a run; false if the run is over already.
    pub(in crate::bus) fn set_task(&mut self, controller: u64, run: u32, task: &Arc<ResolverTask>) -> bool {
        let has_values = self.has_values(controller);
        let Some(resolver) = self.resolver_in((controller, run)) else { return false };
        resolver.task = Some(Arc::clone(task));
        resolver.works_since = (!resolver.idle && !has_values).then(Instant::now);
        true
    }

    pub(in crate::bus) fn set_idle(&mut self, (controller, run): Run, idle: bool, effects: &mut Effects) {
        if let Some(resolver) = self.resolver_in((controller, run)) {
            // Once the function has returned, its handles cannot make it busy again.
            if resolver.done && !idle {
                return;
            }
            resolver.idle = idle;
            if idle {
                resolver.answered();
            } else {
                // What it has reported is being tried again.
                resolver.error = None;
            }
        }
        self.finish_retired(effects);
    }

    /// A resolver's function has returned; its values stay.
    pub(in crate::bus) fn finish(&mut self, controller: u64, run: u32, effects: &mut Effects) {
        if let Some(resolver) = self.resolver_in((controller, run)) {
            resolver.answered();
            resolver.idle = true;
            resolver.done = true;
        }
        self.finish_retired(effects);
    }

    /// A resolver has failed: its values go, references read the error, and it counts as idle until it is retried. An error that it has
    /// reported is not told again where it ends with it.
    pub(in crate::bus) fn fail(&mut self, lane_ref: &LaneRef, run: u32, error: Error, effects: &mut Effects) {
        let Some(resolver) = self.resolver_in((lane_ref.id, run)) else { return };
        let is_told = resolver.error.as_deref() == Some(&error);
        resolver.idle = true;
        resolver.run += 1;
        resolver.error = Some(Box::new(error.clone()));
        resolver.failed = true;
        resolver.works_since = None;
        effects.call(&mut resolver.gone);
        if !is_told {
            lane_ref.counts.failed(&error);
        }
        lane_ref.resolver_failed.store(true, Ordering::Release);
        self.remove_values_of(lane_ref.id, effects);
        if !is_told && !self.holds_back(lane_ref) {
            self.emit(&RawEvent::Failed(error), lane_ref.side, effects);
        }
        self.unpin(lane_ref.id, effects);
        self.finish_retired(effects);
    }

    /// What answers for a resolver elsewhere has failed, and tries again by itself: references read the error, and nothing else
    /// changes.
    pub(in crate::bus) fn report(&mut self, (controller, run): Run, error: Error, effects: &mut Effects) {
        let Some(resolver) = self.resolver_in((controller, run)) else { return };
        resolver.error = Some(Box::new(error.clone()));
        let lane_ref = Arc::clone(&resolver.lane_ref);
        lane_ref.counts.failed(&error);
        if !self.holds_back(&lane_ref) {
            self.emit(&RawEvent::Failed(error), lane_ref.side, effects);
        }
    }

    /// Begins another run after a failure, and returns its number; `None` if it is not needed or has to wait.
    pub(in crate::bus) fn retry(
        &mut self,
        standing: &Arc<Standing>,
        lane_ref: &Arc<LaneRef>,
        failed: u32,
        effects: &mut Effects,
    ) -> Option<u32> {
        let run = failed + 1;
        let is_due = |resolver: &&mut Resolver| resolver.successor.is_none() && resolver.pin == Pin::None;
        let resolver = self.resolver_in((lane_ref.id, run)).filter(is_due)?;
        resolver.idle = false;
        resolver.error = None;
        resolver.failed = false;
        resolver.works_since = Some(Instant::now());
        (self.pass(standing, lane_ref, run, effects) == Gate::Open).then_some(run)
    }

    /// Takes a directive back from a controller that has not begun it, for another one. Until it is offered to that, it is not idle.
    pub(in crate::bus) fn take_back_offer(&mut self, controller: u64, other: u64, effects: &mut Effects) {
        self.offers += 1;
        let waiting = self.resolvers.iter_mut().filter(|resolver| resolver.successor == Some(controller));
        waiting.for_each(|resolver| resolver.successor = Some(other));
        self.remove_resolver(controller, effects);
    }

    /// A controller goes, and with it what it answers. A call that it had is not begun again by another one; without an answer,
    /// it has failed.
    pub(in crate::bus) fn withdraw(&mut self, controller: u64, options: &Options, effects: &mut Effects) {
        self.spent |= options.once;
        let unanswered = self.resolver_of(controller).filter(|_| options.once && self.is_at_work(controller));
        if let Some(resolver) = unanswered.filter(|resolver| !self.holds_back(&resolver.lane_ref)) {
            let what = format!("`{}` was removed before it answered", resolver.lane_ref.info.id);
            let side = resolver.lane_ref.side;
            self.emit(&RawEvent::Failed(Error::new(ErrorKind::NotFound, what)), side, effects);
        }
        self.remove_resolver(controller, effects);
    }

    /// Ends a call that is at work, with an error.
    pub(in crate::bus) fn cut_call(&mut self, controller: u64, error: Error, effects: &mut Effects) {
        let Some(resolver) = self.resolver(controller).filter(|resolver| !resolver.done) else { return };
        let (lane_ref, run) = (Arc::clone(&resolver.lane_ref), resolver.run);
        effects.tasks.extend(resolver.task.take());
        self.fail(&lane_ref, run, error, effects);
    }

    /// Removes a resolver with its values.
    pub(in crate::bus) fn remove_resolver(&mut self, controller: u64, effects: &mut Effects) {
        let Some(at) = self.resolvers.iter().position(|resolver| resolver.lane_ref.id == controller) else { return };
        effects.resolvers.push(self.resolvers.remove(at));
        self.remove_values_of(controller, effects);
        self.finish_retired(effects);
    }

    /// Stops resolvers without values while there are enough values, and starts them again when there is room.
    pub(super) fn balance(&mut self, options: &Options, effects: &mut Effects) {
        if options.max_values.is_none() || self.ended {
            return;
        }
        for at in 0..self.resolvers.len() {
            let resolver = &self.resolvers[at];
            if resolver.successor.is_some() || resolver.pin == Pin::Over {
                continue;
            }
            let full = self.is_full(&resolver.lane_ref, options);
            let has_values = full && self.has_values(resolver.lane_ref.id);
            let resolver = &mut self.resolvers[at];
            if full && !resolver.parked && !resolver.done && !has_values {
                resolver.park(effects);
            } else if !full && resolver.parked && resolver.pin == Pin::Holds {
                // Its controller begins nothing any more.
                self.unpin_at(at, effects);
            } else if !full && resolver.parked {
                let run = resolver.run_again(effects);
                effects.rare().again.push((Arc::clone(&resolver.lane_ref), run));
            }
        }
    }

    /// Whether a run should stop: its resolver is gone, or there are enough values.
    pub(in crate::bus) fn is_cancelled(&self, (controller, run): Run, options: &Options) -> bool {
        let resolver = self.resolver_of(controller).filter(|resolver| resolver.run == run && !self.ended);
        let Some(resolver) = resolver else { return true };
        self.is_full(&resolver.lane_ref, options)
    }

    /// A resolver's controller, if a swap watches it.
    pub(in crate::bus) fn watched(&self, controller: u64) -> Option<Arc<LaneRef>> {
        let lane_ref = &self.resolver_of(controller)?.lane_ref;
        lane_ref.handover.is_watched().then(|| Arc::clone(lane_ref))
    }

    pub(in crate::bus) fn error_of(&self, entry: u64) -> Option<&Error> {
        self.resolver_of(entry).and_then(|resolver| resolver.error.as_deref())
    }
}
