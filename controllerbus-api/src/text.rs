//! Texts for people.

use std::time::Duration;

/// A duration as the API has it: in milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A duration in milliseconds, for people.
pub fn duration(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else if ms < 60_000.0 {
        format!("{:.1} s", ms / 1000.0)
    } else if ms < 3_600_000.0 {
        format!("{} min {} s", (ms / 60_000.0) as u64, (ms / 1000.0) as u64 % 60)
    } else {
        format!("{} h {} min", (ms / 3_600_000.0) as u64, (ms / 60_000.0) as u64 % 60)
    }
}

/// A text without terminal colours.
pub fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// A text cut to at most `most` characters.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
