//! Configs, owners, factories and generations against a reference model: tasks on runtimes of their own, some of which go
//! in between, apply, withdraw, swap and remove at random, of controllers that ignore their end, hang in their
//! constructors, fail, and panic in their destructors. Whenever all pause, each key must run what was elected, nothing may
//! run that nobody wants, and nothing may be left over.
//!
//! `CONTROLLERBUS_MODEL_SEED` and `CONTROLLERBUS_MODEL_STEPS` run one seed again, or longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::{Bus, ConfigOwner, Limits, RunState, Source};
use controllerbus::controller::factory::{Factory, erase};
use controllerbus::controller::{AnyController, BoxFuture, Info};
use controllerbus::prelude::*;

use crate::kit::info;
use crate::model::{Dice, seed};

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
const KINDS: [&str; 5] = ["model/good", "model/stubborn", "model/hangs", "model/fails", "model/panics"];
const OWNERS: usize = 3;
const TASKS: usize = 4;
const STEPS: usize = 60;

/// How many controllers there are: made and not dropped yet.
static ALIVE: AtomicI64 = AtomicI64::new(0);

struct Lives {
    kind: &'static str,
}

impl Lives {
    fn new(kind: &'static str) -> Self {
        ALIVE.fetch_add(1, Ordering::SeqCst);
        Self { kind }
    }
}

impl Drop for Lives {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::SeqCst);
        if self.kind == "model/panics" {
            // Without the hook's noise.
            std::panic::resume_unwind(Box::new("told to panic"));
        }
    }
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "model/lives")]
struct AnyConfig {}

impl Controller for Lives {
    type Config = AnyConfig;
    async fn construct(_: AnyConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("its factory makes it"))
    }
    async fn execute(&self, context: &Context) -> Result<()> {
        context.cancelled().await;
        if self.kind == "model/stubborn" {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
    fn save(&self) -> Result<Option<State>> {
        Ok(Some(State { schema: 1, bytes: Vec::new() }))
    }
}

struct Kind(&'static str);

impl Factory for Kind {
    fn info(&self) -> Info {
        info(self.0)
    }
    fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            match self.0 {
                "model/hangs" => std::future::pending().await,
                "model/fails" => Err(Error::msg("told to fail").permanent()),
                kind => Ok(erase(Lives::new(kind))),
            }
        })
    }
}

fn kinds() -> Vec<Arc<dyn Factory>> {
    KINDS.iter().map(|kind| Arc::new(Kind(kind)) as Arc<dyn Factory>).collect()
}

/// What is applied: by owner, then by key, the kind and a number.
type Wanted = BTreeMap<usize, BTreeMap<&'static str, (&'static str, u64, u64)>>;

