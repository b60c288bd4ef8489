//! A directive's values, and the limit of their number.

use super::StandingState;
use super::effects::Effects;
use super::resolvers::Resolver;
use crate::bus::entry::LaneRef;
use crate::bus::origin::Sides;
use crate::bus::sink::Run;
use crate::directive::{AnyValue, Callback, Options, RawEvent, ValueId};

pub(super) struct StandingValue {
    pub(super) id: ValueId,
    pub(super) resolver: u64,
    pub(super) value: AnyValue,
    /// Called when it is gone.
    pub(super) removed: Option<Callback>,
    pub(super) staged: bool,
    /// The side that has answered it.
    pub(super) side: Sides,
}

impl StandingState {
    /// Whether there are enough values, as far as a controller is concerned.
    pub(super) fn is_full(&self, lane_ref: &LaneRef, options: &Options) -> bool {
        options.max_values.is_some_and(|max| self.count_beside(lane_ref) >= max)
    }

    /// The number of values that count towards the cap for a controller. Those of the controllers that it replaces do not
    /// count: they go when it has one, so that there is always one. Nor do those of the fleet for a controller here while
    /// another host asks, which is told none of them.
    fn count_beside(&self, lane_ref: &LaneRef) -> usize {
        let staged = self.holds_back(lane_ref);
        let replaced = lane_ref.handover.replaces();
        let sides = self.counted_for(lane_ref.side);
        let counts = |value: &&StandingValue| {
            value.staged == staged
                && Some(value.resolver) != replaced
                && sides.meets(value.side)
                && !self.goes_for(value.resolver, lane_ref.id)
        };
        self.values.iter().filter(counts).count()
    }

    pub(in crate::bus) fn visible_values(&self) -> usize {
        self.visible_to(Sides::BOTH)
    }

    /// The number of values that whoever is told what these sides answer sees.
    pub(super) fn visible_to(&self, told: Sides) -> usize {
        self.values.iter().filter(|value| !value.staged && told.meets(value.side)).count()
    }

    pub(in crate::bus) fn has_values(&self, entry: u64) -> bool {
        self.values.iter().any(|value| value.resolver == entry)
    }

    pub(in crate::bus) fn add_value(
        &mut self,
        run: Run,
        value: AnyValue,
        removed: Option<Callback>,
        options: &Options,
        effects: &mut Effects,
    ) -> Option<ValueId> {
        let resolver = run.0;
        let Some((side, staged)) = self.may_add(run, options) else {
            let (id, side, staged) = (ValueId(0), Sides::HERE, true);
            effects.values.push(StandingValue { id, resolver, value, removed: None, staged, side });
            if removed.is_some() {
                effects.rare().refused = removed;
            }
            return None;
        };
        if options.hard_cap && !staged {
            self.make_room(side, options, effects);
        }
        let id = ValueId(self.next);
        self.next += 1;
        if !staged {
            self.emit(&RawEvent::Added(id, value.clone()), side, effects);
        }
        self.values.push(StandingValue { id, resolver, value, removed, staged, side });
        self.finish_retired(effects);
        Some(id)
    }

    /// Whether a run may add a value now, and then the side of its controller, and whether its values are held back.
    fn may_add(&mut self, (controller, run): Run, options: &Options) -> Option<(Sides, bool)> {
        let is_of = |resolver: &Resolver| resolver.lane_ref.id == controller && resolver.run == run;
        let at = self.resolvers.iter().position(is_of).filter(|_| !self.ended)?;
        let lane_ref = &self.resolvers[at].lane_ref;
        if options.hard_cap && self.is_full(lane_ref, options) {
            return None;
        }
        // Read under the lock: a swap changes the phase first, and takes this lock for each directive then.
        let may = (lane_ref.side, self.holds_back(lane_ref));
        self.resolvers[at].answered();
        Some(may)
    }

    /// Replaces a value of the same controller, for which there is always room: adds the new value, and then removes the old
    /// one. If the old one is gone already, the new one is only added.
    pub(in crate::bus) fn replace_value(
        &mut self,
        (controller, run): Run,
        old: ValueId,
        value: AnyValue,
        options: &Options,
        effects: &mut Effects,
    ) -> Option<ValueId> {
        let own = self.values.iter().any(|known| known.id == old && known.resolver == controller);
        let has_room = own && self.resolver_in((controller, run)).is_some();
        let free =
            Options { hard_cap: options.hard_cap && !has_room, max_values: options.max_values, ..Options::default() };
        let id = self.add_value((controller, run), value, None, &free, effects);
        if own {
            self.remove_value(controller, old, effects);
        }
        id
    }

    pub(in crate::bus) fn remove_value(&mut self, controller: u64, id: ValueId, effects: &mut Effects) -> bool {
        let Ok(at) = self.values.binary_search_by_key(&id, |value| value.id) else { return false };
        let is_suspended = self.resolver_of(controller).is_some_and(|resolver| resolver.suspended);
        if self.values[at].resolver != controller || is_suspended {
            return false;
        }
        let value = self.values.remove(at);
        if !value.staged {
            self.emit(&RawEvent::Removed(id), value.side, effects);
            self.notice_empty(effects);
        }
        effects.values.push(value);
        true
    }

    pub(super) fn remove_values_of(&mut self, controller: u64, effects: &mut Effects) {
        if !self.has_values(controller) {
            return;
        }
        let (gone, stay) = self.values.drain(..).partition::<Vec<_>, _>(|value| value.resolver == controller);
        self.values.extend(stay);
        for value in &gone {
            if !value.staged {
                self.emit(&RawEvent::Removed(value.id), value.side, effects);
            }
        }
        effects.values.extend(gone);
        self.notice_empty(effects);
    }

    fn notice_empty(&self, effects: &mut Effects) {
        if self.references == 0 && !self.ended && self.visible_values() == 0 {
            effects.rare().empty = true;
        }
    }
}
