//! The steps of the example: publish, roll out, roll back.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use console::style;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::Result;
use crate::builds::Kept;
use crate::daemons::{Daemon, Place};
use crate::load::Load;

/// The hosts that run the plugin, beside the hub.
const HOSTS: usize = 8;

/// How long until all hosts have met. The machine may be busy.
const MEETING: Duration = Duration::from_secs(60);

/// A host first, then half of them, then all. What it is judged by beside the usual: the requests that the bus has counted.
const STEPS: &str = "\
steps:
  - { hosts: 1, bake: 3s }
  - { percent: 50, bake: 1s }
  - { percent: 100 }
gates:
  errors: { of: rollout/greet, most: 10%, of_at_least: 3 }
";

/// What came of it.
#[derive(Serialize)]
pub struct Summary {
    hosts: usize,
    requests: u64,
    /// Those without a greeting.
    lost: u64,
    good: Good,
    bad: Bad,
}

#[derive(Serialize)]
struct Good {
    /// From the command to the release on all hosts.
    seconds: f64,
}

/// A step, as `--plan` shows it.
#[derive(Deserialize)]
struct Planned {
    groups: Vec<Vec<String>>,
}

#[derive(Serialize)]
struct Bad {
    hosts_that_ran_it: usize,
    /// From its first error to the release before on all hosts.
    back_after_s: f64,
}

impl Summary {
    /// Whether all that was promised was so.
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.requests > 0 && self.bad.hosts_that_ran_it == 1
    }
}

/// Runs commands, and prints what they print, where somebody watches.
struct Shell {
    place: Place,
    watched: bool,
}

impl Shell {
    fn say(&self, text: &str) {
        if self.watched {
            println!("{text}");
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.place.cbus);
        command.args(arguments).current_dir(&self.place.folder).env("CBUS_CONNECT", "unix:hub/api.sock");
        command.env("CBUS_STORE", store(&self.place.folder)).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a command; whether it has succeeded.
    async fn cbus(&self, arguments: &[&str]) -> Result<bool> {
        self.say(&format!("  {}", style(format!("$ cbus {}", arguments.join(" "))).bold()));
        let mut command = self.command(arguments);
        if !self.watched {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        Ok(command.status().await?.success())
    }

    async fn fine(&self, arguments: &[&str]) -> Result<()> {
        if self.cbus(arguments).await? {
            Ok(())
        } else {
            Err(format!("cbus {} has failed", arguments.join(" ")).into())
        }
    }

    async fn publish(&self, file: &Path) -> Result<()> {
        self.fine(&["publish", file.to_str().ok_or("a path that is no text")?, "--sign", "cbus.key"]).await
    }

    /// Rolls a version out to the end. Whether it is done then.
    async fn roll(&self, version: &str, steps: &str) -> Result<bool> {
        fs::write(self.place.folder.join("rollout.yaml"), format!("plugin: greeter\nrelease: {version}\n{steps}"))?;
        self.cbus(&["rollout", "start", "-f", "rollout.yaml", "--watch"]).await
    }

    /// Waits until a rollout would go to all hosts.
    async fn met(&self, what: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let output = self.command(&["rollout", "start", what, "--plan", "--json"]).output().await?;
            let planned: Vec<Planned> = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if planned.iter().flat_map(|step| &step.groups).map(Vec::len).sum::<usize>() == HOSTS {
                return Ok(());
            }
            if begun.elapsed() > MEETING {
                return Err(format!("the hosts have not met: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Runs the whole example.
pub async fn run(watched: bool) -> Result<Summary> {
    let kept = Kept::open("rollout", "greeter")?;
    let cbus = kept.cbus().await?;
    let (first, good) = (kept.plugin(&cbus, "1.0.0", "Hello").await?, kept.plugin(&cbus, "1.1.0", "Welcome").await?);
    let bad = kept.plugin(&cbus, "1.2.0", "").await?;

    let folder = tempfile::Builder::new().prefix("rollout-").tempdir()?;
    let shell = Shell { place: Place { cbus, folder: folder.path().to_owned() }, watched };
    fs::create_dir(folder.path().join("store"))?;
    shell.say(&format!("A hub and {HOSTS} hosts start, each a process, with one folder as their store"));
    shell.fine(&["keygen"]).await?;
    let hub = Daemon::start(&shell.place, "hub", &config(folder.path(), "hub")).await?;
    let mut hosts = Vec::new();
    for at in 1..=HOSTS {
        let name = format!("edge-{at}");
        hosts.push((name.clone(), Daemon::start(&shell.place, &name, &config(folder.path(), &name)).await?));
    }
    shell.say("The first release");
    shell.publish(&first).await?;
    shell.met("greeter@1.0.0").await?;
    if !shell.roll("1.0.0", "steps: [{ percent: 100 }]\n").await? {
        return Err(hub.wrong("may know why the first release is not on all hosts"));
    }
    let mut load = Load::default();
    for (name, host) in &hosts {
        load.put_on(name, &host.socket()).await?;
    }
    shell.say("A good release, while all hosts are asked");
    shell.publish(&good).await?;
    let begun = Instant::now();
    if !shell.roll("1.1.0", STEPS).await? {
        return Err("the good release was taken back".into());
    }
    let good = Good { seconds: seconds(begun) };

    shell.say("A bad one: it answers with errors");
    shell.publish(&bad).await?;
    if shell.roll("1.2.0", STEPS).await? {
        return Err("the bad release was not taken back".into());
    }
    let (hosts_that_ran_it, failed) = load.counts.failed();
    let bad = Bad { hosts_that_ran_it, back_after_s: failed.map(seconds).ok_or("nobody has noticed it")? };
    shell.fine(&["rollout", "status"]).await?;
    let (requests, lost) = (load.counts.requests.load(Ordering::Relaxed), load.counts.lost.load(Ordering::Relaxed));
    drop(load);
    for (_, host) in hosts {
        host.kill().await?;
    }
    hub.kill().await?;
    Ok(Summary { hosts: HOSTS, requests, lost, good, bad })
}

fn seconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 100.0).round() / 100.0
}

fn store(folder: &Path) -> String {
    format!("file://{}/store", folder.display())
}

/// The config of a host: the hub leads rollouts, the others run what is rolled out.
fn config(folder: &Path, name: &str) -> String {
    let (at, store, own) = (folder.display(), store(folder), "[fleet/plugin-health, fleet/rollout-step]");
    let (place, offers, asks) = if name == "hub" { ("listen", "[]", own) } else { ("connect", own, "[]") };
    let fleet = format!(
        "fleet:\n  id: controllerbus/fleet\n  config:\n    name: demo\n    host: {name}\n    {place}: [\"unix:{at}/hub.sock\"]\n    \
         offers: {offers}\n    asks: {asks}\n"
    );
    let more = if name == "hub" {
        format!("rollouts:\n  id: controllerbus/fleet/rollout\n  config: {{ store: \"{store}\", host: hub }}\n")
    } else {
        format!(
            "agent:\n  id: controllerbus/fleet/agent\n  config: {{ store: \"{store}\", host: {name}, labels: {{ role: edge }}, \
             keys: [\"{at}/cbus.pub\"], folder: fleet, look_ms: 500 }}\ngreeter:\n  id: greeter\n"
        )
    };
    fleet + &more
}
