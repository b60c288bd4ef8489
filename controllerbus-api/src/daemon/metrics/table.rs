//! Every metric: its name, its kind, its labels, and what it says. `docs/reference/metrics.md` is made from this, and a test holds
//! both it and what `/metrics` prints to it.

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// The name of its family; samples of counters end in `_total`, those of information in `_info`.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// The names of its labels, in their order.
    pub labels: &'static [&'static str],
    /// What it says, without a full stop.
    pub help: &'static str,
}

/// The kind of a metric, as `# TYPE` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the daemon ends.
    Counter,
    /// It is what it is now.
    Gauge,
    /// How many were how large, by upper bounds.
    Histogram,
    /// It is always 1; its labels say it.
    Info,
}

impl Kind {
    /// The word of the text format.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

impl Described {
    /// The names of its samples, as queries have them.
    pub fn samples(&self) -> Vec<String> {
        let endings: &[&str] = match self.kind {
            Kind::Counter => &["_total"],
            Kind::Gauge => &[""],
            Kind::Histogram => &["_bucket", "_count", "_sum"],
            Kind::Info => &["_info"],
        };
        endings.iter().map(|ending| format!("{}{ending}", self.name)).collect()
    }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Described {
    Described { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Described {
    Described { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Described {
    Described { name, kind: Kind::Histogram, labels, help }
}

const PLUGIN: &[&str] = &["plugin"];
const STATE: &[&str] = &["state"];
const DIRECTIVE: &[&str] = &["directive"];
const RESOLVER: &[&str] = &["controller", "directive"];

/// All of them, by subject.
#[rustfmt::skip]
pub const TABLE: &[(&str, &[Described])] = &[
    ("Builds", &[
        counter("cbus_builds", &["plugin", "result"], "Builds that ended, by result: `ok` or `failed`"),
        counter("cbus_unchanged_builds", PLUGIN, "Builds that gave what was loaded already; they are among the `ok` ones"),
        histogram("cbus_build_seconds", &["by"], "How long successful builds took, by what compiled them: `cargo`, `rustc`, or `kept` for an artifact that was still there"),
    ]),
    ("Swaps", &[
        counter("cbus_swaps", PLUGIN, "Generations that started serving"),
        counter("cbus_rollbacks", &["plugin", "cause"], "Generations that were not swapped in, by cause: `not_loaded`, `not_ready` or `taken_back_before`"),
        counter("cbus_taken_back", &["plugin", "cause"], "Generations that had served and were rolled back, by cause: `requested`, `crashed`, `failing` or `unhealthy`"),
        histogram("cbus_swap_seconds", &[], "From the construction of new controllers to the switch that made them serve"),
        histogram("cbus_edit_to_live_seconds", &[], "From a save to the new code serving"),
        histogram("cbus_verify_seconds", &[], "Reading, hashing and checking artifacts before a swap"),
        histogram("cbus_load_seconds", &[], "Opening artifacts and starting what is in them before a swap"),
        gauge("cbus_last_swap_timestamp_seconds", PLUGIN, "When the serving generation took over, in seconds since 1970"),
        counter("cbus_refused_files", &[], "Files and folders that were refused before any of their code ran"),
    ]),
    ("Plugins and generations", &[
        gauge("cbus_plugins", STATE, "Plugins by state: `serving`, `building`, `failed` or `unloaded`"),
        gauge("cbus_plugin_failing", PLUGIN, "1 if the last build or swap failed; an earlier generation may serve all the same"),
        gauge("cbus_generations", &["plugin", "state"], "Generations by state, the last unloaded ones among them"),
        gauge("cbus_leases", PLUGIN, "What keeps generations loaded"),
        counter("cbus_stalls", PLUGIN, "Replaced generations that could not be unloaded in time"),
        counter("cbus_unloads", PLUGIN, "Generations that were unloaded"),
        histogram("cbus_unload_seconds", &[], "From taking generations off the bus to closing their libraries"),
    ]),
    ("Plugins in processes of their own", &[
        gauge("cbus_plugin_processes", PLUGIN, "Running processes"),
        gauge("cbus_plugin_resident_memory_bytes", PLUGIN, "Resident memory of these processes"),
        counter("cbus_plugin_cpu_seconds", PLUGIN, "Time that these processes spent on a processor, as far as it was seen at a scrape"),
        counter("cbus_crashes", PLUGIN, "Unexpected ends of these processes"),
        counter("cbus_restarts", PLUGIN, "Processes that serve again after a crash"),
        histogram("cbus_restart_seconds", &[], "How long it took to start a process after a crash"),
    ]),
    ("Configs and controllers", &[
        gauge("cbus_configs", STATE, "Keys of the applied config sets by state: `queued`, `constructing`, `running`, `failed` or `removed`; `pending` or `refused` while the config before runs on"),
        gauge("cbus_controllers", &[], "Controllers on the bus"),
        gauge("cbus_controller_states", STATE, "Controllers by state, those that are leaving among them: `running`, `failed`, `ended`, `closing` or `stuck`; `staged` while they are prepared to replace others"),
        counter("cbus_execution_failures", &["controller"], "Failures of `execute`"),
    ]),
    ("Directives", &[
        gauge("cbus_directives", &[], "Active directives"),
        gauge("cbus_values", &[], "Values of active directives"),
        gauge("cbus_active_directives", DIRECTIVE, "Active directives by id"),
        gauge("cbus_references", DIRECTIVE, "Who asks: strong references to active directives"),
        gauge("cbus_unanswered_directives", DIRECTIVE, "Active directives without a value, for which no controller is looking for one"),
        counter("cbus_resolver_runs", RESOLVER, "Runs of resolvers: one for each controller that a directive is offered to, and again after failures. What is asked while it is active causes none"),
        counter("cbus_resolver_failures", RESOLVER, "Runs of resolvers that failed or panicked"),
        counter("cbus_resolver_panics", RESOLVER, "Runs of resolvers that panicked"),
        counter("cbus_resolver_wait_seconds", RESOLVER, "Total time from start to answer of runs that did not answer immediately"),
        histogram("cbus_resolver_answer_seconds", DIRECTIVE, "From start to answer of runs that did not answer immediately; those that did are not counted"),
    ]),
    ("The fleet", &[
        gauge("cbus_fleet_hosts", &[], "Other hosts of the fleet that are there; 0 without a fleet, as all of these are"),
        gauge("cbus_fleet_links", &[], "Links to other hosts that work"),
        counter("cbus_fleet_lost_links", &[], "Links that were lost"),
        counter("cbus_fleet_resyncs", &[], "How often what is asked of a host, and what it answers, was told anew after a gap"),
        counter("cbus_fleet_credit_waits", &[], "How often a host waited before it told more of a request, because what it had told was not read yet"),
        counter("cbus_fleet_sent_bytes", &[], "Bytes that were sent to other hosts"),
        counter("cbus_fleet_received_bytes", &[], "Bytes that were received from other hosts"),
        gauge("cbus_fleet_asks", &[], "Directives that this host asks others"),
        gauge("cbus_fleet_asked", &[], "Directives that others ask this host"),
    ]),
    ("The log", &[
        counter("cbus_log_lines", &["level"], "Lines that were logged, by level: `error`, `warn`, `info`, `debug` or `trace`"),
    ]),
    ("The daemon", &[
        Described { name: "cbus_build", kind: Kind::Info, labels: &["version", "api_revision", "os", "arch"], help: "What this daemon is" },
        gauge("cbus_resident_memory_bytes", &[], "Resident memory of the daemon; the same as `process_resident_memory_bytes`"),
        counter("process_cpu_seconds", &[], "Time that the daemon spent on a processor"),
        gauge("process_resident_memory_bytes", &[], "Resident memory of the daemon"),
        gauge("process_virtual_memory_bytes", &[], "Virtual memory of the daemon"),
        gauge("process_open_fds", &[], "Open file descriptors of the daemon"),
        gauge("process_max_fds", &[], "How many file descriptors the daemon may open"),
        gauge("process_threads", &[], "Threads of the daemon"),
        gauge("process_start_time_seconds", &[], "When the daemon started, in seconds since 1970"),
    ]),
];

/// What a metric says.
pub fn help_of(name: &str) -> &'static str {
    let mut all = TABLE.iter().flat_map(|(_, metrics)| metrics.iter());
    all.find(|metric| metric.name == name).map_or("", |metric| metric.help)
}

/// The table as Markdown.
pub fn markdown() -> String {
    let mut text = String::new();
    for (subject, metrics) in TABLE {
        text += &format!("\n## {subject}\n\n| metric | kind | labels | what it says |\n|---|---|---|---|\n");
        for metric in *metrics {
            let name = match metric.kind {
                // By the name that queries begin with.
                Kind::Histogram => metric.name.to_owned(),
                _ => metric.samples().join(", "),
            };
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (kind, labels) = (metric.kind.word(), labels.join(", "));
            text += &format!("| `{name}` | {kind} | {labels} | {} |\n", metric.help);
        }
    }
    text
}
