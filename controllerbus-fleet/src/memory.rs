//! A carrier within one process, for tests: it loses, repeats, reorders, delays, cuts and heals, as a seed says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::carrier::{Carrier, Guard, Lane, Peer, Presence, Seen, Which};

type Told = Arc<dyn Fn(Seen) + Send + Sync>;
type Into = Arc<dyn Fn(Peer, Lane, Bytes) + Send + Sync>;

/// What goes wrong with frames, and how often: in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A frame is lost.
    pub lost: u32,
    /// It arrives twice.
    pub repeated: u32,
    /// It arrives after later ones.
    pub reordered: u32,
    /// The longest that a frame takes.
    pub delay: Duration,
}

/// A network within this process.
#[derive(Clone)]
pub struct Network(Arc<Net>);

struct Net {
    state: Mutex<State>,
    nudge: Notify,
}

struct State {
    dice: Dice,
    faults: Faults,
    lease: Duration,
    hosts: BTreeMap<Peer, Attached>,
    /// From which host to which one nothing arrives.
    cuts: BTreeSet<(Arc<str>, Arc<str>)>,
    /// What is to happen, in order.
    due: BTreeMap<(Instant, u64), Due>,
    /// When the last frame from one host to another one arrives.
    last: BTreeMap<(Peer, Peer), Instant>,
    next: u64,
    runs: bool,
}

/// One incarnation of a host.
#[derive(Default)]
struct Attached {
    into: Option<Into>,
    /// What it says of itself, each with the number of its announcement.
    says: BTreeMap<u64, Presence>,
    watches: BTreeMap<u64, Watch>,
}

struct Watch {
    which: Which,
    told: Told,
    /// What it has been told to be there.
    seen: BTreeSet<Presence>,
}

enum Due {
    Frame {
        from: Peer,
        to: Peer,
        lane: Lane,
        frame: Bytes,
    },
    /// Tells what has changed for all watches of a host about another one.
    Look {
        at: Peer,
        by: Peer,
    },
    /// A watch has been told what there was.
    All {
        by: Peer,
        watch: u64,
    },
}

/// xorshift64*: the same numbers from the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit.max(1)
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("hosts", &self.0.lock().hosts.len()).finish_non_exhaustive()
    }
}

impl Network {
    /// A network without faults, whose chances are those of a seed.
    pub fn new(seed: u64) -> Self {
        let state = State {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            faults: Faults::default(),
            lease: Duration::from_secs(3),
            hosts: BTreeMap::new(),
            cuts: BTreeSet::new(),
            due: BTreeMap::new(),
            last: BTreeMap::new(),
            next: 1,
            runs: false,
        };
        Self(Arc::new(Net { state: Mutex::new(state), nudge: Notify::new() }))
    }

    /// A carrier for a new incarnation of a host. Call it inside a tokio runtime.
    pub fn host(&self, name: &str) -> Arc<Memory> {
        let (own, begins) = {
            let mut state = self.0.lock();
            let own = Peer { host: name.into(), epoch: state.number() };
            state.hosts.insert(own.clone(), Attached::default());
            (own, !std::mem::replace(&mut state.runs, true))
        };
        if begins {
            drop(tokio::spawn(run(Arc::downgrade(&self.0))));
        }
        Arc::new(Memory { net: Arc::clone(&self.0), own })
    }

    /// From now on this goes wrong with frames.
    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// How long a host that is cut off is believed to be there; 3 seconds unless set.
    pub fn set_lease(&self, lease: Duration) {
        self.0.lock().lease = lease;
    }

    /// From now on nothing of one host arrives at another one.
    pub fn cut(&self, from: &str, to: &str) {
        self.change(|state| {
            state.cuts.insert((from.into(), to.into()));
            let lease = state.lease;
            state.look_between(from, to, lease);
        });
    }

    /// Neither of two hosts hears the other one any more.
    pub fn part(&self, one: &str, other: &str) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// What is sent from one host to another one arrives again.
    pub fn heal(&self, from: &str, to: &str) {
        self.change(|state| {
            state.cuts.remove(&(Arc::from(from), Arc::from(to)));
            state.look_between(from, to, Duration::ZERO);
        });
    }

    /// Everything arrives again.
    pub fn heal_all(&self) {
        let cuts = std::mem::take(&mut self.0.lock().cuts);
        self.change(|state| cuts.iter().for_each(|(from, to)| state.look_between(from, to, Duration::ZERO)));
    }

