//! Eight tasks that apply, swap, unload, change files and cause every hazard, at random.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use controllerbus::{Bus, ConfigSet};
use hot_runtime::HotRuntime;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use super::calls::{APPLY, ASK, Calls, SWAP, UNLOAD};
use super::plugins::{FILES, FOR_GOOD as NAME_FOR_GOOD, ISOLATED, PLUGINS, Plugins, id};
use crate::api::{Trouble, Words};

/// How many tasks there are.
const TASKS: usize = 8;

/// How many threads may run forever: each keeps a library loaded.
const FOR_GOOD: usize = 3;

/// How long unloaded plugins may take to end once nothing new is started.
const END: Duration = Duration::from_secs(20);

/// How long a plugin spins.
const SPINS: Duration = Duration::from_millis(400);

/// How long until a request is abandoned.
const PATIENCE: Duration = Duration::from_millis(250);

/// What plugins are asked to do, in either kind of process.
const ACTS: [&str; 15] = [
    "answer",
    "answer",
    "answer",
    "panic",
    "fail",
    "hang",
    "block",
    "task",
    "thread",
    "flood",
    "ask",
    "ask and-leave",
    "signal",
    "print",
    "log",
];

/// What only plugins in their own process are asked to do.
const CRASHES: [&str; 4] = ["abort", "exit", "segv", "overflow"];

/// Where controllers misbehave, and how.
const MISBEHAVES: [&str; 24] = [
    "construct panics",
    "construct fails",
    "construct hangs",
    "construct blocks",
    "execute panics",
    "execute fails",
    "execute hangs",
    "execute blocks",
    "close panics",
    "close hangs",
    "close blocks",
    "save panics",
    "save fails",
    "save blocks",
    "restore panics",
    "restore fails",
    "restore hangs",
    "restore blocks",
    "health panics",
    "health fails",
    "health hangs",
    "health blocks",
    "drop panics",
    "drop blocks",
];

/// A plugin as the tasks see it.
#[derive(Default)]
struct Plugin {
    /// Held by the task that swaps or unloads it, so that each such call is timed without waiting for another.
    turn: Mutex<()>,
    version: AtomicUsize,
}

/// State shared by the tasks.
pub struct Chaos {
    bus: Bus,
    in_host: HotRuntime,
    isolated: HotRuntime,
    plugins: Plugins,
    states: [Plugin; PLUGINS],
    calls: Arc<Calls>,
    hazards: SyncMutex<BTreeMap<String, u64>>,
    /// One permit for each core of a small machine.
    spinning: Semaphore,
    for_good: AtomicUsize,
}

impl Chaos {
    /// Starts with nothing loaded.
    pub fn new(bus: Bus, in_host: HotRuntime, isolated: HotRuntime, plugins: Plugins, calls: Arc<Calls>) -> Self {
        let (hazards, for_good, spinning) = (SyncMutex::default(), AtomicUsize::new(0), Semaphore::new(2));
        let states = std::array::from_fn(|_| Plugin::default());
        Self { bus, in_host, isolated, plugins, states, calls, hazards, spinning, for_good }
    }

    /// How often each hazard occurred.
    pub fn hazards(&self) -> BTreeMap<String, u64> {
        self.hazards.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, hazard: &str) {
        *self.hazards.lock().unwrap_or_else(PoisonError::into_inner).entry(hazard.to_owned()).or_default() += 1;
    }

