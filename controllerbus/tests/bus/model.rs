//! The bus against a reference model: threads add and release directives, add and withdraw values, add and remove
//! controllers, and make resolvers fail and panic, all at random and at the same time. Some of the requesters and of the
//! controllers stand for other hosts of a fleet. Whenever they pause, every requester must have read exactly the values that
//! stand and are its business, and nothing may stand that nobody refers to.
//!
//! `CONTROLLERBUS_MODEL_SEED` runs one seed again, `CONTROLLERBUS_MODEL_STEPS` takes more steps.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use controllerbus::bus::{Bus, ControllerId, Origin, ResolverState};
use controllerbus::directive::{Slot, ValueId};
use controllerbus::prelude::*;
use futures_core::Stream;

use crate::kit::resolver_from;

const KEYS: usize = 6;
const THREADS: usize = 4;
const ROUNDS: usize = 50;
const STEPS: usize = 500;

/// As many as are asked for, or a hundred thousand.
fn rounds() -> usize {
    let steps = std::env::var("CONTROLLERBUS_MODEL_STEPS").ok().and_then(|steps| steps.parse().ok());
    steps.map_or(ROUNDS, |steps: usize| steps.div_ceil(STEPS * THREADS))
}

const MOST_CONTROLLERS: usize = 5;
const MOST_REQUESTS: usize = 12;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "model/cell", value = u64)]
struct Cell {
    key: usize,
}

/// One value at a time, whoever answers.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "model/capped", value = u64, max_values = 1, hard_cap)]
struct Capped {
    key: usize,
}

/// A run of a resolver that shows one value after the other, in a slot.
struct Shows {
    key: usize,
    of_fleet: bool,
    slot: Mutex<(Slot<u64>, u64)>,
    gone: AtomicUsize,
}

impl Shows {
    fn set(&self, number: u64) {
        let mut slot = self.slot.lock().unwrap();
        slot.0.set(number);
        slot.1 = number;
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst) > 0
    }
}

/// xorshift64*: the same numbers from the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % limit
    }
}

/// One call of a resolver, and the values that the model says it has.
struct Run {
    controller: u64,
    of_fleet: bool,
    key: usize,
    handle: Values<u64>,
    values: Mutex<HashMap<ValueId, u64>>,
    /// How often the bus has said that its values are gone.
    gone: AtomicUsize,
}

struct World {
    bus: Bus,
    handle: tokio::runtime::Handle,
    /// How many strong references each key has.
    strong: [AtomicI64; KEYS],
    /// How many of these are this host's own.
    own: [AtomicI64; KEYS],
    /// Those of the fleet are true.
    controllers: Mutex<BTreeMap<u64, (ControllerId, bool)>>,
    runs: Mutex<Vec<Arc<Run>>>,
    shown: Mutex<Vec<Arc<Shows>>>,
    /// Another host's references to capped directives.
    far: Mutex<[Option<Request<Capped>>; KEYS]>,
    next: AtomicU64,
}

/// Whose a reference or a controller is.
fn origin(of_fleet: bool) -> Origin {
    if of_fleet { Origin::fleet("model-host") } else { Origin::HERE }
}

