//! What is pinned: a controller that was replaced goes on answering this directive, and no later one of its line begins that.

use std::sync::Arc;

use super::StandingState;
use super::effects::Effects;
use super::resolvers::Resolver;
use crate::bus::entry::LaneRef;

/// Whether a resolver outlasts the swap in which its controller was replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::bus) enum Pin {
    /// Its controller serves, or it goes like any other.
    #[default]
    None,
    /// It goes on, and is the only one of its line.
    Holds,
    /// No longer: it goes once the newest of its line has answered.
    Over,
}

impl Resolver {
    /// Whether there is anything that could go on.
    fn can_stay(&self) -> bool {
        !self.suspended && !self.failed && !self.parked && self.successor.is_none()
    }
}

impl StandingState {
    /// Whether another controller of the same line does the work of a pinned directive, or is about to be left it.
    pub(super) fn is_taken(&self, lane_ref: &LaneRef) -> bool {
        let (line, handover) = (lane_ref.line(), &lane_ref.handover);
        let does_it = |resolver: &Resolver| {
            let other = &resolver.lane_ref;
            // Between the switch and what it does on this directive, both may be offered it.
            let is_left = handover.leaves_pins() && handover.replaces() == Some(other.id) && resolver.can_stay();
            let has_come_first = other.handover.leaves_pins() && other.handover.replaces() == Some(lane_ref.id);
            other.line() == line && (resolver.pin == Pin::Holds || is_left || has_come_first)
        };
        self.resolvers.iter().any(does_it)
    }

    /// In a swap: leaves the directive with the old controller, if that does anything which can go on, and the new one has not
    /// begun it.
    pub(in crate::bus) fn pin(&mut self, old: u64, new: u64) -> bool {
        if self.resolver_of(new).is_some() {
            return false;
        }
        let Some(resolver) = self.resolver(old).filter(|resolver| resolver.can_stay()) else { return false };
        resolver.pin = Pin::Holds;
        true
    }

    /// How far the pin to a controller is; `None` if that does not answer the directive any more.
    pub(in crate::bus) fn pin_to(&self, controller: u64) -> Option<Pin> {
        self.resolver_of(controller).map(|resolver| resolver.pin)
    }

    /// Whether a controller's resolver has outlasted a swap, because the directive was pinned.
    pub(in crate::bus) fn is_pinned_to(&self, controller: u64) -> bool {
        self.pin_to(controller).is_some_and(|pin| pin != Pin::None)
    }

    /// Ends a pin, if there is one. The newest controller of the line is offered the directive after the lock; until then it is
    /// not idle.
    pub(in crate::bus) fn unpin(&mut self, controller: u64, effects: &mut Effects) {
        let at = self.resolvers.iter().position(|resolver| resolver.lane_ref.id == controller);
        if let Some(at) = at.filter(|at| self.resolvers[*at].pin == Pin::Holds) {
            self.unpin_at(at, effects);
        }
    }

    pub(super) fn unpin_at(&mut self, at: usize, effects: &mut Effects) {
        let resolver = &mut self.resolvers[at];
        resolver.pin = Pin::Over;
        self.offers += 1;
        effects.rare().unpinned.push(Arc::clone(&resolver.lane_ref));
    }

    /// Whose answer a resolver waits for before it goes.
    pub(in crate::bus) fn set_successor(&mut self, controller: u64, successor: u64) {
        if let Some(resolver) = self.resolver(controller) {
            resolver.successor = Some(successor);
            self.retiring = true;
        }
    }

    /// Whether a resolver goes as soon as this controller has answered.
    pub(super) fn goes_for(&self, controller: u64, successor: u64) -> bool {
        self.retiring && self.resolver_of(controller).is_some_and(|resolver| resolver.successor == Some(successor))
    }
}
