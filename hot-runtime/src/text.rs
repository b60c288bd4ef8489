//! Makes untrusted text safe to print: whatever it contains, a terminal only shows it.
//!
//! A plugin's name, its log lines, a file's name or an error may contain control characters. On a terminal those move
//! the cursor, overwrite what was printed, or start a line that looks like another's. So text from elsewhere is escaped
//! where it is printed, and its continuation lines are marked as such.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

/// The prefix of each continuation line of a text.
pub const CONTINUED: &str = "    | ";

/// Whether a character is not simply printed: control characters, line separators, invisible characters and those that
/// change the direction of writing. Joiners, which emoji and some scripts need, are harmless.
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn escape(c: char, out: &mut String) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        // Writing to a String does not fail.
        c => drop(write!(out, "\\u{{{:x}}}", u32::from(c))),
    }
}

/// A text on one line, with everything unprintable in it escaped as Rust escapes it: `\n`, `\u{1b}`.
///
/// ```
/// use hot_runtime::text::escaped;
///
/// assert_eq!(escaped("all is well"), "all is well");
/// assert_eq!(escaped("well\u{1b}[2K\nERROR"), "well\\u{1b}[2K\\nERROR");
/// ```
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unprintable(c) { escape(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// A duration as people say it: `1.5 ms`, `230 ms`, `4.0 s`, `2 min 5 s`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
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

/// A text of several lines, each but the first prefixed with [`CONTINUED`], and otherwise as [`escaped`].
#[must_use]
pub fn escaped_lines(text: &str) -> String {
    lines(text, |line, out| out.push_str(&escaped(line)))
}

/// As [`escaped_lines`], for text that a compiler or this program has coloured: colours are kept or dropped, and any
/// other escape sequence is escaped.
#[must_use]
pub fn coloured_lines(text: &str, keep: bool) -> String {
    lines(text, |line, out| coloured(line, keep, out))
}

/// As [`coloured_lines`] without prefixes, for the compiler's messages, which cannot be mistaken for anything else.
#[must_use]
pub fn coloured_text(text: &str, keep: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        coloured(line.trim_end_matches(['\r', '\n']), keep, &mut out);
        if line.ends_with('\n') {
            out.push('\n');
        }
    }
    out
}

fn lines(text: &str, mut write: impl FnMut(&str, &mut String)) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for (at, line) in text.trim_end_matches(['\r', '\n']).split('\n').enumerate() {
        if at > 0 {
            out.push('\n');
            out.push_str(CONTINUED);
        }
        // A tab within a line moves nothing but what follows it.
        for (at, part) in line.trim_end_matches('\r').split('\t').enumerate() {
            if at > 0 {
                out.push('\t');
            }
            write(part, &mut out);
        }
    }
    out
}

fn coloured(line: &str, keep: bool, out: &mut String) {
    let mut parts = line.split("\u{1b}[");
    out.push_str(&tabbed(parts.next().unwrap_or_default()));
    let mut on = false;
    for part in parts {
        let codes = part.find(|c: char| !c.is_ascii_digit() && c != ';').filter(|end| part[*end..].starts_with('m'));
        match codes {
            Some(end) => {
                let (codes, rest) = (&part[..end], &part[end + 1..]);
                if keep && is_colour(codes) {
                    on = !matches!(codes, "" | "0");
                    let _ = write!(out, "\u{1b}[{codes}m");
                }
                out.push_str(&tabbed(rest));
            }
            None => {
                out.push_str("\\u{1b}[");
                out.push_str(&tabbed(part));
            }
        }
    }
    if on {
        out.push_str("\u{1b}[0m");
    }
}

/// A line's escaped text, with its tabs.
fn tabbed(part: &str) -> Cow<'_, str> {
    if !part.contains('\t') {
        return escaped(part);
    }
    Cow::Owned(part.split('\t').map(escaped).collect::<Vec<_>>().join("\t"))
}

/// Whether these codes only colour text or make it bold, so that it stays readable.
fn is_colour(codes: &str) -> bool {
    codes.split(';').all(|code| code.is_empty() || code.parse::<u16>().is_ok_and(|code| code <= 255))
        && !codes
            .split(';')
            .any(|code| matches!(code, "5" | "6" | "7" | "8" | "30" | "90") && !codes.starts_with("38;"))
}

/// At most `most` bytes of a text, followed by how many more there are.
#[must_use]
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    Cow::Owned(format!("{}… ({} more bytes)", &text[..end], text.len() - end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_escaped_moves_a_cursor_ends_a_line_or_turns_the_writing() {
        let all: String = (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| is_unprintable(*c)).collect();
        assert!(all.chars().count() > 200);
        for shown in [escaped(&all).into_owned(), escaped_lines(&all).replace(['\n', '\t'], "")] {
            assert!(!shown.contains(is_unprintable));
        }
        for keep in [true, false] {
            let shown = coloured_lines(&format!("{all}\u{1b}[2J\u{9b}2J\u{1b}]0;title\u{7}\u{1b}[8mhidden"), keep);
            assert!(!shown.replace(['\n', '\t'], "").contains(is_unprintable), "{shown:?}");
        }
        assert_eq!(escaped("Grüße, 世界 👩‍🔧"), "Grüße, 世界 👩‍🔧");
    }

    #[test]
    fn a_further_line_is_told_apart_and_a_text_cannot_pretend_to_be_one() {
        assert_eq!(escaped_lines("one\n\nERROR two\r\n"), "one\n    | \n    | ERROR two");
        assert_eq!(escaped_lines("\r\rone\ttab"), "\\r\\rone\ttab");
    }

    #[test]
    fn colours_are_kept_or_dropped_and_end_with_their_line() {
        let text = "\u{1b}[1m\u{1b}[38;5;9merror\u{1b}[0m: no\n\u{1b}[31mred";
        assert_eq!(coloured_text(text, true), format!("{text}\u{1b}[0m"));
        assert_eq!(coloured_text(text, false), "error: no\nred");
        assert_eq!(coloured_lines(text, false), "error: no\n    | red");
    }

    #[test]
    fn a_long_text_is_cut_where_a_character_ends() {
        assert_eq!(shortened("ääää", 4), "ää… (4 more bytes)");
        assert_eq!(shortened("ääää", 5), "ää… (4 more bytes)");
        assert_eq!(shortened("ääää", 8), "ääää");
    }
}