impl World {
    /// Counts strong references to a key.
    fn count(&self, key: usize, of_fleet: bool, more: i64) {
        self.strong[key].fetch_add(more, Ordering::SeqCst);
        if !of_fleet {
            self.own[key].fetch_add(more, Ordering::SeqCst);
        }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn add_controller(self: &Arc<Self>, of_fleet: bool) {
        let name = self.number();
        let world = Arc::downgrade(self);
        let id = resolver_from::<Cell, _>(&self.bus, origin(of_fleet), move |cell, values| {
            let world = world.upgrade();
            let fate = world.as_ref().map_or(0, |world| world.number());
            if let Some(world) = world {
                let run = Arc::new(Run {
                    controller: name,
                    of_fleet,
                    key: cell.key,
                    handle: values.clone(),
                    values: Mutex::default(),
                    gone: AtomicUsize::new(0),
                });
                let told = Arc::clone(&run);
                values.on_gone(move || {
                    told.gone.fetch_add(1, Ordering::SeqCst);
                });
                run.add(world.number());
                world.runs.lock().unwrap().push(run);
            }
            async move {
                match Dice::new(fate).below(16) {
                    0 => Err(Error::msg("told to fail")),
                    1 => std::panic::resume_unwind(Box::new("told to panic")),
                    2 => {
                        tokio::task::yield_now().await;
                        Err(Error::msg("told to fail later"))
                    }
                    3..8 => std::future::pending().await,
                    _ => Ok(()),
                }
            }
        });
        self.controllers.lock().unwrap().insert(name, (id, of_fleet));
    }

    /// A controller that answers capped directives; it stays.
    fn add_capped_controller(self: &Arc<Self>, of_fleet: bool) {
        let world = Arc::downgrade(self);
        resolver_from::<Capped, _>(&self.bus, origin(of_fleet), move |capped, values| {
            if let Some(world) = world.upgrade() {
                let slot = Mutex::new((values.slot(), 0));
                let shows = Arc::new(Shows { key: capped.key, of_fleet, slot, gone: AtomicUsize::new(0) });
                let told = Arc::clone(&shows);
                values.on_gone(move || {
                    told.gone.fetch_add(1, Ordering::SeqCst);
                });
                shows.set(world.number());
                world.shown.lock().unwrap().push(shows);
            }
            std::future::pending()
        });
    }

    /// What is wrong with capped directives now, if anything.
    fn capped_difference(&self, requests: &[Request<Capped>]) -> Option<String> {
        let shown = self.shown.lock().unwrap();
        let mut far = self.far.lock().unwrap();
        for (key, request) in requests.iter().enumerate() {
            let stands: Vec<u64> = request.standing().map(|value| **value).collect();
            let live: Vec<_> = shown.iter().filter(|shows| shows.key == key && !shows.is_gone()).collect();
            let values: Vec<u64> = live.iter().map(|shows| shows.slot.lock().unwrap().1).collect();
            if stands.len() != 1 || stands != values {
                return Some(format!("of capped key {key} {stands:?} is read, and {values:?} is shown"));
            }
            if let Some(far) = &mut far[key] {
                drain(far);
                let told: Vec<u64> = far.standing().map(|value| **value).collect();
                if told != stands || live[0].of_fleet {
                    return Some(format!("of capped key {key} {stands:?} is read, and {told:?} by another host"));
                }
            }
        }
        None
    }

    /// Another host begins to ask for a capped directive, or asks no more.
    fn turn_far(&self, key: usize) {
        let mut far = self.far.lock().unwrap();
        far[key] = match far[key].take() {
            Some(_) => None,
            None => Some(self.bus.handle_from(origin(true)).request(Capped { key }).expect("the bus is open")),
        };
    }

    fn some_shown(&self, dice: &mut Dice) -> Option<Arc<Shows>> {
        let shown = self.shown.lock().unwrap();
        let latest = shown.len().min(16);
        (latest > 0).then(|| Arc::clone(&shown[shown.len() - 1 - dice.below(latest)]))
    }

    fn remove_controller(&self, dice: &mut Dice) {
        let removed = {
            let mut controllers = self.controllers.lock().unwrap();
            let at = dice.below(controllers.len().max(1));
            let name = controllers.keys().nth(at).copied();
            name.and_then(|name| controllers.remove(&name))
        };
        if let Some((id, _)) = removed {
            assert!(self.handle.block_on(self.bus.remove_controller(id)), "a controller is removed once");
        }
    }

    fn some_run(&self, dice: &mut Dice) -> Option<Arc<Run>> {
        let runs = self.runs.lock().unwrap();
        // The latest ones are the most likely to live.
        let latest = runs.len().min(64);
        (latest > 0).then(|| Arc::clone(&runs[runs.len() - 1 - dice.below(latest)]))
    }
}

impl Run {
    fn add(&self, number: u64) {
        let mut values = self.values.lock().unwrap();
        if let Some(id) = self.handle.add(number) {
            assert!(values.insert(id, number).is_none(), "the id of a value is given once");
        }
    }

