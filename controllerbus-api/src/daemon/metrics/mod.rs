//! The metrics for Prometheus. What happens to plugins is counted when it happens; everything else is looked up at a scrape, and so
//! costs nothing where nobody scrapes.

mod answers;
mod fleet;
pub(crate) mod process;
pub mod table;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use controllerbus::bus::{ControllerSnapshot, CountsSnapshot, DirectiveCounts, ResolverCounts};
use hot_runtime::{GenerationInfo, RuntimeEvent};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::fleet::Counts;
use crate::proto::{Config, Controller, Plugin};
use crate::state;
use answers::Answers;
use table::help_of;

/// Label names and values, in the table's order.
type Labels = Vec<(&'static str, String)>;

/// A count of seconds.
type Seconds = Counter<f64, AtomicU64>;

/// How many names of one kind have samples of their own; what comes later is counted under [`OTHER`].
const NAMES: usize = 300;

/// The label of what has no sample of its own.
const OTHER: &str = "other";

/// What is always there, even if nothing is in this state.
const PLUGIN_STATES: [&str; 4] = [state::SERVING, state::BUILDING, state::FAILED, state::UNLOADED];
const CONFIG_STATES: [&str; 7] =
    [state::QUEUED, state::CONSTRUCTING, state::RUNNING, state::FAILED, state::REMOVED, state::PENDING, state::REFUSED];
const CONTROLLER_STATES: [&str; 6] =
    [state::RUNNING, state::FAILED, state::ENDED, state::CLOSING, state::STUCK, state::STAGED];
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The metrics of a daemon.
pub struct Metrics {
    registry: Registry,
    builds: Family<Labels, Counter>,
    unchanged_builds: Family<Labels, Counter>,
    build_seconds: Family<Labels, Histogram>,
    swaps: Family<Labels, Counter>,
    rollbacks: Family<Labels, Counter>,
    taken_back: Family<Labels, Counter>,
    swap_seconds: Histogram,
    live_seconds: Histogram,
    verify_seconds: Histogram,
    load_seconds: Histogram,
    last_swap: Family<Labels, Gauge<f64, AtomicU64>>,
    refused_files: Counter,
    plugins: Family<Labels, Gauge>,
    failing: Family<Labels, Gauge>,
    generations: Family<Labels, Gauge>,
    leases: Family<Labels, Gauge>,
    stalls: Family<Labels, Counter>,
    unloads: Family<Labels, Counter>,
    unload_seconds: Histogram,
    processes: Family<Labels, Gauge>,
    process_memory: Family<Labels, Gauge>,
    process_cpu: Family<Labels, Seconds>,
    crashes: Family<Labels, Counter>,
    restarts: Family<Labels, Counter>,
    restart_seconds: Histogram,
    configs: Family<Labels, Gauge>,
    controllers: Gauge,
    controller_states: Family<Labels, Gauge>,
    execution_failures: Family<Labels, Counter>,
    directives: Gauge,
    values: Gauge,
    active: Family<Labels, Gauge>,
    references: Family<Labels, Gauge>,
    unanswered: Family<Labels, Gauge>,
    runs: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
    panics: Family<Labels, Counter>,
    waits: Family<Labels, Seconds>,
    answers: Arc<Answers>,
    lines: Family<Labels, Counter>,
    fleet: fleet::Fleet,
    own: Own,
    /// Held during a scrape, so that two of them do not count the same twice.
    seen: Mutex<Seen>,
}

/// What is told of the daemon's own process.
struct Own {
    memory: Gauge,
    cpu: Seconds,
    resident: Gauge,
    virtual_: Gauge,
    open_files: Gauge,
    most_files: Gauge,
    threads: Gauge,
    started: Gauge<f64, AtomicU64>,
}

/// What was there at the last scrape.
#[derive(Default)]
struct Seen {
    /// By controller and directive id.
    resolvers: HashMap<(u64, String), ResolverCounts>,
    /// The failures of `execute`, by controller.
    executions: HashMap<u64, u64>,
    /// The time that the processes of plugins took, by their number.
    processes: HashMap<u32, f64>,
    directive_names: Names,
    controller_names: Names,
    /// What the fleet had counted.
    fleet: Counts,
    /// Of a controller and a directive id together.
    resolver_names: Names,
}

/// The names that have samples of their own: the first ones that came.
#[derive(Default)]
struct Names(HashSet<String>);

impl Names {
    fn admit(&mut self, name: &str) -> bool {
        self.0.contains(name) || (self.0.len() < NAMES && self.0.insert(name.to_owned()))
    }

    fn label(&mut self, name: &str) -> String {
        if self.admit(name) { name.to_owned() } else { OTHER.to_owned() }
    }
}

/// What is looked up at a scrape.
pub struct Found {
    pub generations: Vec<GenerationInfo>,
    /// What the fleet has counted, if there is one.
    pub fleet: Option<Counts>,
    pub plugins: Vec<Plugin>,
    pub configs: Vec<Config>,
    /// The controllers as they are shown, those that are leaving among them.
    pub shown: Vec<Controller>,
    pub controllers: Vec<ControllerSnapshot>,
    pub directives: Vec<DirectiveCounts>,
    pub counts: Vec<CountsSnapshot>,
    /// When the daemon started, in milliseconds since 1970.
    pub started_ms: u64,
}

fn long() -> Histogram {
    Histogram::new([0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0])
}

fn short() -> Histogram {
    Histogram::new([0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0])
}

fn of(plugin: &str) -> Labels {
    vec![("plugin", plugin.to_owned())]
}

/// Puts a metric of the table into a registry.
fn add<M: Metric + Clone>(registry: &mut Registry, name: &'static str, metric: M) -> M {
    registry.register(name, help_of(name), metric.clone());
    metric
}

/// The same for one that begins empty.
fn new<M: Metric + Clone + Default>(registry: &mut Registry, name: &'static str) -> M {
    add(registry, name, M::default())
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let to = &mut registry;
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("api_revision", crate::API_REVISION.to_string()),
            ("os", std::env::consts::OS.to_owned()),
            ("arch", std::env::consts::ARCH.to_owned()),
        ];
        to.register("cbus_build", help_of("cbus_build"), Info::new(build));
        let answers = Arc::<Answers>::default();
        to.register_collector(Box::new(Arc::clone(&answers)));
        let metrics = Self {
            builds: new(to, "cbus_builds"),
            unchanged_builds: new(to, "cbus_unchanged_builds"),
            build_seconds: add(to, "cbus_build_seconds", Family::new_with_constructor(long)),
            swaps: new(to, "cbus_swaps"),
            rollbacks: new(to, "cbus_rollbacks"),
            taken_back: new(to, "cbus_taken_back"),
            swap_seconds: add(to, "cbus_swap_seconds", short()),
            live_seconds: add(to, "cbus_edit_to_live_seconds", long()),
            verify_seconds: add(to, "cbus_verify_seconds", short()),
            load_seconds: add(to, "cbus_load_seconds", short()),
            last_swap: new(to, "cbus_last_swap_timestamp_seconds"),
            refused_files: new(to, "cbus_refused_files"),
            plugins: new(to, "cbus_plugins"),
            failing: new(to, "cbus_plugin_failing"),
            generations: new(to, "cbus_generations"),
            leases: new(to, "cbus_leases"),
            stalls: new(to, "cbus_stalls"),
            unloads: new(to, "cbus_unloads"),
            unload_seconds: add(to, "cbus_unload_seconds", short()),
            processes: new(to, "cbus_plugin_processes"),
            process_memory: new(to, "cbus_plugin_resident_memory_bytes"),
            process_cpu: new(to, "cbus_plugin_cpu_seconds"),
            crashes: new(to, "cbus_crashes"),
            restarts: new(to, "cbus_restarts"),
            restart_seconds: add(to, "cbus_restart_seconds", short()),
            configs: new(to, "cbus_configs"),
            controllers: new(to, "cbus_controllers"),
            controller_states: new(to, "cbus_controller_states"),
            execution_failures: new(to, "cbus_execution_failures"),
            directives: new(to, "cbus_directives"),
            values: new(to, "cbus_values"),
            active: new(to, "cbus_active_directives"),
            references: new(to, "cbus_references"),
            unanswered: new(to, "cbus_unanswered_directives"),
            runs: new(to, "cbus_resolver_runs"),
            failures: new(to, "cbus_resolver_failures"),
            panics: new(to, "cbus_resolver_panics"),
            waits: new(to, "cbus_resolver_wait_seconds"),
            answers,
            lines: new(to, "cbus_log_lines"),
            fleet: fleet::Fleet::new(to),
            own: Own {
                memory: new(to, "cbus_resident_memory_bytes"),
                cpu: new(to, "process_cpu_seconds"),
                resident: new(to, "process_resident_memory_bytes"),
                virtual_: new(to, "process_virtual_memory_bytes"),
                open_files: new(to, "process_open_fds"),
                most_files: new(to, "process_max_fds"),
                threads: new(to, "process_threads"),
                started: new(to, "process_start_time_seconds"),
            },
            seen: Mutex::default(),
            registry: Registry::default(),
        };
        for level in LEVELS {
            drop(metrics.lines.get_or_create(&vec![("level", level.to_owned())]));
        }
        Self { registry, ..metrics }
    }

    /// Counts an event.
    pub fn count(&self, event: &RuntimeEvent) {
        let seconds = |histogram: &Histogram, time: Duration| histogram.observe(time.as_secs_f64());
        let build = |plugin: &str, result: &str| {
            let labels = vec![("plugin", plugin.to_owned()), ("result", result.to_owned())];
            self.builds.get_or_create(&labels).inc();
        };
        match event {
            RuntimeEvent::Built { plugin, took, by, .. } => {
                build(plugin, "ok");
                let by = match by {
                    hot_runtime::compile::BuiltBy::Cargo => "cargo",
                    hot_runtime::compile::BuiltBy::Rustc => "rustc",
                    hot_runtime::compile::BuiltBy::Kept => "kept",
                    _ => OTHER,
                };
                seconds(&self.build_seconds.get_or_create(&vec![("by", by.to_owned())]), *took);
            }
            RuntimeEvent::BuildFailed { plugin, .. } => build(plugin, "failed"),
            RuntimeEvent::Unchanged { plugin, .. } => drop(self.unchanged_builds.get_or_create(&of(plugin)).inc()),
            RuntimeEvent::Swapped { plugin, timeline, .. } => {
                self.swaps.get_or_create(&of(plugin)).inc();
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.last_swap.get_or_create(&of(plugin)).set(now.as_secs_f64());
                seconds(&self.swap_seconds, timeline.swap);
                seconds(&self.verify_seconds, timeline.verify);
                seconds(&self.load_seconds, timeline.load);
                if let Some(time) = timeline.edit_to_live {
                    seconds(&self.live_seconds, time);
                }
            }
            RuntimeEvent::TakenBack { plugin, cause, .. } => {
                let labels = vec![("plugin", plugin.clone()), ("cause", cause.to_string())];
                self.taken_back.get_or_create(&labels).inc();
            }
            RuntimeEvent::RolledBack { plugin, cause, .. } => {
                let labels = vec![("plugin", plugin.clone()), ("cause", cause.to_string())];
                self.rollbacks.get_or_create(&labels).inc();
            }
            RuntimeEvent::Refused { .. } => drop(self.refused_files.inc()),
            RuntimeEvent::Draining { plugin, .. } | RuntimeEvent::Stuck { plugin, .. } => {
                self.stalls.get_or_create(&of(plugin)).inc();
            }
            RuntimeEvent::Unloaded { plugin, took, .. } => {
                self.unloads.get_or_create(&of(plugin)).inc();
                seconds(&self.unload_seconds, *took);
            }
            RuntimeEvent::Crashed { plugin, .. } => drop(self.crashes.get_or_create(&of(plugin)).inc()),
            RuntimeEvent::Restarted { plugin, took, .. } => {
                self.restarts.get_or_create(&of(plugin)).inc();
                seconds(&self.restart_seconds, *took);
            }
            _ => {}
        }
    }

    /// Counts a line of the log; its level may be in capitals.
    pub fn line(&self, level: &str) {
        if let Some(level) = LEVELS.iter().find(|known| known.eq_ignore_ascii_case(level)) {
            self.lines.get_or_create(&vec![("level", (*level).to_owned())]).inc();
        }
    }

    /// The metrics with what was looked up, in the text format of OpenMetrics.
    pub fn render(&self, find: impl FnOnce() -> Found) -> String {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked up by one at a time, so that what one has counted the next does not count again.
        let found = &find();
        self.resolved(&mut seen, found);
        self.executed(&mut seen, found);
        self.standing(&mut seen, found);
        self.loaded(&mut seen, found);
        self.fleet.look(&mut seen.fleet, found.fleet);
        let states = |family: &Family<Labels, Gauge>, known: &[&str], own: Vec<&str>| {
            family.clear();
            for state in known.iter().copied().map(|state| (state, 0)).chain(own.into_iter().map(|state| (state, 1))) {
                family.get_or_create(&vec![("state", state.0.to_owned())]).inc_by(state.1);
            }
        };
        states(&self.plugins, &PLUGIN_STATES, found.plugins.iter().map(|plugin| &*plugin.state).collect());
        states(&self.configs, &CONFIG_STATES, found.configs.iter().map(|config| &*config.state).collect());
        states(&self.controller_states, &CONTROLLER_STATES, found.shown.iter().map(|shown| &*shown.state).collect());
        self.controllers.set(found.controllers.len() as i64);
        self.own.look(found.started_ms);
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Adds what resolvers have done since the last scrape.
    fn resolved(&self, seen: &mut Seen, found: &Found) {
        let names: HashMap<_, _> = found.controllers.iter().map(|found| (found.id, &found.info.id)).collect();
        let mut before = std::mem::take(&mut seen.resolvers);
        for CountsSnapshot { controller, directive, counts, .. } in &found.counts {
            let Some(name) = names.get(controller) else { continue };
            let key = (controller.0, directive.clone());
            let last = before.remove(&key).unwrap_or_default();
            let labels = match seen.resolver_names.admit(&format!("{name} {directive}")) {
                true => vec![("controller", (*name).clone()), ("directive", directive.clone())],
                false => vec![("controller", OTHER.to_owned()), ("directive", OTHER.to_owned())],
            };
            self.runs.get_or_create(&labels).inc_by(counts.runs.saturating_sub(last.runs));
            self.failures.get_or_create(&labels).inc_by(counts.failures.saturating_sub(last.failures));
            self.panics.get_or_create(&labels).inc_by(counts.panics.saturating_sub(last.panics));
            let waited = counts.waited_for.saturating_sub(last.waited_for).as_secs_f64();
            self.waits.get_or_create(&labels).inc_by(waited);
            let waits = std::array::from_fn(|at| counts.waits[at].saturating_sub(last.waits[at]));
            self.answers.add(seen.directive_names.label(directive), waited, waits);
            seen.resolvers.insert(key, *counts);
        }
    }

    /// Adds how often `execute` has failed since the last scrape.
    fn executed(&self, seen: &mut Seen, found: &Found) {
        let before = std::mem::take(&mut seen.executions);
        for controller in &found.controllers {
            let last = before.get(&controller.id.0).copied().unwrap_or_default();
            let labels = vec![("controller", seen.controller_names.label(&controller.info.id))];
            self.execution_failures.get_or_create(&labels).inc_by(controller.failures.saturating_sub(last));
            seen.executions.insert(controller.id.0, controller.failures);
        }
    }

    /// What is asked now.
    fn standing(&self, seen: &mut Seen, found: &Found) {
        [&self.active, &self.references, &self.unanswered].into_iter().for_each(Family::clear);
        for counts in &found.directives {
            let labels = vec![("directive", seen.directive_names.label(&counts.directive))];
            self.active.get_or_create(&labels).inc_by(counts.active as i64);
            self.references.get_or_create(&labels).inc_by(counts.references as i64);
            self.unanswered.get_or_create(&labels).inc_by(counts.unanswered as i64);
        }
        self.directives.set(found.directives.iter().map(|counts| counts.active).sum::<usize>() as i64);
        self.values.set(found.directives.iter().map(|counts| counts.values).sum::<usize>() as i64);
    }

    /// What is loaded now, and what the processes of plugins use.
    fn loaded(&self, seen: &mut Seen, found: &Found) {
        let all = [&self.failing, &self.generations, &self.leases, &self.processes, &self.process_memory];
        all.into_iter().for_each(Family::clear);
        for plugin in &found.plugins {
            self.failing.get_or_create(&of(&plugin.id)).set(i64::from(!plugin.error.is_empty()));
        }
        let before = std::mem::take(&mut seen.processes);
        for generation in &found.generations {
            let labels = of(&generation.plugin);
            let state = ("state", state::of_generation(generation.state));
            self.generations.get_or_create(&[labels.clone(), vec![state]].concat()).inc();
            self.leases.get_or_create(&labels).inc_by(generation.leases as i64);
            let Some(process) = generation.pid else { continue };
            self.processes.get_or_create(&labels).inc();
            let Some(usage) = process::usage(&process.to_string()) else { continue };
            self.process_memory.get_or_create(&labels).inc_by(usage.resident as i64);
            // Another process can have the number of one that has ended.
            let last = before.get(&process).copied().filter(|last| *last <= usage.cpu).unwrap_or_default();
            self.process_cpu.get_or_create(&labels).inc_by(usage.cpu - last);
            seen.processes.insert(process, usage.cpu);
        }
    }
}

impl Own {
    fn look(&self, started_ms: u64) {
        self.started.set(started_ms as f64 / 1000.0);
        if let Some(usage) = process::usage("self") {
            self.memory.set(usage.resident as i64);
            self.resident.set(usage.resident as i64);
            self.virtual_.set(usage.virtual_ as i64);
            self.threads.set(usage.threads as i64);
            self.cpu.inc_by((usage.cpu - self.cpu.get()).max(0.0));
        }
        if let Some((open, most)) = process::files() {
            self.open_files.set(open as i64);
            self.most_files.set(i64::try_from(most).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests;
