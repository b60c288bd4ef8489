//! `cbus man`: the manual pages, made from the command line and its help.

use std::io::Write;

use clap::CommandFactory;
use clap_mangen::Man as Page;
use miette::Result;

use crate::cli::{Cli, Man};
use crate::report::io;
use crate::text::print_line;

pub fn run(args: &Man) -> Result<()> {
    let Some(dir) = &args.out else {
        let mut page = Vec::new();
        // Writing to memory does not fail.
        let _ = Page::new(Cli::command()).render(&mut page);
        let _ = std::io::stdout().write_all(&page);
        return Ok(());
    };
    std::fs::create_dir_all(dir).map_err(io("creating the directory of the manual pages", dir))?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(io("writing the manual pages", dir))?;
    print_line(&format!("{}: the manual pages; `man -l {0}/cbus.1` shows the first", dir.display()));
    Ok(())
}
