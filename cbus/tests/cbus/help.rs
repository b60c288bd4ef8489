//! Help, and wrong usage.

use crate::{cbus, fails, fine, finish, run};

#[test]
fn every_command_has_help_and_wrong_usage_ends_with_status_two() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = fine(folder.path(), &["--help"]);
    assert!(all.contains("First steps"), "{all}");
    let commands = all.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let help = fine(folder.path(), &[command, "--help"]);
        assert!(help.contains("Usage:"), "{help}");
        fails(folder.path(), &[command, "--no-such-option"], 2, "--no-such-option");
    }
    assert_eq!(run(folder.path(), &[]).code, Some(2));
    fails(folder.path(), &["biuld"], 2, "build");
}

#[test]
fn arguments_that_make_no_sense_are_told_before_anything_begins() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fails(at, &["build"], 2, "<CRATE>");
    fails(at, &["build", "x", "--id", "two words"], 2, "an id consists of words of letters");
    fails(at, &["build", "x", "-o", "y", "--codegen-only"], 2, "cannot be used with");
    fails(at, &["watch", "x"], 2, "--output");
    fails(at, &["run", "--listen", "no/where"], 2, "use HOST:PORT");
    fails(at, &["run", "--log", "loud"], 2, "use a level");
    fails(at, &["run", "--tls-cert", "x"], 2, "--tls-key");
    fails(at, &["bus", "--connect", "unix:"], 2, "unix:PATH");
    fails(at, &["exec"], 2, "--file");
    fails(at, &["logs", "--level", "loud"], 2, "[possible values: error, warn, info, debug, trace]");
}

#[test]
fn colours_are_written_where_they_are_asked_for_and_not_where_they_are_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let coloured = |settings: &[(&str, &str)], arguments: &[&str]| {
        let said = finish(cbus(folder.path()).envs(settings.iter().copied()).args(arguments));
        assert_ne!(said.code, Some(0));
        said.err.contains("\u{1b}[")
    };
    // A report, and a usage error.
    for arguments in [&["inspect", "missing.cbus.so"][..], &["biuld"]] {
        assert!(!coloured(&[], arguments), "no terminal: {arguments:?}");
        assert!(coloured(&[("CLICOLOR_FORCE", "1")], arguments), "forced: {arguments:?}");
        assert!(!coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], arguments), "{arguments:?}");
    }
}
