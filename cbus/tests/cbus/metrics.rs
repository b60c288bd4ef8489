//! What `/metrics` prints, and what is made from it: its reference, a dashboard, and alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use controllerbus_api::__private::metrics::{Described, TABLE, markdown};
use serde_json::Value;

use crate::process::{Daemon, daemon_folder, http};
use crate::{built, cbus};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn described(sample: &str) -> Option<&'static Described> {
    TABLE.iter().flat_map(|(_, metrics)| metrics.iter()).find(|metric| metric.samples().iter().any(|own| own == sample))
}

/// What a query in PromQL names.
#[derive(Debug, Default)]
struct Query {
    /// The samples, each with the labels by which it selects.
    samples: Vec<(String, Vec<String>)>,
    /// The labels by which it groups and matches.
    groups: Vec<String>,
    /// Whether only these are left.
    aggregates: bool,
}

const OPERATORS: [&str; 4] = ["and", "or", "unless", "bool"];
const AGGREGATIONS: [&str; 6] = ["sum", "avg", "min", "max", "count", "topk"];

impl Query {
    fn of(text: &str) -> Self {
        let mut query = Self::default();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if c == '"' {
                rest = rest[1..].split_once('"').expect("the end of a text").1;
            } else if c == '[' {
                rest = rest.split_once(']').expect("the end of a range").1;
            } else if c.is_ascii_digit() {
                rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
            } else if c.is_ascii_alphabetic() || c == '_' {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                rest = after.trim_start();
                match word {
                    "by" | "on" => {
                        let (labels, after) = rest.trim_start_matches('(').split_once(')').expect("labels");
                        query.groups.extend(labels.split(',').map(|label| label.trim().to_owned()));
                        query.aggregates |= word == "by";
                        rest = after;
                    }
                    _ if OPERATORS.contains(&word) || AGGREGATIONS.contains(&word) || rest.starts_with('(') => {}
                    _ => {
                        let mut labels = Vec::new();
                        if let Some(matchers) = rest.strip_prefix('{') {
                            let (inside, after) = matchers.split_once('}').expect("the end of the matchers");
                            // What is in quotes is every second part.
                            let outside = inside.split('"').step_by(2).flat_map(|part| part.split(','));
                            let names = outside.map(|part| part.trim_end_matches(['=', '!', '~']).trim());
                            labels.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
                            rest = after;
                        }
                        query.samples.push((word.to_owned(), labels));
                    }
                }
            } else {
                rest = &rest[c.len_utf8()..];
            }
        }
        query
    }

    /// The labels that a sample of the result may have.
    fn labels(&self) -> BTreeSet<&str> {
        let own = || self.samples.iter().flat_map(|(sample, _)| labels_of(sample));
        if self.aggregates { self.groups.iter().map(String::as_str).collect() } else { own().collect() }
    }

    /// What is wrong with it, if anything is.
    fn problem(&self, families: &BTreeSet<&str>) -> Option<String> {
        if self.samples.is_empty() {
            return Some("it asks for nothing".to_owned());
        }
        for (sample, selected) in &self.samples {
            let Some(metric) = described(sample) else { return Some(format!("there is no {sample}")) };
            if !families.contains(metric.name) {
                return Some(format!("the daemon does not print {}", metric.name));
            }
            let known: Vec<&str> = labels_of(sample).collect();
            let unknown = selected.iter().find(|label| !known.contains(&label.as_str()));
            if let Some(label) = unknown {
                return Some(format!("{sample} has no label {label}"));
            }
        }
        let all: BTreeSet<&str> = self.samples.iter().flat_map(|(sample, _)| labels_of(sample)).collect();
        let unknown = self.groups.iter().find(|label| !all.contains(label.as_str()))?;
        Some(format!("nothing in it has the label {unknown}"))
    }
}

/// The labels of a sample, with those that Prometheus adds.
fn labels_of(sample: &str) -> impl Iterator<Item = &'static str> {
    let own = described(sample).map(|metric| metric.labels).unwrap_or_default();
    let bound = if sample.ends_with("_bucket") { &["le"][..] } else { &[] };
    own.iter().chain(bound).copied().chain(["instance", "job"])
}

/// The names in `{{name}}` or `{{ $labels.name }}`.
fn placeholders(text: &str) -> Vec<String> {
    let inside = text.split("{{").skip(1).filter_map(|part| part.split_once("}}"));
    let names = inside.map(|(name, _)| name.trim().trim_start_matches("$labels.").to_owned());
    names.filter(|name| name != "$value").collect()
}

