//! Output for people: lines, and during a step a spinner with the requests so far.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use console::style;
use indicatif::{ProgressBar, ProgressStyle};

use crate::load::Counts;

/// The kind of output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Colours, and a spinner on a terminal.
    Rich,
    /// Lines only.
    Plain,
    /// Only the JSON summary.
    Silent,
}

/// Prints the progress of the example.
pub struct Show {
    mode: Mode,
    spinner: ProgressBar,
    counts: Arc<OnceLock<Arc<Counts>>>,
}

impl Show {
    /// Sets the terminal up.
    pub fn new(mode: Mode) -> Self {
        if mode != Mode::Rich {
            console::set_colors_enabled(false);
        }
        let spinner = if mode == Mode::Rich { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        let counts: Arc<OnceLock<Arc<Counts>>> = Arc::default();
        let shared = Arc::clone(&counts);
        let look = ProgressStyle::with_template("  {spinner} {msg} {requests}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner())
            .with_key("requests", move |_: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                if let Some(counts) = shared.get() {
                    let (asked, wrong) =
                        (counts.requests.load(Ordering::Relaxed), counts.wrong.load(Ordering::Relaxed));
                    let _ = write!(out, "({asked} requests, {wrong} wrong)");
                }
            });
        spinner.set_style(look);
        Self { mode, spinner, counts }
    }

    /// Makes the spinner show these from now on.
    pub fn count(&self, counts: &Arc<Counts>) {
        let _ = self.counts.set(Arc::clone(counts));
    }

    /// Prints the heading of a part.
    pub fn part(&self, text: &str) {
        self.line(&format!("\n{} {}", style("▸").cyan(), style(text).bold()));
    }

    /// Prints a line of that part.
    pub fn say(&self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// Shows that something is in progress until the next line.
    pub fn busy(&self, text: &str) {
        match self.mode {
            Mode::Rich => {
                self.spinner.set_message(text.to_owned());
                self.spinner.enable_steady_tick(Duration::from_millis(80));
            }
            Mode::Plain => println!("  {text} ..."),
            Mode::Silent => {}
        }
    }

    fn line(&self, text: &str) {
        self.spinner.disable_steady_tick();
        self.spinner.set_message("");
        match self.mode {
            Mode::Rich => self.spinner.suspend(|| println!("{text}")),
            Mode::Plain => println!("{text}"),
            Mode::Silent => {}
        }
    }

    /// Removes the spinner.
    pub fn end(&self) {
        self.spinner.finish_and_clear();
    }
}
