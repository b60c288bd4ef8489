//! Judges the hosts of a step: each gate with its numbers.

use serde::Serialize;

use crate::health::{Counts, HostHealth};
use crate::rollout::Gates;

/// What a gate says of the hosts of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// The gate's name, as in the rollout's text.
    pub gate: &'static str,
    /// Whether it lets the rollout go on.
    pub passes: bool,
    /// The numbers, for people.
    pub says: String,
}

/// Judges the hosts that may have a release. `hosts` are those that answer; of all that may have
/// it, `missing` are lost. One that is in neither is not heard of at the moment, and may just be late.
pub(crate) fn judge(
    gates: &Gates,
    sequence: u64,
    hosts: &[&HostHealth],
    (missing, of): (usize, usize),
) -> Vec<Verdict> {
    let mut all = vec![
        swaps(gates, sequence, hosts),
        crashes(gates, sequence, hosts),
        configs(gates, sequence, hosts),
        reachable(gates, missing, of),
    ];
    let ran = || hosts.iter().filter(|host| host.runs_release(sequence));
    let sum = |of: &str| {
        let counts = ran().filter_map(|host| host.counts.get(of));
        counts.fold(Counts::default(), |a, b| Counts {
            requests: a.requests + b.requests,
            failures: a.failures + b.failures,
            slow: a.slow + b.slow,
            waited_ms: a.waited_ms + b.waited_ms,
        })
    };
    if let Some(errors) = &gates.errors {
        let counts = sum(&errors.of);
        let share = (counts.failures, counts.requests, errors.most_percent, errors.of_at_least);
        all.push(of_requests("errors", &errors.of, share, "failed"));
    }
    if let Some(slow) = &gates.slow {
        let counts = sum(&slow.of);
        let share = (counts.slow, counts.requests, slow.most_percent, slow.of_at_least);
        all.push(of_requests("slow", &slow.of, share, &format!("took longer than {:?}", slow.above)));
    }
    if let Some(health) = &gates.health {
        let failed = ran().filter_map(|host| Some((host, host.check.as_ref().filter(|check| !check.ok)?)));
        let failed: Vec<_> = failed.map(|(host, check)| format!("{}: {}", host.host, check.says)).collect();
        let says = if failed.is_empty() { format!("{} is well", health.directive) } else { listed(&failed) };
        all.push(Verdict { gate: "health", passes: failed.is_empty(), says });
    }
    all
}

fn swaps(gates: &Gates, sequence: u64, hosts: &[&HostHealth]) -> Verdict {
    let failed = hosts.iter().filter_map(|host| Some((host, host.failed.as_ref()?)));
    let failed: Vec<_> = failed
        .filter(|(_, failed)| failed.sequence == sequence && !failed.crashed)
        .map(|(host, failed)| format!("{}: {}", host.host, failed.why))
        .collect();
    let passes = failed.len() as u64 <= gates.swaps_failed;
    let says = if failed.is_empty() { "none failed".to_owned() } else { listed(&failed) };
    Verdict { gate: "swaps", passes, says }
}

fn crashes(gates: &Gates, sequence: u64, hosts: &[&HostHealth]) -> Verdict {
    let of = |host: &HostHealth| match (&host.failed, host.runs_release(sequence)) {
        (Some(failed), _) if failed.sequence == sequence && failed.crashed => host.crashes.max(1),
        (_, true) => host.crashes,
        _ => 0,
    };
    let crashed: Vec<_> = hosts.iter().map(|host| (host, of(host))).filter(|(_, crashes)| *crashes > 0).collect();
    let sum: u64 = crashed.iter().map(|(_, crashes)| crashes).sum();
    let names: Vec<_> = crashed.iter().map(|(host, crashes)| format!("{}: {crashes}", host.host)).collect();
    let says = if sum == 0 { "none".to_owned() } else { listed(&names) };
    Verdict { gate: "crashes", passes: sum <= gates.crashes, says }
}

fn configs(gates: &Gates, sequence: u64, hosts: &[&HostHealth]) -> Verdict {
    let hosts = hosts.iter().filter(|host| host.runs_release(sequence));
    let failed: Vec<_> =
        hosts.flat_map(|host| host.configs.iter().map(move |config| format!("{}: {config}", host.host))).collect();
    let says = if failed.is_empty() { "all run".to_owned() } else { listed(&failed) };
    Verdict { gate: "configs", passes: failed.len() as u64 <= gates.configs_failed, says }
}

