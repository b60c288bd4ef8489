//! Texts for people.

use std::time::Duration;

/// A duration as the API has it: in milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A duration in milliseconds, for people.
pub fn duration(ms: f64) -> String {
    hot_runtime::text::duration(Duration::from_secs_f64(ms.max(0.0) / 1000.0))
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
