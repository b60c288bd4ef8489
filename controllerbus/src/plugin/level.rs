//! `tracing` levels as numbers, as they cross a boundary: 1 error to 5 trace.

use tracing::Level;
use tracing::level_filters::LevelFilter;

use super::traces;

/// A level's number.
pub fn number(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// The most verbose level that anybody in this process listens to; 0 for none.
pub fn listened() -> u8 {
    let none = || if traces::unheard().is_some() { traces::UNHEARD_LEVEL } else { 0 };
    LevelFilter::current().into_level().map_or_else(none, |level| number(&level))
}
