//! Snapshots of a daemon, for the API, the page and the live view.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::Arc;

use controllerbus::bus::{
    AskerSnapshot, ConfigState, DirectiveSnapshot, Execution, ResolverSnapshot, ResolverState, RunState, ValueSnapshot,
};
use hot_runtime::{GenerationInfo, GenerationState};
use serde::Serialize;

use super::Host;
use super::host::memory_bytes;
use super::journal::{PluginNotes, Problem, millis};
use super::metrics::Found;
use crate::fleet::Counts;
use crate::proto::{
    Config, Controller, Directive, Factory, Generation, HostAsks, Info, Plugin, Reload, ReloadStep, Resolver, Timeline,
    Value,
};
use crate::state;
use crate::text::ms;

/// What the page shows.
pub struct Shown {
    pub plugins: Vec<ShownPlugin>,
    pub controllers: Vec<Controller>,
    /// None if they were not looked at.
    pub directives: Option<Vec<ShownDirective>>,
    pub configs: Vec<Config>,
}

/// A plugin, with what only the page shows.
#[derive(Serialize)]
pub struct ShownPlugin {
    #[serde(flatten)]
    pub plugin: Plugin,
    /// Whether it is built of sources, and can be built again.
    sources: bool,
    /// The compiler's errors, each with its place.
    problems: Vec<Problem>,
    /// The generations that it can be rolled back to.
    kept: Vec<u64>,
}

/// A directive, with what only the page shows.
#[derive(Serialize)]
pub struct ShownDirective {
    #[serde(flatten)]
    pub directive: Directive,
    /// Who asks for it.
    asks: Vec<Asker>,
    /// How many only read it.
    readers: usize,
}

/// Who asks for a directive.
#[derive(Serialize)]
struct Asker {
    /// Empty for this program.
    plugin: String,
    generation: u64,
    /// The host of a fleet; empty for this one.
    host: String,
    count: usize,
}

impl Host {
    /// What the page shows. Reads the registry, and with it the process's mappings, only once, and the directives only if they
    /// are wanted: there may be thousands.
    pub(crate) fn shown(&self, directives: bool) -> Shown {
        let generations = self.generations();
        let kept = |plugin: &str| {
            let kept = generations.iter().filter(|found| found.plugin == plugin && found.kept);
            kept.map(|found| found.generation).collect()
        };
        let mut notes = self.journal.plugins();
        let plugins = self.plugins_of(generations.clone()).into_iter().map(|plugin| {
            let PluginNotes { problems, sources, .. } = notes.remove(&plugin.id).unwrap_or_default();
            ShownPlugin { sources, problems, kept: kept(&plugin.id), plugin }
        });
        Shown {
            plugins: plugins.collect(),
            controllers: self.controllers_of(&generations),
            directives: directives.then(|| self.directives_of(&generations)),
            configs: self.configs(),
        }
    }

    fn directives_of(&self, generations: &[GenerationInfo]) -> Vec<ShownDirective> {
        let plugins: HashMap<u64, &str> =
            generations.iter().map(|found| (found.generation, found.plugin.as_str())).collect();
        let asker = |asker: &AskerSnapshot| {
            let plugin = plugins.get(&asker.source.0).copied().unwrap_or_default();
            let generation = if plugin.is_empty() { 0 } else { asker.source.0 };
            Asker {
                plugin: plugin.to_owned(),
                generation,
                host: asker.host.clone().unwrap_or_default(),
                count: asker.references,
            }
        };
        let show = |found: DirectiveSnapshot| ShownDirective {
            asks: found.asked_by.iter().map(asker).collect(),
            readers: found.weak_references,
            directive: self.directive(found),
        };
        self.bus.directives().into_iter().map(show).collect()
    }

    /// A text of the bus, fit to be shown.
    fn kept(&self, text: &dyn Display) -> String {
        self.journal.shown(&text.to_string())
    }