    fn remove(&self, dice: &mut Dice) {
        let mut values = self.values.lock().unwrap();
        let at = dice.below(values.len().max(1));
        if let Some(id) = values.keys().nth(at).copied() {
            values.remove(&id);
            self.handle.remove(id);
            assert!(!self.handle.remove(id), "a value is withdrawn once");
        }
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst) > 0
    }
}

/// A reference, and what it has read.
struct Reader {
    request: Request<Cell>,
    key: usize,
    of_fleet: bool,
    strong: bool,
    standing: HashMap<ValueId, u64>,
    ever: HashSet<ValueId>,
    idle: bool,
    ended: bool,
}

impl Reader {
    fn new(request: Request<Cell>, (key, of_fleet): (usize, bool), strong: bool) -> Self {
        let (standing, ever) = Default::default();
        Self { request, key, of_fleet, strong, standing, ever, idle: false, ended: false }
    }

    /// Reads all there is. Each event must make sense after those before it.
    fn read(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(event) = std::pin::Pin::new(&mut self.request).poll_next(&mut context) {
            match event {
                Some(Event::Added(id, value)) => {
                    assert!(self.ever.insert(id), "value {id:?} is told twice");
                    self.standing.insert(id, *value);
                }
                Some(Event::Removed(id)) => {
                    assert!(self.standing.remove(&id).is_some(), "{id:?} goes that has not come");
                }
                Some(Event::Idle) => {
                    assert!(!self.idle, "idle is told twice");
                    self.idle = true;
                }
                Some(Event::Busy) => {
                    assert!(self.idle, "busy is told twice");
                    self.idle = false;
                }
                Some(_) => {}
                None => {
                    assert!(!self.strong, "a directive ends that somebody refers to");
                    self.ended = true;
                    return;
                }
            }
        }
    }
}

fn steps(world: &Arc<World>, readers: &mut Vec<Reader>, dice: &mut Dice) {
    for _ in 0..STEPS {
        match dice.below(20) {
            0..6 if readers.len() < MOST_REQUESTS => {
                let (key, of_fleet) = (dice.below(KEYS), dice.below(2) == 0);
                world.count(key, of_fleet, 1);
                let request = world.bus.handle_from(origin(of_fleet)).request(Cell { key }).expect("the bus is open");
                readers.push(Reader::new(request, (key, of_fleet), true));
            }
            6..11 if !readers.is_empty() => {
                let at = dice.below(readers.len());
                let reader = readers.swap_remove(at);
                let (key, of_fleet, strong) = (reader.key, reader.of_fleet, reader.strong);
                drop(reader);
                if strong {
                    world.count(key, of_fleet, -1);
                }
            }
            11 if !readers.is_empty() && readers.len() < MOST_REQUESTS => {
                let of = &readers[dice.below(readers.len())];
                let (key, of_fleet, strong) = (of.key, of.of_fleet, dice.below(2) == 0);
                let made = if strong { of.request.strong() } else { of.request.weak() };
                match made {
                    Ok(request) => {
                        if strong {
                            world.count(key, of_fleet, 1);
                        }
                        readers.push(Reader::new(request, (key, of_fleet), strong));
                    }
                    Err(_) => assert!(!of.strong, "what a strong reference keeps can be referred to again"),
                }
            }
            12..14 => {
                if let Some(run) = world.some_run(dice) {
                    run.add(world.number());
                }
            }
            14..16 => {
                if let Some(run) = world.some_run(dice) {
                    run.remove(dice);
                }
            }
            16 => {
                if let Some(run) = world.some_run(dice) {
                    if dice.below(2) == 0 { run.handle.idle() } else { run.handle.busy() }
                }
            }
            18 => match world.some_shown(dice) {
                Some(shows) if dice.below(8) > 0 => shows.set(world.number()),
                // It shows nothing for a moment, in which another one may come.
                Some(shows) => shows.slot.lock().unwrap().0.clear(),
                None => {}
            },
            17 if dice.below(4) == 0 => {
                if world.controllers.lock().unwrap().len() < MOST_CONTROLLERS {
                    world.add_controller(dice.below(2) == 0);
                } else {
                    world.remove_controller(dice);
                }
            }
            19 if dice.below(8) == 0 => world.turn_far(dice.below(KEYS)),
            _ if !readers.is_empty() => {
                let at = dice.below(readers.len());
                readers[at].read();
            }
            _ => {}
        }
    }
}

