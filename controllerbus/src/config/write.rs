//! Writes config sets as YAML that reads back equal.

use serde_json::Value;

/// Words that some reader of YAML takes for something else than text.
const WORDS: [&str; 15] =
    ["y", "n", "yes", "no", "true", "false", "on", "off", "null", "nan", "inf", "infinity", "nil", "none", "undefined"];

/// The longest key that may stand before its colon on one line.
const LONG: usize = 1_000;

/// Fields in their order.
pub(super) type Fields = Vec<(&'static str, Value)>;

/// An entry as a document.
pub(super) fn entry(fields: &Fields) -> String {
    let mut out = String::new();
    write_fields(fields.iter().map(|(name, value)| (*name, value)), 0, &mut out);
    out
}

/// Entries by key as a document.
pub(super) fn entries<'a>(entries: impl Iterator<Item = (&'a str, Fields)>) -> String {
    let mut out = String::new();
    for (key, fields) in entries {
        write_name(key, 0, &mut out);
        out.push('\n');
        write_fields(fields.iter().map(|(name, value)| (*name, value)), 2, &mut out);
    }
    if out.is_empty() { "{}\n".to_owned() } else { out }
}

fn write_fields<'a>(fields: impl Iterator<Item = (&'a str, &'a Value)>, indent: usize, out: &mut String) {
    for (name, value) in fields {
        write_name(name, indent, out);
        write(value, indent + 2, out);
    }
}

/// Writes a key up to its colon.
fn write_name(name: &str, indent: usize, out: &mut String) {
    let (name, gap) = (text(name), " ".repeat(indent));
    if name.len() > LONG {
        out.push_str(&format!("{gap}? {name}\n{gap}:"));
    } else {
        out.push_str(&format!("{gap}{name}:"));
    }
}

/// Writes a value after its key or dash.
fn write(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            out.push('\n');
            write_fields(fields.iter().map(|(name, value)| (name.as_str(), value)), indent, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            for item in items {
                out.push_str(&" ".repeat(indent));
                out.push('-');
                write(item, indent + 2, out);
            }
        }
        Value::Object(_) => out.push_str(" {}\n"),
        Value::Array(_) => out.push_str(" []\n"),
        Value::String(string) => out.push_str(&format!(" {}\n", text(string))),
        other => out.push_str(&format!(" {other}\n")),
    }
}

/// A text, in quotes unless it is plain without them.
fn text(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.split(' ').all(|word| !word.is_empty() && word.chars().all(is_word))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if is_plain {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // What YAML takes for a line's end, does not print, or has for its own.
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{a0}' => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            '\u{2028}' | '\u{2029}' | '\u{fe00}'..='\u{feff}' | '\u{fff0}'..='\u{ffff}' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
