//! The results of a run: JSON for machines, a timeline for people.

use std::time::Duration;

use console::{Style, style};
use hot_runtime::Timeline;
use serde::Serialize;

/// The machine-readable summary.
#[derive(Default, Serialize)]
pub struct Summary {
    /// Requests that were answered.
    pub requests: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Each swap, in order.
    pub swaps: Vec<Swap>,
    /// Generations whose library was still mapped at the end.
    pub generations_mapped_at_end: usize,
    /// The longest time that a request took, in milliseconds; not in the JSON.
    #[serde(skip)]
    pub slowest_ms: f64,
}

/// One swap's phases, in milliseconds.
#[derive(Clone, Serialize)]
pub struct Swap {
    #[serde(skip)]
    pub what: String,
    #[serde(skip)]
    pub from: u64,
    #[serde(skip)]
    pub to: u64,
    pub build_ms: f64,
    pub verify_ms: f64,
    pub load_ms: f64,
    pub swap_ms: f64,
    pub unload_ms: f64,
    pub edit_to_live_ms: f64,
}

impl Swap {
    /// A swap whose old generation is not unloaded yet.
    pub fn new(what: &str, from: u64, to: u64, timeline: &Timeline) -> Self {
        Self {
            what: what.to_owned(),
            from,
            to,
            build_ms: millis(timeline.build),
            verify_ms: millis(timeline.verify),
            load_ms: millis(timeline.load),
            swap_ms: millis(timeline.swap),
            unload_ms: 0.0,
            edit_to_live_ms: millis(timeline.edit_to_live.unwrap_or_default()),
        }
    }
}

/// A duration in milliseconds, to the microsecond.
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// The width of the longest bar.
const COLUMNS: f64 = 44.0;

impl Summary {
    /// Prints the timeline, with a line for each swap.
    pub fn show(&self) {
        let longest = self.swaps.iter().map(|swap| swap.edit_to_live_ms).fold(1.0, f64::max);
        println!();
        println!("  {}", style("edit -> live, in ms").bold());
        println!(
            "  {:<12} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}",
            "", "build", "verify", "load", "swap", "unload", "total"
        );
        for swap in &self.swaps {
            let bar: String = [
                (swap.build_ms, '█', Style::new().blue()),
                (swap.verify_ms, '▓', Style::new().yellow()),
                (swap.load_ms, '▒', Style::new().magenta()),
                (swap.swap_ms, '▏', Style::new().green()),
            ]
            .into_iter()
            .map(|(ms, mark, style)| {
                let columns = (ms / longest * COLUMNS).round().max(1.0);
                style.apply_to(mark.to_string().repeat(columns as usize)).to_string()
            })
            .collect();
            println!(
                "  {:<12} {:>6.0} {:>6.1} {:>6.1} {:>6.2} {:>6.1} {:>6.0}  {bar}",
                swap.what,
                swap.build_ms,
                swap.verify_ms,
                swap.load_ms,
                swap.swap_ms,
                swap.unload_ms,
                swap.edit_to_live_ms,
            );
        }
        let failed = style(format!("{} failed", self.failed));
        let failed = if self.failed == 0 { failed.green() } else { failed.red() };
        println!();
        println!(
            "  {} requests served, {failed}, the slowest took {:.1} ms; {} swaps; {} generations still mapped",
            style(self.requests).bold(),
            self.slowest_ms,
            self.swaps.len(),
            self.generations_mapped_at_end,
        );
    }
}
