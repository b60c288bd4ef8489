//! Rollouts as text, for people.

use std::collections::BTreeMap;

use controllerbus_api::fleet::rollout::Rollout;

use crate::text::{clock, duration, print_line, table};

/// Prints a rollout: where it is, its hosts, and its gates.
pub fn show(found: &Rollout) {
    print_line(&head(found));
    if !found.why.is_empty() {
        print_line(&format!("  {}, {}: {}", clock(found.at_ms), found.by, found.why));
    }
    if let Some(problem) = &found.problem {
        print_line(&format!("  {problem}"));
    }
    let steps: Vec<String> = (1..)
        .zip(&found.steps)
        .map(|(at, step)| {
            let bake =
                if step.bake_ms == 0 { String::new() } else { format!(", then {}", duration(step.bake_ms as f64)) };
            let here = if at == found.step && !found.is_over { " (here)" } else { "" };
            format!("{at}: {}{bake}{here}", step.hosts)
        })
        .collect();
    if !steps.is_empty() {
        print_line(&format!("  steps {}", steps.join("; ")));
    }
    print_line("");
    let or_none = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".to_owned());
    let row = |host: &controllerbus_api::fleet::rollout::RolloutHost| {
        let problem = host.problem.clone().unwrap_or_default();
        vec![host.host.clone(), host.state.clone(), or_none(&host.wanted), or_none(&host.runs), problem]
    };
    table(&["HOST", "STATE", "WANTED", "RUNS", "PROBLEM"], &found.hosts.iter().map(row).collect::<Vec<_>>());
    if !found.gates.is_empty() {
        print_line("");
        let row = |gate: &controllerbus_api::fleet::rollout::RolloutGate| {
            vec![gate.gate.clone(), if gate.passes { "passes" } else { "FAILS" }.to_owned(), gate.says.clone()]
        };
        table(&["GATE", "", "NUMBERS"], &found.gates.iter().map(row).collect::<Vec<_>>());
    }
}

/// Where it is, on one line.
pub fn head(found: &Rollout) -> String {
    if found.release.is_empty() {
        return format!("{}: its rollouts are not known", found.plugin);
    }
    let stage = found.stage.replace('_', " ");
    let place = match (found.is_over, found.stage.as_str()) {
        (true, "done") if !found.is_as_wanted => ", but not on every host".to_owned(),
        (true, _) => String::new(),
        (false, _) => format!(", step {} of {}, {} of {} hosts", found.step, found.steps.len(), found.turn, found.of),
    };
    format!("{} {} (release {}): {stage}{place}", found.plugin, found.release, found.sequence)
}

/// How many hosts are in which state: `3 new, 17 before`.
pub fn states(found: &Rollout) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for host in &found.hosts {
        *counts.entry(&host.state).or_default() += 1;
    }
    counts.into_iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}
