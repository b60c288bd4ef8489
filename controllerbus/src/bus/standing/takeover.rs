//! What a swap does on one directive: a controller's answer replaces its predecessor's.

use std::sync::Arc;

use smallvec::SmallVec;

use super::effects::Effects;
use super::{Standing, StandingState};
use crate::bus::origin::Sides;
use crate::directive::RawEvent;

impl StandingState {
    /// The controller that replaces this one, if it has a resolver here, too.
    pub(super) fn successor_of(&self, controller: u64) -> Option<u64> {
        let mut lane_refs = self.resolvers.iter().map(|resolver| &resolver.lane_ref);
        lane_refs.find(|lane_ref| lane_ref.handover.replaces() == Some(controller)).map(|lane_ref| lane_ref.id)
    }

    /// The one step of a swap on this directive: the new values become visible, and then the old ones go. If the new controller
    /// has no answer yet, the old one stays until it has.
    pub(in crate::bus) fn replace(&mut self, old: u64, new: u64, effects: &mut Effects) {
        let mut shown: SmallVec<[(RawEvent, Sides); 1]> = SmallVec::new();
        for value in self.values.iter_mut().filter(|value| value.resolver == new && value.staged) {
            value.staged = false;
            shown.push((RawEvent::Added(value.id, value.value.clone()), value.side));
        }
        for (event, side) in &shown {
            self.emit(event, *side, effects);
        }
        if let Some(resolver) = self.resolver(old) {
            resolver.successor = Some(new);
            self.retiring = true;
        }
        self.finish_retired(effects);
    }

    /// Lets resolvers go whose successors have answered. Outside of swaps there are none.
    #[inline]
    pub(super) fn finish_retired(&mut self, effects: &mut Effects) {
        if self.retiring {
            self.finish_those_retired(effects);
        }
    }

    fn finish_those_retired(&mut self, effects: &mut Effects) {
        loop {
            let done = self.resolvers.iter().find_map(|resolver| {
                let successor = resolver.successor?;
                self.is_ready(successor).then_some(resolver.lane_ref.id)
            });
            let Some(old) = done else { break };
            let Some(at) = self.resolvers.iter().position(|resolver| resolver.lane_ref.id == old) else { return };
            effects.resolvers.push(self.resolvers.remove(at));
            self.remove_values_of(old, effects);
        }
        self.retiring = self.resolvers.iter().any(|resolver| resolver.successor.is_some());
    }

    /// Whether a controller's answer can replace another's: it has a value, or nothing to add.
    pub(in crate::bus) fn is_ready(&self, entry: u64) -> bool {
        // While the directive is being offered, the offer to this controller may be still to come.
        self.resolver_of(entry).map_or(self.offers == 0, |resolver| resolver.idle) || self.has_values(entry)
    }

    /// Whether a controller has a resolver that has not answered yet.
    pub(in crate::bus) fn is_at_work(&self, entry: u64) -> bool {
        self.resolver_of(entry).is_some_and(|resolver| !resolver.idle) && !self.has_values(entry)
    }

    /// Makes a controller whose runs are held back do again what it has done already.
    pub(in crate::bus) fn do_again(&mut self, standing: &Arc<Standing>, controller: u64, effects: &mut Effects) {
        let Some(resolver) = self.resolver(controller) else { return };
        if resolver.lane_ref.handover.is_held(standing) || !resolver.lane_ref.handover.is_holding() {
            return;
        }
        let run = resolver.run_again(effects);
        resolver.lane_ref.handover.pass(standing, &resolver.lane_ref, run);
        self.remove_values_of(controller, effects);
    }

    /// Ends the run of a resolver whose controller ends before its successor is constructed. Its values stay until that has
    /// some; if it has not answered yet, it counts as working until then.
    pub(in crate::bus) fn suspend(&mut self, standing: &Standing, controller: u64, effects: &mut Effects) {
        let Some(resolver) = self.resolver(controller) else { return };
        if resolver.parked || resolver.lane_ref.handover.is_held(standing) {
            return;
        }
        resolver.stop(effects);
        resolver.suspended = true;
        // The removal callbacks belong to the controller, and so are called now.
        let values = self.values.iter_mut().filter(|value| value.resolver == controller);
        effects.call(&mut values.filter_map(|value| value.removed.take()).collect());
    }
}
