//! A web server that is edited while clients ask it: loaded, edited again and again, and what the clients saw of that.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use controllerbus::listen::Address;
use controllerbus::{Bus, ConfigSet, Error, Result};
use hot_runtime::{HotRuntime, Isolation, RuntimeEvent};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use web::{Counts, Load, Site};

/// The server's config.
const CONFIG: &str = "web: { id: example/site, config: { listen: '127.0.0.1:0', idle_seconds: 2 } }";

/// Edits a web server while it serves, and counts what that does to its clients.
#[derive(Parser)]
struct Arguments {
    /// Nothing but a machine-readable summary on standard output.
    #[arg(long)]
    json: bool,
    /// How often the server is edited.
    #[arg(long, default_value_t = 10)]
    swaps: u64,
    /// Where the server runs: `none` for this process, `process` for one of its own.
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
            let Counts { swaps, requests, refused, reset, cut } = counts;
            match serde_json::to_string(&counts) {
                Ok(text) if arguments.json => println!("{text}"),
                _ => say(format!("{swaps} swaps, {requests} answers: {refused} refused, {reset} reset, {cut} cut")),
            }
            if counts.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn story(arguments: &Arguments, say: &impl Fn(String)) -> Result<Counts> {
    let site = Site::copy()?;
    let work = tempfile::tempdir()?;
    let bus = Bus::new();
    bus.apply(ConfigSet::from_yaml(CONFIG)?).await?;
    let (tell, mut told) = unbounded_channel();
    say("building the server".to_owned());
    let runtime = HotRuntime::builder(&bus)
        .watch(site.path())
        .work_dir(work.path())
        .target_dir(&site.target_dir)
        .isolation(arguments.isolation)
        .on_event(move |event| drop(tell.send(event.clone())))
        .start()
        .await
        .map_err(Error::msg)?;
    swapped(&mut told).await?;
    let at = loop {
        match bus.sockets().first().map(|socket| socket.address.clone()) {
            Some(Address::Tcp(at)) => break at.parse().map_err(Error::msg)?,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    say(format!("it listens at http://{at}; 8 clients keep their connections, 8 connect each time, 4 WebSockets stay"));
    let load = Load::new(at, 8, 8, 4);
    load.answered_by(&Site::version(1)).await;
    for number in 2..arguments.swaps + 2 {
        site.edit(number)?;
        let took = swapped(&mut told).await?;
        load.answered_by(&Site::version(number)).await;
        say(format!("{} serves, {took:.0} ms after the edit", Site::version(number)));
    }
    let counts = load.end(arguments.swaps).await;
    bus.close().await;
    runtime.shutdown().await;
    Ok(counts)
}

/// Waits until a generation serves; how long it took from the edit, in milliseconds.
async fn swapped(told: &mut UnboundedReceiver<RuntimeEvent>) -> Result<f64> {
    loop {
        match told.recv().await {
            Some(RuntimeEvent::Swapped { timeline, .. }) => return Ok(timeline.edit_to_live_ms.unwrap_or_default()),
            Some(RuntimeEvent::BuildFailed { .. }) => return Err(Error::msg("the server does not build")),
            Some(RuntimeEvent::RolledBack { reason, .. }) => return Err(Error::msg(reason)),
            Some(_) => {}
            None => return Err(Error::msg("the runtime has ended")),
        }
    }
}
