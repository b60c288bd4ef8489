//! `cbus reference`: the pages of the book that are made from this program, so that they cannot say anything else than it does.
//!
//! A test compares them with those in `docs/reference`. To renew these: `cargo run -p cbus -- reference docs/reference`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};
use controllerbus::Config;
use controllerbus::error::Code;
use controllerbus_api::ApiConfig;
use hot_runtime::{CrateConfig, FolderConfig, PluginConfig};
use miette::Result;
use serde_json::Value;

use super::schemas::PRINTED;
use crate::cli::{Cli, Reference};
use crate::report::io;
use crate::schema::{Field, fields, of_config_sets};

pub fn run(args: &Reference) -> Result<()> {
    std::fs::create_dir_all(&args.dir).map_err(io("creating the directory of the reference", &args.dir))?;
    for (name, text) in [("cli.md", cli()), ("errors.md", errors()), ("config.md", config()), ("json.md", json())] {
        let path = args.dir.join(name);
        std::fs::write(&path, text).map_err(io("writing a page of the reference", &path))?;
    }
    Ok(())
}

/// How a page says where it comes from.
const MADE: &str = "<!-- Made by `cargo run -p cbus -- reference docs/reference`; a test compares. -->\n";

/// A text that stands in a cell of a table.
fn cell(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line.replace('|', "\\|").replace('<', "&lt;")
}

fn cli() -> String {
    let mut page = format!("{MADE}# Commands\n");
    let mut root = Cli::with_variables();
    root.build();
    write_command(&mut page, &root, "cbus");
    page
}

fn write_command(page: &mut String, command: &Command, name: &str) {
    // Writing to a String does not fail.
    let _ = write!(page, "\n## `{name}`\n");
    let about = command.get_long_about().or_else(|| command.get_about());
    if let Some(about) = about {
        let about = about.to_string();
        let end = if about.ends_with('.') { "" } else { "." };
        let _ = write!(page, "\n{}{end}\n", about.trim());
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = write!(page, "\n```text\n{usage}\n```\n");
    let shown = |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version);
    let args: Vec<&Arg> = command.get_arguments().filter(shown).collect();
    let (places, options): (Vec<&Arg>, Vec<&Arg>) = args.into_iter().partition(|arg| arg.is_positional());
    for (title, args) in [("argument", places), ("option", options)] {
        if !args.is_empty() {
            let _ = write!(page, "\n| {title} | |\n|---|---|\n");
            args.iter().for_each(|arg| write_argument(page, arg));
        }
    }
    let subcommands: Vec<&Command> = command.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    if !subcommands.is_empty() {
        let _ = write!(page, "\n| command | |\n|---|---|\n");
        for found in &subcommands {
            let about = found.get_about().map(ToString::to_string).unwrap_or_default();
            let full = format!("{name} {}", found.get_name());
            let _ = writeln!(page, "| [`{full}`](#{}) | {} |", full.replace(' ', "-"), cell(&about));
        }
    }
    if let Some(more) = command.get_after_help() {
        let _ = write!(page, "\n```text\n{}\n```\n", more.to_string().trim_end());
    }
    for found in subcommands {
        write_command(page, found, &format!("{name} {}", found.get_name()));
    }
}

fn write_argument(page: &mut String, arg: &Arg) {
    let value = arg.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    let takes = arg.get_action().takes_values();
    let name = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => value.clone(),
    };
    let name = if takes && !arg.is_positional() { format!("{name} {value}") } else { name };
    let mut about = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if takes && !defaults.is_empty() {
        let _ = write!(about, " [default: {}]", defaults.join(", "));
    }
    let possible: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if takes && !possible.is_empty() {
        let _ = write!(about, " [possible values: {}]", possible.join(", "));
    }
    if let Some(variable) = arg.get_env() {
        let _ = write!(about, " [variable: {}]", variable.to_string_lossy());
    }
    let _ = writeln!(page, "| `{}` | {} |", name.replace('|', "\\|"), cell(&about));
}

