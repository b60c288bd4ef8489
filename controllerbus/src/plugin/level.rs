//! `tracing` levels as numbers, as they cross a boundary: 1 error to 5 trace.

use tracing::Level;
use tracing::level_filters::LevelFilter;

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
    LevelFilter::current().into_level().map_or(0, |level| number(&level))
}
