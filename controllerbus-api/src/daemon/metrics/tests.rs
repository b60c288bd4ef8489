use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use controllerbus::error::Code;
use controllerbus::prelude::*;
use hot_runtime::{RollBackCause, RuntimeEvent, Timeline};

use super::table::{Described, Kind, TABLE};
use super::{NAMES, Names, OTHER};
use crate::Host;

/// The samples of a scrape: the name, the labels and the value.
fn samples(text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split_terminator("\",");
        let labels = labels.map(|label| label.split_once("=\"").expect("a label"));
        let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
        (name.to_owned(), labels.collect(), value.parse().expect("a number"))
    };
    lines.map(sample).collect()
}

/// A sample's value.
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: BTreeMap<String, String> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    samples(text).into_iter().find(|(own, labels, _)| own == name && *labels == wanted).map(|(_, _, value)| value)
}

fn all() -> impl Iterator<Item = &'static Described> {
    TABLE.iter().flat_map(|(_, metrics)| metrics.iter())
}

/// One of each event that is counted.
fn events() -> Vec<RuntimeEvent> {
    let plugin = || "greeter".to_owned();
    let (reason, took) = ("why".to_owned(), Duration::from_millis(20));
    let timeline = || {
        let mut timeline = Timeline::default();
        timeline.edit_to_live = Some(took);
        timeline
    };
    vec![
        RuntimeEvent::Built {
            plugin: plugin(),
            took,
            by: hot_runtime::compile::BuiltBy::Rustc,
            optimized: false,
            why_cargo: None,
            why_full_link: None,
            phases: Vec::new(),
            warnings: 0,
            messages: Vec::new(),
        },
        RuntimeEvent::BuildFailed {
            plugin: plugin(),
            code: Code::BUILD,
            rendered: reason.clone(),
            messages: Vec::new(),
            serving: None,
        },
        RuntimeEvent::Unchanged { plugin: plugin(), serving: None },
        RuntimeEvent::Swapped { plugin: plugin(), from: None, to: 1, timeline: timeline() },
        RuntimeEvent::RolledBack {
            plugin: plugin(),
            code: Code::NOT_READY,
            cause: RollBackCause::NotReady,
            reason: reason.clone(),
            serving: None,
        },
        RuntimeEvent::TakenBack {
            plugin: plugin(),
            from: 2,
            to: 3,
            was: 1,
            cause: RollBackCause::Crashed,
            reason: reason.clone(),
            notes: Vec::new(),
        },
        RuntimeEvent::Refused { path: "x".into(), code: Code::DAMAGED, reason: reason.clone() },
        RuntimeEvent::Draining { plugin: plugin(), generation: 1, leases: 1 },
        RuntimeEvent::Unloaded { plugin: plugin(), generation: 1, took, unmapped: Some(true) },
        RuntimeEvent::Crashed { plugin: plugin(), generation: 1, reason, last_lines: Vec::new(), restart_in: took },
        RuntimeEvent::Restarted { plugin: plugin(), generation: 1, pid: 1, took },
    ]
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "metrics/slow", value = String)]
struct Slow {
    fails: bool,
}

struct Answering;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "metrics/answering")]
struct AnsweringConfig {}

#[hot_plugin(id = "metrics/answering", version = "1.0.0")]
impl Controller for Answering {
    type Config = AnsweringConfig;

