//! Rolls two releases out to daemons on this machine, while all of them are asked: a good one, and a bad one that is taken back by
//! itself. Ends with a summary.
#![forbid(unsafe_code)]

#[path = "../../fleet/src/builds.rs"]
mod builds;
#[path = "../../fleet/src/daemons.rs"]
#[allow(dead_code)]
mod daemons;
mod load;
mod story;

use std::process::ExitCode;

use clap::Parser;

/// Any error: it is shown to a person.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What may fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Roll out a good release and a bad one to a fleet on this machine, and see what becomes of them
#[derive(Parser)]
#[command(after_help = "\
It runs `cbus`, built with its feature `fleet`: CBUS names one that is built already. Everything that it starts ends with it.")]
struct Arguments {
    /// Print only a JSON summary
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What was started ends with the future that holds it, however this ends.
    let result = tokio::select! {
        result = story::run(!arguments.json) => result,
        _ = tokio::signal::ctrl_c() => Err("ended by Ctrl-C".into()),
    };
    match result.and_then(|summary| Ok((serde_json::to_string(&summary)?, summary))) {
        Ok((json, summary)) => {
            println!("{json}");
            if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
