//! The main job: edits two controllers while they serve, shows the swaps, and ends with a summary.

mod api;
mod load;
mod scratch;
mod show;
mod story;
mod summary;

use std::process::ExitCode;

use clap::Parser;

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
    let result = story::run(&show).await;
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
