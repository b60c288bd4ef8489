//! The metrics for Prometheus.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use controllerbus::Bus;
use controllerbus::bus::{CountsSnapshot, ResolverCounts};
use hot_runtime::{GenerationInfo, RuntimeEvent};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPlugin {
    plugin: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildEnd {
    plugin: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InState {
    plugin: String,
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfResolver {
    controller: String,
    directive: String,
}

/// The counts of each controller at the last look, by controller and directive id.
type Seen = HashMap<(u64, String), ResolverCounts>;

/// The counters and gauges of a daemon. Gauges are set when they are read.
pub struct Metrics {
    registry: Registry,
    builds: Family<BuildEnd, Counter>,
    swaps: Family<OfPlugin, Counter>,
    rollbacks: Family<OfPlugin, Counter>,
    taken_back: Family<OfPlugin, Counter>,
    runs: Family<OfResolver, Counter>,
    failures: Family<OfResolver, Counter>,
    waits: Family<OfResolver, Counter<f64, AtomicU64>>,
    seen: Mutex<Seen>,
    stalls: Family<OfPlugin, Counter>,
    unloads: Family<OfPlugin, Counter>,
    crashes: Family<OfPlugin, Counter>,
    build_seconds: Histogram,
    swap_seconds: Histogram,
    live_seconds: Histogram,
    generations: Family<InState, Gauge>,
    leases: Family<OfPlugin, Gauge>,
    controllers: Gauge,
    directives: Gauge,
    values: Gauge,
    memory: Gauge<u64, AtomicU64>,
}

/// The current sizes of the bus.
pub struct Counts {
    pub controllers: usize,
    pub directives: usize,
    pub values: usize,
    pub memory_bytes: u64,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("cbus");
        let long = || Histogram::new([0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0]);
        let short = || Histogram::new([0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0]);
        let made = Self {
            builds: Family::default(),
            swaps: Family::default(),
            rollbacks: Family::default(),
            taken_back: Family::default(),
            runs: Family::default(),
            failures: Family::default(),
            waits: Family::default(),
            seen: Mutex::default(),
            stalls: Family::default(),
            unloads: Family::default(),
            crashes: Family::default(),
            build_seconds: long(),
            swap_seconds: short(),
            live_seconds: long(),
            generations: Family::default(),
            leases: Family::default(),
            controllers: Gauge::default(),
            directives: Gauge::default(),
            values: Gauge::default(),
            memory: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("builds", "Builds that ended", made.builds.clone());
        registry.register("swaps", "Generations that started serving", made.swaps.clone());
        registry.register("rollbacks", "Swaps that were rolled back", made.rollbacks.clone());
        registry.register(
            "taken_back",
            "Generations that failed while on probation and were taken back",
            made.taken_back.clone(),
        );
        registry.register("resolver_runs", "Runs of resolvers, by controller and directive", made.runs.clone());
        registry.register("resolver_failures", "Runs of resolvers that failed or panicked", made.failures.clone());
        registry.register(
            "resolver_wait_seconds",
            "Total time from start to answer of runs that did not answer immediately",
            made.waits.clone(),
        );
        registry.register("stalls", "Replaced generations that could not be unloaded in time", made.stalls.clone());
        registry.register("unloads", "Generations that were unloaded", made.unloads.clone());
        registry.register("crashes", "Unexpected exits of plugin processes", made.crashes.clone());
        registry.register("build_seconds", "How long builds took", made.build_seconds.clone());
        registry.register(
            "swap_seconds",
            "From the construction of new controllers to the switch that made them serve",
            made.swap_seconds.clone(),
        );
        registry.register("edit_to_live_seconds", "From a save to the new code serving", made.live_seconds.clone());
        registry.register("generations", "Generations by state", made.generations.clone());
        registry.register("leases", "What keeps generations loaded", made.leases.clone());
        registry.register("controllers", "Controllers on the bus", made.controllers.clone());
        registry.register("directives", "Active directives", made.directives.clone());
        registry.register("values", "Values of active directives", made.values.clone());
        registry.register("resident_memory_bytes", "Resident memory of the daemon", made.memory.clone());
        Self { registry, ..made }
    }

    /// Counts an event.
    pub fn count(&self, event: &RuntimeEvent) {
        let of = |plugin: &str| OfPlugin { plugin: plugin.to_owned() };
        let build = |plugin: &str, result| {
            self.builds.get_or_create(&BuildEnd { plugin: plugin.to_owned(), result }).inc();
        };
        match event {
            RuntimeEvent::Built { plugin, took, .. } => {
                build(plugin, "ok");
                self.build_seconds.observe(took.as_secs_f64());
            }
            RuntimeEvent::BuildFailed { plugin, .. } => build(plugin, "failed"),
            RuntimeEvent::Swapped { plugin, timeline, .. } => {
                self.swaps.get_or_create(&of(plugin)).inc();
                self.swap_seconds.observe(timeline.swap.as_secs_f64());
                if let Some(time) = timeline.edit_to_live {
                    self.live_seconds.observe(time.as_secs_f64());
                }
            }
            RuntimeEvent::TakenBack { plugin, .. } => drop(self.taken_back.get_or_create(&of(plugin)).inc()),
            RuntimeEvent::RolledBack { plugin, .. } => drop(self.rollbacks.get_or_create(&of(plugin)).inc()),
            RuntimeEvent::Draining { plugin, .. } | RuntimeEvent::Stuck { plugin, .. } => {
                self.stalls.get_or_create(&of(plugin)).inc();
            }
            RuntimeEvent::Unloaded { plugin, .. } => drop(self.unloads.get_or_create(&of(plugin)).inc()),
            RuntimeEvent::Crashed { plugin, .. } => drop(self.crashes.get_or_create(&of(plugin)).inc()),
            _ => {}
        }
    }

    /// Adds what controllers have done since the last call.
    pub fn resolved(&self, bus: &Bus) {
        let names: HashMap<_, _> = bus.controllers().into_iter().map(|found| (found.id, found.info.id)).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = Seen::new();
        for CountsSnapshot { controller, directive, counts, .. } in bus.counts() {
            let Some(name) = names.get(&controller) else { continue };
            let key = (controller.0, directive);
            let before = seen.remove(&key).unwrap_or_default();
            let of = OfResolver { controller: name.clone(), directive: key.1.clone() };
            self.runs.get_or_create(&of).inc_by(counts.runs.saturating_sub(before.runs));
            self.failures.get_or_create(&of).inc_by(counts.failures.saturating_sub(before.failures));
            let waited = counts.waited_for.saturating_sub(before.waited_for);
            self.waits.get_or_create(&of).inc_by(waited.as_secs_f64());
            now.insert(key, counts);
        }
        *seen = now;
    }

    /// The metrics, in the text format of Prometheus.
    pub fn render(&self, generations: &[GenerationInfo], counts: &Counts) -> String {
        self.generations.clear();
        self.leases.clear();
        for found in generations {
            let state = crate::state::of_generation(found.state);
            self.generations.get_or_create(&InState { plugin: found.plugin.clone(), state }).inc();
            self.leases.get_or_create(&OfPlugin { plugin: found.plugin.clone() }).inc_by(found.leases as i64);
        }
        self.controllers.set(counts.controllers as i64);
        self.directives.set(counts.directives as i64);
        self.values.set(counts.values as i64);
        self.memory.set(counts.memory_bytes);
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
