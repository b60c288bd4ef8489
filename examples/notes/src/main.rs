//! Edits a controller with an open SQLite database while notes are written, and checks that all acknowledged notes are
//! there.

use std::process::ExitCode;

use clap::Parser;
use controllerbus::{Bus, ConfigSet, Error, Result};
use hot_runtime::{HotRuntime, Isolation, RuntimeEvent};
use notes::{Book, Counts, Writers, check};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Edit a controller with a database while notes are written, and count the notes that are lost
#[derive(Parser)]
struct Arguments {
    /// Print only a JSON summary
    #[arg(long)]
    json: bool,
    /// How often to edit the controller
    #[arg(long, default_value_t = 10)]
    swaps: u64,
    /// Where the controller runs: `none` for this process, `process` for its own process
    #[arg(long, default_value_t = Isolation::None)]
    isolation: Isolation,
}

fn main() -> ExitCode {
    // Makes this executable the plugin host of its own process-hosted plugins.
    hot_runtime::plugin_host();
    run(&Arguments::parse())
}

#[tokio::main]
async fn run(arguments: &Arguments) -> ExitCode {
    let say = |text: String| {
        if !arguments.json {
            println!("{text}");
        }
    };
    match story(arguments, &say).await {
        Ok(counts) => {
            let Counts { swaps, acknowledged, failed, lost } = counts;
            match serde_json::to_string(&counts) {
                Ok(text) if arguments.json => println!("{text}"),
                _ => say(format!("{swaps} swaps, {acknowledged} notes acknowledged: {failed} failed, {lost} lost")),
            }
            if (failed, lost) == (0, 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn story(arguments: &Arguments, say: &impl Fn(String)) -> Result<Counts> {
    let book = Book::copy()?;
    let work = tempfile::tempdir()?;
    let bus = Bus::new();
    let file = work.path().join("notes.db");
    let config = format!("notes: {{ id: example/book, config: {{ file: '{}' }} }}", file.display());
    bus.apply(ConfigSet::from_yaml(&config)?).await?;
    let (sender, mut events) = unbounded_channel();
    say("building the controller".to_owned());
    let runtime = HotRuntime::builder(&bus)
        .watch(book.path())
        .work_dir(work.path())
        .target_dir(&book.target_dir)
        .isolation(arguments.isolation)
        .on_event(move |event| drop(sender.send(event.clone())))
        .start()
        .await
        .map_err(Error::msg)?;
    swapped(&mut events).await?;
    say(format!("4 writers are writing to {}", file.display()));
    let writers = Writers::new(&bus, 4);
    writers.answered_by(&Book::version(1)).await;
    for number in 2..arguments.swaps + 2 {
        book.edit(number)?;
        let took = swapped(&mut events).await?;
        writers.answered_by(&Book::version(number)).await;
        say(format!("{} serves, {took:.0} ms after the edit", Book::version(number)));
    }
    let (acknowledged, failed) = writers.end().await;
    let lost = check(&bus, &acknowledged).await?;
    bus.close().await;
    runtime.shutdown().await;
    Ok(Counts { swaps: arguments.swaps, acknowledged: acknowledged.len() as u64, failed, lost })
}

/// Waits until a new generation serves, and returns the milliseconds since the edit.
async fn swapped(events: &mut UnboundedReceiver<RuntimeEvent>) -> Result<f64> {
    loop {
        match events.recv().await {
            Some(RuntimeEvent::Swapped { timeline, .. }) => {
                return Ok(timeline.edit_to_live.unwrap_or_default().as_secs_f64() * 1000.0);
            }
            Some(RuntimeEvent::BuildFailed { .. }) => return Err(Error::msg("the controller does not compile")),
            Some(RuntimeEvent::RolledBack { reason, .. }) => return Err(Error::msg(reason)),
            Some(_) => {}
            None => return Err(Error::msg("the runtime has ended")),
        }
    }
}
