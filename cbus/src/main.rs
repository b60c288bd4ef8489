//! `cbus`: creates, builds, inspects and runs hot-swappable controllers.
//!
//! `cbus --help` is the manual. Exit status: 0 success, 1 failure, 2 usage error.
#![forbid(unsafe_code)]

mod cli;
mod client;
mod command;
mod complete;
mod daemon;
mod pipeline;
mod problems;
mod report;
mod schema;
mod settings;
mod tested;
mod text;
mod timings;
mod view;

use std::process::ExitCode;

fn main() -> ExitCode {
    // This executable also serves plugins in processes of their own; then this call does not return.
    hot_runtime::plugin_host();
    // Where a shell asks for completions, this call does not return either.
    clap_complete::CompleteEnv::with_factory(cli::Cli::with_variables).var(complete::VARIABLE).complete();
    let cli = cli::Cli::read();
    report::set_up();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failed(&miette::miette!("cannot start threads: {error}")),
    };
    let result = runtime.block_on(command::dispatch(cli.command));
    // A blocking read of standard input must not keep the process alive.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failed(&error),
    }
}