    /// A host's process dies: the others hear of it at once, or when its lease is over.
    pub fn crash(&self, host: &Peer, is_heard: bool) {
        // What it was to be told by is dropped after the lock.
        let _crashed = self.change(|state| {
            let after = if is_heard { Duration::ZERO } else { state.lease };
            let crashed = state.hosts.remove(host);
            state.look_at(host, after);
            crashed
        });
    }

    /// How many frames are on their way.
    pub fn on_the_way(&self) -> usize {
        self.0.lock().due.len()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.0.change(change)
    }
}

impl Net {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.nudge.notify_one();
        changed
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn happens(&mut self, at: Instant, what: Due) {
        let number = self.number();
        self.due.insert((at, number), what);
    }

    fn is_cut(&self, from: &Peer, to: &Peer) -> bool {
        self.cuts.contains(&(Arc::clone(&from.host), Arc::clone(&to.host)))
    }

    /// All other hosts look at one after a while.
    fn look_at(&mut self, at: &Peer, after: Duration) {
        let all: Vec<Peer> = self.hosts.keys().cloned().collect();
        all.into_iter().for_each(|by| self.look(at.clone(), by, after));
    }

    fn look(&mut self, at: Peer, by: Peer, after: Duration) {
        let delay = self.delay();
        self.happens(Instant::now() + after + delay, Due::Look { at, by });
    }

    /// All incarnations of a host are looked at by those of another one.
    fn look_between(&mut self, at: &str, by: &str, after: Duration) {
        let known = self.hosts.values().flat_map(|host| host.watches.values().flat_map(|watch| &watch.seen));
        let seen = known.map(|presence| presence.peer().clone());
        let of: BTreeSet<Peer> = seen.chain(self.hosts.keys().cloned()).filter(|peer| &*peer.host == at).collect();
        let by: Vec<Peer> = self.hosts.keys().filter(|peer| &*peer.host == by).cloned().collect();
        for at in &of {
            by.iter().for_each(|by| self.look(at.clone(), by.clone(), after));
        }
    }

    fn delay(&mut self) -> Duration {
        let most = self.faults.delay.as_micros() as u64;
        Duration::from_micros(self.dice.below(most + 1))
    }

    fn send(&mut self, from: &Peer, to: &Peer, lane: &Lane, frame: &Bytes) {
        let faults = self.faults;
        let happens = |dice: &mut Dice, often: u32| dice.below(1000) < u64::from(often);
        if happens(&mut self.dice, faults.lost) {
            return;
        }
        let times = if happens(&mut self.dice, faults.repeated) { 2 } else { 1 };
        for _ in 0..times {
            let mut at = Instant::now() + self.delay();
            if happens(&mut self.dice, faults.reordered) {
                at += faults.delay;
            } else {
                let last = self.last.entry((from.clone(), to.clone())).or_insert(at);
                at = at.max(*last);
                *last = at;
            }
            let due = Due::Frame { from: from.clone(), to: to.clone(), lane: lane.clone(), frame: frame.clone() };
            self.happens(at, due);
        }
    }

    /// What is to be done for something that is due, without the lock.
    fn carry_out(&mut self, due: Due) -> Vec<Box<dyn FnOnce() + Send>> {
        match due {
            Due::Frame { from, to, lane, frame } => {
                let into =
                    if self.is_cut(&from, &to) { None } else { self.hosts.get(&to).and_then(|host| host.into.clone()) };
                into.map(|into| -> Box<dyn FnOnce() + Send> { Box::new(move || into(from, lane, frame)) })
                    .into_iter()
                    .collect()
            }
            Due::Look { at, by } => self.compare(&at, &by),
            Due::All { by, watch } => {
                let watch = self.hosts.get_mut(&by).and_then(|host| host.watches.get_mut(&watch));
                let told = watch.map(|watch| Arc::clone(&watch.told));
                told.map(|told| -> Box<dyn FnOnce() + Send> { Box::new(move || told(Seen::All)) }).into_iter().collect()
            }
        }
    }

    /// Tells the watches of a host what has changed about another one.
    fn compare(&mut self, at: &Peer, by: &Peer) -> Vec<Box<dyn FnOnce() + Send>> {
        let is_cut = self.is_cut(at, by) && at != by;
        let says: BTreeSet<Presence> = self
            .hosts
            .get(at)
            .filter(|_| !is_cut)
            .map(|host| host.says.values().cloned().collect())
            .unwrap_or_default();
        let Some(host) = self.hosts.get_mut(by) else { return Vec::new() };
        let mut all: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
        for watch in host.watches.values_mut() {
            let now: BTreeSet<Presence> =
                says.iter().filter(|presence| watch.which.is_for(presence)).cloned().collect();
            let before: BTreeSet<Presence> = watch.seen.iter().filter(|seen| seen.peer() == at).cloned().collect();
            for gone in before.difference(&now) {
                watch.seen.remove(gone);
                let (told, gone) = (Arc::clone(&watch.told), gone.clone());
                all.push(Box::new(move || told(Seen::Absent(gone))));
            }
            for come in now.difference(&before) {
                watch.seen.insert(come.clone());
                let (told, come) = (Arc::clone(&watch.told), come.clone());
                all.push(Box::new(move || told(Seen::Present(come))));
            }
        }
        all
    }
}