struct World {
    bus: Bus,
    owners: Vec<ConfigOwner>,
    /// Changed together with the bus.
    wanted: tokio::sync::Mutex<Wanted>,
    /// The source that serves, for whoever swaps.
    source: tokio::sync::Mutex<u64>,
    next: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl World {
    async fn step(&self, dice: &mut Dice) {
        match dice.below(12) {
            0..8 => {
                let owner = dice.below(OWNERS);
                let mut set = ConfigSet::new();
                let mut applied = BTreeMap::new();
                for key in KEYS {
                    if dice.below(3) == 0 {
                        let (kind, number, revision) =
                            (KINDS[dice.below(KINDS.len())], dice.below(3) as u64, dice.below(4) as u64);
                        let config = serde_json::json!({ "number": number });
                        set.set(key, controllerbus::config::Entry::new(kind, config).with_revision(revision));
                        applied.insert(key, (kind, number, revision));
                    }
                }
                let mut wanted = self.wanted.lock().await;
                wanted.insert(owner, applied);
                let applying = self.owners[owner].apply(set);
                // Elected at once; whether anybody waits for the rest is nobody's business.
                let dropped = dice.below(2) == 0;
                let mut applying = std::pin::pin!(applying);
                let first = std::future::poll_fn(|cx| std::task::Poll::Ready(applying.as_mut().poll(cx))).await;
                drop(wanted);
                if !dropped && first.is_pending() {
                    let waited = tokio::time::timeout(Duration::from_secs(10), applying).await;
                    if waited.is_err() {
                        self.failures.lock().unwrap().push("an apply does not return".to_owned());
                    }
                }
            }
            8..10 => {
                let mut serving = self.source.lock().await;
                let to = self.next.fetch_add(1, Ordering::SeqCst);
                let staged = self.bus.stage(Source(*serving), Source(to), kinds(), Duration::from_secs(5)).await;
                match staged {
                    Ok(staged) if dice.below(3) > 0 => match staged.commit(Duration::ZERO).await {
                        Ok(_) => *serving = to,
                        Err(error) => self.failures.lock().unwrap().push(format!("a commit fails: {error}")),
                    },
                    Ok(staged) => drop(staged),
                    Err(error) => self.failures.lock().unwrap().push(format!("a generation is not staged: {error}")),
                }
            }
            10 => {
                let mut serving = self.source.lock().await;
                let to = self.next.fetch_add(1, Ordering::SeqCst);
                let removing = self.bus.remove_source(Source(*serving));
                if tokio::time::timeout(Duration::from_secs(10), removing).await.is_err() {
                    self.failures.lock().unwrap().push("a removal does not return".to_owned());
                }
                self.bus.add_factories(Source(to), kinds());
                *serving = to;
            }
            _ => tokio::time::sleep(Duration::from_millis(dice.below(5) as u64)).await,
        }
    }

    /// What is wrong now, if anything.
    async fn difference(&self) -> Option<String> {
        let wanted = self.wanted.lock().await;
        let mut running = BTreeSet::new();
        for key in KEYS {
            let candidates: Vec<_> = wanted.values().filter_map(|of| of.get(key)).collect();
            let state = self.bus.config(key);
            let Some(highest) = candidates.iter().map(|(_, _, revision)| *revision).max() else {
                if state.is_some() {
                    return Some(format!("{key} is applied, and nobody wants it"));
                }
                continue;
            };
            let Some(state) = state else { return Some(format!("{key} is wanted, and not applied")) };
            if state.revision != highest {
                return Some(format!("{key} is of revision {}, not {highest}", state.revision));
            }
            let best = candidates.iter().filter(|(_, _, revision)| *revision == highest);
            if !best.clone().any(|(kind, ..)| *kind == state.config_id) {
                return Some(format!("{key} is {}, which nobody of that revision wants", state.config_id));
            }
            let elected = state.pending.as_ref().map_or(&state.state, |pending| &pending.state);
            match (state.config_id.as_str(), elected) {
                ("model/hangs", RunState::Constructing | RunState::Failed { .. }) => {}
                ("model/fails", RunState::Failed { retry_in: None, .. }) => {}
                ("model/good" | "model/stubborn" | "model/panics", RunState::Running(_)) => {}
                (kind, state) => return Some(format!("{key}, a {kind}, is {state:?}")),
            }
            if let RunState::Running(id) = state.state {
                running.insert(id);
            }
        }
        let controllers: BTreeSet<_> = self.bus.controllers().iter().map(|found| found.id).collect();
        if controllers != running {
            return Some(format!("{controllers:?} are on the bus, and {running:?} run for keys"));
        }
        if !self.bus.leaving().is_empty() {
            return Some(format!("{:?} are leaving", self.bus.leaving()));
        }
        let alive = ALIVE.load(Ordering::SeqCst);
        (alive != running.len() as i64).then(|| format!("{alive} are alive, and {} run", running.len()))
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

#[test]
fn each_key_runs_what_was_elected_and_nothing_is_left_over_whatever_controllers_do() {
    let seed = seed();
    let steps = std::env::var("CONTROLLERBUS_MODEL_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(STEPS);
    println!("seed {seed}");
    let home = runtime();
    let world = home.block_on(async {
        let limit = Duration::from_millis(20);
        let bus = Bus::with_limits(Limits::default().construct(limit).cancel(limit).close(limit));
        bus.add_factories(Source(1), kinds());
        Arc::new(World {
            owners: (0..OWNERS).map(|_| bus.config_owner()).collect(),
            bus,
            wanted: tokio::sync::Mutex::default(),
            source: tokio::sync::Mutex::new(1),
            next: AtomicU64::new(2),
            failures: Mutex::default(),
        })
    });
    for round in 0..steps.div_ceil(20) {
        std::thread::scope(|scope| {
            for task in 0..TASKS {
                let (world, home) = (&world, &home);
                scope.spawn(move || {
                    let mut dice = Dice::new(seed.wrapping_mul(1_000_003) + (round * TASKS + task) as u64);
                    let steps = async {
                        for _ in 0..20 {
                            world.step(&mut dice).await;
                        }
                    };
                    // Half of those who ask do so from a runtime that goes with them.
                    if task % 2 == 0 {
                        home.block_on(steps);
                    } else {
                        runtime().block_on(steps);
                    }
                });
            }
        });
        let at_rest = async {
            while world.difference().await.is_some() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let rested = home.block_on(async { tokio::time::timeout(Duration::from_secs(20), at_rest).await });
        if rested.is_err() {
            let difference = home.block_on(world.difference());
            panic!("seed {seed}, round {round}: {difference:?}");
        }
        let failures = std::mem::take(&mut *world.failures.lock().unwrap());
        assert!(failures.is_empty(), "seed {seed}, round {round}: {failures:?}");
    }
    home.block_on(async { world.bus.close().await });
    assert!(world.bus.controllers().is_empty() && world.bus.leaving().is_empty());
}
