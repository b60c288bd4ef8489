//! Hides credentials in texts: found by the name before them, or by how they look.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::Value;

/// Parts of the names of secrets, in any spelling: `api_key`, `apiKey`, `API-KEY`.
const NAMES: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "authorization",
    "bearer",
    "token",
    "signingkey",
];

/// Prefixes of well-known services' tokens, and their minimum lengths.
const SHAPES: [(&str, usize); 14] = [
    ("AKIA", 20),
    ("ASIA", 20),
    ("AIza", 35),
    ("ghp_", 30),
    ("gho_", 30),
    ("ghu_", 30),
    ("ghs_", 30),
    ("github_pat_", 30),
    ("glpat-", 20),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("npm_", 30),
    ("pypi-", 30),
    ("sk-", 20),
];

/// What is shown instead.
const HIDDEN: &str = "[hidden]";

/// A text without the credentials in it; `names` are names of secrets besides the usual ones.
pub fn hide<'a>(text: &'a str, names: &BTreeSet<String>) -> Cow<'a, str> {
    let found = find(text, names);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for range in found {
        out.push_str(&text[at..range.start]);
        out.push_str(HIDDEN);
        at = range.end;
    }
    out.push_str(&text[at..]);
    Cow::Owned(out)
}

/// The same, without changing any offset.
pub fn blot(text: &str) -> String {
    let mut out = text.to_owned();
    for range in find(text, &BTreeSet::new()) {
        let length = range.len();
        out.replace_range(range, &"*".repeat(length));
    }
    out
}

/// The names of the fields that a config's schema says are secret.
pub fn names_in(schema: &Value, names: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            for (name, field) in members.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if field.get("writeOnly") == Some(&Value::Bool(true)) {
                    names.insert(plain(name));
                }
            }
            members.values().for_each(|member| names_in(member, names));
        }
        Value::Array(items) => items.iter().for_each(|item| names_in(item, names)),
        _ => {}
    }
}

/// A name in lower case, without separators.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-')
}

/// Where credentials are, in order and without overlap.
fn find(text: &str, names: &BTreeSet<String>) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let start = at + rest.find(is_word).unwrap_or(rest.len());
        let word = &text[start..];
        let word = &word[..word.find(|c| !is_word(c)).unwrap_or(word.len())];
        at = start + word.len();
        let hidden = private_key(text, start)
            .or_else(|| after_a_name(text, start, word, names))
            .or_else(|| in_a_link(text, at))
            .or_else(|| by_its_shape(text, start, word));
        if let Some(hidden) = hidden.filter(|hidden| !hidden.is_empty()) {
            at = hidden.end.max(at);
            found.push(hidden);
        }
    }
    found
}

/// `-----BEGIN ... PRIVATE KEY-----` up to its end.
fn private_key(text: &str, start: usize) -> Option<Range<usize>> {
    let rest = text[start..].strip_prefix("-----BEGIN")?;
    let head = &rest[..rest.find("-----")?];
    if !head.contains("PRIVATE KEY") {
        return None;
    }
    let end = text[start..].find("-----END").map_or(text.len(), |end| start + end);
    Some(start..end)
}

/// The value in `name = value`, `name: value` and `"name": "value"`.
fn after_a_name(text: &str, start: usize, word: &str, names: &BTreeSet<String>) -> Option<Range<usize>> {
    let name = plain(word);
    let own = names.contains(&name);
    let known = NAMES.iter().find(|known| name.contains(**known));
    if !own && known.is_none() {
        return None;
    }
    let quotes = ['"', '\'', '`', '\\'];
    let after = text[start + word.len()..].trim_start_matches(quotes).trim_start_matches(' ');
    let sign = after.chars().next().filter(|sign| matches!(sign, '=' | ':'))?;
    let after = &after[1..];
    // `the token: No such file` is a sentence, `token: abc` on a line of its own is not.
    let before = text[..start].trim_end_matches(quotes);
    let line = before.rsplit('\n').next().unwrap_or_default().trim_start();
    let begins = line.is_empty() || line.ends_with(['{', ',', '[', '(', '&', '?', ';', '|']) || line.ends_with("- ");
    if sign == ':' && !begins && !own && known.is_some_and(|known| *known == "token" || *known == "credential") {
        return None;
    }
    let value = after.trim_start_matches(' ');
    let mut value_start = text.len() - value.len();
    if let Some(quoted) = value.strip_prefix(r#"\""#).map(|rest| (rest, "\\\"")).or_else(|| {
        value.strip_prefix('"').map(|rest| (rest, "\"")).or_else(|| value.strip_prefix('\'').map(|rest| (rest, "'")))
    }) {
        let (inside, quote) = quoted;
        value_start = text.len() - inside.len();
        return Some(value_start..value_start + inside.find(quote).unwrap_or(inside.len()));
    }
    let scheme = ["Bearer ", "bearer ", "Basic ", "basic "].iter().find_map(|scheme| value.strip_prefix(scheme));
    let value = scheme.unwrap_or(value);
    if scheme.is_some() {
        value_start = text.len() - value.len();
    }
    let end = value.find(|c: char| c.is_whitespace() || matches!(c, ',' | '}' | ']' | ')' | ';' | '&'));
    Some(value_start..value_start + end.unwrap_or(value.len()))
}

/// The password in `scheme://user:password@host`.
fn in_a_link(text: &str, at: usize) -> Option<Range<usize>> {
    let rest = text[at..].strip_prefix("://")?;
    let host = &rest[..rest.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'')).unwrap_or(rest.len())];
    let (user, _) = host.rsplit_once('@')?;
    let password = user.find(':')? + 1;
    let start = at + 3;
    Some(start + password..start + user.len())
}

/// A token of a well-known service, or a signed one (`header.payload.signature`).
fn by_its_shape(text: &str, start: usize, word: &str) -> Option<Range<usize>> {
    if word.starts_with("eyJ") {
        let rest = &text[start..];
        let end = rest.find(|c: char| !is_word(c) && c != '.').unwrap_or(rest.len());
        let signed = rest[..end].trim_end_matches('.');
        return (signed.matches('.').count() == 2 && end > 30).then_some(start..start + signed.len());
    }
    let known = SHAPES.iter().any(|(begin, least)| word.starts_with(begin) && word.len() >= *least);
    known.then_some(start..start + word.len())
}
