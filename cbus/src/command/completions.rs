//! `cbus completions`: prints a shell completion script.

use std::io::Write;

use clap::CommandFactory;
use miette::Result;

use crate::cli::{Cli, Completions};

pub fn run(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cbus", &mut script);
    // A reader that stops early does not want the rest.
    let _ = std::io::stdout().write_all(&script);
    Ok(())
}
