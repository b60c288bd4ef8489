//! What a swap needs from a controller: to be notified of changes, and to hold back runs of its resolvers while its state is
//! handed over.

use std::sync::{Arc, PoisonError};

use super::entry::{ControllerEntry, LaneRef};
use super::standing::Standing;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, Notify, OnceLock};

/// One controller's part in a swap. Outside of swaps it costs two loads.
pub(super) struct Handover<R = HeldRun> {
    watched: AtomicBool,
    watchers: Mutex<Vec<Arc<Notify>>>,
    /// Whether its execution has reached its first `.await` that is pending, or its end.
    pub(super) has_begun: AtomicBool,
    /// The controller that it replaces.
    replaces: OnceLock<Replaces>,
    /// False only if the gate is open: spares the lock.
    guarded: AtomicBool,
    held: Mutex<HeldRuns<R>>,
}

/// How a controller replaces another one.
#[derive(Clone, Copy)]
pub(super) struct Replaces {
    pub(super) controller: u64,
    /// The line that both are of, if it goes on: see `pins.rs`.
    pub(super) line: Option<u64>,
    /// Whether it leaves the other one what is pinned.
    pub(super) leaves_pins: bool,
}

impl Replaces {
    /// With the same config.
    pub(super) fn in_line(old: &ControllerEntry, leaves_pins: bool) -> Self {
        Self { controller: old.id, line: Some(old.line()), leaves_pins }
    }

    pub(super) fn with_another_config(old: &ControllerEntry) -> Self {
        Self { controller: old.id, line: None, leaves_pins: false }
    }
}

/// What happens to a run of a resolver that is about to start.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Gate {
    /// It starts.
    #[default]
    Open,
    /// It waits for [`Handover::release`].
    Holding,
    /// It never starts, because another controller has taken over.
    Shut,
}

/// A run of a resolver that waits at the gate.
pub(super) type HeldRun = (Arc<Standing>, Arc<LaneRef>, u32);

struct HeldRuns<R> {
    gate: Gate,
    runs: Vec<R>,
}

impl<R> Default for Handover<R> {
    fn default() -> Self {
        Self {
            watched: AtomicBool::new(false),
            watchers: Mutex::default(),
            has_begun: AtomicBool::new(false),
            replaces: OnceLock::new(),
            guarded: AtomicBool::new(false),
            held: Mutex::new(HeldRuns { gate: Gate::Open, runs: Vec::new() }),
        }
    }
}

impl<R> Handover<R> {
    fn watchers(&self) -> MutexGuard<'_, Vec<Arc<Notify>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies this watcher of each change of the controller from now on.
    pub(super) fn watch(&self, watcher: &Arc<Notify>) {
        self.watchers().push(Arc::clone(watcher));
        self.watched.store(true, Ordering::SeqCst);
    }

    pub(super) fn unwatch(&self, watcher: &Arc<Notify>) {
        let mut watchers = self.watchers();
        watchers.retain(|other| !Arc::ptr_eq(other, watcher));
        self.watched.store(!watchers.is_empty(), Ordering::SeqCst);
    }

    /// Whether anybody is notified.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::SeqCst)
    }

    /// Something changed that a swap may be waiting for.
    pub(super) fn notify(&self) {
        if !self.is_watched() {
            return;
        }
        self.watchers().iter().for_each(|watcher| watcher.notify_one());
    }

    /// Notes the controller that it replaces; once, before it is routed to.
    pub(super) fn set_replaces(&self, old: Replaces) {
        let _ = self.replaces.set(old);
    }

    /// The controller that it replaces.
    pub(super) fn replaces(&self) -> Option<u64> {
        self.replaces.get().map(|replaces| replaces.controller)
    }

    /// The line that it continues.
    pub(super) fn line(&self) -> Option<u64> {
        self.replaces.get().and_then(|replaces| replaces.line)
    }

    /// Whether it leaves the controller that it replaces what is pinned.
    pub(super) fn leaves_pins(&self) -> bool {
        self.replaces.get().is_some_and(|replaces| replaces.leaves_pins)
    }

    /// Notes that its execution has begun.
    pub(super) fn set_begun(&self) {
        self.has_begun.store(true, Ordering::Release);
        self.notify();
    }

    fn held(&self) -> MutexGuard<'_, HeldRuns<R>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds back the runs that are about to start from now on.
    pub(super) fn hold(&self) {
        self.held().gate = Gate::Holding;
        self.guarded.store(true, Ordering::SeqCst);
    }

    /// Asks for a run to start; if the gate is holding, the run waits there. Called under the directive's lock.
    fn ask(&self, run: impl FnOnce() -> R) -> Gate {
        if !self.guarded.load(Ordering::SeqCst) {
            return Gate::Open;
        }
        let mut held = self.held();
        if held.gate == Gate::Holding {
            held.runs.push(run());
        }
        held.gate
    }

    /// Whether runs are held back.
    pub(super) fn is_holding(&self) -> bool {
        self.guarded.load(Ordering::SeqCst) && self.held().gate == Gate::Holding
    }

    /// Opens the gate, and returns the runs that waited.
    pub(super) fn release(&self) -> Vec<R> {
        self.end_holding(Gate::Open)
    }

    /// Shuts the gate for good, and returns the runs that waited.
    pub(super) fn shut(&self) -> Vec<R> {
        self.end_holding(Gate::Shut)
    }

    fn end_holding(&self, gate: Gate) -> Vec<R> {
        let mut held = self.held();
        held.gate = gate;
        self.guarded.store(gate != Gate::Open, Ordering::SeqCst);
        std::mem::take(&mut held.runs)
    }
}

