//! What differs by side: which resolvers run, what counts towards a cap, and for whom the directive is idle.

use super::StandingState;
use super::effects::Effects;
use super::subscribers::Subscriber;
use super::values::StandingValue;
use crate::bus::origin::{IdleFor, Sides};
use crate::directive::{Options, RawEvent};

/// What a new reference has changed for resolvers; done after the lock.
pub(in crate::bus) struct Turn {
    pub(in crate::bus) effects: Effects,
    /// Whether the directive is now to be offered to the controllers of the fleet's side.
    pub(in crate::bus) asks_fleet: bool,
}

impl StandingState {
    /// Whether the controllers of a side are asked.
    pub(super) fn asks(&self, side: Sides) -> bool {
        side != Sides::FLEET || self.asks_fleet
    }

    /// What whoever asks now wants to be told.
    pub(in crate::bus) fn asked_of(&self) -> Sides {
        if self.asks_fleet { Sides::BOTH } else { Sides::HERE }
    }

    /// Counts a strong reference that has come; whether resolvers may have to change.
    pub(super) fn joins(&mut self, told: Sides) -> bool {
        if told.asks_fleet() {
            return !self.asks_fleet;
        }
        self.narrow += 1;
        self.asks_fleet && (self.narrow == 1 || self.other_hosts().take(2).count() == 1)
    }

    /// Counts a strong reference that has gone; whether resolvers may have to change. While nobody refers to the directive, it
    /// is kept as it is.
    pub(super) fn leaves(&mut self, told: Sides) -> bool {
        if told.asks_fleet() {
            return self.narrow > 0 && self.references == self.narrow as usize;
        }
        self.narrow -= 1;
        self.references > 0 && (self.narrow == 0 || self.other_hosts().next().is_none())
    }

    /// The strong references that are told nothing of what the fleet answers.
    fn other_hosts(&self) -> impl Iterator<Item = &Subscriber> {
        let is_other = |subscriber: &&Subscriber| subscriber.strong && !subscriber.told.meets(Sides::FLEET);
        self.subscribers.iter().filter(is_other)
    }

    /// A reference has come that changes who answers.
    #[cold]
    pub(super) fn turn(&mut self, options: &Options) -> Box<Turn> {
        let mut effects = Effects::default();
        let asks_fleet = self.turn_into(options, &mut effects);
        Box::new(Turn { effects, asks_fleet })
    }

    /// Takes the fleet's resolvers away if nobody here asks any more; returns whether they are to be offered the directive,
    /// because somebody does.
    #[cold]
    pub(super) fn turn_into(&mut self, options: &Options, effects: &mut Effects) -> bool {
        let asks_here = self.references > self.narrow as usize;
        let begins = asks_here && !self.asks_fleet;
        if begins {
            self.asks_fleet = true;
            self.fleet_offers += 1;
        } else if !asks_here && self.references > 0 && self.asks_fleet {
            self.asks_fleet = false;
            self.remove_fleet(effects);
        }
        self.settle(options, effects);
        begins
    }

    fn remove_fleet(&mut self, effects: &mut Effects) {
        while let Some(at) = self.resolvers.iter().position(|resolver| resolver.lane_ref.side == Sides::FLEET) {
            let resolver = self.resolvers.remove(at);
            let controller = resolver.lane_ref.id;
            // What a handle of it says is ignored also when its controller is asked again.
            self.next = self.next.max(u64::from(resolver.run) + 1);
            effects.resolvers.push(resolver);
            self.remove_values_of(controller, effects);
        }
        self.finish_retired(effects);
    }

    /// The number of a resolver's first run. A controller of the fleet's side may have had one before.
    pub(super) fn first_run(&mut self, side: Sides) -> u32 {
        if side != Sides::FLEET {
            return 0;
        }
        self.next += 1;
        (self.next - 1) as u32
    }

    /// Notes that the directive has been offered to the controllers of the fleet's side.
    pub(in crate::bus) fn offered_to_fleet(&mut self, effects: &mut Effects) {
        self.fleet_offers -= 1;
        self.finish_retired(effects);
    }

    /// Whose values count towards the cap for a controller of a side.
    pub(super) fn counted_for(&self, side: Sides) -> Sides {
        let is_narrow = side == Sides::HERE && self.narrow > 0 && self.other_hosts().next().is_some();
        if is_narrow { Sides::HERE } else { Sides::BOTH }
    }

    /// Before a value of a controller here is added under a hard cap: if values of the fleet, which did not count, leave no room
    /// for it, they go. Their resolvers wait until there is room again.
    pub(super) fn make_room(&mut self, side: Sides, options: &Options, effects: &mut Effects) {
        let Some(max) = options.max_values else { return };
        if self.counted_for(side) != Sides::HERE {
            return;
        }
        while self.visible_values() >= max {
            let of_fleet = |value: &&StandingValue| value.side == Sides::FLEET;
            let Some(controller) = self.values.iter().rfind(of_fleet).map(|value| value.resolver) else { return };
            // It begins again at once if some of them fit beside this one.
            if let Some(resolver) = self.resolver(controller) {
                resolver.park(effects);
            }
            self.remove_values_of(controller, effects);
        }
    }

    /// For whom the directive is idle: nobody is at work whom they would hear of, or they see as many values as are wanted.
    pub(super) fn idle_now(&self, options: &Options) -> IdleFor {
        if self.offers > 0 {
            return IdleFor::NONE;
        }
        let mut busy = if self.fleet_offers > 0 { Sides::FLEET } else { Sides::NONE };
        for resolver in &self.resolvers {
            if !resolver.idle && !self.holds_back(&resolver.lane_ref) {
                busy = busy.and(resolver.lane_ref.side);
            }
        }
        let idle = IdleFor::but(busy);
        match options.max_values {
            Some(max) if busy != Sides::NONE => {
                let is_offered = |told: Sides| self.fleet_offers == 0 || !told.meets(Sides::FLEET);
                idle.or(|told| is_offered(told) && self.visible_to(told) >= max)
            }
            _ => idle,
        }
    }

    /// Tells those for whom the directive has become idle or busy.
    pub(super) fn tell_idle(&mut self, idle: IdleFor, effects: &mut Effects) {
        let before = std::mem::replace(&mut self.idle, idle);
        for subscriber in &mut self.subscribers {
            let is_idle = idle.is(subscriber.told);
            if is_idle != before.is(subscriber.told) {
                let event = if is_idle { RawEvent::Idle } else { RawEvent::Busy };
                effects.wakers.extend(subscriber.tell(event));
            }
        }
    }
}
