//! Every command in the pages exists, with every option that is shown.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::process::Command;

use crate::page::{Page, ROOT, pages};
use crate::run;

/// What else stands in blocks of commands: what a shell has, and what a reader may be asked to run.
const OTHERS: [&str; 15] = [
    "cd",
    "chmod",
    "chown",
    "curl",
    "docker",
    "export",
    "gdb",
    "install",
    "mkdir",
    "mv",
    "sudo",
    "systemctl",
    "tee",
    "useradd",
    "printf",
];

/// The commands of a block, as words.
fn commands(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
    let parts = lines.flat_map(|line| line.split("&&").flat_map(|part| part.split(['|', ';'])));
    let words = |part: &str| -> Vec<String> {
        let words = part.split_whitespace().map(|word| word.trim_matches(['(', ')', '\'', '"']).to_owned());
        // Variables may stand before a command.
        words.skip_while(|word| word.contains('=') && word.starts_with(char::is_uppercase)).collect()
    };
    parts.map(words).filter(|words| !words.is_empty()).collect()
}

/// The commands in a page: those of blocks, and those in backticks.
fn shown(page: &Page) -> Vec<Vec<String>> {
    let blocks = page.blocks().into_iter().filter(|block| block.info == "sh");
    let mut found: Vec<Vec<String>> = blocks.flat_map(|block| commands(&block.text)).collect();
    for (_, line) in page.prose() {
        let spans =
            line.split('`').skip(1).step_by(2).filter(|span| span.starts_with("cbus ") || span.starts_with("cargo "));
        found.extend(spans.flat_map(commands));
    }
    found
}

/// The help of commands, each asked once.
#[derive(Default)]
pub struct Help(HashMap<String, String>);

impl Help {
    fn of(&mut self, command: &[&str]) -> Option<&str> {
        let text = self.0.entry(command.join(" ")).or_insert_with(|| {
            let said = run(Path::new("."), &[command, &["--help"]].concat());
            if said.code == Some(0) { said.out } else { String::new() }
        });
        (!text.is_empty()).then_some(text)
    }

    /// What is wrong with a `cbus` command.
    pub fn problem(&mut self, words: &[String]) -> Option<String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // A placeholder for any command.
        let (Some(name), false) = (words.get(1), words.get(1) == Some(&"COMMAND")) else { return None };
        let command = match (*name, words.get(2)) {
            (group @ ("config" | "fleet" | "rollout" | "sets"), Some(which)) => vec![group, which],
            ("--help" | "--version", _) => vec![],
            (name, _) => vec![name],
        };
        let Some(help) = self.of(&command) else { return Some(format!("there is no `cbus {}`", command.join(" "))) };
        let known: BTreeSet<&str> = help.split(|c: char| c.is_whitespace() || ",[]=".contains(c)).collect();
        let options = words.iter().skip(1).filter(|word| word.starts_with('-') && word.len() > 1);
        let names = options.map(|option| option.split('=').next().unwrap_or(option));
        let unknown: Vec<&str> = names.filter(|option| !known.contains(option)).collect();
        (!unknown.is_empty()).then(|| format!("`cbus {}` has no {unknown:?}", command.join(" ")))
    }
}

/// The names of the workspace's packages.
fn packages() -> BTreeSet<String> {
    let read =
        |path: &Path| -> toml::Table { std::fs::read_to_string(path).expect("a manifest").parse().expect("TOML") };
    let workspace = read(&Path::new(ROOT).join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().expect("members");
    let manifests =
        members.iter().map(|member| Path::new(ROOT).join(member.as_str().expect("a path")).join("Cargo.toml"));
    let own = manifests.map(|path| read(&path)["package"]["name"].as_str().expect("a name").to_owned());
    // And that of a workspace that `cbus new` makes.
    own.chain(["host".to_owned()]).collect()
}

#[test]
fn every_command_exists_with_the_options_that_are_shown() {
    let (mut help, packages) = (Help::default(), packages());
    let known = Command::new(env!("CARGO")).arg("--list").output().expect("running cargo");
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    let known: BTreeSet<&str> = known.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let mut seen = 0;
    for page in pages() {
        for words in shown(&page) {
            let at = format!("{}: {}", page.name, words.join(" "));
            match words[0].as_str() {
                "cbus" => assert_eq!(help.problem(&words), None, "{at}"),
                "cargo" => {
                    let own = words.split(|word| word == "--").next().unwrap_or_default();
                    assert!(
                        own.get(1).is_some_and(|name| known.contains(name.as_str())),
                        "{at}: there is no such command"
                    );
                    let named = own.windows(2).filter(|pair| pair[0] == "-p").map(|pair| &pair[1]);
                    assert!(named.into_iter().all(|name| packages.contains(name)), "{at}: there is no such package");
                }
                other => assert!(OTHERS.contains(&other), "{at}: who has this?"),
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn commands_are_found_in_blocks_and_what_is_wrong_with_them_too() {
    let found =
        commands("BUS=/x\ncd a && cbus build a -o x.so   # and so on\n(cd b && cargo add \\\n  --path c) | cat\n");
    let found: Vec<String> = found.iter().map(|words| words.join(" ")).collect();
    assert_eq!(found, ["cd a", "cbus build a -o x.so", "cd b", "cargo add --path c", "cat"]);
    let problem = |text: &str| Help::default().problem(&commands(text)[0]);
    assert_eq!(problem("cbus dev x --poll=0.5 --isolation process"), None);
    assert_eq!(problem("cbus config check x --plugins y"), None);
    assert!(problem("cbus biuld x").is_some_and(|told| told.contains("biuld")));
    assert!(problem("cbus build x --fast").is_some_and(|told| told.contains("--fast")));
}
