//! What several commands print: sizes, durations, times, tables.

use std::sync::LazyLock;

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
pub use controllerbus_api::__private::{cut, duration, ms, plain};
use hot_runtime::text::{coloured_text, escaped, escaped_lines, is_unprintable};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use unicode_width::UnicodeWidthStr;

/// A code as it stands behind a message; nothing if there is none.
pub fn coded(code: &str) -> String {
    if code.is_empty() { String::new() } else { format!(" [{code}]") }
}

/// A size in bytes, for people.
pub fn size(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    if kib < 1.0 {
        format!("{bytes} B")
    } else if kib < 1000.0 {
        format!("{kib:.0} KiB")
    } else {
        format!("{:.1} MiB", kib / 1024.0)
    }
}

/// Prints rows in columns that fit their contents, each on one line whatever it contains.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let one_line = |row: &Vec<String>| row.iter().map(|cell| escaped(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(one_line).collect();
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.width()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + 2 - cell.width().min(*width)));
        }
        text.trim_end().to_owned()
    };
    let head = line(&mut head.iter().copied());
    print_bold(&head);
    for row in &rows {
        print_line(&line(&mut row.iter().map(String::as_str)));
    }
}

/// Prints text that may contain somebody else's: it cannot control the terminal, and none of its further lines looks like
/// one of ours.
pub fn print_line(text: &str) {
    print_as_it_is(&escaped_lines(text));
}

/// Prints a line in bold, where output is coloured.
fn print_bold(line: &str) {
    if has_colours(&std::io::stdout()) {
        print_as_it_is(&format!("\x1b[1m{}\x1b[0m", escaped(line)));
    } else {
        print_line(line);
    }
}

/// Prints a compiler's messages, with their colours where output is coloured.
pub fn print_compiler(text: &str) {
    print_as_it_is(coloured_text(text, has_colours(&std::io::stdout())).trim_end());
}

/// Prints text that is known to be harmless. If nobody reads it any more (`cbus ... | head`), the process ends.
pub fn print_as_it_is(text: &str) {
    use std::io::Write;
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Prints a message to standard error.
pub fn tell(text: &str) {
    use std::io::Write;
    // The terminal may be gone.
    let _ = writeln!(std::io::stderr(), "{}", escaped_lines(text));
}

/// Prints a compiler's messages to standard error.
pub fn tell_compiler(text: &str) {
    use std::io::Write;
    let _ = write!(std::io::stderr(), "{}", coloured_text(text, has_colours(&std::io::stderr())));
}

/// Whether colours are written there: on a terminal, unless `NO_COLOR`, `CLICOLOR` or `CLICOLOR_FORCE` say otherwise.
pub fn has_colours(output: &impl RawStream) -> bool {
    AutoStream::choice(output) != ColorChoice::Never
}

/// Prints a value as JSON: on one line if `lines` is set, otherwise indented.
pub fn print_json(value: &impl serde::Serialize, lines: bool) {
    let text = if lines { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
    match text {
        Ok(text) => print_as_it_is(&json_escaped(&text)),
        Err(error) => tell(&format!("cannot print JSON: {error}")),
    }
}

/// JSON with all unprintable characters as `\u` escapes; JSON itself requires that of only some.
pub fn json_escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unprintable(c) {
            let mut units = [0; 2];
            out.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// The zone of all times that are shown: `TZ`, or else this machine's.
static ZONE: LazyLock<TimeZone> = LazyLock::new(|| TimeZone::try_system().unwrap_or(TimeZone::UTC));

fn local(ms: u64) -> ZonedDateTime {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX).to_zoned_datetime(ZONE.clone())
}

/// The local time of day, from milliseconds since 1970.
pub fn clock(ms: u64) -> String {
    local(ms).strftime("%H:%M:%S").to_string()
}

/// The zone that [`clock`] is in at a time, such as `CET`.
pub fn zone(ms: u64) -> String {
    local(ms).strftime("%Z").to_string()
}

/// A local time with its offset from UTC, as RFC 3339 has it, from milliseconds since 1970.
pub fn time(ms: u64) -> String {
    local(ms).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}
