//! Guesses what a crate reads, before a compiler has reported it: these files are watched during the first build, and
//! the build hash covers them until more is known. A wrong guess is corrected after the build.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::source::inputs::other_form;

/// The most files to look for.
const MOST: usize = 10_000;

/// The files that a crate's root reaches by `mod` and `include`, as far as these are written plainly.
pub(crate) fn sources(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![(root.to_owned(), root.parent().unwrap_or(root).to_owned())];
    while let Some((file, modules)) = waiting.pop() {
        if found.len() > MOST || !found.insert(file.clone()) {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let beside = file.parent().unwrap_or(&file);
        for reference in references(&text) {
            match reference {
                Reference::Module(name) => {
                    let one = modules.join(format!("{name}.rs"));
                    let path = if one.is_file() { one } else { modules.join(name).join("mod.rs") };
                    waiting.push((path, modules.join(name)));
                }
                Reference::ModuleAt(path) => {
                    let path = beside.join(path);
                    waiting.push((path.clone(), path.parent().unwrap_or(&path).to_owned()));
                }
                Reference::Includes(path) => drop(found.insert(beside.join(path))),
            }
        }
    }
    let others: Vec<_> = found.iter().filter_map(|file| other_form(file)).collect();
    found.extend(others);
    found
}

enum Reference<'a> {
    Module(&'a str),
    ModuleAt(&'a str),
    Includes(&'a str),
}

/// A source's references to other files, line by line, except those for tests only.
fn references(text: &str) -> Vec<Reference<'_>> {
    let mut all = Vec::new();
    let mut at = None;
    let mut apart = false;
    for line in text.lines() {
        let line = line.trim_start();
        if line.starts_with("//") {
            continue;
        }
        if let Some(attribute) = line.strip_prefix("#[") {
            apart |= attribute.starts_with("cfg(test)");
            at = attribute.strip_prefix("path").and_then(quoted).or(at);
            continue;
        }
        if let Some(name) = module(line)
            && !apart
        {
            all.push(at.map_or(Reference::Module(name), Reference::ModuleAt));
        }
        for (start, _) in line.match_indices("include") {
            let rest = &line[start..];
            let includes =
                ["include!(", "include_str!(", "include_bytes!("].iter().find_map(|it| rest.strip_prefix(it));
            // Only literal paths.
            all.extend(includes.filter(|rest| rest.starts_with('"')).and_then(quoted).map(Reference::Includes));
        }
        at = None;
        apart = false;
    }
    all
}

/// The name in `pub(crate) mod name;`.
fn module(line: &str) -> Option<&str> {
    let mut rest = line;
    if let Some(visible) = rest.strip_prefix("pub") {
        rest = match visible.strip_prefix('(') {
            Some(scope) => scope.split_once(')')?.1,
            None => visible,
        };
    }
    let name = rest.trim_start().strip_prefix("mod ")?.trim().split_once(';')?.0.trim();
    let name = name.strip_prefix("r#").unwrap_or(name);
    name.chars().all(|c| c.is_alphanumeric() || c == '_').then_some(name)
}

/// The first quoted text.
fn quoted(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('"')?;
    rest.split_once('"').map(|(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_in_both_forms_and_what_is_included_are_found_and_what_is_for_tests_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = [
            (
                "lib.rs",
                "pub(crate) mod a;\nmod b; // and\n#[path = \"else/c.rs\"]\nmod c;\n#[cfg(test)]\nmod tests;\nmod r#match;",
            ),
            ("a.rs", "mod deep;\nconst X: &str = include_str!(\"../x.txt\");\n// mod no;\nmod inline { }"),
            ("a/deep.rs", ""),
            ("b/mod.rs", "mod deep;"),
            ("b/deep.rs", ""),
            ("else/c.rs", "mod d;"),
            ("else/d.rs", ""),
            ("match.rs", ""),
            ("tests.rs", ""),
            ("other.rs", ""),
        ];
        for (file, text) in files {
            let path = folder.path().join("src").join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("writing");
        }
        std::fs::write(folder.path().join("x.txt"), "").expect("writing");
        let src = folder.path().join("src");
        let there = sources(&src.join("lib.rs")).into_iter().filter(|path| path.is_file());
        let there: Vec<_> = there.map(|path| path.strip_prefix(&src).expect("inside").to_owned()).collect();
        let wanted =
            ["../x.txt", "a/deep.rs", "a.rs", "b/deep.rs", "b/mod.rs", "else/c.rs", "else/d.rs", "lib.rs", "match.rs"];
        assert_eq!(there, wanted.map(PathBuf::from));
    }
}