/// Does what is due, in order, until the network is dropped.
async fn run(net: Weak<Net>) {
    loop {
        let Some(net) = net.upgrade() else { return };
        let now = Instant::now();
        let (work, next) = {
            let mut state = net.lock();
            match state.due.first_key_value().map(|((at, _), _)| *at) {
                Some(at) if at <= now => {
                    let due = state.due.pop_first().map(|(_, due)| due);
                    (due.map(|due| state.carry_out(due)).unwrap_or_default(), Some(now))
                }
                next => (Vec::new(), next),
            }
        };
        work.into_iter().for_each(|work| work());
        if next == Some(now) {
            continue;
        }
        let nudged = net.nudge.notified();
        // A network that nobody has any more is noticed after a while.
        let until = next.unwrap_or(now + Duration::from_secs(60));
        let _ = tokio::time::timeout_at(until, nudged).await;
    }
}

/// One incarnation of a host on a [`Network`].
pub struct Memory {
    net: Arc<Net>,
    own: Peer,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("own", &self.own).finish_non_exhaustive()
    }
}

/// Undoes something when it is dropped.
struct Undo<T, F: FnMut(&mut State) -> T>(Arc<Net>, F);

impl<T, F: FnMut(&mut State) -> T> Drop for Undo<T, F> {
    fn drop(&mut self) {
        let Self(net, undo) = self;
        // Dropped after the lock.
        let _undone = net.change(|state| undo(state));
    }
}

impl Memory {
    fn attached<'a>(&self, state: &'a mut State) -> Result<&'a mut Attached> {
        let gone = || Error::new(ErrorKind::Closed, format!("host {} has crashed", self.own));
        state.hosts.get_mut(&self.own).ok_or_else(gone)
    }
}

impl Carrier for Memory {
    fn own(&self) -> Peer {
        self.own.clone()
    }

    fn announce(&self, what: Presence) -> Result<Guard> {
        let number = self.net.change(|state| {
            let number = state.number();
            self.attached(state)?.says.insert(number, what);
            state.look_at(&self.own, Duration::ZERO);
            Ok::<_, Error>(number)
        })?;
        let own = self.own.clone();
        Ok(Box::new(Undo(Arc::clone(&self.net), move |state: &mut State| {
            let said = state.hosts.get_mut(&own).and_then(|host| host.says.remove(&number));
            if said.is_some() {
                state.look_at(&own, Duration::ZERO);
            }
        })))
    }

    fn watch(&self, which: Which, told: Told) -> Result<Guard> {
        let number = self.net.change(|state| {
            let number = state.number();
            self.attached(state)?.watches.insert(number, Watch { which, told, seen: BTreeSet::new() });
            let all: Vec<Peer> = state.hosts.keys().cloned().collect();
            all.into_iter().for_each(|at| state.look(at, self.own.clone(), Duration::ZERO));
            let at = Instant::now() + state.faults.delay;
            state.happens(at, Due::All { by: self.own.clone(), watch: number });
            Ok::<_, Error>(number)
        })?;
        let own = self.own.clone();
        Ok(Box::new(Undo(Arc::clone(&self.net), move |state: &mut State| {
            state.hosts.get_mut(&own).and_then(|host| host.watches.remove(&number))
        })))
    }

    fn send(&self, to: &Peer, lane: &Lane, frame: Bytes) -> Result<()> {
        self.net.change(|state| {
            self.attached(state)?;
            state.send(&self.own, to, lane, &frame);
            Ok(())
        })
    }

    fn receive(&self, into: Into) -> Result<Guard> {
        self.net.change(|state| {
            self.attached(state)?.into = Some(into);
            Ok::<_, Error>(())
        })?;
        let own = self.own.clone();
        Ok(Box::new(Undo(Arc::clone(&self.net), move |state: &mut State| {
            state.hosts.get_mut(&own).and_then(|host| host.into.take())
        })))
    }

    fn may_block(&self) -> bool {
        false
    }
}
