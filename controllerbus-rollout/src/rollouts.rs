//! What an operator does with rollouts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use controllerbus::BusHandle;
use serde::Serialize;

use crate::bad;
use crate::chain::Chain;
use crate::error::{Error, Result};
use crate::gates::Verdict;
use crate::health::{HostHealth, PluginHealth, RolloutStep};
use crate::link::{Change, Link, Stage, Wanted, Writer};
use crate::plan::{self, PlannedStep};
use crate::release::{ReleaseName, Releases, now_ms};
use crate::rollout::Rollout;
use crate::state::{Observed, goes_back, verdicts};
use crate::store::Store;

/// How many others may write a step first before one gives up.
const TRIES: usize = 20;

/// Starts, shows and steers rollouts. All of it is in the store: whoever may write there can do it from anywhere.
#[derive(Clone, Debug)]
pub struct Rollouts {
    store: Store,
    by: String,
}

impl Rollouts {
    /// The rollouts of a store. `by` says in their history who did something.
    pub fn new(store: &Store, by: impl Into<String>) -> Self {
        Self { store: store.clone(), by: by.into() }
    }

    /// Starts one. The orchestrator takes it from there, and each agent that it concerns.
    ///
    /// # Errors
    /// [`Error::NotNow`] if another rollout of the plugin is in progress, the version was not published, is older than what is
    /// done, or failed before; the store's.
    pub async fn start(&self, wanted: Rollout) -> Result<Link> {
        let chain = Chain::new(&self.store, &wanted.plugin);
        let release = self.release_for(&wanted).await?;
        for _ in 0..TRIES {
            let last = chain.newest(0).await?;
            let before = last.as_ref().and_then(done_before);
            if let Some(last) = last.as_ref().filter(|last| !last.stage.is_over()) {
                let (plugin, release, stage) = (&wanted.plugin, &last.release, last.stage);
                return Err(Error::NotNow(format!(
                    "the rollout of {plugin} {release} is {stage}; wait for its end, or end it with `back` or `abort`"
                )));
            }
            if let Some(before) = before.as_ref().filter(|before| before.sequence > release.sequence) {
                return Err(Error::NotNow(format!(
                    "{release} is older than {before}, which is done, and hosts refuse what is older; publish it again to go back to it"
                )));
            }
            let number = last.map_or(1, |last| last.number + 1);
            let first = Link::first(number, wanted.clone(), release.clone(), before, self.writer());
            if chain.append(&first).await? {
                return Ok(first);
            }
        }
        Err(self.busy(&wanted.plugin))
    }

    async fn release_for(&self, wanted: &Rollout) -> Result<ReleaseName> {
        let release = Releases::new(&self.store, &wanted.plugin).of_version(&wanted.plugin, &wanted.release).await?;
        if !wanted.despite {
            for artifact in &release.artifacts {
                if let Some(mark) = bad::marked(&self.store, &wanted.plugin, &artifact.blake3).await? {
                    return Err(bad::refusal(&wanted.plugin, &mark));
                }
            }
        }
        Ok(release.name())
    }

    /// Which hosts would get it in which step, of those that answer now. Changes nothing.
    ///
    /// # Errors
    /// As [`Rollouts::start`].
    pub async fn plan(&self, wanted: &Rollout, hosts: &[HostHealth]) -> Result<Vec<PlannedStep>> {
        let release = self.release_for(wanted).await?;
        let matching = hosts.iter().filter(|host| wanted.on.matches(&host.labels)).map(|host| host.host.as_str());
        Ok(plan::plan(wanted, release.sequence, matching))
    }

    /// The newest step of a plugin's rollouts; `None` if there never was one.
    ///
    /// # Errors
    /// The store's.
    pub async fn newest(&self, plugin: &str) -> Result<Option<Link>> {
        Chain::new(&self.store, plugin).newest(0).await
    }

    /// The plugins that have rollouts.
    ///
    /// # Errors
    /// The store's.
    pub async fn plugins(&self) -> Result<Vec<String>> {
        Chain::plugins(&self.store).await
    }

