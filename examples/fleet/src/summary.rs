//! The results of a run: JSON for machines, a table for people.

use std::time::Duration;

use console::style;
use serde::Serialize;

/// The machine-readable summary.
#[derive(Default, Serialize)]
pub struct Summary {
    /// The hosts of the fleet, as the one that asks sees them.
    pub hosts: usize,
    /// Requests that were asked across.
    pub requests: u64,
    /// Those that got an answer that is not right or came twice, or none that had to come.
    pub wrong: u64,
    /// Those that were told that a host is out of reach.
    pub unreachable: u64,
    /// From SIGKILL to the withdrawal of the host's value.
    pub kill_to_withdrawn_ms: f64,
    /// From the cut to the withdrawal of the host's value.
    pub cut_to_withdrawn_ms: f64,
    /// From the mending of the cable to the value being there again.
    pub back_to_answer_ms: f64,
    /// How many resolvers ran again after that; what they had resolved has stood all the time.
    pub resolvers_run_again: u64,
    /// From the new plugin file to its first answer; not in the JSON.
    #[serde(skip)]
    pub swap_ms: f64,
}

/// A duration in milliseconds, to the microsecond.
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

impl Summary {
    /// Whether all that was promised was so.
    pub fn is_good(&self) -> bool {
        self.wrong == 0 && self.resolvers_run_again == 0 && self.requests > 0
    }

    /// Prints it for people.
    pub fn show(&self) {
        println!();
        for (what, ms) in [
            ("a host was killed -> its value was withdrawn", self.kill_to_withdrawn_ms),
            ("its cable was cut -> its value was withdrawn", self.cut_to_withdrawn_ms),
            ("the cable was mended -> its value was there again", self.back_to_answer_ms),
            ("a new plugin file -> its first answer on another host", self.swap_ms),
        ] {
            println!("  {what:<56} {}", style(format!("{ms:>9.1} ms")).bold());
        }
        let judged = |count: u64, what: &str| {
            let text = style(format!("{count} {what}"));
            if count == 0 { text.green() } else { text.red() }
        };
        println!();
        println!(
            "  {} requests across {} hosts, {}, {} told that a host is out of reach; {}",
            style(self.requests).bold(),
            self.hosts,
            judged(self.wrong, "wrong"),
            self.unreachable,
            judged(self.resolvers_run_again, "resolvers run again"),
        );
    }
}
