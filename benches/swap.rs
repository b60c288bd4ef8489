//! What a swap takes where nobody asks, and what it costs those who are served meanwhile: eight tasks resolve and call without
//! pause while a plugin is swapped 500 times, in turn with the same load for as long and nothing swapped, five times each. The
//! same by tasks that ask every millisecond, so that the cores are not all taken. All of it for a plugin as it is developed, and for an
//! optimised one, as it is deployed.
//!
//! Also in turn, what is the least: the same load beside a thread that only computes, as often as there were swaps, and for as much
//! time of a core as a swap takes where nobody asks.

use std::time::Duration;

use benches::Measured;
use benches::session::Session;
use tests::load::{Computing, Plan, Report, Until, run};

const RUNS: usize = 5;
/// How many tasks ask.
const TASKS: usize = 8;
/// How long the tasks of the load that leaves the cores something wait between two requests.
const PAUSE: Duration = Duration::from_millis(1);
/// How many swaps a run has, unless `SWAP_SWAPS` says another number.
const SWAPS: u64 = 500;
/// How many times as many it has where tasks pause, because swaps take less time there, and there are fewer requests.
const MORE: u64 = 3;

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
        let at_rest = Measured::new(&format!("{built}at_rest_swap_duration"), "ns", at_rest);
        let work = Duration::from_nanos(at_rest.median as u64);
        session.push(at_rest);
        for (kind, pause, swaps) in [("", None, swaps), ("paced_", Some(PAUSE), swaps * MORE)] {
            let pace = pause.map_or("without pause", |_| "every millisecond");
            println!("{plugin}; eight tasks {pace}, with swaps, without, and beside a thread that computes, in turn:");
            let (mut swapped, mut quiet, mut computing) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..RUNS {
                let report = load(release, TASKS, pause, Until::Swaps(swaps));
                let (all, every) = (report.took, report.took.div_f64(swaps as f64));
                swapped.push(report);
                quiet.push(load(release, TASKS, pause, Until::Quiet(all)));
                computing.push(load(release, TASKS, pause, Until::Computing(Computing { all, work, every })));
            }
            session.extend(of_load(&format!("{built}{kind}"), &swapped, &quiet, &computing));
        }
    }
    session.end();
}

/// In nanoseconds.
fn median_swap(report: &Report) -> u64 {
    report.swap.value_at_quantile(0.5)
}

/// What a load saw with swaps, without them, and beside a thread that computes.
fn of_load(kind: &str, swapped: &[Report], quiet: &[Report], computing: &[Report]) -> Vec<Measured> {
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
    let (with, least) = (all(&median_swap, swapped), all(&median_swap, computing));
    measured.push(Measured::ratios(&format!("{kind}duration/computing"), &with, &least));
    measured.push(Measured::new(&format!("{kind}computing_duration"), "ns", least));
    for (name, of) in of_both {
        let (with, without, beside) = (all(of, swapped), all(of, quiet), all(of, computing));
        measured.push(Measured::ratios(&format!("{kind}{name}/no_swap"), &with, &without));
        measured.push(Measured::ratios(&format!("{kind}{name}/computing"), &with, &beside));
        measured.push(Measured::new(&format!("{kind}swap_{name}"), "ns", with));
        measured.push(Measured::new(&format!("{kind}no_swap_{name}"), "ns", without));
        measured.push(Measured::new(&format!("{kind}computing_{name}"), "ns", beside));
    }
    measured.iter().for_each(Measured::print);
    measured
}
