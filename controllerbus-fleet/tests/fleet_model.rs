//! Fleets against a reference model: hosts ask, release, answer, add, remove and swap controllers, crash, are cut off, healed, and
//! restarted at random, while frames are lost, repeated, late and out of order. Whenever it is quiet, every requester must have been told
//! exactly what stands on the hosts in reach, each value once; nothing may be asked that nobody wants; and nothing goes on by itself.
//!
//! `FLEET_MODEL_SEED` runs one seed again, `FLEET_MODEL_STEPS` takes more steps. The clock is paused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::{ControllerId, Source};
use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Closures, Info};
use controllerbus::directive::{Supersede, ValueId};
use controllerbus::prelude::*;
use controllerbus_fleet::memory::{Faults, Network};
use controllerbus_fleet::{Fleet, FleetOptions};

const STEPS: usize = 6_000;
/// Steps of one world, and between two looks at it.
const WORLD: usize = 600;
const LOOK: usize = 60;
const KEYS: u64 = 4;
const MOST_REQUESTS: usize = 14;
const MOST_CONTROLLERS: usize = 3;

/// Asked of all hosts.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "model/cell", value = u64)]
struct Cell {
    key: u64,
}

/// Asked of one host.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "model/one", value = u64)]
struct One {
    key: u64,
}

/// The newest one of a host stands.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "model/plan", value = u64, key = key, supersede = Plan::supersede)]
struct Plan {
    key: u64,
    number: u64,
}

impl Plan {
    fn supersede(&self) -> Supersede {
        Supersede::Always
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Cell(u64),
    One(u64),
    Plan(u64, u64),
}

/// xorshift64*: the same numbers from the same seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
    fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }
}

/// One run of a resolver, and the values that it has added.
struct Run {
    host: usize,
    asked: Asked,
    handle: Values<u64>,
    values: Mutex<BTreeMap<ValueId, u64>>,
    gone: AtomicBool,
}

impl Run {
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    fn add(&self, number: u64) {
        if let Some(id) = self.handle.add(number) {
            self.values.lock().unwrap().insert(id, number);
        }
    }
}

/// What the resolvers of all hosts share with the world.
#[derive(Default)]
struct Runs {
    all: Mutex<Vec<Arc<Run>>>,
    next: AtomicU64,
    begun: AtomicU64,
    /// The generations that have taken over from another one.
    swapped: AtomicU64,
}

impl Runs {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// A run begins: with a value, and a fate.
    async fn run(self: Arc<Self>, host: usize, asked: Asked, handle: Values<u64>) -> Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let run = Arc::new(Run { host, asked, handle, values: Mutex::default(), gone: AtomicBool::new(false) });
        let told = Arc::clone(&run);
        run.handle.on_gone(move || told.gone.store(true, Ordering::SeqCst));
        let number = self.number();
        run.add(number);
        self.all.lock().unwrap().push(Arc::clone(&run));
        match Dice::new(number).below(12) {
            0 => Err(Error::msg("told to fail")),
            1..4 => Ok(()),
            4 => {
                tokio::time::sleep(Duration::from_millis(700)).await;
                Err(Error::msg("told to fail later"))
            }
            5..7 => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                run.handle.idle();
                std::future::pending().await
            }
            _ => {
                run.handle.idle();
                std::future::pending().await
            }
        }
    }
}

fn info(id: &str) -> Info {
    Info::new(id, semver::Version::new(1, 0, 0), id)
}

/// A controller of a host: which of the three kinds it resolves is said by bits.
fn controller(host: usize, kinds: u64, runs: &Arc<Runs>) -> Arc<Closures> {
    let (cells, ones, plans) = (Arc::clone(runs), Arc::clone(runs), Arc::clone(runs));
    let mut controller = Closures::new();
    if kinds & 1 != 0 {
        controller =
            controller.resolves(move |cell: Cell, values| Arc::clone(&cells).run(host, Asked::Cell(cell.key), values));
    }
    if kinds & 2 != 0 {
        controller =
            controller.resolves(move |one: One, values| Arc::clone(&ones).run(host, Asked::One(one.key), values));
    }
    if kinds & 4 != 0 {
        controller = controller.resolves(move |plan: Plan, values| {
            Arc::clone(&plans).run(host, Asked::Plan(plan.key, plan.number), values)
        });
    }
    Arc::new(controller)
}

/// A generation of a host's controller, which the next one replaces.
struct Generation {
    host: usize,
    kinds: u64,
    runs: Arc<Runs>,
}