fn check(at: &str, query: &str, texts: &[&str], families: &BTreeSet<&str>) {
    let parsed = Query::of(query);
    assert_eq!(parsed.problem(families), None, "{at}: {query}");
    let labels = parsed.labels();
    for name in texts.iter().flat_map(|text| placeholders(text)) {
        assert!(labels.contains(name.as_str()), "{at} shows {name}, which {query} does not have");
    }
}

/// The queries of the dashboard, each with its place and the text that it is shown with.
fn of_dashboard() -> Vec<(String, String, String)> {
    let dashboard: Value = serde_json::from_str(&read("cbus/monitoring/grafana.json")).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "two panels have one id");
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((text(&panel["title"]), text(&target["expr"]), text(&target["legendFormat"])));
        }
    }
    assert!(found.len() > 30, "{}", found.len());
    for annotation in dashboard["annotations"]["list"].as_array().expect("annotations") {
        found.push((text(&annotation["name"]), text(&annotation["expr"]), text(&annotation["titleFormat"])));
    }
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let query = variables.iter().find(|variable| variable["type"] == "query").expect("a query");
    let query = text(&query["query"]);
    let (metric, label) =
        query.trim_start_matches("label_values(").trim_end_matches(')').split_once(", ").expect("two");
    found.push(("the variable".to_owned(), metric.to_owned(), format!("{{{{{label}}}}}")));
    found
}

/// The same of the alerts.
fn of_alerts() -> Vec<(String, String, String)> {
    let rules: Value = serde_saphyr::from_str(&read("cbus/monitoring/alerts.yaml")).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups");
    let rules: Vec<_> = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules")).collect();
    assert!(rules.len() >= 10, "{}", rules.len());
    let one = |rule: &&Value| {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let severity = text(&rule["labels"]["severity"]);
        assert!(["critical", "warning"].contains(&&*severity), "{rule}");
        let known = ["alert", "expr", "for", "labels", "annotations"];
        assert!(rule.as_object().expect("a map").keys().all(|key| known.contains(&key.as_str())), "{rule}");
        let shown = text(&rule["annotations"]["summary"]) + &text(&rule["annotations"]["description"]);
        (text(&rule["alert"]), text(&rule["expr"]), shown)
    };
    rules.iter().map(one).collect()
}

/// What a daemon that has loaded a good file has not seen. With one of each event, a unit test of `controllerbus-api` finds them.
const NOT_HAPPENED: [&str; 9] = [
    "cbus_builds",
    "cbus_unchanged_builds",
    "cbus_build_seconds",
    "cbus_rollbacks",
    "cbus_taken_back",
    "cbus_stalls",
    "cbus_unloads",
    "cbus_crashes",
    "cbus_restarts",
];

