//! `cbus completions`: prints a shell completion script.

use std::io::Write;

use clap::{CommandFactory, ValueEnum};
use clap_complete::env::Shells;
use miette::Result;

use crate::cli::{Cli, Completions};
use crate::complete::VARIABLE;

pub fn run(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    let name = args.shell.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    match Shells::builtins().completer(&name).filter(|_| args.dynamic) {
        // Writing to memory does not fail.
        Some(shell) => drop(shell.write_registration(VARIABLE, "cbus", "cbus", "cbus", &mut script)),
        None => clap_complete::generate(args.shell, &mut Cli::command(), "cbus", &mut script),
    }
    // A reader that stops early does not want the rest.
    let _ = std::io::stdout().write_all(&script);
    Ok(())
}
