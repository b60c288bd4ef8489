//! The pages that are made from the program, manual pages, and completions.

use std::collections::BTreeSet;
use std::path::Path;

use crate::process::{Daemon, daemon_folder};
use crate::{built, cbus, fails, fine, said};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[test]
fn the_reference_in_the_book_is_what_the_program_has() {
    let folder = tempfile::tempdir().expect("a folder");
    fine(folder.path(), &["reference", "made"]);
    let made: BTreeSet<_> = std::fs::read_dir(folder.path().join("made"))
        .expect("the pages")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(made.len(), 4);
    for name in made {
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).expect("a page");
        let (made, there) =
            (read(folder.path().join("made").join(&name)), read(Path::new(ROOT).join("docs/reference").join(&name)));
        assert!(
            made == there,
            "{name:?} is not what the program has; renew it: cargo run -p cbus -- reference docs/reference"
        );
    }
}

#[test]
fn the_page_of_directive_options_has_every_key_that_the_macro_knows_in_its_order() {
    let read = |path: &str| std::fs::read_to_string(Path::new(ROOT).join(path)).expect("a file");
    let (source, page) = (read("controllerbus-macros/src/directive.rs"), read("docs/reference/directive-options.md"));
    let known = source.split("const KNOWN").nth(1).and_then(|rest| rest.split("];").next()).expect("the list");
    let known: Vec<&str> = known.split('"').skip(1).step_by(2).collect();
    assert!(known.len() > 10, "{known:?}");
    let rows: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(rows, known);
}

/// The commands that `cbus --help` lists.
fn commands() -> Vec<String> {
    let help = fine(Path::new("."), &["--help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    listed.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

#[test]
fn every_command_has_a_manual_page_with_its_options() {
    let folder = tempfile::tempdir().expect("a folder");
    fine(folder.path(), &["man", "--out", "pages"]);
    let page = |name: &str| std::fs::read_to_string(folder.path().join("pages").join(name)).expect(name);
    let first = page("cbus.1");
    assert!(first.contains(".TH cbus 1") && first.contains(".SH NAME"), "{first}");
    assert_eq!(fine(folder.path(), &["man"]).lines().count(), first.lines().count());
    for command in commands() {
        let text = page(&format!("cbus-{command}.1"));
        assert!(text.contains(".SH SYNOPSIS") && text.contains(".SH DESCRIPTION"), "{command}: {text}");
    }
    assert!(
        page("cbus-build.1").contains("\\-\\-codegen\\-only") && page("cbus-config-check.1").contains("\\-\\-plugins")
    );
    assert!(!folder.path().join("pages/cbus-reference.1").exists(), "what is hidden has no page");
}

/// What a shell is offered for the last of these words.
fn completed(folder: &Path, words: &[&str]) -> Vec<String> {
    let mut command = cbus(folder);
    command.env("CBUS_COMPLETE", "fish").args(["--", "cbus"]).args(words);
    let said = said(command.output().expect("running cbus"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    said.out.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn completions_know_the_codes_and_what_a_daemon_has() {
    let folder = daemon_folder();
    let at = folder.path();
    assert_eq!(completed(at, &["explain", "CB001"]).first().map(String::as_str), Some("CB0010"));
    assert!(completed(at, &["doc"]).contains(&"doctor".to_owned()));
    assert!(!completed(at, &[""]).contains(&"reference".to_owned()), "what is hidden is not offered");

    std::fs::copy(&built().1, at.join("plugins/second.cbus.so")).expect("copying");
    let daemon = Daemon::start(at, &["config.yaml", "--plugins", "plugins"]);
    let to = ["--connect", &daemon.address];
    for (words, expected) in [
        (&["unload"][..], "second"),
        (&["ask"], "second/ask"),
        (&["exec", "--remove"], "one"),
        (&["logs", "--plugin"], "second"),
    ] {
        let (command, rest) = words.split_first().expect("a command");
        let words = [&[*command], &to[..], rest, &[""]].concat();
        assert!(completed(at, &words).contains(&expected.to_owned()), "{words:?}: {:?}", completed(at, &words));
    }
    let hash = built().2["build_hash"].as_str().expect("a hash").to_owned();
    assert!(completed(at, &["rollback", "second", "--connect", &daemon.address, "--to", ""]).contains(&hash));
    daemon.end();
    // Nobody answers, and Tab has not to wait for it.
    assert!(completed(at, &["unload", "--connect", "127.0.0.1:1", ""]).iter().all(|word| word != "second"));
}

#[test]
fn every_shell_gets_a_script_that_asks_the_program() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = fine(folder.path(), &["completions", shell, "--dynamic"]);
        assert!(script.contains("CBUS_COMPLETE") && script.contains("cbus"), "{shell}: {script}");
    }
    fails(folder.path(), &["completions", "command.com", "--dynamic"], 2, "possible values");
}
