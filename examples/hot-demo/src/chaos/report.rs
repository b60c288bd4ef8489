//! The results of a run, and whether the promises were kept.

use std::collections::BTreeMap;

use console::style;
use serde::{Deserialize, Serialize};

use super::plugins::FOR_GOOD;

/// The machine-readable summary.
#[derive(Default, Serialize, Deserialize)]
pub struct Report {
    /// How long it ran, including loading and unloading.
    pub seconds: u64,
    /// The probe's requests.
    pub probe_requests: u64,
    /// Requests that got no answer, or a wrong one.
    pub probe_failed: u64,
    /// The longest time that a request took.
    pub probe_longest_ms: f64,
    /// A bare timer's longest delay.
    pub timer_longest_ms: f64,
    /// Calls of the API.
    pub api_calls: u64,
    /// Calls that did not return within their limit.
    pub api_over_limit: u64,
    /// How often each hazard occurred.
    pub hazards: BTreeMap<String, u64>,
    /// What could not be unloaded.
    pub left_loaded: Vec<Left>,
}

/// A plugin's generation that could not be unloaded.
#[derive(Serialize, Deserialize)]
pub struct Left {
    /// The plugin's id.
    pub plugin: String,
    /// What keeps it loaded.
    pub why: String,
}

/// The summary, and what helps to find out why a promise was broken.
#[derive(Serialize, Deserialize)]
pub struct Outcome {
    /// The summary.
    pub report: Report,
    /// The calls that took too long.
    pub over_limit: Vec<String>,
    /// Why the probe's first failed request failed.
    pub first_failure: Option<String>,
}

impl Outcome {
    /// The promises that were broken.
    pub fn broken(&self) -> Vec<String> {
        let report = &self.report;
        let mut broken = Vec::new();
        if report.probe_requests == 0 || report.probe_failed > 0 {
            let why = self.first_failure.as_deref().unwrap_or("the probe did not run");
            broken.push(format!("{} of {} requests failed: {why}", report.probe_failed, report.probe_requests));
        }
        let limit = f64::max(100.0, 3.0 * report.timer_longest_ms);
        if report.probe_longest_ms > limit {
            broken.push(format!("a request took {:.0} ms; the limit is {limit:.0} ms", report.probe_longest_ms));
        }
        broken.extend(self.over_limit.iter().cloned());
        for Left { plugin, why } in &report.left_loaded {
            if !why.contains(FOR_GOOD) {
                broken.push(format!("{plugin} is still loaded, but not because of a thread that never exits: {why}"));
            }
        }
        broken
    }

    /// Prints the summary for people.
    pub fn show(&self) {
        let report = &self.report;
        for (name, count) in &report.hazards {
            println!("  {count:>6} {name}");
        }
        let failed = style(format!("{} failed", report.probe_failed));
        println!(
            "\n  {} s: {} requests by the probe, {}; the slowest took {:.1} ms; a bare timer was up to {:.1} ms late",
            report.seconds,
            style(report.probe_requests).bold(),
            if report.probe_failed == 0 { failed.green() } else { failed.red() },
            report.probe_longest_ms,
            report.timer_longest_ms,
        );
        println!("  {} API calls, {} over their limit", report.api_calls, report.api_over_limit);
        for Left { plugin, why } in &report.left_loaded {
            println!("  {plugin} is still loaded: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(change: impl FnOnce(&mut Outcome)) -> usize {
        let report = Report { probe_requests: 1, probe_longest_ms: 100.0, ..Report::default() };
        let mut outcome = Outcome { report, over_limit: Vec::new(), first_failure: None };
        change(&mut outcome);
        outcome.broken().len()
    }

    #[test]
    fn each_broken_promise_is_reported() {
        let left = |why: &str| Left { plugin: "trouble-01".to_owned(), why: why.to_owned() };
        assert_eq!(outcome(|_| {}), 0);
        assert_eq!(outcome(|it| it.report.probe_requests = 0), 1);
        assert_eq!(outcome(|it| it.report.probe_failed = 1), 1);
        assert_eq!(outcome(|it| it.report.probe_longest_ms = 101.0), 1);
        assert_eq!(outcome(|it| (it.report.probe_longest_ms, it.report.timer_longest_ms) = (149.0, 50.0)), 0);
        assert_eq!(outcome(|it| it.over_limit.push("unload took 9 s".to_owned())), 1);
        assert_eq!(outcome(|it| it.report.left_loaded.push(left("its thread `for-good` has not exited"))), 0);
        assert_eq!(outcome(|it| it.report.left_loaded.push(left("held by one controller"))), 1);
    }
}
