//! The steps of the example: join, ask, swap, kill, cut, mend.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use console::style;
use tokio::net::TcpListener;

use crate::api;
use crate::builds::Kept;
use crate::daemons::{Daemon, Place, put};
use crate::load::Load;
use crate::relay::Relay;
use crate::show::Show;
use crate::standing::Standing;
use crate::summary::{Summary, millis};
use crate::{Error, Result};

/// How long the requests go on between two steps.
const BETWEEN: Duration = Duration::from_millis(500);

/// For how long the cable stays cut after it was noticed: less than what a host keeps for those who are away.
const CUT: Duration = Duration::from_secs(1);

/// How long until everybody has met. The machine may be busy.
const MEETING: Duration = Duration::from_secs(60);

/// The hosts that answer. The second one is behind the cable that is cut.
const ANSWERING: [&str; 2] = ["left", "right"];

/// Runs the whole example.
pub async fn run(show: &Show) -> Result<Summary> {
    show.part("cbus is built with fleets, and the plugin in two versions");
    let kept = Kept::open("fleet", "fleet-greeter")?;
    show.busy("building cbus; the first time, with the engine's 250 crates, that takes some minutes");
    let cbus = kept.cbus().await?;
    show.busy("building the plugin");
    let hello = kept.plugin(&cbus, "0.1.0", "Hello").await?;
    let welcome = kept.plugin(&cbus, "0.2.0", "Welcome").await?;
    show.say(&format!("{} and {}", style(cbus.display()).dim(), style("two plugin files").dim()));

    show.part("A hub and three hosts start, each a process with its config file");
    let folder = tempfile::Builder::new().prefix("fleet-").tempdir()?;
    let place = Place { cbus, folder: folder.path().to_owned() };
    let port = free_port().await?;
    let relay = Relay::to(port).await?;
    let hub = Daemon::start(&place, "hub", &config("hub", &format!("listen: [\"127.0.0.1:{port}\"]"), "")).await?;
    let asks = format!("connect: [\"127.0.0.1:{port}\"]\n    asks: [{}]", api::GREET);
    let front = Daemon::start(&place, "front", &config("front", &asks, "")).await?;
    for host in ANSWERING {
        put(&place, host, &hello)?;
    }
    let mut left = Daemon::start(&place, "left", &answering("left", &format!("127.0.0.1:{port}"))).await?;
    let right = Daemon::start(&place, "right", &answering("right", &relay.address.to_string())).await?;
    for (name, daemon) in [("hub", &hub), ("front", &front), ("left", &left), ("right", &right)] {
        show.say(&format!("{name:<6} process {}", daemon.process_id()));
    }

    show.part("What is added on `front` is answered on `left` and `right`");
    let mut client = api::connect(&front.socket()).await?;
    let mut standing = Standing::ask(client.clone(), "Ada").await?;
    let both = |standing: &Standing| ANSWERING.iter().all(|host| standing.of(host).is_some());
    let begun = Instant::now();
    if let Err(error) = standing.until("an answer of both hosts", both).await {
        return Err(right.wrong(&format!("may know why: {error}")));
    }
    show.say(&format!("both answered {:.0} ms after they were asked", millis(begun.elapsed())));
    show_values(show, &standing);
    let mut summary = Summary { hosts: met(&mut client).await?, ..Summary::default() };
    let load = Load::start(client.clone(), ANSWERING);
    show.count(&load.counts);
    tokio::time::sleep(BETWEEN).await;

    show.part("A new plugin file on `left`, which `front` goes on asking");
    // For a moment both the old and the new one may answer.
    let host = load.counts.host("left");
    host.is_uncertain();
    let begun = Instant::now();
    put(&place, "left", &welcome)?;
    let swapped = standing.until("the new greeting of `left`", |standing| {
        standing.of("left").is_some_and(|greeting| greeting.text.starts_with("Welcome")) && standing.values.len() == 2
    });
    summary.swap_ms = millis(swapped.await?.duration_since(begun));
    host.is_certain();
    show_values(show, &standing);
    tokio::time::sleep(BETWEEN).await;

    show.part("`left` is killed");
    host.is_uncertain();
    let begun = Instant::now();
    left.kill().await?;
    let gone = standing.until("the withdrawal of what `left` said", |standing| standing.of("left").is_none()).await?;
    summary.kill_to_withdrawn_ms = millis(gone.duration_since(begun));
    show.say(&format!(
        "its value was withdrawn after {}",
        style(format!("{:.1} ms", summary.kill_to_withdrawn_ms)).green().bold()
    ));
    left = Daemon::start(&place, "left", &answering("left", &format!("127.0.0.1:{port}"))).await?;
    standing.until("an answer of the new `left`", both).await?;
    host.is_certain();
    show.say("it was started again, and answers");
    tokio::time::sleep(BETWEEN).await;

    show.part("The cable of `right` is cut");
    let run = standing.of("right").map(|greeting| greeting.run);
    let host = load.counts.host("right");
    host.is_uncertain();
    let begun = Instant::now();
    relay.cut();
    show.busy("nobody is told that it is cut: the hosts find out");
    let gone = standing.until("the withdrawal of what `right` said", |standing| standing.of("right").is_none()).await?;
    summary.cut_to_withdrawn_ms = millis(gone.duration_since(begun));
    show.say(&format!(
        "its value was withdrawn after {}",
        style(format!("{:.0} ms", summary.cut_to_withdrawn_ms)).green().bold()
    ));
    tokio::time::sleep(CUT).await;

    show.part("The cable is mended");
    let begun = Instant::now();
    relay.mend();
    let back = standing.until("the answer of `right`", both).await?;
    summary.back_to_answer_ms = millis(back.duration_since(begun));
    host.is_certain();
    summary.resolvers_run_again = u64::from(standing.of("right").map(|greeting| greeting.run) != run);
    show.say(&format!(
        "its value was there again after {}",
        style(format!("{:.0} ms", summary.back_to_answer_ms)).green().bold()
    ));
    show.say("it is the same value: no resolver has run again");
    tokio::time::sleep(BETWEEN).await;

    show.part("The end");
    let counts = load.stop().await;
    if let Some(why) = counts.first_wrong() {
        show.say(&format!("{} {why}", style("a request was wrong:").red()));
    }
    summary.requests = counts.requests.load(Ordering::Relaxed);
    summary.wrong = counts.wrong.load(Ordering::Relaxed);
    summary.unreachable = counts.unreachable.load(Ordering::Relaxed);
    for daemon in [front, left, right, hub] {
        daemon.kill().await?;
    }
    show.say("all daemons have ended");
    Ok(summary)
}

/// A config of a host.
fn config(name: &str, fleet: &str, more: &str) -> String {
    format!("fleet:\n  id: controllerbus/fleet\n  config:\n    name: demo\n    host: {name}\n    {fleet}\n{more}")
}

/// A config of a host that answers.
fn answering(name: &str, hub: &str) -> String {
    let fleet = format!("connect: [\"{hub}\"]\n    offers: [{}]", api::GREET);
    config(name, &fleet, &format!("greeter:\n  id: fleet/greeter\n  config: {{ host: {name} }}\n"))
}

/// A port of this machine that nobody listens at.
async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.port())
}

/// How many hosts a daemon sees, once that are all four.
async fn met(client: &mut controllerbus_api::client::Client) -> Result<usize> {
    let met = async {
        loop {
            let hosts = api::hosts(client).await?;
            if hosts.len() >= 4 {
                return Ok::<_, Error>(hosts.len());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(MEETING, met).await.map_err(|_| "the four hosts have not met")?
}

fn show_values(show: &Show, standing: &Standing) {
    for greeting in standing.values.values() {
        show.say(&format!("{:<6} {}", greeting.host, style(&greeting.text).cyan()));
    }
}