#[test]
fn a_running_daemon_prints_the_metrics_of_the_reference_the_dashboard_and_the_alerts() {
    let folder = daemon_folder();
    std::fs::copy(&built().1, folder.path().join("plugins/second.cbus.so")).expect("copying");
    let arguments = ["config.yaml", "--plugins", "plugins", "--isolation", "process", "--allow-exec"];
    let daemon = Daemon::start(folder.path(), &arguments);
    // Somebody asks something as long as the metrics are read.
    let mut asking = cbus(folder.path());
    asking.args(["ask", "second/ask", "{\"nonce\":1}", "--watch", "--connect", &daemon.address]).stdout(Stdio::piped());
    let mut asking = asking.spawn().expect("running cbus");
    let answer = BufReader::new(asking.stdout.take().expect("its output")).lines().next();
    assert!(answer.is_some_and(|line| line.is_ok_and(|line| line.contains("from the second"))));
    let (status, text) = http(&daemon.address, "GET", "/metrics", "");
    assert_eq!(status, 200);
    asking.kill().and_then(|()| asking.wait()).expect("ending it");

    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let kinds: BTreeMap<&str, &str> = kinds.collect();
    let all = || TABLE.iter().flat_map(|(_, metrics)| metrics.iter());
    let happened = all().filter(|metric| !NOT_HAPPENED.contains(&metric.name));
    assert_eq!(kinds, happened.map(|metric| (metric.name, metric.kind.word())).collect());
    let value = |series: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().expect("a number")
    };
    for (series, expected) in [
        ("cbus_swaps_total{plugin=\"second\"}", 1.0),
        ("cbus_plugins{state=\"serving\"}", 1.0),
        ("cbus_plugin_failing{plugin=\"second\"}", 0.0),
        ("cbus_plugin_processes{plugin=\"second\"}", 1.0),
        ("cbus_generations{plugin=\"second\",state=\"serving\"}", 1.0),
        ("cbus_active_directives{directive=\"second/ask\"}", 1.0),
        ("cbus_references{directive=\"second/ask\"}", 1.0),
        ("cbus_unanswered_directives{directive=\"second/ask\"}", 0.0),
        ("cbus_configs{state=\"failed\"}", 0.0),
        ("cbus_resolver_runs_total{controller=\"second\",directive=\"second/ask\"}", 1.0),
        ("cbus_resolver_failures_total{controller=\"second\",directive=\"second/ask\"}", 0.0),
        ("cbus_load_seconds_count", 1.0),
    ] {
        assert_eq!(value(series), expected, "{series}");
    }
    #[cfg(target_os = "linux")]
    for series in [
        "cbus_plugin_resident_memory_bytes{plugin=\"second\"}",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
    ] {
        assert!(value(series) > 0.0, "{series}");
    }
    // Its resolution is a hundredth of a second.
    #[cfg(target_os = "linux")]
    assert!(value("process_cpu_seconds_total") >= 0.0);
    assert!(value("process_start_time_seconds") > 1.7e9);
    assert!(text.contains("cbus_build_info{version=\"") && text.contains("api_revision=\""), "{text}");
    // Each sample has the labels that the reference says.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.split_once(['{', ' ']).expect("a sample");
        let metric = described(name).unwrap_or_else(|| panic!("the reference has no {name}"));
        assert!(metric.labels.iter().all(|label| labels.contains(&format!("{label}=\""))), "{line}");
    }
    daemon.end();

    let families: BTreeSet<&str> = kinds.keys().copied().chain(NOT_HAPPENED).collect();
    for (title, query, shown) in of_dashboard().iter().chain(&of_alerts()) {
        check(title, query, &[shown], &families);
    }
}

#[test]
fn the_reference_of_the_metrics_is_the_programs_own_table() {
    let file = Path::new(ROOT).join("docs/reference/metrics.md");
    let text = read("docs/reference/metrics.md");
    let begin = text.find("\n## ").unwrap_or(text.len());
    let expected = format!("{}{}", &text[..begin], markdown());
    if std::env::var_os("CBUS_WRITE_DOCS").is_some() {
        std::fs::write(file, expected).expect("writing");
        return;
    }
    assert_eq!(text, expected, "run this with CBUS_WRITE_DOCS=1 to write it");
}

#[test]
fn queries_are_read_and_what_is_wrong_with_them_is_found() {
    let families: BTreeSet<&str> = TABLE.iter().flat_map(|(_, metrics)| metrics.iter().map(|one| one.name)).collect();
    let problem = |text: &str| Query::of(text).problem(&families);
    for good in [
        "cbus_plugin_failing == 1",
        "sum by (plugin) (rate(cbus_swaps_total{plugin!=\"a,b\"}[5m])) > 0.5",
        "histogram_quantile(0.9, sum by (by, le) (rate(cbus_build_seconds_bucket[$__rate_interval])))",
        "process_open_fds / process_max_fds > 0.8 and on (instance, job) cbus_build_info",
    ] {
        assert_eq!(problem(good), None, "{good}");
    }
    for (bad, what) in [
        ("cbus_swaps", "there is no cbus_swaps"),
        ("rate(cbus_nothing_total[5m])", "there is no cbus_nothing_total"),
        ("cbus_configs{plugin=\"x\"}", "cbus_configs has no label plugin"),
        ("sum by (cause) (cbus_swaps_total)", "nothing in it has the label cause"),
        ("1 + 1", "it asks for nothing"),
    ] {
        assert_eq!(problem(bad).as_deref(), Some(what), "{bad}");
    }
    assert_eq!(placeholders("{{plugin}} of {{ $labels.instance }}: {{ $value }}"), ["plugin", "instance"]);
    assert_eq!(Query::of("sum by (plugin) (cbus_leases)").labels(), BTreeSet::from(["plugin"]));
}
