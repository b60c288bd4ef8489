//! The store that commands read and write, and the hosts that a daemon's fleet has.

use std::time::Duration;

use controllerbus_api::fleet::rollout::{AGENT, HEALTH, Rollout, STEP};
use controllerbus_rollout::{Error, HostHealth, Link, Rollouts, ShownRollout, Store};
use miette::{Report, Result};

use super::printed;
use super::status::{is_in_fleet, notes, store_of};
use crate::cli::{Connect, StoreUrl};
use crate::client::{connect, connection, daemon};
use crate::command::fleet::status::{Asked, Told};
use crate::report::{self, report};

/// How often a store is looked at that is followed.
pub const AGAIN: Duration = Duration::from_secs(1);

/// For how long hosts may answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The store that was named, or that of the daemon.
pub async fn of(named: &StoreUrl, to: &Connect) -> Result<Store> {
    let url = match &named.store {
        Some(url) => url.clone(),
        None => of_daemon(to).await?,
    };
    Store::open(&url).map_err(explain)
}

async fn of_daemon(to: &Connect) -> Result<String> {
    let hint = "name the store with --store, such as --store file:///mnt/share/cbus";
    let to = match connection(to) {
        Ok(to) => to,
        Err(error) => return Err(report(format!("no store was named, and no daemon says one: {error}"), hint)),
    };
    let store = store_of(&mut connect(&to).await?, &to).await?;
    store.ok_or_else(|| {
        let what = format!("no store was named, and the daemon at {} has none", to.address());
        report(what, format!("{hint}; a daemon has one by an entry with `id: {AGENT}`"))
    })
}

/// Who does something, as the history says it.
pub fn who() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".to_owned());
    match crate::command::fleet::entry::machine() {
        Some(machine) => format!("{user}@{machine}"),
        None => user,
    }
}

/// An error of a store, a release or a rollout.
pub fn explain(error: Error) -> Report {
    match error {
        Error::Away { store, doing, why } => report(
            format!("the store {store} is out of reach: {doing}: {why}"),
            "what runs goes on running; try again when the store is back",
        ),
        Error::Runtime(error) => report::explain(error),
        Error::Io { doing, path, source } => report::io(doing, &path)(source),
        other => report(other.to_string(), ""),
    }
}

/// What a daemon's fleet says of the hosts of a plugin; nothing if no daemon can be asked.
pub async fn hosts(plugin: &str, to: &Connect) -> Result<Vec<HostHealth>> {
    let to = daemon(to)?;
    let mut client = connect(&to).await?;
    let json = serde_json::json!({ "plugin": plugin }).to_string();
    let mut asked = Asked::of(&mut client, &to, HEALTH, json).await?.patient();
    let mut found: Vec<(u64, HostHealth)> = Vec::new();
    let all = async {
        loop {
            match asked.next().await? {
                Told::Added(id, host) => found.push((id, host)),
                Told::Removed(gone) => found.retain(|(id, _)| *id != gone),
                Told::Idle => return Ok::<_, Report>(()),
            }
        }
    };
    // One that is silent does not keep the others from being shown.
    if let Ok(told) = tokio::time::timeout(PATIENCE, all).await {
        told?;
    }
    Ok(found.into_iter().map(|(_, host)| host).collect())
}

/// Tells all hosts of a new step, where a daemon may. Otherwise they find it by themselves.
pub async fn tell(link: &Link, to: &Connect) {
    let telling = async {
        let to = daemon(to)?;
        let json = serde_json::json!({ "plugin": link.wanted.plugin, "number": link.number }).to_string();
        let mut asked = Asked::of(&mut connect(&to).await?, &to, STEP, json).await?.patient();
        while !matches!(asked.next::<String>().await?, Told::Idle) {}
        Ok::<_, Report>(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), telling).await;
}

/// Rollouts as a store has them.
pub struct FromStore {
    store: Store,
    rollouts: Rollouts,
    plugin: Option<String>,
    to: Connect,
    /// Whether there is a daemon, and whether it is in a fleet.
    fleet: Option<bool>,
}

impl FromStore {
    pub async fn open(url: &str, plugin: Option<String>, to: &Connect) -> Result<Self> {
        let store = Store::open(url).map_err(explain)?;
        let fleet = match connection(to) {
            // One that was named has to be there.
            Err(_) if to.connect.is_none() => None,
            found => {
                let found = found.map_err(report::explain_api)?;
                Some(is_in_fleet(&mut connect(&found).await?, &found).await?)
            }
        };
        Ok(Self { rollouts: Rollouts::new(&store, who()), store, plugin, to: to.clone(), fleet })
    }

    pub async fn found(&self) -> Result<printed::Rollouts> {
        let plugins = match &self.plugin {
            Some(plugin) => vec![plugin.clone()],
            None => self.rollouts.plugins().await.map_err(explain)?,
        };
        let mut found = Vec::new();
        for plugin in plugins {
            let Some(link) = self.rollouts.newest(&plugin).await.map_err(explain)? else { continue };
            let hosts = if self.fleet.is_some() { hosts(&plugin, &self.to).await? } else { Vec::new() };
            found.push(printable(&ShownRollout::of(&link, &hosts)));
        }
        let alone = "no daemon is running here: what hosts run is not known, and they are shown as away".to_owned();
        let notes = self.fleet.map_or_else(|| vec![alone], notes);
        let store = Some(self.store.url().to_owned());
        Ok(printed::Rollouts { store, fleet: self.fleet == Some(true), notes, rollouts: found })
    }
}

/// The same with the types that every build has.
fn printable(shown: &ShownRollout) -> Rollout {
    serde_json::to_value(shown).and_then(serde_json::from_value).unwrap_or_default()
}

/// A step of a rollout, as it is printed.
pub fn changed(link: &Link) -> printed::Changed {
    let stage = serde_json::to_value(link.stage).ok().and_then(|stage| stage.as_str().map(str::to_owned));
    printed::Changed {
        plugin: link.wanted.plugin.clone(),
        release: link.release.version.to_string(),
        sequence: link.release.sequence,
        number: link.number,
        rollout: link.rollout,
        stage: stage.unwrap_or_default(),
        step: link.step + 1,
        turn: link.turn,
        at_ms: link.at_ms,
        by: link.by.clone(),
        why: link.why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use controllerbus_rollout::ShownGate;

    use super::*;

    #[test]
    fn what_the_crate_shows_every_build_can_print() {
        let mut shown = ShownRollout::default();
        (shown.plugin, shown.release, shown.stage) = ("greeter".to_owned(), "1.4.0".to_owned(), "baking".to_owned());
        shown.gates.push(ShownGate::default());
        let (there, here) = (serde_json::to_value(&shown), serde_json::to_value(printable(&shown)));
        assert_eq!(there.expect("JSON"), here.expect("JSON"), "no field is missing in either");
    }
}
