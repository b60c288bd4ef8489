//! Edits a web server again and again while clients send requests, and reports what the clients noticed.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use controllerbus::listen::Address;
use controllerbus::{Bus, ConfigSet, Error, Result};
use hot_runtime::{HotRuntime, Isolation, RuntimeEvent};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use web::{Counts, Load, Site};

/// The server's config set.
const CONFIG: &str = "web: { id: example/site, config: { listen: '127.0.0.1:0', idle_seconds: 2 } }";

/// Edit a running web server, and count what its clients notice
#[derive(Parser)]
struct Arguments {
    /// Print only a JSON summary
    #[arg(long)]
    json: bool,
    /// How often to edit the server
    #[arg(long, default_value_t = 10)]
    swaps: u64,
    /// Where the server runs: `none` for this process, `process` for its own process
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
                _ => {
                    say(format!(
                        "{swaps} swaps, {requests} responses: {refused} refused, {reset} reset, {cut} cut off"
                    ));
                }
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
    let (sender, mut events) = unbounded_channel();
    say("building the server".to_owned());
    let runtime = HotRuntime::builder(&bus)
        .watch(site.path())
        .work_dir(work.path())
        .target_dir(&site.target_dir)
        .isolation(arguments.isolation)
        .on_event(move |event| drop(sender.send(event.clone())))
        .start()
        .await
        .map_err(Error::msg)?;
    swapped(&mut events).await?;
    let at = loop {
        match bus.sockets().first().map(|socket| socket.address.clone()) {
            Some(Address::Tcp(at)) => break at.parse().map_err(Error::msg)?,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    say(format!(
        "listening on http://{at}: 8 clients keep connections, 8 connect for each request, 4 WebSockets stay open"
    ));
    let load = Load::new(at, 8, 8, 4);
    load.answered_by(&Site::version(1)).await;
    for number in 2..arguments.swaps + 2 {
        site.edit(number)?;
        let took = swapped(&mut events).await?;
        load.answered_by(&Site::version(number)).await;
        say(format!("{} serves, {took:.0} ms after the edit", Site::version(number)));
    }
    let counts = load.end(arguments.swaps).await;
    bus.close().await;
    runtime.shutdown().await;
    Ok(counts)
}

/// Waits until a new generation serves, and returns the milliseconds since the edit.
async fn swapped(events: &mut UnboundedReceiver<RuntimeEvent>) -> Result<f64> {
    loop {
        match events.recv().await {
            Some(RuntimeEvent::Swapped { timeline, .. }) => {
                return Ok(timeline.edit_to_live.unwrap_or_default().as_secs_f64() * 1000.0);
            }
            Some(RuntimeEvent::BuildFailed { .. }) => return Err(Error::msg("the server does not compile")),
            Some(RuntimeEvent::RolledBack { reason, .. }) => return Err(Error::msg(reason)),
            Some(_) => {}
            None => return Err(Error::msg("the runtime has ended")),
        }
    }
}
