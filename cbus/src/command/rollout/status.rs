//! `cbus rollout status`: what is wanted and what is, on each host.

use std::collections::BTreeMap;

use controllerbus_api::Connection;
use controllerbus_api::client::Client;
use controllerbus_api::fleet::HOSTS;
use controllerbus_api::fleet::rollout::{AGENT, ROLLOUTS, Rollout, STORE, StoreOf};
use miette::Result;

use super::printed::Rollouts;
use super::show::{head, show, states};
use crate::cli::RolloutStatus;
use crate::client::{connect, daemon};
use crate::command::fleet::status::{Asked, Told, answers};
use crate::report::report;
use crate::text::{clock, print_json, print_line};

pub async fn run(args: &RolloutStatus) -> Result<()> {
    let mut source = Source::open(args).await?;
    let mut found = source.now().await?;
    source.keep_only(args.plugin.as_deref(), &mut found)?;
    if !args.watch {
        if args.json() {
            print_json(&found, false);
        } else {
            show_all(&found);
        }
        return Ok(());
    }
    for note in &found.notes {
        crate::text::tell(note);
    }
    follow(source, found, args.plugin.as_deref(), args.json()).await.map(drop)
}

impl RolloutStatus {
    fn json(&self) -> bool {
        self.of.json
    }
}

fn show_all(found: &Rollouts) {
    for note in &found.notes {
        print_line(note);
    }
    if found.rollouts.is_empty() {
        let store = found.store.as_deref().map(|store| format!(" in {store}")).unwrap_or_default();
        print_line(&format!("there is no rollout{store}: `cbus rollout start PLUGIN@VERSION` starts one"));
    }
    for (at, rollout) in found.rollouts.iter().enumerate() {
        if at > 0 || !found.notes.is_empty() {
            print_line("");
        }
        show(rollout);
    }
}

/// Tells what changes until all of it is over, or until Ctrl-C, when there is no end to return.
pub async fn follow(
    mut source: Source,
    mut found: Rollouts,
    only: Option<&str>,
    json: bool,
) -> Result<Option<Vec<Rollout>>> {
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    loop {
        for rollout in &found.rollouts {
            let line = if json {
                serde_json::to_string(rollout).unwrap_or_default()
            } else {
                format!("{}; {}; {}", head(rollout), states(rollout), rollout.why)
            };
            if told.get(&rollout.plugin) == Some(&line) {
                continue;
            }
            if json {
                print_json(rollout, true);
            } else {
                print_line(&format!("{}  {line}", clock(controllerbus_api::__private::now_ms())));
            }
            told.insert(rollout.plugin.clone(), line);
        }
        let is_over = |rollout: &Rollout| rollout.is_over && rollout.is_as_wanted;
        if !found.rollouts.is_empty() && found.rollouts.iter().all(is_over) {
            return Ok(Some(found.rollouts));
        }
        found = tokio::select! {
            next = source.next() => next?,
            _ = tokio::signal::ctrl_c() => return Ok(None),
        };
        source.keep_only(only, &mut found)?;
    }
}

/// Where rollouts are looked at.
pub enum Source {
    /// A daemon, which tells what changes.
    Daemon(Box<FromDaemon>),
    /// A store, with what a daemon's fleet says of its hosts, if there is one.
    #[cfg(feature = "fleet")]
    Store(Box<super::store::FromStore>),
}

/// What a daemon tells.
pub struct FromDaemon {
    asked: Asked,
    values: BTreeMap<u64, Rollout>,
    store: Option<String>,
    fleet: bool,
}

impl Source {
    async fn open(args: &RolloutStatus) -> Result<Self> {
        #[cfg(feature = "fleet")]
        if let Some(url) = &args.of.store.store {
            return Self::of_store(url, args.plugin.clone(), &args.of.to).await;
        }
        #[cfg(not(feature = "fleet"))]
        if args.of.store.store.is_some() {
            return Err(super::super::fleet::missing("--store"));
        }
        Self::of_daemon(&daemon(&args.of.to)?).await
    }