impl Handover {
    /// Asks for a run on a directive to start; if the gate is holding, the run waits there. Called under the directive's lock.
    pub(super) fn pass(&self, standing: &Arc<Standing>, lane_ref: &Arc<LaneRef>, run: u32) -> Gate {
        self.ask(|| (Arc::clone(standing), Arc::clone(lane_ref), run))
    }

    /// Whether a run on this directive waits at the gate.
    pub(super) fn is_held(&self, standing: &Standing) -> bool {
        self.held().runs.iter().any(|(held, ..)| std::ptr::eq(&raw const **held, standing))
    }
}

#[cfg(all(test, cbus_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::block_on;

    /// What has become of a directive's runs.
    #[derive(Default)]
    struct Runs {
        started: Vec<u32>,
        refused: Vec<u32>,
    }

    /// Asks for a run as `offer` does.
    fn ask(handover: &Handover<u32>, directive: &Mutex<Runs>, run: u32) {
        let mut runs = directive.lock().unwrap();
        match handover.ask(|| run) {
            Gate::Open => runs.started.push(run),
            Gate::Holding => {}
            Gate::Shut => runs.refused.push(run),
        }
    }

    /// Two runs ask while the gate is held and then ended in one way. Returns what waited there, whoever looks at it.
    fn asked_while(end: fn(&Handover<u32>) -> Vec<u32>, look: fn(Runs, Vec<u32>, usize)) {
        loom::model(move || {
            let (handover, directive) = (Arc::new(Handover::<u32>::default()), Arc::new(Mutex::new(Runs::default())));
            let asking: Vec<_> = (0..2)
                .map(|run| {
                    let (handover, directive) = (Arc::clone(&handover), Arc::clone(&directive));
                    loom::thread::spawn(move || ask(&handover, &directive, run))
                })
                .collect();
            handover.hold();
            // As whoever waits for the runs at work looks at the directive, and then saves the state.
            let at_work = directive.lock().unwrap().started.len();
            let meanwhile = directive.lock().unwrap().started.len();
            assert_eq!(at_work, meanwhile, "no run begins while the state is handed over");
            let waited = end(&handover);
            asking.into_iter().for_each(|thread| thread.join().expect("it ends"));
            look(std::mem::take(&mut *directive.lock().unwrap()), waited, at_work);
        });
    }

    fn sorted(runs: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut runs: Vec<_> = runs.into_iter().collect();
        runs.sort_unstable();
        runs
    }

    #[test]
    fn loom_a_run_at_the_gate_starts_once_when_it_is_released() {
        asked_while(Handover::release, |runs, waited, _| {
            assert_eq!(sorted(runs.started.into_iter().chain(waited)), [0, 1]);
            assert!(runs.refused.is_empty());
        });
    }

    #[test]
    fn loom_a_run_at_a_gate_that_is_shut_is_the_successors_and_none_begins_any_more() {
        asked_while(Handover::shut, |runs, waited, at_work| {
            assert_eq!(runs.started.len(), at_work);
            assert_eq!(sorted(runs.started.into_iter().chain(waited).chain(runs.refused)), [0, 1]);
        });
    }

    #[test]
    fn loom_whoever_watches_a_controller_hears_of_each_change() {
        loom::model(|| {
            let (handover, directive) = (Arc::new(Handover::<u32>::default()), Arc::new(Mutex::new(false)));
            let changing = {
                let (handover, directive) = (Arc::clone(&handover), Arc::clone(&directive));
                loom::thread::spawn(move || {
                    *directive.lock().unwrap() = true;
                    handover.notify();
                })
            };
            let activity = Arc::new(Notify::default());
            handover.watch(&activity);
            block_on(async {
                while !*directive.lock().unwrap() {
                    activity.notified().await;
                }
            });
            handover.unwatch(&activity);
            changing.join().expect("it ends");
        });
    }
}
