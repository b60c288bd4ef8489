//! Where what is asked and answered comes from: this host, another host of a fleet, or another bus of this process.

// What came from the fleet is not told to the fleet: otherwise two hosts that ask each other would be told their own values
// through the other one, and would keep each other's directives for ever. Nor may a bridge between two buses of a process lose
// it. So a resolver is on one of two sides, and a reference is told what the sides of its mask answer:
//
//   reference of                          is told what is answered      the resolvers that run for it
//   this host                             here, and by the fleet        of both sides
//   a controller here, to what it answers here, and by the fleet        of the side here
//   another host of the fleet             here                          of the side here
//   a bridge, for all who ask beyond it   here                          of the side here
//   a bridge, for those on that bus       by the fleet                  of the fleet's side, on this bus
//
// A bridge is two controllers of the bus that it begins at, one on each side: see bridge.rs.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

/// Some of the two sides, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sides(u8);

impl Sides {
    pub(super) const NONE: Self = Self(0);
    /// What this process answers.
    pub(super) const HERE: Self = Self(1);
    /// What other hosts of a fleet answer.
    pub(super) const FLEET: Self = Self(2);
    pub(super) const BOTH: Self = Self(3);
    /// Both, for a controller here that watches what it answers: it is told of both, and asks the fleet for nobody.
    pub(super) const WATCHED: Self = Self(7);

    /// Whether a reference that is told of these has the fleet asked.
    pub(super) fn asks_fleet(self) -> bool {
        self.meets(Self::FLEET) && self != Self::WATCHED
    }

    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[must_use]
    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// For which masks a directive is idle: a set of sets of sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdleFor(u8);

impl IdleFor {
    /// For none.
    pub(super) const NONE: Self = Self(0);
    /// What a reference may be told.
    const MASKS: [Sides; 3] = [Sides::HERE, Sides::FLEET, Sides::BOTH];

    /// For those that have none of these sides, on which somebody is at work.
    pub(super) fn but(busy: Sides) -> Self {
        // By the sides: a bit for each mask that has none of them.
        const WITHOUT: [u8; 4] = [0b1110, 0b0100, 0b0010, 0];
        Self(WITHOUT[usize::from(busy.0)])
    }

    pub(super) fn is(self, mask: Sides) -> bool {
        self.0 >> (mask.0 & Sides::BOTH.0) & 1 != 0
    }

    /// And for each of the masks for which this is so.
    #[must_use]
    pub(super) fn or(self, is_idle: impl Fn(Sides) -> bool) -> Self {
        let more = Self::MASKS.into_iter().filter(|mask| is_idle(*mask));
        Self(more.fold(self.0, |all, mask| all | 1 << mask.0))
    }
}

/// A host of a fleet, by its number in [`HOSTS`]. 0 is no host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct HostNumber(u16);

/// Who a reference or a controller stands for: this host, or another host of a fleet.
///
/// This is for carriers of fleets, which pass directives between hosts: [`Bus::handle_from`](super::Bus::handle_from) adds those of
/// another host, and [`Bus::add_controller_from`](super::Bus::add_controller_from) adds a controller that passes directives on to
/// one. The bus then keeps one promise: what came from the fleet is not told to the fleet.
///
/// ```
/// use controllerbus::bus::Origin;
///
/// let edge = Origin::fleet("edge-7");
/// assert_eq!(edge.to_string(), "fleet host edge-7");
/// assert_eq!(edge, Origin::fleet("edge-7"));
/// assert_ne!(edge, Origin::fleet("edge-8"));
/// assert_eq!(Origin::HERE.host(), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// What a reference of it is told.
    told: Sides,
    /// What a controller of it answers.
    side: Sides,
    host: HostNumber,
    /// What keeps superseding directives apart, which would take turns for ever if they were merged; 0 is this bus.
    key: u64,
}

