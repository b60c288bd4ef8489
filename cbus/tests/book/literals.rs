//! The texts in Rust sources: what messages are made of.

use std::path::Path;

/// The string literals of all sources below a folder.
pub fn of_sources(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            of_sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            of(&std::fs::read_to_string(&path).expect("a source"), found);
        }
    }
}

/// The string literals of a source, as the compiler reads them but for escapes that messages do not have.
fn of(source: &str, found: &mut Vec<String>) {
    let mut chars = source.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => drop(chars.by_ref().find(|c| *c == '\n')),
            '\'' if chars.peek() == Some(&'"') => drop(chars.next()),
            '"' => {
                let is_raw = matches!(before, 'r' | '#');
                let mut text = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' if !is_raw => match chars.next() {
                            Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                            Some(escaped) => text.push(escaped),
                            None => break,
                        },
                        c => text.push(c),
                    }
                }
                found.push(text);
            }
            _ => {}
        }
        before = c;
    }
}

/// Whether a text has the parts of a message in their order, where `…` stands for anything.
pub fn has(text: &str, message: &str) -> bool {
    let mut rest = text;
    message.split('…').map(str::trim).filter(|part| !part.is_empty()).all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[test]
fn literals_are_found_with_their_escapes_and_over_several_lines() {
    let mut found = Vec::new();
    of("let a = \"one \\\n   two\"; // \"none\n'\"'; r\"\\d\"; format!(\"{x} \\\"three\\\"\");", &mut found);
    assert_eq!(found, ["one two", "\\d", "{x} \"three\""]);
    assert!(has("it is {x}, not {y}", "it is …, not …") && !has("it is {x}", "it is …, not …"));
}
