//! `cbus`: makes, builds, inspects and runs controllers that are replaced while they run.
//!
//! `cbus --help` is the manual. Exit status: 0 fine, 1 failed, 2 wrong usage.
#![forbid(unsafe_code)]

mod api;
mod cli;
mod command;
mod daemon;
mod page;
mod pipeline;
mod report;
mod schema;
mod text;
mod view;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // A plugin in a process of its own is served by this executable: it does not come back from here then.
    hot_runtime::plugin_host();
    let cli = cli::Cli::parse();
    report::set_up();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failed(&miette::miette!("cannot start threads: {error}")),
    };
    let result = runtime.block_on(command::dispatch(cli.command));
    // A blocking read of the standard input must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failed(&error),
    }
}
