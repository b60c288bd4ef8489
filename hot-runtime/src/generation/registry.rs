//! The registry of generations: which are loaded, their states and their leases.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use controllerbus::plugin::{Holders, Leases};
use serde::Serialize;
use tokio::sync::watch;

use crate::artifact::{BundleRecord, FactoryRecord};
use crate::event::StillLoaded;
use crate::host::Isolation;
use crate::sys::maps::Maps;

/// What a generation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum GenerationState {
    /// Being verified, opened or staged.
    Loading,
    /// Serving: new directives go to it.
    Serving,
    /// Replaced, and loaded until nothing uses it.
    Draining,
    /// Replaced, but its code does not end, or it cannot be known whether it has: it stays loaded.
    Stuck,
    /// Unloaded.
    Unloaded,
    /// Its swap was rolled back before it served.
    Failed,
}

/// A generation as shown to users.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct GenerationInfo {
    /// The plugin's id.
    pub plugin: String,
    /// The generation's number, unique in the process.
    pub generation: u64,
    /// The plugin's version.
    pub version: semver::Version,
    /// The hash of the build's inputs.
    pub build_hash: String,
    /// Its state.
    pub state: GenerationState,
    /// Since when it is in that state.
    pub since: SystemTime,
    /// Why, for a failed, draining or stuck one.
    pub reason: Option<String>,
    /// How many factories, controllers, calls, interface values and wakers use it.
    pub leases: usize,
    /// The same, by kind.
    pub holders: Holders,
    /// The private copy that was opened.
    pub path: PathBuf,
    /// Whether its code is mapped in this process; `None` where the system does not say.
    pub mapped: Option<bool>,
    /// Where it runs.
    pub isolation: Isolation,
    /// Its process's id, if it has a running one of its own.
    pub pid: Option<u32>,
    /// What confines it: limits, Landlock, seccomp, a control group, capabilities.
    pub layers: Vec<String>,
    /// Why it was rolled back, if it was.
    pub taken_back: Option<String>,
    /// The directives that its controllers resolve and that can be asked from outside the plugin, by id.
    #[serde(skip)]
    pub directives: Arc<BTreeMap<String, AskableDirective>>,
    /// What other plugins, or this program, mean differently by an id of its own, while it serves: a sentence each.
    pub conflicts: Vec<String>,
    /// Whether its artifact is kept, so that [`HotRuntime::roll_back`](crate::HotRuntime::roll_back) can go back to it.
    pub kept: bool,
}

/// A directive that a plugin's controllers resolve, as its manifest has it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AskableDirective {
    /// The JSON schema of its fields.
    pub schema: serde_json::Value,
    /// Whether it is a call, which is answered by one controller and once.
    pub once: bool,
}

impl GenerationInfo {
    /// A generation that is being loaded.
    pub(crate) fn loading(
        plugin: &str,
        generation: u64,
        (bundle, factories): (&BundleRecord, &[FactoryRecord]),
        path: &Path,
        isolation: Isolation,
    ) -> Self {
        let directives = factories.iter().flat_map(|factory| {
            let calls = factory.calls.iter().copied().chain(std::iter::repeat(false));
            let described = factory.directives.iter().cloned().zip(calls);
            let described = described.map(|(schema, once)| AskableDirective { schema, once });
            factory.resolves.iter().cloned().zip(described)
        });
        Self {
            plugin: plugin.to_owned(),
            generation,
            version: bundle.version.clone(),
            build_hash: bundle.build_hash.clone(),
            state: GenerationState::Loading,
            since: SystemTime::now(),
            reason: None,
            leases: 0,
            holders: Holders::default(),
            path: path.to_owned(),
            mapped: None,
            isolation,
            pid: None,
            layers: Vec::new(),
            taken_back: None,
            directives: Arc::new(directives.filter(|(_, directive)| !directive.schema.is_null()).collect()),
            conflicts: Vec::new(),
            kept: false,
        }
    }

    /// What keeps it loaded.
    pub(crate) fn keeps(&self) -> String {
        match &self.reason {
            Some(reason) if self.state == GenerationState::Stuck => reason.clone(),
            _ => format!("held by {}", self.holders),
        }
    }
}

struct Record {
    info: GenerationInfo,
    leases: Option<Arc<Leases>>,
    /// How its process crashed last.
    crash: Option<String>,
    /// Its manifest's factories.
    factories: Arc<[FactoryRecord]>,
}

/// How many ended generations to remember.
const REMEMBERED: usize = 64;

/// The generations that are loaded, and the last ones that ended.
#[derive(Default)]
pub struct Registry {
    records: Mutex<BTreeMap<u64, Record>>,
    /// Changes with each crash of a process.
    crashed: watch::Sender<()>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("generations", &self.generations()).finish_non_exhaustive()
    }
}

impl Registry {
    pub(crate) fn add(&self, info: GenerationInfo, leases: Option<Arc<Leases>>) {
        let mut records = self.lock();
        records.insert(info.generation, Record { info, leases, crash: None, factories: Arc::default() });
        let ended: Vec<u64> = records
            .iter()
            .filter(|(_, record)| matches!(record.info.state, GenerationState::Unloaded | GenerationState::Failed))
            .map(|(generation, _)| *generation)
            .collect();
        for generation in ended.iter().take(ended.len().saturating_sub(REMEMBERED)) {
            records.remove(generation);
        }
    }