    /// An overview of the bus.
    pub(crate) fn info(&self, allow_exec: bool, allow_control: bool) -> Info {
        let directives = self.bus.directives();
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process_id: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            plugins: self.plugins().len() as u32,
            controllers: self.bus.controllers().len() as u32,
            directives: directives.len() as u32,
            values: directives.iter().map(|found| found.values.len() as u32).sum(),
            configs: self.bus.configs().len() as u32,
            config_ids: self.bus.config_ids(),
            allow_exec,
            allow_control,
            memory_bytes: memory_bytes(),
            api_revision: crate::API_REVISION,
        }
    }

    /// The metrics, with what the fleet says now. It may wait for another scrape.
    pub(crate) async fn scrape(self: &Arc<Self>) -> Result<String, tokio::task::JoinError> {
        let held = Arc::clone(&self.scraping).lock_owned().await;
        let fleet = crate::fleet::counts::of(&self.bus).await;
        let host = Arc::clone(self);
        // It goes on where whoever scrapes has gone, and so does the lock.
        let rendered = tokio::task::spawn_blocking(move || {
            let text = host.metrics(fleet);
            drop(held);
            text
        });
        rendered.await
    }

    /// The metrics, in the text format of OpenMetrics.
    pub(crate) fn metrics(&self, fleet: Option<Counts>) -> String {
        self.journal.metrics.render(|| {
            let generations = self.generations();
            Found {
                plugins: self.plugins_of(generations.clone()),
                configs: self.configs(),
                shown: self.controllers_of(&generations),
                controllers: self.bus.controllers(),
                directives: self.bus.directive_counts(),
                counts: self.bus.counts(),
                started_ms: self.started_ms(),
                generations,
                fleet,
            }
        })
    }

    /// The plugins, including those that have never been loaded.
    pub fn plugins(&self) -> Vec<Plugin> {
        self.plugins_of(self.generations())
    }

    fn plugins_of(&self, generations: Vec<GenerationInfo>) -> Vec<Plugin> {
        let mut plugins: BTreeMap<String, Plugin> = BTreeMap::new();
        for (id, notes) in self.journal.plugins() {
            let plugin = Plugin {
                id: id.clone(),
                error: notes.error,
                error_code: notes.code.map(|code| code.to_string()).unwrap_or_default(),
                building_since_ms: notes.building_since.map_or(0, millis),
                building: notes.phase,
                ..Plugin::default()
            };
            plugins.insert(id, plugin);
        }
        for found in generations {
            let plugin = plugins
                .entry(found.plugin.clone())
                .or_insert_with(|| Plugin { id: found.plugin.clone(), ..Plugin::default() });
            if found.state == GenerationState::Serving {
                plugin.version = found.version.to_string();
            }
            plugin.generations.push(self.generation(&found));
        }
        let mut plugins: Vec<Plugin> = plugins.into_values().collect();
        for plugin in &mut plugins {
            let serving = plugin.serving().is_some();
            plugin.state = match (serving, plugin.building_since_ms > 0, plugin.error.is_empty()) {
                (_, true, _) => state::BUILDING,
                (true, ..) => state::SERVING,
                (false, _, false) => state::FAILED,
                (false, _, true) => state::UNLOADED,
            }
            .to_owned();
        }
        plugins
    }

    fn generation(&self, found: &GenerationInfo) -> Generation {
        Generation {
            number: found.generation,
            version: found.version.to_string(),
            build_hash: found.build_hash.clone(),
            state: state::of_generation(found.state),
            since_ms: millis(found.since),
            reason: found.reason.as_ref().map(|reason| self.kept(reason)).unwrap_or_default(),
            conflicts: found.conflicts.iter().map(|conflict| self.kept(conflict)).collect(),
            factories: found.holders.factories as u32,
            controllers: found.holders.controllers as u32,
            calls: found.holders.calls as u32,
            wakers: found.holders.wakers as u32,
            interfaces: found.holders.interfaces as u32,
            connections: found.holders.connections as u32,
            mapped: found.mapped,
            timeline: self.journal.timeline(found.generation),
            isolation: found.isolation.to_string(),
            process_id: found.pid.unwrap_or_default(),
            taken_back: found.taken_back.clone().unwrap_or_default(),
            layers: found.layers.clone(),
        }
    }

    /// The controllers on the bus, and those that have been removed but have not ended yet.
    pub fn controllers(&self) -> Vec<Controller> {
        self.controllers_of(&self.generations())
    }

    fn controllers_of(&self, generations: &[GenerationInfo]) -> Vec<Controller> {
        let plugins: HashMap<u64, String> =
            generations.iter().map(|found| (found.generation, found.plugin.clone())).collect();
        let show = |found: controllerbus::bus::ControllerSnapshot| {
            let plugin = plugins.get(&found.source.0).cloned().unwrap_or_default();
            let (state, error) = match &found.execution {
                _ if found.staged => (state::STAGED, String::new()),
                Execution::Running => (state::RUNNING, String::new()),
                Execution::Failed { error, .. } | Execution::Stopped { error } => (state::FAILED, self.kept(error)),
                Execution::Ended => (state::ENDED, String::new()),
                Execution::Finishing { .. } => {
                    (state::CLOSING, format!("it {}", found.execution.finishing().unwrap_or_default()))
                }
                Execution::Closing => (state::CLOSING, String::new()),
                Execution::Stuck { what } => (state::STUCK, format!("`{what}` blocks its thread and does not return")),
                _ => (state::UNKNOWN, String::new()),
            };
            Controller {
                id: found.id.0,
                name: found.info.id,
                version: found.info.version.to_string(),
                description: found.info.description,
                config_id: found.info.config_id,
                generation: if plugin.is_empty() { 0 } else { found.source.0 },
                plugin,
                key: found.keys.join(", "),
                answers: found.answers as u32,
                resolves: found.resolves,
                state: state.to_owned(),
                error,
            }
        };
        self.bus.controllers().into_iter().chain(self.bus.leaving()).map(show).collect()
    }

    /// The active directives.
    pub fn directives(&self) -> Vec<Directive> {
        self.bus.directives().into_iter().map(|found| self.directive(found)).collect()
    }

    fn directive(&self, found: DirectiveSnapshot) -> Directive {
        let about: Vec<String> = found.debug.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let value = |value: ValueSnapshot| Value {
            id: value.id.0,
            controller: value.controller.0,
            json: crate::text::cut(&self.kept(&value.value), VALUE),
        };
        Directive {
            id: found.id,
            name: self.kept(&found.name),
            about: self.kept(&about.join(" ")),
            references: found.references as u32,
            idle: found.idle,
            values: found.values.into_iter().map(value).collect(),
            resolvers: found.resolvers.into_iter().map(|found| resolver(found, |text| self.kept(text))).collect(),
            asked_by: askers(&found.asked_by),
        }
    }

    /// The applied configs.
    pub fn configs(&self) -> Vec<Config> {
        self.bus.configs().into_iter().map(|found| config(found, |text| self.kept(text))).collect()
    }

    /// The known factories.
    pub fn factories(&self) -> Vec<Factory> {
        let show = |found: controllerbus::bus::FactorySnapshot| Factory {
            id: found.info.id,
            version: found.info.version.to_string(),
            description: found.info.description,
            config_id: found.info.config_id,
            generation: found.source.0,
            schema: found.schema.to_string(),
        };
        self.bus.factories().into_iter().map(show).collect()
    }
}