    /// Loads all plugins, and runs the tasks for this long.
    pub async fn run(self: &Arc<Self>, time: Duration) {
        for plugin in 0..PLUGINS {
            self.apply(plugin, "").await;
            self.swap(plugin).await;
        }
        let until = Instant::now() + time;
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let chaos = Arc::clone(self);
            tasks.spawn(async move {
                while Instant::now() < until {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..40))).await;
                    chaos.step().await;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                self.count(&format!("error in a chaos task: {error}"));
            }
        }
    }

    async fn step(&self) {
        let plugin = fastrand::usize(0..PLUGINS);
        match fastrand::u32(0..100) {
            0..55 => self.ask(plugin, fastrand::choice(ACTS).unwrap_or("answer")).await,
            55..58 => self.spin(plugin).await,
            58..61 if plugin >= PLUGINS - ISOLATED => {
                self.ask(plugin, fastrand::choice(CRASHES).unwrap_or("abort")).await;
            }
            61..64 => self.words().await,
            64 => self.leave_a_thread(plugin).await,
            65..68 => self.apply(plugin, "").await,
            68..78 => self.apply(plugin, fastrand::choice(MISBEHAVES).unwrap_or_default()).await,
            78..82 => self.remove(plugin).await,
            82..92 => self.swap(plugin).await,
            92..95 => self.unload(plugin).await,
            95..97 => self.roll_back(plugin).await,
            97..100 => self.look(),
            _ => self.ask(plugin, "answer").await,
        }
    }

    /// Has a plugin in the host's process start a thread that never exits, unless there are enough of them.
    async fn leave_a_thread(&self, plugin: usize) {
        if plugin >= PLUGINS - ISOLATED || self.for_good.fetch_add(1, Ordering::Relaxed) >= FOR_GOOD {
            return;
        }
        if self.ask_for(plugin, "thread-for-good".to_owned()).await {
            self.count("asked to leave a thread running forever");
        } else {
            self.for_good.fetch_sub(1, Ordering::Relaxed);
        }
    }

    async fn ask(&self, plugin: usize, what: &str) {
        self.count(&format!("asked to {what}"));
        self.ask_for(plugin, what.to_owned()).await;
    }

    /// Whether it answered.
    async fn ask_for(&self, plugin: usize, what: String) -> bool {
        let asked = self.bus.resolve(Trouble { plugin: id(plugin), what, nonce: fastrand::u64(..) });
        matches!(self.calls.call("resolve", ASK, asked.within(PATIENCE)).await, Some(Ok(_)))
    }

    async fn spin(&self, plugin: usize) {
        let Ok(_one_of_two) = self.spinning.try_acquire() else { return };
        self.count("asked to spin");
        let until = SystemTime::now() + SPINS;
        let since = until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.ask_for(plugin, format!("spin {}", since.as_millis())).await;
        tokio::time::sleep(SPINS).await;
    }

    /// Asks for words, where all plugins answer with numbers.
    async fn words(&self) {
        self.count("answered with a value of the wrong type");
        let asked = self.bus.resolve(Words { nonce: fastrand::u64(..) });
        self.calls.call("resolve", ASK, asked.within(PATIENCE)).await;
    }

    async fn apply(&self, plugin: usize, does: &str) {
        if !does.is_empty() {
            self.count(does);
        }
        let text = format!("{id}:\n  id: {id}\n  config: {{ does: \"{does}\" }}\n", id = id(plugin));
        match ConfigSet::from_yaml(&text) {
            Ok(set) => drop(self.calls.call("apply", APPLY, self.bus.apply(set)).await),
            Err(error) => self.count(&format!("error in a chaos config set: {error}")),
        }
    }

    async fn remove(&self, plugin: usize) {
        self.count("config removed");
        self.calls.call("remove_config", APPLY, self.bus.remove_config(&id(plugin))).await;
    }

    fn runtime(&self, plugin: usize) -> &HotRuntime {
        if plugin < PLUGINS - ISOLATED { &self.in_host } else { &self.isolated }
    }

    async fn swap(&self, plugin: usize) {
        let state = &self.states[plugin];
        let Ok(_turn) = state.turn.try_lock() else { return };
        let version = state.version.fetch_add(1, Ordering::Relaxed);
        if plugin < FILES {
            self.count("file placed");
            if let Err(error) = self.plugins.place(plugin, version) {
                self.count(&format!("error in a chaos file: {error}"));
            }
            return;
        }
        self.count("swapped");
        let file = self.plugins.artifact(plugin, version);
        self.calls.call("load_file", SWAP, self.runtime(plugin).load_file(file)).await;
    }

    async fn unload(&self, plugin: usize) {
        let Ok(_turn) = self.states[plugin].turn.try_lock() else { return };
        if plugin < FILES {
            self.count("file removed");
            let _ = std::fs::remove_file(self.plugins.file(plugin));
            return;
        }
        self.count("unloaded");
        self.calls.call("unload", UNLOAD, self.runtime(plugin).unload(&id(plugin))).await;
    }

    async fn roll_back(&self, plugin: usize) {
        let Ok(_turn) = self.states[plugin].turn.try_lock() else { return };
        self.count("rolled back");
        self.calls.call("roll_back", SWAP, self.runtime(plugin).roll_back(&id(plugin), None)).await;
    }

    fn look(&self) {
        self.count("queried");
        self.calls.look("generations", || self.in_host.generations().len() + self.isolated.generations().len());
        self.calls.look("configs", || self.bus.configs().len());
        self.calls.look("snapshot", || self.bus.snapshot().controllers.len());
        self.calls.look("counts", || self.bus.counts());
    }

    /// Unloads all plugins, and waits for processes and for threads that outlive their plugin by a second.
    pub async fn unload_all(self) -> (HotRuntime, HotRuntime) {
        for plugin in 0..PLUGINS {
            self.unload(plugin).await;
        }
        let until = Instant::now() + END;
        while Instant::now() < until && self.is_ending() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if self.is_ending() {
            // To help find the reason.
            let snapshot = serde_json::to_string_pretty(&self.bus.snapshot()).unwrap_or_default();
            eprintln!("still on the bus: {snapshot}");
        }
        (self.in_host, self.isolated)
    }

    /// Whether anything is left of a plugin other than a thread that never exits.
    fn is_ending(&self) -> bool {
        let generations = [self.in_host.generations(), self.isolated.generations()].concat();
        let mut ours = generations.iter().filter(|found| found.plugin.starts_with("trouble-"));
        ours.any(|found| {
            let stays = found.reason.as_ref().is_some_and(|reason| reason.contains(NAME_FOR_GOOD));
            (found.mapped == Some(true) || found.pid.is_some()) && !stays
        })
    }
}
