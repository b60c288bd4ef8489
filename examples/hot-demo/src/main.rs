//! The main job: edits two controllers while they serve, shows the swaps, and ends with a summary.

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

/// Two controller crates in one plugin: loaded, edited, broken, mended and unloaded while requests go on.
#[derive(Parser)]
struct Arguments {
    /// No colour and no animation.
    #[arg(long)]
    plain: bool,
    /// Nothing but a machine-readable summary on standard output.
    #[arg(long, conflicts_with = "plain")]
    json: bool,
    /// Where the plugin runs: `none` for this process, `process` for one of its own.
    #[arg(long, default_value_t = Isolation::None)]
    isolation: Isolation,
    /// Something else: twenty plugins that misbehave for so many seconds, and a host that must not be harmed.
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