    #[cfg(feature = "fleet")]
    pub async fn of_store(url: &str, plugin: Option<String>, to: &crate::cli::Connect) -> Result<Self> {
        Ok(Self::Store(Box::new(super::store::FromStore::open(url, plugin, to).await?)))
    }

    /// What a daemon's agent follows.
    pub async fn of_daemon(to: &Connection) -> Result<Self> {
        let mut client = connect(to).await?;
        if !answers(&mut client, to, ROLLOUTS).await? {
            return Err(report(
                format!("the daemon at {} follows no rollouts", to.address()),
                format!("its config needs an entry with `id: {AGENT}`; --store looks at a store without an agent"),
            ));
        }
        let asked = Asked::of(&mut client, to, ROLLOUTS, String::new()).await?;
        let (store, fleet) = (store_of(&mut client, to).await?, is_in_fleet(&mut client, to).await?);
        Ok(Self::Daemon(Box::new(FromDaemon { asked, values: BTreeMap::new(), store, fleet })))
    }

    /// What there is now.
    async fn now(&mut self) -> Result<Rollouts> {
        match self {
            Self::Daemon(from) => {
                from.values = from.asked.now().await?.into_iter().collect();
                Ok(from.found())
            }
            #[cfg(feature = "fleet")]
            Self::Store(from) => from.found().await,
        }
    }

    /// What there is after something has changed. Cancel-safe.
    pub async fn next(&mut self) -> Result<Rollouts> {
        match self {
            Self::Daemon(from) => {
                match from.asked.next().await? {
                    Told::Added(id, rollout) => drop(from.values.insert(id, rollout)),
                    Told::Removed(id) => drop(from.values.remove(&id)),
                    Told::Idle => {}
                }
                Ok(from.found())
            }
            #[cfg(feature = "fleet")]
            Self::Store(from) => {
                tokio::time::sleep(super::store::AGAIN).await;
                from.found().await
            }
        }
    }

    /// Leaves the one that was asked for.
    fn keep_only(&self, only: Option<&str>, found: &mut Rollouts) -> Result<()> {
        let Some(only) = only else { return Ok(()) };
        let known: Vec<String> = found.rollouts.iter().map(|rollout| rollout.plugin.clone()).collect();
        found.rollouts.retain(|rollout| rollout.plugin == only);
        if found.rollouts.is_empty() && found.notes.is_empty() {
            let hint = match controllerbus::__private::nearest(only, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("`cbus rollout start {only}@VERSION` starts one"),
            };
            return Err(report(format!("{only} has no rollout"), hint));
        }
        Ok(())
    }
}

impl FromDaemon {
    /// The newest of each plugin: where one takes the place of another, both are there for a moment.
    fn found(&self) -> Rollouts {
        let newest: BTreeMap<&str, &Rollout> =
            self.values.values().map(|rollout| (rollout.plugin.as_str(), rollout)).collect();
        let rollouts = newest.into_values().cloned().collect();
        let notes = notes(self.fleet);
        Rollouts { store: self.store.clone(), fleet: self.fleet, notes, rollouts }
    }
}

/// What somebody has to know who looks at a daemon that is in no fleet.
pub fn notes(fleet: bool) -> Vec<String> {
    let alone =
        "this daemon is in no fleet: it sees its own host only, and agents find new steps by themselves, every 30 s";
    if fleet { Vec::new() } else { vec![alone.to_owned()] }
}

/// The store of a daemon's agent or orchestrator.
pub async fn store_of(client: &mut Client, to: &Connection) -> Result<Option<String>> {
    if !answers(client, to, STORE).await? {
        return Ok(None);
    }
    let mut asked = Asked::of(client, to, STORE, String::new()).await?;
    let found: Vec<(u64, StoreOf)> = asked.now().await?;
    Ok(found.into_iter().map(|(_, found)| found.store).next())
}

/// Whether a daemon is in a fleet.
pub async fn is_in_fleet(client: &mut Client, to: &Connection) -> Result<bool> {
    answers(client, to, HOSTS).await
}