/// How many characters of a value are shown.
const VALUE: usize = 200;

fn resolver(found: ResolverSnapshot, kept: impl Fn(&dyn Display) -> String) -> Resolver {
    let (state, error) = match found.state {
        ResolverState::Working => (state::WORKING, String::new()),
        ResolverState::Idle => (state::IDLE, String::new()),
        ResolverState::Failed { error } => (state::FAILED, kept(&error)),
        ResolverState::Held => (state::HELD, String::new()),
        _ => (state::UNKNOWN, String::new()),
    };
    let host = found.host.unwrap_or_default();
    Resolver { controller: found.controller.0, state: state.to_owned(), error, host }
}

/// The hosts of a fleet among those who ask, each once.
fn askers(found: &[AskerSnapshot]) -> Vec<HostAsks> {
    let mut hosts: BTreeMap<&str, u32> = BTreeMap::new();
    for asker in found {
        if let Some(host) = &asker.host {
            *hosts.entry(host).or_default() += asker.references as u32;
        }
    }
    hosts.into_iter().map(|(host, references)| HostAsks { host: host.to_owned(), references }).collect()
}

fn config(found: ConfigState, kept: impl Fn(&dyn Display) -> String) -> Config {
    let mut config = Config {
        key: found.key,
        config_id: found.config_id,
        revision: found.revision,
        error_code: found
            .problem
            .as_ref()
            .and_then(controllerbus::Error::code)
            .map(|code| code.to_string())
            .unwrap_or_default(),
        error: found.problem.map(|problem| kept(&problem)).unwrap_or_default(),
        location: found.location.map(|place| place.to_string()).unwrap_or_default(),
        ..Config::default()
    };
    config.state = match found.state {
        RunState::Queued => state::QUEUED,
        RunState::Constructing => state::CONSTRUCTING,
        RunState::Removed => state::REMOVED,
        RunState::Running(id) => {
            config.controller = id.0;
            state::RUNNING
        }
        RunState::Failed { error, retry_in } => {
            if config.error.is_empty() {
                config.error = kept(&error);
            }
            config.retry_in_ms = retry_in.map_or(0, |wait| wait.as_millis() as u64);
            state::FAILED
        }
        _ => state::UNKNOWN,
    }
    .to_owned();
    // The previous config is still running.
    if let Some(pending) = found.pending {
        let (state, retry_in) = match pending.state {
            RunState::Failed { retry_in, .. } => (state::REFUSED, retry_in),
            RunState::Constructing => (state::CONSTRUCTING, None),
            _ => (state::PENDING, None),
        };
        config.state = state.to_owned();
        config.retry_in_ms = retry_in.map_or(0, |wait| wait.as_millis() as u64);
    }
    config
}

