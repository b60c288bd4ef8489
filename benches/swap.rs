//! What a swap takes where nobody asks, and what it costs those who are served meanwhile: eight tasks resolve and call without
//! pause while a plugin is swapped a thousand times, in turn with the same load and nothing swapped, three times each. The same by
//! tasks that ask every millisecond, so that the cores are not all taken. All of it for a plugin as it is developed, and for an
//! optimised one, as it is deployed.

use std::time::Duration;

use benches::Measured;
use benches::session::Session;
use tests::load::{Plan, Report, Until, run};

const RUNS: usize = 3;
/// How many tasks ask.
const TASKS: usize = 8;
/// How long the tasks of the load that leaves the cores something wait between two requests.
const PAUSE: Duration = Duration::from_millis(1);
/// How many swaps a run has, unless `SWAP_SWAPS` says another number.
const SWAPS: u64 = 1_000;
/// How long the same load is watched with nothing swapped.
const QUIET: Duration = Duration::from_secs(20);

fn main() {
    let mut session = Session::begin("swap");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let load = |release, tasks, pause, until| {
        let report = runtime.block_on(run(Plan { tasks, pause, until, release, name: "bench" }));
        println!("{report}\n");
        report
    };
    let swaps = std::env::var("SWAP_SWAPS").ok().and_then(|text| text.parse().ok()).unwrap_or(SWAPS);
    for (built, release) in [("", false), ("release_", true)] {
        let plugin = if release { "an optimised plugin" } else { "a plugin as it is developed" };
        println!("{plugin}; nobody asks:");
        let at_rest = (0..RUNS).map(|_| median_swap(&load(release, 0, None, Until::Swaps(swaps))) as f64).collect();
        session.push(Measured::new(&format!("{built}at_rest_swap_duration"), "ns", at_rest));
        for (kind, pause) in [("", None), ("paced_", Some(PAUSE))] {
            let pace = pause.map_or("without pause", |_| "every millisecond");
            println!("{plugin}; eight tasks {pace}, without and with swaps in turn:");
            let (mut quiet, mut swapped) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                quiet.push(load(release, TASKS, pause, Until::Quiet(QUIET)));
                swapped.push(load(release, TASKS, pause, Until::Swaps(swaps)));
            }
            session.extend(of_load(&format!("{built}{kind}"), &quiet, &swapped));
        }
    }
    session.end();
}

/// In nanoseconds.
fn median_swap(report: &Report) -> u64 {
    report.swap.value_at_quantile(0.5)
}

/// What a load saw without swaps and with them.
fn of_load(kind: &str, quiet: &[Report], swapped: &[Report]) -> Vec<Measured> {
    type Of = dyn Fn(&Report) -> u64;
    let all = |of: &Of, reports: &[Report]| -> Vec<f64> { reports.iter().map(|report| of(report) as f64).collect() };
    let failed = |report: &Report| report.failed + report.lost + report.wrong;
    let of_swaps: [(&str, &str, &Of); 3] = [
        ("failed_requests", "count", &failed),
        ("rss_growth", "bytes", &|report| report.grown),
        ("duration", "ns", &median_swap),
    ];
    let of_both: [(&str, &Of); 2] = [
        ("longest_stall", &|report| report.latency.max()),
        ("stall_p999", &|report| report.latency.value_at_quantile(0.999)),
    ];
    let mut measured = Vec::new();
    for (name, unit, of) in of_swaps {
        measured.push(Measured::new(&format!("{kind}swap_{name}"), unit, all(of, swapped)));
    }
    for (name, of) in of_both {
        let (with, without) = (all(of, swapped), all(of, quiet));
        measured.push(Measured::ratios(&format!("{kind}{name}/no_swap"), &with, &without));
        measured.push(Measured::new(&format!("{kind}swap_{name}"), "ns", with));
        measured.push(Measured::new(&format!("{kind}no_swap_{name}"), "ns", without));
    }
    measured.iter().for_each(Measured::print);
    measured
}
