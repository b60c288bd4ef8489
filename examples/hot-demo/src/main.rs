//! Edits two controllers while they serve, shows the swaps, and ends with a summary.

mod api;
mod chaos;
mod load;
mod scratch;
mod show;
mod story;
mod summary;

use std::process::ExitCode;

use clap::Parser;
use hot_runtime::Isolation;

use crate::show::{Mode, Show};

/// Load, edit, break, fix and unload a plugin of two controller crates while requests keep coming
#[derive(Parser)]
struct Arguments {
    /// Print plain lines, without colour and animation
    #[arg(long)]
    plain: bool,
    /// Print only a JSON summary
    #[arg(long, conflicts_with = "plain")]
    json: bool,
    /// Where the plugin runs: `none` for this process, `process` for its own process
    #[arg(long, default_value_t = Isolation::None)]
    isolation: Isolation,
    /// Run twenty misbehaving plugins for this long instead, in a host that must not be affected
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["plain", "isolation"])]
    chaos: Option<u64>,
}

fn main() -> ExitCode {
    // Makes this executable the plugin host of its own process-hosted plugins.
    hot_runtime::plugin_host();
    let arguments = Arguments::parse();
    let ended = match (arguments.chaos, chaos::is_inside()) {
        (Some(seconds), Some(outcome)) => in_runtime(chaos::inside(seconds, outcome)).map(|()| ExitCode::SUCCESS),
        (Some(seconds), None) => chaos::run(seconds, arguments.json),
        (None, _) => Ok(in_runtime(run(&arguments))),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

#[tokio::main]
async fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    work.await
}

async fn run(arguments: &Arguments) -> ExitCode {
    let mode = if arguments.json {
        Mode::Silent
    } else if arguments.plain || !console::user_attended() {
        Mode::Plain
    } else {
        Mode::Rich
    };
    let show = Show::new(mode);
    let result = story::run(&show, arguments.isolation).await;
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
            if summary.failed == 0 && summary.generations_mapped_at_end == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