    /// Every step of a plugin's rollouts, the oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn history(&self, plugin: &str) -> Result<Vec<Link>> {
        Chain::new(&self.store, plugin).all(0).await
    }

    /// Stops a rollout where it is, until `resume`, `back` or `abort`.
    ///
    /// # Errors
    /// [`Error::NotNow`] where there is nothing to stop; the store's.
    pub async fn pause(&self, plugin: &str, why: &str) -> Result<Link> {
        self.change(plugin, "pause", |link| match link.stage {
            Stage::Pending | Stage::Rolling | Stage::Baking => Some(link.change(Stage::Paused, why)),
            _ => None,
        })
        .await
    }

    /// Goes on with a rollout that is paused, at the step where it was.
    ///
    /// # Errors
    /// As [`Rollouts::pause`].
    pub async fn resume(&self, plugin: &str) -> Result<Link> {
        self.change(plugin, "resume", |link| {
            let stage = if link.order.is_empty() { Stage::Pending } else { Stage::Rolling };
            (link.stage == Stage::Paused).then(|| link.change(stage, "resumed"))
        })
        .await
    }

    /// Does not wait until the hosts of this step were watched long enough. Gates still count.
    ///
    /// # Errors
    /// As [`Rollouts::pause`].
    pub async fn promote(&self, plugin: &str) -> Result<Link> {
        self.change(plugin, "promote", |link| match link.stage {
            Stage::Rolling | Stage::Baking => Some(Change { promoted: true, ..link.change(link.stage, "promoted") }),
            _ => None,
        })
        .await
    }

    /// Takes a rollout back, and marks the release: it does not come back by itself.
    ///
    /// # Errors
    /// [`Error::NotNow`] if none is in progress: what is done is replaced by publishing the older version again. The store's.
    pub async fn back(&self, plugin: &str, why: &str) -> Result<Link> {
        let link = self.change(plugin, "take back", |link| ends(link, Stage::RolledBack, why)).await?;
        let releases = Releases::new(&self.store, plugin);
        if let Some(release) = releases.of_sequence(link.release.sequence).await? {
            let mark = bad::BadMark::new(link.release.clone(), &self.by, now_ms(), why);
            bad::mark(&self.store, &release, &mark).await?;
        }
        Ok(link)
    }

    /// Ends a rollout: the hosts that have the release go back, and it is not marked. With none in progress it says so, and
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::NotNow`], or the store's.
    pub async fn abort(&self, plugin: &str, why: &str) -> Result<Link> {
        self.change(plugin, "abort", |link| ends(link, Stage::Aborted, why)).await
    }

    async fn change(&self, plugin: &str, doing: &str, change: impl Fn(&Link) -> Option<Change>) -> Result<Link> {
        let chain = Chain::new(&self.store, plugin);
        for _ in 0..TRIES {
            let nothing = || Error::NotNow(format!("there is nothing to {doing}: {plugin} has no rollout"));
            let link = chain.newest(0).await?.ok_or_else(nothing)?;
            let Some(change) = change(&link) else {
                let (release, stage) = (&link.release, link.stage);
                return Err(Error::NotNow(format!(
                    "there is nothing to {doing}: the rollout of {plugin} {release} is {stage}"
                )));
            };
            let next = link.followed_by(change, self.writer());
            if chain.append(&next).await? {
                return Ok(next);
            }
        }
        Err(self.busy(plugin))
    }

    fn busy(&self, plugin: &str) -> Error {
        Error::NotNow(format!("others change the rollout of {plugin} all the time; try again"))
    }

    fn writer(&self) -> Writer {
        Writer { by: self.by.clone(), lease: None, at_ms: now_ms() }
    }
}

fn ends(link: &Link, stage: Stage, why: &str) -> Option<Change> {
    match link.stage {
        Stage::Pending => Some(link.change(Stage::Aborted, why)),
        Stage::Paused if link.turn == 0 => Some(link.change(Stage::Aborted, why)),
        Stage::Rolling | Stage::Baking | Stage::Paused => Some(goes_back(link, stage, why.to_owned())),
        _ => None,
    }
}

/// The release that is done, after a rollout that is over.
fn done_before(last: &Link) -> Option<ReleaseName> {
    if last.stage == Stage::Done { Some(last.release.clone()) } else { last.before.clone() }
}

/// Asks the hosts of a bus, and of its fleet, how a plugin is there: all that answer before nobody has more to say, or within a
/// time.
///
/// # Errors
/// The bus's.
pub async fn ask_hosts(bus: &BusHandle, plugin: &str, within: Duration) -> Result<Vec<HostHealth>> {
    let mut request = bus.request(PluginHealth::of(plugin))?;
    let _ = tokio::time::timeout(within, async { while !request.is_idle() && request.next().await.is_some() {} }).await;
    Ok(request.standing().map(|health| HostHealth::clone(health)).collect())
}

/// Tells the hosts of a bus, and of its fleet, that there is a new step, so that they need not find it by themselves.
///
/// # Errors
/// The bus's.
pub async fn tell_hosts(bus: &BusHandle, link: &Link, within: Duration) -> Result<usize> {
    let step = RolloutStep { plugin: link.wanted.plugin.clone(), number: link.number };
    let mut request = bus.request(step)?;
    let _ = tokio::time::timeout(within, async { while !request.is_idle() && request.next().await.is_some() {} }).await;
    Ok(request.standing().count())
}

/// A rollout and its hosts: what is wanted, and what is.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The newest step.
    pub link: Link,
    /// What the gates say now.
    pub gates: Vec<Verdict>,
    /// Each host that is there, or is named in the rollout.
    pub hosts: Vec<HostStatus>,
    /// Whether every host that it concerns is there, and runs what it is to run.
    pub is_as_wanted: bool,
}

/// A host in a rollout.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct HostStatus {
    /// Its name.
    pub host: String,
    /// The release that it is to run.
    pub wanted: Option<ReleaseName>,
    /// The release that it runs; none if it runs none, or is out of reach.
    pub runs: Option<ReleaseName>,
    /// Whether it is within reach.
    pub is_there: bool,
    /// Whether it may have the release that is rolled out.
    pub in_turn: bool,
    /// Whether the release that is rolled out has failed there.
    pub has_failed: bool,
    /// What is wrong there.
    pub problem: Option<String>,
}

impl Status {
    /// Puts the newest step and the answers of the hosts together.
    pub fn of(link: &Link, hosts: &[HostHealth]) -> Self {
        let by_name: BTreeMap<String, HostHealth> =
            hosts.iter().map(|host| (host.host.clone(), host.clone())).collect();
        let names: BTreeSet<&String> = by_name.keys().chain(&link.order).collect();
        let lost = link.order.iter().filter(|host| !by_name.contains_key(*host)).cloned().collect();
        let shown = names.into_iter().map(|name| status_of(link, name, by_name.get(name)));
        let hosts: Vec<_> = shown.collect();
        let concerns = |host: &&HostStatus| host.wanted.is_some() || host.in_turn;
        let is_right = |host: &HostStatus| host.is_there && host.wanted == host.runs;
        let is_as_wanted = hosts.iter().filter(concerns).all(is_right);
        let gates = verdicts(link, &Observed { hosts: by_name, lost, is_complete: true, ..Observed::default() });
        Self { link: link.clone(), gates, hosts, is_as_wanted }
    }
}

fn status_of(link: &Link, name: &str, health: Option<&HostHealth>) -> HostStatus {
    let none = BTreeMap::new();
    let matches = link.order.iter().any(|host| host == name);
    let wanted = match health {
        Some(health) => link.wanted_on(name, &health.labels),
        // What it has as labels is not known; that it is named is enough.
        None if matches && link.wanted.on.0.is_empty() => link.wanted_on(name, &none),
        None => Wanted::AsItIs,
    };
    let runs = health.and_then(|health| health.runs.clone());
    let failed =
        health.and_then(|health| health.failed.as_ref()).filter(|failed| failed.sequence == link.release.sequence);
    HostStatus {
        host: name.to_owned(),
        wanted: match wanted {
            Wanted::Release(release) => Some(release),
            Wanted::Before(before) => before,
            Wanted::AsItIs => runs.clone(),
        },
        runs,
        is_there: health.is_some(),
        in_turn: link.in_turn().iter().any(|host| host == name),
        has_failed: failed.is_some(),
        problem: failed.map(|failed| failed.why.clone()).or_else(|| health.and_then(|health| health.problem.clone())),
    }
}