    pub(crate) fn set(&self, generation: u64, state: GenerationState, reason: Option<String>) {
        if let Some(record) = self.lock().get_mut(&generation) {
            record.info.state = state;
            record.info.since = SystemTime::now();
            record.info.reason = reason;
            if state != GenerationState::Serving {
                record.info.conflicts.clear();
            }
            if matches!(state, GenerationState::Unloaded | GenerationState::Failed) {
                record.leases = None;
                record.info.pid = None;
            }
        }
    }

    /// Notes which generations of a plugin can be gone back to.
    pub(crate) fn set_kept(&self, plugin: &str, numbers: &[u64]) {
        for record in self.lock().values_mut().filter(|record| record.info.plugin == plugin) {
            record.info.kept = numbers.contains(&record.info.generation);
        }
    }

    /// Notes what a generation's manifest says.
    pub(crate) fn set_factories(&self, generation: u64, factories: Arc<[FactoryRecord]>) {
        if let Some(record) = self.lock().get_mut(&generation) {
            record.factories = factories;
        }
    }

    /// The serving generations with their plugins and what their manifests say, the oldest first.
    pub(crate) fn declared(&self) -> Vec<(u64, String, Arc<[FactoryRecord]>)> {
        let records = self.lock();
        let serving = records.values().filter(|record| record.info.state == GenerationState::Serving);
        let declared =
            |record: &Record| (record.info.generation, record.info.plugin.clone(), Arc::clone(&record.factories));
        serving.map(declared).collect()
    }

    /// Notes the conflicts of a generation, if it serves.
    pub(crate) fn set_conflicts(&self, generation: u64, conflicts: Vec<String>) {
        if let Some(record) = self.lock().get_mut(&generation)
            && record.info.state == GenerationState::Serving
        {
            record.info.conflicts = conflicts;
        }
    }

    /// The conflicts of a generation.
    pub(crate) fn conflicts(&self, generation: u64) -> Vec<String> {
        self.lock().get(&generation).map(|record| record.info.conflicts.clone()).unwrap_or_default()
    }

    /// Records a generation's new process, or why it has none.
    pub(crate) fn set_process(&self, generation: u64, pid: Option<u32>, reason: Option<&str>) {
        if let Some(record) = self.lock().get_mut(&generation) {
            record.info.pid = pid;
            if let Some(reason) = reason {
                record.info.reason = Some(reason.to_owned());
                record.crash = Some(reason.to_owned());
            }
        }
        if reason.is_some() {
            self.crashed.send_replace(());
        }
    }

    /// All loaded generations and the last ended ones, oldest first.
    pub fn generations(&self) -> Vec<GenerationInfo> {
        let maps = Maps::read();
        let snapshot = |record: &Record| {
            let mut info = record.info.clone();
            if let Some(leases) = &record.leases {
                info.holders = leases.holders();
                info.leases = info.holders.to_drain() + info.holders.wakers;
            }
            info.mapped = maps.as_ref().map(|maps| maps.contain(&info.path));
            info
        };
        self.lock().values().map(snapshot).collect()
    }

    /// Changes with each crash of a process.
    pub(crate) fn crashes(&self) -> watch::Receiver<()> {
        self.crashed.subscribe()
    }

    /// How a generation's process crashed, if it did.
    pub(crate) fn crash_of(&self, generation: u64) -> Option<String> {
        self.lock().get(&generation).and_then(|record| record.crash.clone()).map(|crash| format!("it crashed: {crash}"))
    }

    /// Records that a generation was taken back.
    pub(crate) fn taken_back(&self, generation: u64, reason: &str) {
        if let Some(record) = self.lock().get_mut(&generation) {
            record.info.taken_back = Some(reason.to_owned());
        }
    }

    /// The serving generation of a plugin.
    pub(crate) fn serving(&self, plugin: &str) -> Option<u64> {
        let records = self.lock();
        let mut found = records.values().map(|record| &record.info);
        found.find(|info| info.plugin == plugin && info.state == GenerationState::Serving).map(|info| info.generation)
    }

    /// A generation by its number.
    pub(crate) fn generation(&self, generation: u64) -> Option<GenerationInfo> {
        self.generations().into_iter().find(|info| info.generation == generation)
    }

    /// The generations that are still loaded, and what keeps them.
    pub(crate) fn still_loaded(&self) -> Vec<StillLoaded> {
        let ended = |info: &GenerationInfo| matches!(info.state, GenerationState::Unloaded | GenerationState::Failed);
        let left = self.generations().into_iter().filter(|info| !ended(info));
        left.map(|info| StillLoaded { why: info.keeps(), plugin: info.plugin, generation: info.generation }).collect()
    }

    /// The build hash of the serving generation of a plugin.
    pub(crate) fn serving_build(&self, plugin: &str) -> Option<String> {
        let records = self.lock();
        let serves = |info: &&GenerationInfo| info.plugin == plugin && info.state == GenerationState::Serving;
        records.values().map(|record| &record.info).rfind(serves).map(|info| info.build_hash.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
