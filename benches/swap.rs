//! What a swap costs those who are served meanwhile: eight tasks resolve and call without pause while a plugin is
//! swapped a thousand times; three runs. The same by tasks that ask every millisecond, so that the cores are not all
//! taken. Before either, the same load with nothing swapped: what it does by itself.

use std::time::Duration;

use benches::{Measured, save_all};
use tests::load::{Plan, Report, Until, run};

const RUNS: usize = 3;
/// How long the tasks of the load that leaves the cores something wait between two requests.
const PAUSE: Duration = Duration::from_millis(1);
/// How many swaps a run has, unless `SWAP_SWAPS` says another number.
const SWAPS: u64 = 1_000;
/// How long the same load is watched with nothing swapped.
const QUIET: Duration = Duration::from_secs(20);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let load = |pause, until| {
        let report = runtime.block_on(run(Plan { tasks: 8, pause, until, name: "bench" }));
        println!("{report}\n");
        report
    };
    let swaps = std::env::var("SWAP_SWAPS").ok().and_then(|text| text.parse().ok()).unwrap_or(SWAPS);
    println!("eight tasks without pause, and no swap:");
    let quiet = [load(None, Until::Quiet(QUIET))];
    println!("eight tasks without pause:");
    let reports: Vec<Report> = (0..RUNS).map(|_| load(None, Until::Swaps(swaps))).collect();
    println!("eight tasks that ask every millisecond, and no swap:");
    let paced_quiet = [load(Some(PAUSE), Until::Quiet(QUIET))];
    println!("eight tasks that ask every millisecond:");
    let paced: Vec<Report> = (0..RUNS).map(|_| load(Some(PAUSE), Until::Swaps(swaps))).collect();
    let measured = |name: &str, unit: &str, reports: &[Report], of: &dyn Fn(&Report) -> u64| {
        let measured = Measured::new(name, unit, reports.iter().map(|report| of(report) as f64).collect());
        measured.print();
        measured
    };
    let failed = |report: &Report| report.failed + report.lost + report.wrong;
    let longest = |report: &Report| report.latency.max();
    let p999 = |report: &Report| report.latency.value_at_quantile(0.999);
    let all = [
        measured("swap_failed_requests", "count", &reports, &failed),
        measured("swap_longest_stall", "ns", &reports, &longest),
        measured("swap_stall_p999", "ns", &reports, &p999),
        measured("swap_rss_growth", "bytes", &reports, &|report| report.grown),
        measured("swap_duration", "ns", &reports, &|report| report.swap.value_at_quantile(0.5)),
        measured("no_swap_longest_stall", "ns", &quiet, &longest),
        measured("no_swap_stall_p999", "ns", &quiet, &p999),
        measured("paced_swap_failed_requests", "count", &paced, &failed),
        measured("paced_swap_longest_stall", "ns", &paced, &longest),
        measured("paced_swap_stall_p999", "ns", &paced, &p999),
        measured("paced_swap_duration", "ns", &paced, &|report| report.swap.value_at_quantile(0.5)),
        measured("paced_no_swap_longest_stall", "ns", &paced_quiet, &longest),
        measured("paced_no_swap_stall_p999", "ns", &paced_quiet, &p999),
    ];
    save_all("swap", &all);
}