impl Factory for Generation {
    fn info(&self) -> Info {
        info("model/generation")
    }

    fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move { Ok(controller(self.host, self.kinds, &self.runs) as Arc<dyn AnyController>) })
    }
}

enum Request3 {
    Cell(Request<Cell>),
    One(Request<One>),
    Plan(Request<Plan>),
}

/// A requester, and what it has been told.
struct Requester {
    host: usize,
    asked: Asked,
    request: Request3,
    standing: BTreeMap<ValueId, u64>,
    idle: bool,
}

async fn poll<D: Directive<Value = u64>>(request: &mut Request<D>) -> Option<Option<Event<u64>>> {
    tokio::select! {
        biased;
        event = request.next() => Some(event),
        () = std::future::ready(()) => None,
    }
}

impl Requester {
    /// Reads what there is to read; false at the end.
    async fn read(&mut self) -> bool {
        loop {
            let event = match &mut self.request {
                Request3::Cell(request) => poll(request).await,
                Request3::One(request) => poll(request).await,
                Request3::Plan(request) => poll(request).await,
            };
            match event {
                None => return true,
                Some(None) => return false,
                Some(Some(Event::Added(id, value))) => {
                    assert!(
                        !self.standing.values().any(|known| *known == *value),
                        "{:?}: {value} is told twice",
                        self.asked
                    );
                    assert!(self.standing.insert(id, *value).is_none());
                }
                Some(Some(Event::Removed(id))) => {
                    assert!(self.standing.remove(&id).is_some(), "{:?}: what did not stand is removed", self.asked);
                }
                Some(Some(Event::Idle)) => self.idle = true,
                Some(Some(Event::Busy)) => self.idle = false,
                Some(Some(_)) => {}
            }
        }
    }

    /// Who answers it, and how far each is.
    fn answered_by(&self) -> Vec<String> {
        let resolvers = match &self.request {
            Request3::Cell(request) => request.resolvers(),
            Request3::One(request) => request.resolvers(),
            Request3::Plan(request) => request.resolvers(),
        };
        let resolvers = resolvers.expect("they are known");
        resolvers.into_iter().map(|by| format!("{} {:?} {}", by.name, by.state, by.values)).collect()
    }

    fn told(&self) -> BTreeSet<u64> {
        self.standing.values().copied().collect()
    }
}

struct Host {
    bus: Bus,
    fleet: Fleet,
    controllers: Vec<ControllerId>,
    /// What serves of the controller that is swapped.
    generation: Option<Source>,
}

struct World {
    network: Network,
    dice: Dice,
    runs: Arc<Runs>,
    hosts: Vec<Option<Host>>,
    requesters: Vec<Requester>,
    cuts: BTreeSet<(usize, usize)>,
}

