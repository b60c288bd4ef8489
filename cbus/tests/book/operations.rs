//! What a daemon is deployed with, the unit and the Dockerfile: what they run exists, with its options. Docker itself is not needed.

use std::path::Path;
use std::process::Command;

use crate::commands::Help;
use crate::page::ROOT;

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The lines of a file, those that end in a backslash put together with the next ones.
fn lines(file: &str) -> Vec<String> {
    let text = read(file).replace("\\\n", " ");
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

fn runs(help: &mut Help, words: &[&str]) {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    assert_eq!(help.problem(&words), None, "{}", words.join(" "));
}

/// `CBUS_WORK_DIR=..` is `--work-dir` of `cbus run`.
fn is_option(help: &mut Help, setting: &str) {
    let (name, _) = setting.split_once('=').expect("a value");
    let option = name.strip_prefix("CBUS_").expect("one of ours").to_lowercase().replace('_', "-");
    runs(help, &["cbus", "run", &format!("--{option}")]);
}

#[test]
fn the_unit_runs_a_command_with_options_that_there_are() {
    let mut help = Help::default();
    let unit = lines("cbus/systemd/cbus@.service");
    let value = |name: &str| unit.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).expect(name);
    let words: Vec<&str> = value("ExecStart").split_whitespace().collect();
    assert_eq!(words[0], "/usr/local/bin/cbus");
    runs(&mut help, &[&["cbus"], &words[1..]].concat());
    is_option(&mut help, value("Environment"));
    assert_eq!(value("Type"), "notify");
}

#[test]
fn systemd_understands_the_unit_where_there_is_systemd() {
    let folder = tempfile::tempdir().expect("a folder");
    let unit = read("cbus/systemd/cbus@.service").replace("/usr/local/bin/cbus", env!("CARGO_BIN_EXE_cbus"));
    let file = folder.path().join("cbus@main.service");
    std::fs::write(&file, unit).expect("writing");
    let Ok(said) = Command::new("systemd-analyze").arg("verify").arg(&file).output() else {
        println!("SKIPPED: there is no systemd-analyze here");
        return;
    };
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "{told}");
    // What only later versions have.
    let wrong: Vec<&str> = told.lines().filter(|line| !line.contains("DelegateSubgroup")).collect();
    assert!(wrong.iter().all(|line| !line.contains("cbus@main.service")), "{wrong:#?}");
}

#[test]
fn the_dockerfile_runs_commands_that_there_are_on_one_system_and_with_this_compiler() {
    let mut help = Help::default();
    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    let rust = manifest["workspace"]["package"]["rust-version"].as_str().expect("a version").to_owned();
    let (mut stages, mut seen) = (Vec::new(), 0);
    for line in lines("cbus/docker/Dockerfile") {
        let (instruction, rest) = line.split_once(' ').expect("arguments");
        let list = || rest[rest.find('[').expect("a list")..].to_owned();
        let words = |list: &str| serde_json::from_str::<Vec<String>>(list).expect("a list");
        match instruction {
            "FROM" => {
                let (image, stage) = rest.split_once(" AS ").expect("a name");
                assert!(
                    ["debian:trixie-slim".to_owned(), format!("rust:{rust}-slim-trixie")].contains(&image.to_owned())
                );
                stages.push(stage.to_owned());
            }
            "COPY" => {
                let from = rest.split_whitespace().find_map(|word| word.strip_prefix("--from="));
                assert!(from.is_none_or(|from| stages.iter().any(|stage| stage == from)), "{line}");
            }
            "RUN" => {
                for command in rest.split("&&").map(str::trim) {
                    let words: Vec<&str> = command.split_whitespace().collect();
                    match words[0] {
                        "cargo" => assert_eq!(words[words.len() - 2..], ["-p", "cbus"]),
                        other => assert!(["install", "useradd"].contains(&other), "{command}"),
                    }
                }
            }
            "ENV" => rest.split_whitespace().for_each(|setting| is_option(&mut help, setting)),
            "ENTRYPOINT" => assert_eq!(words(rest), ["cbus"]),
            "CMD" => {
                let words = words(rest);
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                runs(&mut help, &[&["cbus"], &words[..]].concat());
                seen += 1;
            }
            "HEALTHCHECK" => {
                let words = words(&list());
                runs(&mut help, &words.iter().map(String::as_str).collect::<Vec<_>>());
                seen += 1;
            }
            "USER" | "WORKDIR" | "VOLUME" | "STOPSIGNAL" => {}
            other => panic!("what is {other}?"),
        }
    }
    assert_eq!(stages, ["build", "dev", "run"], "what is built without --target comes last");
    assert_eq!(seen, 2);
}