/// A variant as JSON writes it.
fn word(variant: &impl serde::Serialize) -> String {
    let written = serde_json::to_value(variant).ok();
    written.and_then(|written| written.as_str().map(str::to_owned)).unwrap_or_default()
}

impl From<&hot_runtime::timings::Reload> for Reload {
    fn from(reload: &hot_runtime::timings::Reload) -> Self {
        Self {
            at_ms: reload.at_ms,
            plugin: reload.plugin.clone(),
            generation: reload.generation,
            outcome: word(&reload.outcome),
            by: reload.by.as_ref().map(word).unwrap_or_default(),
            optimized: reload.optimized,
            why_cargo: reload.why_cargo.clone().unwrap_or_default(),
            why_full_link: reload.why_full_link.clone().unwrap_or_default(),
            total_ms: reload.total_ms,
            steps: reload.steps.iter().map(|step| ReloadStep { name: step.name.clone(), ms: step.ms }).collect(),
        }
    }
}

impl From<&hot_runtime::Timeline> for Timeline {
    fn from(timeline: &hot_runtime::Timeline) -> Self {
        Self {
            edit_to_live_ms: timeline.edit_to_live.map(ms),
            build_ms: ms(timeline.build),
            verify_ms: ms(timeline.verify),
            load_ms: ms(timeline.load),
            swap_ms: ms(timeline.swap),
        }
    }
}

impl std::fmt::Display for Timeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::text::duration;
        if let Some(ms) = self.edit_to_live_ms {
            write!(f, "live in {}: ", duration(ms))?;
        }
        if self.build_ms > 0.0 {
            write!(f, "build {}, ", duration(self.build_ms))?;
        }
        let (verify, load, swap) = (duration(self.verify_ms), duration(self.load_ms), duration(self.swap_ms));
        write!(f, "verify {verify}, load {load}, swap {swap}")
    }
}
