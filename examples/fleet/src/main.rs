//! Joins four daemons on this machine to a fleet, and ends with a summary: kills one, cuts one off and swaps a plugin, while all are
//! asked.
#![forbid(unsafe_code)]

mod api;
mod builds;
mod daemons;
mod load;
mod relay;
mod show;
mod standing;
mod story;
mod summary;

use std::process::ExitCode;

use clap::Parser;

use crate::show::{Mode, Show};

/// Any error: it is shown to a person.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What may fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Join a hub and three hosts, ask across them, and see what happens when one is killed, cut off, or swapped
#[derive(Parser)]
#[command(after_help = "\
It runs `cbus`, built with its feature `fleet`: CBUS names one that is built already. Everything that it starts ends with it.")]
struct Arguments {
    /// Print plain lines, without colour and animation
    #[arg(long)]
    plain: bool,
    /// Print only a JSON summary
    #[arg(long, conflicts_with = "plain")]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mode = if arguments.json {
        Mode::Silent
    } else if arguments.plain || !console::user_attended() {
        Mode::Plain
    } else {
        Mode::Rich
    };
    let show = Show::new(mode);
    // What was started ends with the future that holds it, however this ends.
    let result = tokio::select! {
        result = story::run(&show) => result,
        signal = asked_to_end() => Err(format!("ended by {signal}").into()),
    };
    show.end();
    match result {
        Ok(summary) => {
            if arguments.json {
                match serde_json::to_string(&summary) {
                    Ok(text) => println!("{text}"),
                    Err(error) => eprintln!("error: {error}"),
                }
            } else {
                summary.show();
            }
            if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn asked_to_end() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let both = signal(SignalKind::terminate()).and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let Ok((mut terminate, mut interrupt)) = both else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "Ctrl-C",
    }
}