fn errors() -> String {
    let mut page = format!(
        "{MADE}# Errors by code\n\nWhat is refused has a code that never changes. It stands above the message of a command and behind one in \
         logs and tables; `cbus explain CB0012` prints what is here. Programs get it from `code()` of `hot_runtime::Error`, \
         `controllerbus::Error` and `controllerbus_api::Error`, and as `code` or `error_code` in [JSON](json.md).\n\nLooking for a \
         message without a code? See [Troubleshooting by message](../troubleshooting.md).\n\n| code | what is refused |\n|---|---|\n"
    );
    for code in Code::all() {
        let _ = writeln!(page, "| [{code}](#{}) | {} |", code.to_string().to_lowercase(), cell(code.title()));
    }
    for code in Code::all() {
        let _ = write!(page, "\n## {code}\n\n*{}.* {}\n", code.title(), code.text());
    }
    page
}

/// A table of fields; `marks` is what is said of those that are required, and of the others.
fn table_of(page: &mut String, fields: &[Field], marks: [&str; 2]) {
    let _ = write!(page, "\n| key | type | |\n|---|---|---|\n");
    for Field { path, kind, required, description } in fields {
        let mark = if *required { marks[0] } else { marks[1] };
        let _ = writeln!(page, "| `{path}` | {} | {mark}{} |", cell(kind), cell(description));
    }
}

/// What is to be written has to have these.
const READ: [&str; 2] = ["**Required.** ", ""];

/// What is printed may lack those.
const PRINTS: [&str; 2] = ["", "*May be missing or null.* "];

fn config() -> String {
    let mut page = format!(
        "{MADE}# Config sets\n\nA config set says which controllers run: each entry has a key of your choice, and names a config id. It is YAML \
         or JSON. `cbus config schema` prints its JSON schema with the configs of your plugins, and `cbus config check` checks a file.\n\n\
         ```yaml\ngreeter:\n  id: example/greeter\n  config:\n    greeting: hello\n```\n\n## An entry\n"
    );
    let entry = of_config_sets(&BTreeMap::new());
    let mut entry = fields(&entry["additionalProperties"]);
    // The ids that an editor proposes are of no use here.
    entry.iter_mut().filter(|field| field.path == "id").for_each(|field| "text".clone_into(&mut field.kind));
    table_of(&mut page, &entry, READ);
    let _ = write!(
        page,
        "\n## Config ids that a daemon has itself\n\nAll others come with plugins; `cbus inspect FILE` shows those of a file.\n"
    );
    for (id, about, node) in [
        (ApiConfig::ID, "Serves the bus API, which `cbus plugins` and the page use.", ApiConfig::SCHEMA),
        (CrateConfig::ID, "Builds controller crates, watches them, and swaps in each build.", CrateConfig::SCHEMA),
        (FolderConfig::ID, "Loads the plugin files of a directory, and follows its changes.", FolderConfig::SCHEMA),
        (PluginConfig::ID, "Where a plugin runs, and what it may do.", PluginConfig::SCHEMA),
    ] {
        let _ = write!(page, "\n### `{id}`\n\n{about}\n");
        let schema: Value = serde_json::from_str(&node.to_json()).unwrap_or_default();
        table_of(&mut page, &fields(&schema), READ);
    }
    page
}

fn json() -> String {
    let mut page = format!(
        "{MADE}# JSON\n\nCommands with `--json` print what they have found as one JSON document, or as one line of JSON for each thing. \
         `cbus schema` lists them, and prints the JSON schema of each, from the types that are printed. Within a version, fields are only \
         added: ignore those that you do not know, and take words (states, kinds, results) that you do not know as they are. \
         Errors go to standard error as text, with the exit status 1.\n"
    );
    for printed in &PRINTED {
        let each = if printed.is_lines { "One line for each: " } else { "" };
        let _ = write!(page, "\n## `cbus {}`\n\n{each}{}\n", printed.command, printed.about);
        let found = fields(&printed.schema());
        if !found.is_empty() {
            table_of(&mut page, &found, PRINTS);
        }
    }
    page
}