/// What is wrong now, if anything.
fn difference(world: &World, readers: &mut [Vec<Reader>]) -> Option<String> {
    let controllers = world.controllers.lock().unwrap().clone();
    let runs = world.runs.lock().unwrap().clone();
    let mut directives = world.bus.directives();
    directives.retain(|found| found.id == Cell::ID);
    let stands = |key: usize| world.strong[key].load(Ordering::SeqCst) > 0;
    // The controllers that are asked for a key: those of the fleet only while somebody here asks.
    let alive = |key: usize| -> BTreeSet<u64> {
        let own = world.own[key].load(Ordering::SeqCst) > 0;
        let asked = controllers.iter().filter(|(_, (_, of_fleet))| own || !of_fleet);
        asked.map(|(name, _)| *name).collect()
    };
    // Whether a resolver is at work, by key, on this host and in the fleet.
    let mut busy = [[false; 2]; KEYS];
    let standing = (0..KEYS).filter(|key| stands(*key)).count();
    if directives.len() != standing {
        return Some(format!("{} directives stand, {standing} are referred to", directives.len()));
    }
    for directive in &directives {
        let key: usize = directive.debug[0].1.parse().expect("a number");
        let strong = world.strong[key].load(Ordering::SeqCst);
        if directive.references as i64 != strong {
            return Some(format!("key {key} has {} references, not {strong}", directive.references));
        }
        let alive = alive(key);
        if directive.resolvers.len() != alive.len() {
            let count = directive.resolvers.len();
            return Some(format!("key {key} is resolved by {count} controllers, not {}", alive.len()));
        }
        for resolver in &directive.resolvers {
            busy[key][usize::from(resolver.host.is_some())] |= resolver.state == ResolverState::Working;
        }
        let failed = |state: &ResolverState| matches!(state, ResolverState::Failed { .. });
        let failures = directive.resolvers.iter().filter(|resolver| failed(&resolver.state)).count();
        let live = runs.iter().filter(|run| run.key == key && !run.is_gone()).count();
        if live + failures != alive.len() {
            return Some(format!("key {key} has {live} live resolvers and {failures} failed of {}", alive.len()));
        }
    }
    for run in runs.iter().filter(|run| !run.is_gone()) {
        if !stands(run.key) || !alive(run.key).contains(&run.controller) {
            return Some(format!("a resolver of key {} lives on that has nothing to live for", run.key));
        }
    }
    for reader in readers.iter_mut().flatten() {
        reader.read();
        if reader.ended {
            // A weak one of a directive that is no more, whether or not an equal one stands now.
            continue;
        }
        if !stands(reader.key) {
            return Some(format!("a weak reference to key {} has read no end", reader.key));
        }
        let is_told = |run: &&Arc<Run>| run.key == reader.key && !(reader.of_fleet && run.of_fleet) && !run.is_gone();
        let of_key = runs.iter().filter(is_told);
        let expected: BTreeSet<u64> = of_key.flat_map(|run| run.values.lock().unwrap().clone().into_values()).collect();
        let read: BTreeSet<u64> = reader.standing.values().copied().collect();
        if read != expected {
            return Some(format!("of key {} was read {read:?}, and there is {expected:?}", reader.key));
        }
        let [here, fleet] = busy[reader.key];
        if reader.idle == (here || (fleet && !reader.of_fleet)) {
            return Some(format!("of key {} was read that it is idle: {}", reader.key, reader.idle));
        }
    }
    None
}