fn name(host: usize) -> String {
    format!("host-{host}")
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let count = 3 + dice.index(5);
        let (network, runs) = (Network::new(seed), Arc::<Runs>::default());
        let mut world = Self { network, dice, runs, hosts: Vec::new(), requesters: Vec::new(), cuts: BTreeSet::new() };
        for host in 0..count {
            world.hosts.push(None);
            world.start(host).await;
        }
        world
    }

    async fn start(&mut self, host: usize) {
        let bus = Bus::new();
        let options =
            FleetOptions::new("model").offers("model/**").asks("model/cell").asks_one("model/one").asks("model/plan");
        let fleet = Fleet::join(&bus, self.network.host(&name(host)), options).await.expect("it joins");
        self.hosts[host] = Some(Host { bus, fleet, controllers: Vec::new(), generation: None });
        for _ in 0..self.dice.below(3) {
            self.add_controller(host);
        }
    }

    fn add_controller(&mut self, host: usize) {
        let Some(here) = self.hosts[host].as_mut().filter(|here| here.controllers.len() < MOST_CONTROLLERS) else {
            return;
        };
        let controller = controller(host, 1 + self.dice.below(7), &self.runs);
        here.controllers.push(here.bus.add_controller(controller, info("model/controller")));
    }

    /// A generation takes over from another one; the first one begins. One whose resolver fails is rolled back.
    async fn swap(&mut self, host: usize) {
        let Some(here) = self.hosts[host].as_mut() else { return };
        let next = Generation { host, kinds: 1 + self.dice.below(7), runs: Arc::clone(&self.runs) };
        // 0 is this binary.
        let (to, factories): (_, Vec<Arc<dyn Factory>>) = (Source(1 + self.runs.number()), vec![Arc::new(next)]);
        let Some(from) = here.generation else {
            here.bus.add_factories(to, factories);
            let set = ConfigSet::from_yaml("generation: { id: model/generation }").expect("a set");
            here.bus.apply(set).await.expect("it is applied").all_running().expect("it runs");
            here.generation = Some(to);
            return;
        };
        let staged = here.bus.stage(from, to, factories, Duration::from_secs(1)).await;
        let committed = match staged {
            Ok(staged) => staged.commit(Duration::from_secs(1)).await,
            Err(error) => Err(error),
        };
        if committed.is_ok() {
            here.generation = Some(to);
            self.runs.swapped.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn any_host(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.hosts.len()).filter(|host| self.hosts[*host].is_some()).collect();
        (!alive.is_empty()).then(|| alive[self.dice.index(alive.len())])
    }

    fn ask(&mut self) {
        let Some(host) = self.any_host().filter(|_| self.requesters.len() < MOST_REQUESTS) else { return };
        let Some(here) = &self.hosts[host] else { return };
        let key = self.dice.below(KEYS);
        let (asked, request) = match self.dice.below(5) {
            0..3 => (Asked::Cell(key), here.bus.request(Cell { key }).map(Request3::Cell)),
            3 => (Asked::One(key), here.bus.request(One { key }).map(Request3::One)),
            _ => {
                let number = self.runs.number();
                (Asked::Plan(key, number), here.bus.request(Plan { key, number }).map(Request3::Plan))
            }
        };
        let request = request.expect("the bus is open");
        self.requesters.push(Requester { host, asked, request, standing: BTreeMap::new(), idle: false });
    }

    fn any_run(&mut self) -> Option<Arc<Run>> {
        let mut all = self.runs.all.lock().unwrap();
        all.retain(|run| !run.is_gone());
        (!all.is_empty()).then(|| Arc::clone(&all[self.dice.index(all.len())]))
    }

    async fn crash(&mut self, host: usize) {
        let Some(here) = self.hosts[host].take() else { return };
        self.requesters.retain(|requester| requester.host != host);
        let is_heard = self.dice.below(2) == 0;
        self.network.crash(here.fleet.own(), is_heard);
        drop(here.fleet);
        here.bus.close().await;
    }

    async fn leave(&mut self, host: usize) {
        let Some(here) = self.hosts[host].take() else { return };
        self.requesters.retain(|requester| requester.host != host);
        here.fleet.leave().await;
        here.bus.close().await;
    }

    fn cut(&mut self) {
        let (from, to) = (self.dice.index(self.hosts.len()), self.dice.index(self.hosts.len()));
        if from == to {
            return;
        }
        self.network.cut(&name(from), &name(to));
        self.cuts.insert((from, to));
        if self.dice.below(2) == 0 {
            self.network.cut(&name(to), &name(from));
            self.cuts.insert((to, from));
        }
    }

    fn heal(&mut self) {
        let Some(cut) = self.cuts.iter().nth(self.dice.index(self.cuts.len().max(1))).copied() else { return };
        self.network.heal(&name(cut.0), &name(cut.1));
        self.cuts.remove(&cut);
    }

    fn faults(&mut self) {
        let mut often = |most: u64| self.dice.below(most + 1) as u32;
        let faults = Faults {
            lost: often(200),
            repeated: often(200),
            reordered: often(200),
            delay: Duration::from_micros(u64::from(often(60_000))),
        };
        self.network.set_faults(if self.dice.below(3) == 0 { Faults::default() } else { faults });
    }

    async fn step(&mut self) {
        match self.dice.below(100) {
            0..16 => self.ask(),
            16..26 => {
                if !self.requesters.is_empty() {
                    let at = self.dice.index(self.requesters.len());
                    self.requesters.swap_remove(at);
                }
            }
            26..42 => {
                if let Some(run) = self.any_run() {
                    run.add(self.runs.number());
                }
            }
            42..52 => {
                if let Some(run) = self.any_run() {
                    let first = run.values.lock().unwrap().pop_first();
                    if let Some((id, _)) = first {
                        run.handle.remove(id);
                    }
                }
            }
            52..58 => {
                if let Some(run) = self.any_run() {
                    // One value in place of another.
                    run.add(self.runs.number());
                    let first = run.values.lock().unwrap().pop_first();
                    if let Some((id, _)) = first {
                        run.handle.remove(id);
                    }
                }
            }
            58..63 => {
                if let Some(host) = self.any_host() {
                    self.add_controller(host);
                }
            }
            63..67 => {
                if let Some(host) = self.any_host()
                    && let Some(here) = self.hosts[host].as_mut()
                    && !here.controllers.is_empty()
                {
                    let at = self.dice.index(here.controllers.len());
                    let id = here.controllers.swap_remove(at);
                    here.bus.remove_controller(id).await;
                }
            }
            67 => {
                if let Some(host) = self.any_host() {
                    self.crash(host).await;
                }
            }
            68 => {
                if let Some(host) = self.any_host() {
                    self.leave(host).await;
                }
            }
            69..73 => {
                let dead = (0..self.hosts.len()).find(|host| self.hosts[*host].is_none());
                if let Some(host) = dead {
                    self.start(host).await;
                }
            }
            73..76 => self.cut(),
            76..80 => self.heal(),
            80..84 => self.faults(),
            84..87 => {
                if let Some(host) = self.any_host() {
                    self.swap(host).await;
                }
            }
            87..94 => tokio::time::sleep(Duration::from_millis(self.dice.below(60))).await,
            _ => tokio::time::sleep(Duration::from_millis(self.dice.below(4000))).await,
        }
        if self.dice.below(3) == 0 {
            self.read().await;
        }
    }

    async fn read(&mut self) {
        let mut at = 0;
        while let Some(requester) = self.requesters.get_mut(at) {
            if requester.read().await {
                at += 1;
            } else {
                // Another one of the same host has superseded it.
                assert!(matches!(requester.asked, Asked::Plan(..)), "{:?} has ended", requester.asked);
                self.requesters.swap_remove(at);
            }
        }
    }

    fn reaches(&self, one: usize, other: usize) -> bool {
        let is_cut = self.cuts.contains(&(one, other)) || self.cuts.contains(&(other, one));
        self.hosts[one].is_some() && self.hosts[other].is_some() && (one == other || !is_cut)
    }

    /// The values that stand on a host.
    fn stands_on(&self, host: usize, asked: Asked) -> BTreeSet<u64> {
        let all = self.runs.all.lock().unwrap();
        let runs = all.iter().filter(|run| run.host == host && run.asked == asked && !run.is_gone());
        runs.flat_map(|run| run.values.lock().unwrap().values().copied().collect::<Vec<_>>()).collect()
    }

    /// Waits until it is quiet, and looks whether all is as it should be.
    async fn look(&mut self) {
        self.network.set_faults(Faults::default());
        tokio::time::sleep(Duration::from_secs(40)).await;
        self.read().await;
        let begun = self.runs.begun.load(Ordering::SeqCst);
        for requester in &self.requesters {
            self.look_at(requester);
        }
        self.look_for_what_is_left();
        tokio::time::sleep(Duration::from_secs(15)).await;
        self.read().await;
        assert_eq!(self.runs.begun.load(Ordering::SeqCst), begun, "resolvers run again though nothing happens");
    }

    fn look_at(&self, requester: &Requester) {
        let (asked, told) = (requester.asked, requester.told());
        let on = |host: usize| self.stands_on(host, asked);
        let others: Vec<usize> = (0..self.hosts.len())
            .filter(|host| *host != requester.host && self.reaches(requester.host, *host))
            .collect();
        let who = format!("{asked:?} of host-{}", requester.host);
        assert!(requester.idle, "{who} is not idle: {:?}; it is told {told:?}", requester.answered_by());
        let own = on(requester.host);
        if matches!(asked, Asked::One(_)) {
            let of_others: BTreeSet<u64> = told.difference(&own).copied().collect();
            assert!(own.is_subset(&told), "{who} is told {told:?}, but {own:?} stand on its own host");
            let is_of_one = others.iter().any(|host| on(*host) == of_others);
            let all: Vec<_> = others.iter().map(|host| (*host, on(*host))).collect();
            assert!(is_of_one || of_others.is_empty(), "{who} is told {of_others:?} of others, which have {all:?}");
            let offers = |host: &usize| self.offers(*host, "model/one");
            assert!(
                !of_others.is_empty()
                    || !others.iter().any(offers)
                    || others.iter().any(|host| offers(host) && on(*host).is_empty()),
                "{who} is told nothing of others, which have {all:?}"
            );
        } else {
            let expected: BTreeSet<u64> = others.iter().flat_map(|host| on(*host)).chain(own).collect();
            assert_eq!(told, expected, "{who}: told and standing");
        }
    }

    fn offers(&self, host: usize, id: &str) -> bool {
        let controllers = self.hosts[host].as_ref().map(|here| here.bus.controllers()).unwrap_or_default();
        controllers.iter().any(|controller| {
            controller.info.id.starts_with("model/") && controller.resolves.iter().any(|own| own == id)
        })
    }

    /// Nothing is asked that nobody wants.
    fn look_for_what_is_left(&self) {
        for host in 0..self.hosts.len() {
            let Some(here) = &self.hosts[host] else { continue };
            let wanted_by = |id: &str, by: usize| -> BTreeSet<u64> {
                let of = self.requesters.iter().filter(|requester| requester.host == by);
                of.map(|requester| match requester.asked {
                    Asked::Cell(key) => ("model/cell", key),
                    Asked::One(key) => ("model/one", key),
                    Asked::Plan(key, _) => ("model/plan", key),
                })
                .filter(|(of, _)| *of == id)
                .map(|(_, key)| key)
                .collect()
            };
            let near: Vec<usize> =
                (0..self.hosts.len()).filter(|other| *other != host && self.reaches(host, *other)).collect();
            // What it asks the others.
            let mut asks = 0;
            for id in ["model/cell", "model/plan"] {
                asks += wanted_by(id, host).len() * near.iter().filter(|other| self.offers(**other, id)).count();
            }
            let ones = wanted_by("model/one", host).len();
            asks += if near.iter().any(|other| self.offers(*other, "model/one")) { ones } else { 0 };
            let directives: Vec<_> =
                here.bus.directives().into_iter().map(|it| (it.id, it.debug, it.resolvers)).collect();
            assert_eq!(here.fleet.counts().asks, asks as u64, "asks of host-{host}, near {near:?}: {directives:#?}");
            // What stands on its bus: what it asks, and what others in reach do.
            for standing in here.bus.directives() {
                let is_wanted = near.iter().chain([&host]).any(|by| !wanted_by(&standing.id, *by).is_empty());
                assert!(is_wanted, "{} {:?} is left on host-{host}", standing.id, standing.debug);
            }
        }
        let sum = |of: fn(&controllerbus_fleet::status::Counts) -> u64| -> u64 {
            self.hosts.iter().flatten().map(|here| of(&here.fleet.counts())).sum()
        };
        assert_eq!(sum(|counts| counts.asks), sum(|counts| counts.asked), "asks and what is asked");
    }

    /// Everybody lets go: nothing is left anywhere.
    async fn end(mut self) {
        self.network.set_faults(Faults::default());
        self.network.heal_all();
        self.cuts.clear();
        self.look().await;
        self.requesters.clear();
        tokio::time::sleep(Duration::from_secs(40)).await;
        for here in self.hosts.iter().flatten() {
            assert_eq!(here.bus.directives(), []);
            let counts = here.fleet.counts();
            assert_eq!((counts.asks, counts.asked), (0, 0));
        }
        for here in self.hosts.into_iter().flatten() {
            here.fleet.leave().await;
            here.bus.close().await;
        }
    }
}

/// Returns how many generations have taken over from others.
fn run(seed: u64, steps: usize) -> u64 {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(seed).await;
        for step in 1..=steps {
            world.step().await;
            if step % LOOK == 0 {
                world.look().await;
            }
        }
        let runs = Arc::clone(&world.runs);
        world.end().await;
        runs.swapped.load(Ordering::SeqCst)
    })
}

#[test]
fn every_requester_is_told_exactly_what_stands_on_the_hosts_in_reach() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let steps = number("FLEET_MODEL_STEPS").map_or(STEPS, |steps| steps as usize);
    let (first, worlds) = match number("FLEET_MODEL_SEED") {
        Some(seed) => (seed, 1),
        None => (std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_millis() as u64), steps.div_ceil(WORLD)),
    };
    let mut swapped = 0;
    for world in 0..worlds as u64 {
        let seed = first + world;
        let taken = std::panic::catch_unwind(|| run(seed, steps.min(WORLD)));
        match taken {
            Ok(here) => swapped += here,
            Err(panic) => {
                eprintln!("FLEET_MODEL_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(swapped > 0 || worlds < 5, "generations take over from others");
    eprintln!("{worlds} worlds from seed {first} on; {swapped} swaps");
}
