//! Which directives a controller answers: remembered by lane, from their first offer until the controller is removed.

use std::sync::PoisonError;

use super::lane::{CachePadded, LANES};
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// Where a controller is between its construction and its removal from the bus.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// It is being prepared beside the controller that it will replace; its values are held back.
    Staged,
    /// Requesters see its values.
    Live,
    /// It was taken off, and answers no directive any more.
    Removed,
}

/// What a controller answers, and whether it still does; a `T` is a reference to a directive.
pub(super) struct Answering<T> {
    phase: AtomicU8,
    /// By the lane in which it was offered.
    lanes: [CachePadded<Mutex<Slots<T>>>; LANES],
}

/// Slots that are reused: neither adding nor removing one searches.
struct Slots<T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T: Clone> Answering<T> {
    /// Of a controller that is live as soon as it is on the bus.
    pub(super) fn live() -> Self {
        Self::new(Phase::Live)
    }

    /// Of a controller that is prepared beside the one that it will replace.
    pub(super) fn staged() -> Self {
        Self::new(Phase::Staged)
    }

    fn new(phase: Phase) -> Self {
        Self { phase: AtomicU8::new(phase as u8), lanes: std::array::from_fn(|_| CachePadded::default()) }
    }

    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Acquire) == phase as u8
    }

    pub(super) fn is_staged(&self) -> bool {
        self.is(Phase::Staged)
    }

    pub(super) fn is_removed(&self) -> bool {
        self.is(Phase::Removed)
    }

    /// Shows its values from now on, unless it was removed.
    pub(super) fn go_live(&self) {
        let (staged, live) = (Phase::Staged as u8, Phase::Live as u8);
        let _ = self.phase.compare_exchange(staged, live, Ordering::AcqRel, Ordering::Acquire);
    }

    fn lane(&self, lane: usize) -> MutexGuard<'_, Slots<T>> {
        self.lanes[lane].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that it answers a directive, and returns the slot; `None` once it is removed.
    pub(super) fn remember(&self, lane: usize, directive: &T) -> Option<usize> {
        let mut answers = self.lane(lane);
        // Under the lock, which `remove` takes after it has set the phase.
        if self.is_removed() {
            return None;
        }
        let slot = answers.free.pop().unwrap_or_else(|| {
            answers.slots.push(None);
            answers.slots.len() - 1
        });
        answers.slots[slot] = Some(directive.clone());
        Some(slot)
    }

    /// Frees a slot, and returns what was in it, to be dropped.
    pub(super) fn forget(&self, lane: usize, slot: usize) -> Option<T> {
        let mut answers = self.lane(lane);
        answers.free.push(slot);
        answers.slots[slot].take()
    }

    /// What it answers now.
    pub(super) fn all(&self) -> Vec<T> {
        (0..LANES).flat_map(|lane| self.lane(lane).slots.iter().flatten().cloned().collect::<Vec<_>>()).collect()
    }

    /// How many it answers now.
    pub(super) fn count(&self) -> usize {
        (0..LANES).map(|lane| self.lane(lane).slots.iter().flatten().count()).sum()
    }

    /// Answers nothing any more; what it has answered is to be withdrawn.
    pub(super) fn remove(&self) -> Vec<T> {
        self.phase.store(Phase::Removed as u8, Ordering::Release);
        self.all()
    }
}

#[cfg(all(test, cbus_loom))]
mod loom_tests {
    use std::sync::Arc;

    use super::*;

    /// A directive with one value at most, and whether that is held back.
    type Directive = Arc<Mutex<Option<(usize, bool)>>>;

    /// Offers a directive as `offer` does.
    fn offer(answering: &Answering<Directive>, lane: usize, directive: &Directive) {
        let Some(slot) = answering.remember(lane, directive) else { return };
        let begun = {
            let mut value = directive.lock().unwrap();
            let begins = !answering.is_removed();
            if begins {
                *value = Some((slot, answering.is_staged()));
            }
            begins
        };
        if !begun {
            answering.forget(lane, slot);
        }
    }

    /// Offers a directive in each lane while something is done to the controller.
    fn offered_while(
        answering: fn() -> Answering<Directive>,
        change: impl Fn(&Answering<Directive>) + Send + Sync + Copy + 'static,
        look: impl Fn(&Answering<Directive>, &[Directive]) + Send + Sync + Copy + 'static,
    ) {
        loom::model(move || {
            let answering = Arc::new(answering());
            let directives: Vec<_> = (0..LANES).map(|_| Directive::default()).collect();
            let offering: Vec<_> = directives
                .iter()
                .enumerate()
                .map(|(lane, directive)| {
                    let (answering, directive) = (Arc::clone(&answering), Arc::clone(directive));
                    loom::thread::spawn(move || offer(&answering, lane, &directive))
                })
                .collect();
            change(&answering);
            offering.into_iter().for_each(|thread| thread.join().expect("it ends"));
            look(&answering, &directives);
        });
    }

    #[test]
    fn loom_a_controller_that_is_removed_while_it_is_offered_something_answers_nothing() {
        let withdraw = |answering: &Answering<Directive>| {
            let all = answering.remove();
            for directive in all {
                let gone = directive.lock().unwrap().take();
                let lane = |slot: usize| (0..LANES).find(|lane| is_in(answering, *lane, slot, &directive));
                if let Some((slot, _)) = gone {
                    answering.forget(lane(slot).expect("it is remembered"), slot);
                }
            }
        };
        offered_while(Answering::live, withdraw, |answering, directives| {
            assert_eq!(answering.count(), 0);
            assert!(directives.iter().all(|directive| directive.lock().unwrap().is_none()));
        });
    }

    fn is_in(answering: &Answering<Directive>, lane: usize, slot: usize, directive: &Directive) -> bool {
        let slots = answering.lane(lane);
        slots.slots.get(slot).and_then(Option::as_ref).is_some_and(|other| Arc::ptr_eq(other, directive))
    }

    #[test]
    fn loom_whatever_a_controller_adds_while_it_goes_live_is_shown() {
        let switch = |answering: &Answering<Directive>| {
            answering.go_live();
            for directive in answering.all() {
                if let Some((_, staged)) = &mut *directive.lock().unwrap() {
                    *staged = false;
                }
            }
        };
        offered_while(Answering::staged, switch, |answering, directives| {
            assert_eq!(answering.count(), LANES);
            let shown = |directive: &Directive| directive.lock().unwrap().is_some_and(|(_, staged)| !staged);
            assert!(directives.iter().all(shown));
        });
    }
}