fn reachable(gates: &Gates, missing: usize, of: usize) -> Verdict {
    let within = of - missing.min(of);
    let least = (of as f64 * gates.reachable_percent / 100.0).ceil() as usize;
    Verdict { gate: "reachable", passes: within >= least, says: format!("{within} of {of}, at least {least}") }
}

fn of_requests(gate: &'static str, of: &str, (bad, all, most, least): (u64, u64, f64, u64), what: &str) -> Verdict {
    if all < least {
        let says = format!("{all} requests of {of} are too few to judge");
        return Verdict { gate, passes: true, says };
    }
    let percent = if all == 0 { 0.0 } else { bad as f64 * 100.0 / all as f64 };
    let says = format!("{bad} of {all} requests of {of} {what}: {percent:.1} %, at most {most} %");
    Verdict { gate, passes: percent <= most, says }
}

/// The first few, and how many more.
pub(crate) fn listed(all: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if all.len() > SHOWN { format!("{shown}; and {} more", all.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Check, FailedRelease};
    use crate::release::ReleaseName;
    use crate::rollout::{Errors, HealthDirective, Slow};

    fn host(name: &str) -> HostHealth {
        let runs = Some(ReleaseName::new(7, semver::Version::new(1, 0, 0)));
        HostHealth { runs, ..HostHealth::of(name, "greeter") }
    }

    fn all_gates() -> Gates {
        let of = || "example/greet".to_owned();
        let above = std::time::Duration::from_millis(100);
        Gates {
            errors: Some(Errors { of: of(), most_percent: 1.0, of_at_least: 50 }),
            slow: Some(Slow { of: of(), above, most_percent: 5.0, of_at_least: 50 }),
            health: Some(HealthDirective { directive: "example/health".to_owned() }),
            ..Gates::default()
        }
    }

    fn fail(hosts: &[HostHealth], missing: usize) -> Vec<&'static str> {
        let hosts: Vec<_> = hosts.iter().collect();
        let verdicts = judge(&all_gates(), 7, &hosts, (missing, hosts.len() + missing));
        verdicts.into_iter().filter(|verdict| !verdict.passes).map(|verdict| verdict.gate).collect()
    }

    fn counted(counts: Counts) -> HostHealth {
        HostHealth { counts: [("example/greet".to_owned(), counts)].into(), ..host("a") }
    }

    #[test]
    fn each_gate_fails_for_its_own_reason_only() {
        assert_eq!(fail(&[host("a"), host("b")], 0), [""; 0]);
        let failed = |crashed| HostHealth {
            failed: Some(FailedRelease::new(7, "restore refused it", crashed)),
            runs: None,
            ..host("a")
        };
        assert_eq!(fail(&[failed(false)], 0), ["swaps"]);
        assert_eq!(fail(&[failed(true)], 0), ["crashes"]);
        assert_eq!(fail(&[HostHealth { crashes: 1, ..host("a") }], 0), ["crashes"]);
        assert_eq!(fail(&[HostHealth { configs: vec!["g: no".to_owned()], ..host("a") }], 0), ["configs"]);
        assert_eq!(fail(&[host("a")], 1), ["reachable"]);
        assert_eq!(fail(&[counted(Counts::new(50, 1, 0))], 0), ["errors"]);
        assert_eq!(fail(&[counted(Counts::new(49, 49, 49))], 0), [""; 0], "too few to judge");
        assert_eq!(fail(&[counted(Counts::new(100, 1, 5))], 0), [""; 0]);
        assert_eq!(fail(&[counted(Counts::new(100, 0, 6))], 0), ["slow"]);
        assert_eq!(fail(&[HostHealth { check: Some(Check::new(false, "bad")), ..host("a") }], 0), ["health"]);
    }

    #[test]
    fn hosts_that_are_silent_and_not_lost_yet_are_within_reach() {
        // Whoever leads may have lost all of them at once, and finds that out of one after the other.
        let reachable = |missing| reachable(&all_gates(), missing, 20);
        assert!(reachable(2).passes && !reachable(3).passes);
        assert_eq!(reachable(2).says, "18 of 20, at least 18");
    }

    #[test]
    fn what_another_release_did_is_not_held_against_this_one() {
        let before = Some(ReleaseName::new(6, semver::Version::new(0, 9, 0)));
        let failed = Some(FailedRelease::new(6, "long ago", false));
        let host = HostHealth { runs: before, failed, crashes: 9, configs: vec!["x".to_owned()], ..host("a") };
        assert_eq!(fail(&[host], 0), [""; 0]);
    }
}
