//! Where one run of a resolver puts its values.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::origin::Origin;
use super::standing::{Asker, Effects, Standing, StandingState};
use super::table::Release;
use crate::directive::{AnyValue, Callback, RawRequest, Reference, Supersede, ValueId, ValueSink, superseded};
use crate::{Error, Result};

/// A run of a resolver: the id of its controller, and the number of the run.
pub(super) type Run = (u64, u32);

/// The first run of all on a directive.
pub(super) struct FirstRun {
    controller: AtomicU64,
    number: AtomicU32,
}

/// No controller has this id.
const NOBODY: u64 = u64::MAX;

impl Default for FirstRun {
    fn default() -> Self {
        Self { controller: AtomicU64::new(NOBODY), number: AtomicU32::new(0) }
    }
}

impl FirstRun {
    /// Notes a run, and returns whether it is the first one. Only that one looks at it afterwards, through the sink that it gets.
    fn is(&self, (controller, number): Run) -> bool {
        let is_first = self.controller.load(Ordering::Relaxed) == NOBODY
            && self.controller.compare_exchange(NOBODY, controller, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_first {
            self.number.store(number, Ordering::Relaxed);
        }
        is_first
    }

    fn get(&self) -> Run {
        (self.controller.load(Ordering::Relaxed), self.number.load(Ordering::Relaxed))
    }
}

/// Something through which one run speaks.
pub(super) trait Speaks: Send + Sync {
    fn standing(&self) -> &Standing;
    fn run(&self) -> Run;
}

/// The first run of all speaks through the directive itself, so that one resolver needs no allocation for it.
impl Speaks for Standing {
    fn standing(&self) -> &Standing {
        self
    }
    fn run(&self) -> Run {
        self.first.get()
    }
}

/// Any other run.
pub(super) struct Speaker {
    pub(super) standing: Arc<Standing>,
    pub(super) run: Run,
}

impl Speaks for Speaker {
    fn standing(&self) -> &Standing {
        &self.standing
    }
    fn run(&self) -> Run {
        self.run
    }
}

/// The sink of a run that is about to start.
pub(super) fn sink(standing: &Arc<Standing>, run: Run) -> Arc<dyn ValueSink> {
    let standing = Arc::clone(standing);
    if standing.first.is(run) { standing } else { Arc::new(Speaker { standing, run }) }
}

/// Changes the directive, and notifies a swap that watches the run's controller.
fn change<T>(of: &impl Speaks, change: impl FnOnce(&mut StandingState, Run, &mut Effects) -> T) -> T {
    let run = of.run();
    let (result, watched) = of.standing().change(|state, effects| {
        let result = change(state, run, effects);
        (result, state.watched(run.0))
    });
    if let Some(lane_ref) = watched {
        lane_ref.handover.notify();
    }
    result
}

impl<S: Speaks> ValueSink for S {
    fn add(&self, value: AnyValue) -> Option<ValueId> {
        change(self, |state, run, effects| state.add_value(run, value, None, &self.standing().options, effects))
    }
    fn add_watched(&self, value: AnyValue, removed: Callback) -> Option<ValueId> {
        change(self, |state, run, effects| {
            state.add_value(run, value, Some(removed), &self.standing().options, effects)
        })
    }
    fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
        change(self, |state, run, effects| state.replace_value(run, old, value, &self.standing().options, effects))
    }
    fn remove(&self, id: ValueId) -> bool {
        self.standing().change(|state, effects| state.remove_value(self.run().0, id, effects))
    }
    fn set_idle(&self, idle: bool) {
        change(self, |state, run, effects| state.set_idle(run, idle, effects));
    }
    fn report(&self, error: Error) {
        self.standing().change(|state, effects| state.report(self.run(), error, effects));
    }
    fn is_cancelled(&self) -> bool {
        let standing = self.standing();
        standing.lock().is_cancelled(self.run(), &standing.options)
    }
    fn reference(&self) -> Result<Box<dyn RawRequest>> {
        let gone = || superseded(self.standing().directive.id());
        let standing = self.standing().shared().ok_or_else(gone)?;
        let subscriber = {
            let mut state = standing.lock();
            let ended = state.ended;
            let resolver = state.resolver_in(self.run()).filter(|_| !ended).ok_or_else(gone)?;
            let asker = Asker::watching(&resolver.lane_ref);
            // A weak one changes nothing.
            state.subscribe(false, asker, &standing.options).0
        };
        standing.notify_changed();
        Ok(Box::new(Reference::new(standing, subscriber)))
    }
    fn close(&self, even_if_referred: bool) -> Result<bool> {
        let standing = self.standing();
        if standing.lock().resolver_in(self.run()).is_none() {
            return Ok(false);
        }
        let release = if even_if_referred { Release::Closed } else { Release::Unreferred };
        Ok(standing.table.release(standing, release))
    }
    fn origin(&self) -> Origin {
        let standing = self.standing();
        let superseding = standing.options.supersede != Supersede::Never;
        let key = if superseding { standing.hash } else { Origin::HERE.key() };
        Origin::of_standing(standing.lock().asked_of(), key)
    }
    fn on_gone(&self, callback: Callback) {
        let refused = self.standing().change(|state, _| match state.resolver_in(self.run()) {
            Some(resolver) => {
                resolver.gone.push(callback);
                None
            }
            None => Some(callback),
        });
        if let Some(callback) = refused {
            callback();
        }
    }
}