fn mixed(parts: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

impl Origin {
    /// This host: whoever asks on this bus itself, and what is answered on it.
    pub const HERE: Self = Self { told: Sides::BOTH, side: Sides::HERE, host: HostNumber(0), key: 0 };

    /// Another host of a fleet, by its name.
    pub fn fleet(host: &str) -> Self {
        Self { told: Sides::HERE, side: Sides::FLEET, host: number_of(host), key: mixed(host) }
    }

    /// The same host, for one of the superseding directives that it keeps apart: those of two buses with bridges to it are one
    /// host's to this bus, and would end each other here for ever. `key` is the [`key`](Self::key) that the directive has there.
    #[must_use]
    pub fn keyed(self, key: u64) -> Self {
        Self { key: mixed((self.key, key)), ..self }
    }

    /// What a fleet answers beyond a bridge, and what may be that.
    pub(super) const BEYOND: Self = Self { told: Sides::HERE, side: Sides::FLEET, host: HostNumber(0), key: 0 };

    /// The host of a fleet; none for this host.
    pub fn host(&self) -> Option<Arc<str>> {
        self.host.name()
    }

    /// Whether it is another host of a fleet.
    pub fn is_fleet(&self) -> bool {
        self.side == Sides::FLEET
    }

    /// Whoever asks for a directive that crosses a bridge, as one who is told what these sides answer. `key` keeps apart what
    /// is kept apart where the bridge begins.
    pub(super) fn across(bridge: u64, key: u64, told: Sides) -> Self {
        Self { told, side: Sides::HERE, host: HostNumber(0), key: mixed((bridge, key)) }
    }

    /// Whoever asks for a directive, as a controller that answers it sees that.
    pub(super) fn of_standing(told: Sides, key: u64) -> Self {
        Self { told, side: Sides::HERE, host: HostNumber(0), key }
    }

    pub(super) fn told(self) -> Sides {
        self.told
    }

    pub(super) fn number(self) -> HostNumber {
        self.host
    }

    /// What keeps superseding directives apart on this bus. A carrier finds it in `ValueSink::origin` of what it is to answer, and
    /// passes it on with that.
    pub fn key(self) -> u64 {
        self.key
    }

    /// The side of a controller of this origin.
    pub(super) fn side(self) -> Sides {
        self.side
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host() {
            Some(host) => write!(f, "fleet host {host}"),
            None if self.is_fleet() => f.write_str("a fleet"),
            None => f.write_str("this host"),
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The names of the hosts that this process has heard of, for those who look at it. A number is never given to another one.
#[derive(Default)]
struct Hosts {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u16>,
    is_full: bool,
}

static HOSTS: RwLock<Option<Hosts>> = RwLock::new(None);

/// The number that hosts share once all others are given. These are shown without their names.
const LAST: u16 = u16::MAX;

impl Hosts {
    /// The number of a host, and whether it is the first for which there is none of its own.
    fn number(&mut self, name: &str) -> (HostNumber, bool) {
        if let Some(number) = self.numbers.get(name) {
            return (HostNumber(*number), false);
        }
        let number = u16::try_from(self.names.len() + 1).ok().filter(|number| *number < LAST);
        let Some(number) = number else {
            return (HostNumber(LAST), !std::mem::replace(&mut self.is_full, true));
        };
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        (HostNumber(number), false)
    }
}

fn number_of(name: &str) -> HostNumber {
    let known = HOSTS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = known.as_ref().and_then(|hosts| hosts.numbers.get(name)) {
        return HostNumber(*number);
    }
    drop(known);
    let (number, is_first) = HOSTS.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().number(name);
    if is_first {
        tracing::warn!(
            host = name,
            "this process has heard of {} hosts of fleets; from this one on, new ones are shown as `{TOO_MANY}` until it restarts",
            LAST - 1
        );
    }
    number
}

const TOO_MANY: &str = "one of too many";

impl HostNumber {
    pub(super) fn name(self) -> Option<Arc<str>> {
        match self.0 {
            0 => None,
            LAST => Some(TOO_MANY.into()),
            number => {
                let hosts = HOSTS.read().unwrap_or_else(PoisonError::into_inner);
                hosts.as_ref().and_then(|hosts| hosts.names.get(usize::from(number) - 1)).cloned()
            }
        }
    }

    /// The name for a snapshot.
    pub(super) fn shown(self) -> Option<String> {
        self.name().map(|name| name.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directive_is_idle_for_those_who_are_told_of_no_side_at_work() {
        let masks = |busy| IdleFor::MASKS.map(|mask| IdleFor::but(busy).is(mask));
        assert_eq!(masks(Sides::NONE), [true, true, true]);
        assert_eq!(masks(Sides::HERE), [false, true, false]);
        assert_eq!(masks(Sides::FLEET), [true, false, false]);
        assert_eq!(masks(Sides::BOTH), [false, false, false]);
        let here = IdleFor::NONE.or(|mask| mask == Sides::HERE);
        assert_eq!(IdleFor::MASKS.map(|mask| here.is(mask)), [true, false, false]);
    }

    #[test]
    fn hosts_beyond_the_last_number_share_it_and_that_is_said_once() {
        let mut hosts = Hosts::default();
        for number in 1..LAST {
            assert_eq!(hosts.number(&format!("host-{number}")), (HostNumber(number), false));
        }
        assert_eq!(hosts.number("one more"), (HostNumber(LAST), true));
        assert_eq!(hosts.number("another"), (HostNumber(LAST), false));
        assert_eq!(hosts.number("host-7"), (HostNumber(7), false));
    }

    #[test]
    fn each_host_and_each_way_over_a_bridge_has_a_key_of_its_own() {
        let own = Origin::HERE.key();
        let keys = [
            own,
            Origin::fleet("key-a").key(),
            Origin::fleet("key-b").key(),
            Origin::fleet("key-a").keyed(1).key(),
            Origin::fleet("key-a").keyed(2).key(),
            Origin::across(1, own, Sides::HERE).key(),
            Origin::across(2, own, Sides::HERE).key(),
            Origin::across(1, Origin::fleet("key-a").key(), Sides::HERE).key(),
        ];
        let distinct: std::collections::BTreeSet<u64> = keys.into_iter().collect();
        assert_eq!((own, distinct.len()), (0, keys.len()));
    }
}
