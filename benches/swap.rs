//! What a swap costs those who are served meanwhile: eight tasks resolve and call without pause while a plugin is
//! swapped a thousand times; three runs.

use benches::{Measured, save_all};
use tests::load::{Plan, Report, Until, run};

const RUNS: usize = 3;
const SWAPS: u64 = 1_000;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let reports: Vec<Report> = (0..RUNS)
        .map(|_| {
            let report = runtime.block_on(run(Plan { tasks: 8, until: Until::Swaps(SWAPS), name: "bench" }));
            println!("{report}\n");
            report
        })
        .collect();
    let measured = |name: &str, unit: &str, of: &dyn Fn(&Report) -> u64| {
        let measured = Measured::new(name, unit, reports.iter().map(|report| of(report) as f64).collect());
        measured.print();
        measured
    };
    let all = [
        measured("swap_failed_requests", "count", &|report| report.failed + report.lost + report.wrong),
        measured("swap_longest_stall", "ns", &|report| report.latency.max()),
        measured("swap_stall_p999", "ns", &|report| report.latency.value_at_quantile(0.999)),
        measured("swap_rss_growth", "bytes", &|report| report.grown),
        measured("swap_duration", "ns", &|report| report.swap.value_at_quantile(0.5)),
    ];
    save_all("swap", &all);
}