    async fn construct(_: AnsweringConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn slow(&self, slow: Slow, values: Values<String>) -> Result<()> {
        tokio::task::yield_now().await;
        if slow.fails {
            return Err(Error::msg("it fails").permanent());
        }
        values.add("done".to_owned());
        Ok(())
    }
}

#[tokio::test]
async fn what_is_printed_is_what_the_table_says_with_its_labels_and_nothing_else() {
    let host = Host::new(Bus::new());
    events().iter().for_each(|event| host.journal.runtime_event(event));
    host.journal.line(crate::proto::LogLine { level: "WARN".to_owned(), ..Default::default() });
    host.bus.apply(ConfigSet::from_yaml("a: { id: metrics/answering }").unwrap()).await.unwrap();
    assert_eq!(*host.bus.resolve(Slow { fails: false }).await.unwrap(), "done");
    assert!(host.bus.resolve(Slow { fails: true }).await.is_err());
    let asked = host.bus.request(Slow { fails: false }).unwrap();
    let text = host.metrics(None);
    drop(asked);

    let mut told = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a kind");
        assert_eq!(told.insert(name, kind), None, "{name} is there twice");
    }
    // What needs a generation, and one in a process of its own, which an end-to-end test has. Without a sample there is no family.
    let generations = ["cbus_generations", "cbus_leases"];
    let processes = ["cbus_plugin_cpu_seconds", "cbus_plugin_processes", "cbus_plugin_resident_memory_bytes"];
    let elsewhere: BTreeSet<&str> = generations.into_iter().chain(processes).collect();
    let here = || all().filter(|metric| !elsewhere.contains(metric.name));
    assert_eq!(told, here().map(|metric| (metric.name, metric.kind.word())).collect());
    for metric in here() {
        let help = format!("# HELP {} {}.\n", metric.name, metric.help);
        assert!(text.contains(&help), "{help}");
    }
    for metric in here() {
        let named: Vec<_> = samples(&text).into_iter().filter(|(name, ..)| metric.samples().contains(name)).collect();
        let wanted: BTreeSet<&str> = metric.labels.iter().copied().collect();
        assert!(!named.is_empty(), "{}", metric.name);
        for (name, labels, _) in &named {
            let own: BTreeSet<&str> = labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
            assert_eq!(own, wanted, "{name}");
            let has_bound = metric.kind == Kind::Histogram && name.ends_with("_bucket");
            assert_eq!(labels.contains_key("le"), has_bound, "{name}");
        }
    }
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn events_and_runs_are_counted_once_however_often_somebody_scrapes() {
    let host = Host::new(Bus::new());
    events().iter().for_each(|event| host.journal.runtime_event(event));
    host.bus.apply(ConfigSet::from_yaml("a: { id: metrics/answering }\nb: { id: none }").unwrap()).await.unwrap();
    assert_eq!(*host.bus.resolve(Slow { fails: false }).await.unwrap(), "done");
    assert!(host.bus.resolve(Slow { fails: true }).await.is_err());
    drop(host.metrics(None));
    let text = host.metrics(None);
    let plugin = ("plugin", "greeter");
    let counted = |name: &str, labels: &[(&str, &str)], expected: f64| {
        assert_eq!(value(&text, name, labels), Some(expected), "{name} {labels:?} in\n{text}");
    };
    counted("cbus_builds_total", &[plugin, ("result", "ok")], 1.0);
    counted("cbus_builds_total", &[plugin, ("result", "failed")], 1.0);
    counted("cbus_build_seconds_count", &[("by", "rustc")], 1.0);
    counted("cbus_swaps_total", &[plugin], 1.0);
    counted("cbus_rollbacks_total", &[plugin, ("cause", "not_ready")], 1.0);
    counted("cbus_taken_back_total", &[plugin, ("cause", "crashed")], 1.0);
    counted("cbus_configs", &[("state", "running")], 1.0);
    counted("cbus_configs", &[("state", "queued")], 1.0);
    counted("cbus_configs", &[("state", "failed")], 0.0);
    let slow = ("directive", "metrics/slow");
    let resolver = [("controller", "metrics/answering"), slow];
    counted("cbus_resolver_runs_total", &resolver, 2.0);
    counted("cbus_resolver_failures_total", &resolver, 1.0);
    counted("cbus_resolver_panics_total", &resolver, 0.0);
    // The one that failed has not answered.
    counted("cbus_resolver_answer_seconds_count", &[slow], 1.0);
    counted("cbus_resolver_answer_seconds_bucket", &[slow, ("le", "+Inf")], 1.0);
    counted("cbus_resolver_answer_seconds_bucket", &[slow, ("le", "10.0")], 1.0);
    let sum = value(&text, "cbus_resolver_answer_seconds_sum", &[slow]);
    assert!(sum.is_some_and(|sum| sum > 0.0) && sum == value(&text, "cbus_resolver_wait_seconds_total", &resolver));
}

#[test]
fn there_are_only_so_many_names_and_what_comes_later_is_counted_together() {
    let mut names = Names::default();
    for number in 0..NAMES {
        assert_eq!(names.label(&format!("d{number}")), format!("d{number}"));
    }
    assert_eq!(names.label("one-more"), OTHER);
    assert_eq!(names.label("d7"), "d7");
}
