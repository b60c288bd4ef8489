//! Swaps without pause under a load without pause: nothing is lost, nothing stays, nothing grows.

use std::time::Duration;

use tests::load::{Plan, Report, Until, run};

/// What holds at any speed of the machine.
fn check(report: &Report) {
    println!("{report}");
    assert_eq!((report.failed, report.lost, report.wrong), (0, 0, 0));
    assert!(report.served > 0);
    assert!(report.mapped <= 2, "{} generations are mapped that do not drain", report.mapped);
    // Over the second half; each generation leaves a little in statics of its library, which nobody drops.
    let allowed = 2 * 1024 * 1024 * (report.swaps / 2).div_ceil(500);
    assert!(report.grown < allowed, "resident memory grew by {} bytes", report.grown);
}

/// A thousand are a matter of a minute or more on a busy machine: `cargo bench -p benches --bench swap` makes them, and
/// so does this test when it is told to: `SWAPS=1000`.
fn swaps() -> u64 {
    std::env::var("SWAPS").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_the_load_of_eight_tasks_lose_nothing_and_leave_nothing_behind() {
    check(&run(Plan { tasks: 8, pause: None, until: Until::Swaps(swaps()), release: false, name: "swaps" }).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour"]
async fn half_an_hour_of_swaps_under_load_loses_nothing_and_leaves_nothing_behind() {
    check(
        &run(Plan {
            tasks: 8,
            pause: None,
            until: Until::Time(Duration::from_secs(30 * 60)),
            release: false,
            name: "soak",
        })
        .await,
    );
}
