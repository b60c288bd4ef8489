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
fn options_can_be_variables_and_a_daemons_own_secrets_are_not_its_clients() {
    let folder = tempfile::tempdir().expect("a folder");
    let with = |settings: &[(&str, &str)], arguments: &[&str], message: &str| {
        let said = finish(cbus(folder.path()).envs(settings.iter().copied()).args(arguments));
        assert_ne!(said.code, Some(0));
        assert!(said.err.contains(message), "{settings:?} {arguments:?}: {}", said.err);
    };
    with(&[], &["watch", "nowhere"], "--output");
    with(&[("CBUS_OUTPUT", "x.cbus.so")], &["watch", "nowhere"], "nowhere");
    with(&[("CBUS_ID", "two words")], &["build", "nowhere"], "an id consists of words of letters");
    with(&[("CBUS_REQUIRE_SIGNATURE", "1")], &["run"], "--trust-key");
    with(&[("CBUS_PROBATION", "soon")], &["run"], "invalid value 'soon'");
    with(&[("CBUS_PLUGINS", "no-such-folder")], &["run"], "mkdir -p no-such-folder");
    with(&[("CBUS_CONFIG", "nowhere.yaml")], &["run"], "nowhere.yaml");
    // A flag of another command, and what says what to do, are none.
    with(&[("CBUS_CODEGEN_ONLY", "1"), ("CBUS_ATTACH", "1"), ("CBUS_FILE", "x")], &["exec"], "--file");
    // The client's token is not the daemon's.
    with(&[("CBUS_TOKEN_FILE", "x")], &["run", "nowhere.yaml"], "nowhere.yaml");
    std::fs::create_dir(folder.path().join("plugins")).expect("a folder");
    let own = "tokens and certificates are for clients over TCP";
    with(&[("CBUS_API_TOKEN_FILE", "x")], &["run", "--plugins", "plugins"], own);
    // It needs no daemon where none is asked.
    std::fs::write(folder.path().join("good.yaml"), "one: { id: second }\n").expect("writing");
    let said = finish(cbus(folder.path()).env("CBUS_TOKEN_FILE", "x").args(["config", "check", "good.yaml"]));
    assert_eq!(said.code, Some(0), "{}", said.err);
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