/// Failed resolvers are tried again meanwhile, so it may take a moment until all is at rest.
fn check(world: &World, readers: &mut [Vec<Reader>], when: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Some(difference) = difference(world, readers) {
        assert!(Instant::now() < deadline, "{when}: {difference}");
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut runs = world.runs.lock().unwrap();
    for run in runs.iter() {
        let told = run.gone.load(Ordering::SeqCst);
        assert!(told <= 1, "{when}: the end of a resolver is told {told} times");
    }
    runs.retain(|run| !run.is_gone());
}

fn drain(request: &mut Request<Capped>) {
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(_)) = std::pin::Pin::new(&mut *request).poll_next(&mut context) {}
}

fn check_capped(world: &World, requests: &mut [Request<Capped>], when: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        requests.iter_mut().for_each(drain);
        let Some(difference) = world.capped_difference(requests) else { break };
        assert!(Instant::now() < deadline, "{when}: {difference}");
        std::thread::sleep(Duration::from_millis(2));
    }
    world.shown.lock().unwrap().retain(|shows| !shows.is_gone());
}

fn run(seed: u64) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime");
    let _inside = runtime.enter();
    let world = Arc::new(World {
        bus: Bus::new(),
        handle: runtime.handle().clone(),
        strong: Default::default(),
        own: Default::default(),
        controllers: Mutex::default(),
        runs: Mutex::default(),
        shown: Mutex::default(),
        far: Mutex::default(),
        next: AtomicU64::new(seed << 32),
    });
    world.add_controller(false);
    world.add_controller(true);
    (0..6).for_each(|number| world.add_capped_controller(number % 2 == 1));
    let mut capped: Vec<_> = (0..KEYS).map(|key| world.bus.request(Capped { key }).expect("the bus is open")).collect();
    let mut readers: Vec<Vec<Reader>> = (0..THREADS).map(|_| Vec::new()).collect();
    for round in 0..rounds() {
        std::thread::scope(|scope| {
            for (thread, readers) in readers.iter_mut().enumerate() {
                let world = &world;
                scope.spawn(move || {
                    let _inside = world.handle.enter();
                    let mut dice = Dice::new(seed.wrapping_mul(1_000_003) + (round * THREADS + thread) as u64);
                    steps(world, readers, &mut dice);
                });
            }
        });
        check(&world, &mut readers, &format!("seed {seed}, round {round}"));
        check_capped(&world, &mut capped, &format!("seed {seed}, round {round}"));
    }
    drop(capped);
    *world.far.lock().unwrap() = Default::default();
    for key in world.strong.iter().chain(&world.own) {
        key.store(0, Ordering::SeqCst);
    }
    readers.iter_mut().for_each(Vec::clear);
    check(&world, &mut readers, &format!("seed {seed}, the end"));
    assert!(world.runs.lock().unwrap().is_empty());
    runtime.block_on(world.bus.close());
    assert!(world.bus.controllers().is_empty());
}

/// The seed that is asked for, or another one each time.
pub fn seed() -> u64 {
    let given = std::env::var("CONTROLLERBUS_MODEL_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(1, |since| u64::from(since.subsec_nanos()))
    })
}

#[test]
fn nothing_is_lost_told_twice_or_left_over_in_100_000_steps_of_four_threads() {
    let seed = seed();
    println!("seed {seed}");
    run(seed);
}
