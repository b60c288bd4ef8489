//! Follows the rollouts of one plugin on this host.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::{Inner, PluginEvent};
use crate::blocking;
use crate::chain::Chain;
use crate::error::{Error, Result};
use crate::health::{FailedRelease, HostHealth};
use crate::link::{Link, Wanted};
use crate::release::ReleaseName;
use crate::seen::{Failed, Memory, Seen};
use crate::store::jittered;

/// One plugin on this host.
pub(super) struct Follower {
    pub(super) agent: Arc<Inner>,
    pub(super) plugin: String,
    pub(super) chain: Chain,
    pub(super) memory: Memory,
    pub(super) seen: Seen,
    pub(super) link: Option<Link>,
    /// The generation that serves, and the release that it is, as long as nobody else has swapped.
    pub(super) serving: Option<(u64, u64)>,
    /// The generation that this agent has loaded last, and the release that it is.
    pub(super) loaded: Option<(u64, u64)>,
    pub(super) crashes: u64,
    pub(super) problem: Option<String>,
    /// The release that waits for work to end, since when, and what is said of it.
    pub(super) waits: Option<(u64, Instant, String)>,
    pub(super) health: watch::Sender<HostHealth>,
}

/// What the follower waits for next.
enum Woken {
    Told,
    Timer,
    Look,
    Event(PluginEvent),
    Stopped,
}

pub(super) async fn follow(agent: Arc<Inner>, plugin: String, health: watch::Sender<HostHealth>) {
    let (stop, poll) = (agent.stop.clone(), agent.options.poll);
    let mut told = agent.told.subscribe();
    let mut events = agent.plugins.events();
    let chain = Chain::new(&agent.options.store, &plugin);
    let memory = Memory::of(&agent.memory, &plugin);
    let mut follower = Follower {
        agent,
        plugin,
        chain,
        memory,
        seen: Seen::default(),
        link: None,
        serving: None,
        loaded: None,
        crashes: 0,
        problem: None,
        waits: None,
        health,
    };
    // Without its memory this host cannot know what is old.
    while let Err(error) = follower.remember().await {
        follower.problem = Some(error.to_string());
        follower.report().await;
        tokio::select! {
            () = tokio::time::sleep(poll) => {}
            () = stop.cancelled() => return,
        }
    }
    let mut at = Instant::now();
    loop {
        let is_due = Instant::now() >= at || follower.is_told(&mut told);
        let went = tokio::select! {
            went = follower.go_on(is_due) => went,
            () = stop.cancelled() => break,
        };
        match went {
            Ok(()) if is_due => at = Instant::now() + jittered(poll),
            Ok(()) => {}
            Err(error) => {
                follower.problem = Some(error.to_string());
                let soon = Instant::now() + jittered(follower.agent.options.retry);
                at = if is_due { soon.min(Instant::now() + poll) } else { at.min(soon) };
            }
        }
        follower.report().await;
        let woken = tokio::select! {
            changed = told.changed() => if changed.is_ok() { Woken::Told } else { Woken::Stopped },
            () = tokio::time::sleep_until(at) => Woken::Timer,
            () = tokio::time::sleep(follower.agent.options.look), if follower.is_watched() || follower.waits.is_some() => Woken::Look,
            event = next_event(&mut events, &follower.plugin) => Woken::Event(event),
            () = stop.cancelled() => Woken::Stopped,
        };
        match woken {
            Woken::Told | Woken::Timer | Woken::Look => {}
            Woken::Event(event) => {
                follower.happened(event).await;
                while let Some(event) = pending_event(&mut events, &follower.plugin) {
                    follower.happened(event).await;
                }
            }
            Woken::Stopped => break,
        }
    }
    follower.seen.open = false;
    if let Err(error) = follower.write().await {
        tracing::warn!(%error, "the next start counts as one after a crash");
    }
}

async fn next_event(events: &mut broadcast::Receiver<PluginEvent>, plugin: &str) -> PluginEvent {
    loop {
        match events.recv().await {
            Ok(event) if event.plugin() == plugin => return event,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn pending_event(events: &mut broadcast::Receiver<PluginEvent>, plugin: &str) -> Option<PluginEvent> {
    loop {
        match events.try_recv() {
            Ok(event) if event.plugin() == plugin => return Some(event),
            Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => return None,
        }
    }
}

impl Follower {
    /// Reads what this host remembers. One that ended without a word while it tried a release does not try it again.
    async fn remember(&mut self) -> Result<()> {
        let memory = self.memory.clone();
        self.seen = blocking(move || memory.read()).await?;
        if self.seen.open
            && let Some(tried) = self.seen.runs.clone().filter(|runs| !runs.well)
        {
            let why = "this host ended without a word while it tried it".to_owned();
            let (sequence, rollout) = (tried.release.sequence, tried.rollout);
            self.seen.failed = Some(Failed { sequence, rollout, why, crashed: true });
            self.crashes = 1;
            self.seen.went_back();
            self.write().await?;
        }
        Ok(())
    }

    pub(super) async fn write(&self) -> Result<()> {
        let (memory, seen) = (self.memory.clone(), self.seen.clone());
        blocking(move || memory.write(&seen)).await
    }

    /// Whether somebody told of a step that this host does not know.
    fn is_told(&self, told: &mut watch::Receiver<std::collections::BTreeMap<String, u64>>) -> bool {
        let known = self.link.as_ref().map_or(0, |link| link.number);
        told.borrow_and_update().get(&self.plugin).is_some_and(|number| *number > known)
    }

    /// Whether somebody looks at it while it is tried.
    fn is_watched(&self) -> bool {
        let is_tried = self.link.as_ref().is_some_and(|link| !link.stage.is_over());
        is_tried && self.health.receiver_count() > 1
    }

    /// Reads the newest step if that is due, and does what it says.
    async fn go_on(&mut self, is_due: bool) -> Result<()> {
        if is_due {
            let known = self.link.as_ref().map_or(0, |link| link.number);
            match self.chain.newest(known).await {
                Ok(None) => {}
                Ok(newest) => self.link = newest,
                Err(error) => {
                    // What runs, runs; and what is to be run by what is known already is tried all the same.
                    let _ = self.do_as_told().await;
                    return Err(error);
                }
            }
        }
        self.do_as_told().await?;
        self.problem = None;
        Ok(())
    }

    async fn do_as_told(&mut self) -> Result<()> {
        let Some(link) = self.link.clone() else { return self.keep().await };
        // What was done before a rollout was started, was done here, too.
        if link.before.is_some() && self.seen.runs.as_ref().map(|runs| &runs.release) == link.before.as_ref() {
            self.done().await?;
        }
        let options = &self.agent.options;
        let wanted = link.wanted_on(&options.host, &options.labels);
        self.waits.take_if(|waits| !matches!(&wanted, Wanted::Release(release) if release.sequence == waits.0));
        match wanted {
            Wanted::AsItIs => self.keep().await,
            Wanted::Release(release) => self.bring_to(&link, release).await,
            Wanted::Before(before) => self.bring_back(&link, before).await,
        }
    }

    /// Something happened to the plugin here.
    async fn happened(&mut self, event: PluginEvent) {
        match event {
            PluginEvent::Crashed { generation, .. } if self.serving.is_some_and(|(ours, _)| ours == generation) => {
                self.crashes += 1;
            }
            PluginEvent::TakenBack { from, to, why, .. } => {
                // That another generation serves may have been told before.
                let Some((_, sequence)) = self.loaded.filter(|(ours, _)| *ours == from) else { return };
                let rollout = self.link.as_ref().map_or(0, |link| link.rollout);
                self.seen.failed = Some(Failed { sequence, rollout, why, crashed: false });
                let is_before = self.seen.before.is_some();
                self.seen.went_back();
                self.serving = self.seen.runs.as_ref().filter(|_| is_before).map(|ran| (to, ran.release.sequence));
                if let Err(error) = self.write().await {
                    tracing::warn!(%error, "what happened is not remembered");
                }
            }
            PluginEvent::Serves { generation, .. } if self.serving.is_some_and(|(ours, _)| ours < generation) => {
                self.serving = None;
            }
            PluginEvent::Crashed { .. } | PluginEvent::Serves { .. } => {}
        }
    }

    /// A release failed here, and what ran before goes on.
    pub(super) fn failed(&mut self, link: &Link, release: &ReleaseName, error: &Error) {
        let why = error.why();
        tracing::warn!(plugin = self.plugin, %release, why, "a release failed on this host");
        let (sequence, rollout) = (release.sequence, link.rollout);
        self.seen.failed = Some(Failed { sequence, rollout, why, crashed: false });
    }

    /// Tells how it is.
    pub(super) async fn report(&mut self) {
        let is_over = self.link.as_ref().is_none_or(|link| link.stage.is_over());
        let gates = self.link.as_ref().filter(|_| !is_over).map(|link| link.wanted.gates.clone()).unwrap_or_default();
        let look = self.agent.plugins.look(&self.plugin, &gates);
        let look = tokio::time::timeout(Duration::from_secs(5), look).await.unwrap_or_default();
        let runs = self.seen.runs.as_ref().map(|runs| runs.release.clone());
        let serves = |release: &ReleaseName| self.serving.is_some_and(|(_, sequence)| sequence == release.sequence);
        let failed = self.seen.failed.as_ref();
        let health = HostHealth {
            labels: self.agent.options.labels.clone(),
            step: self.link.as_ref().map_or(0, |link| link.number),
            runs: runs.filter(serves),
            generation: look.generation,
            failed: failed.map(|failed| FailedRelease::new(failed.sequence, failed.why.clone(), failed.crashed)),
            crashes: self.crashes,
            configs: look.configs,
            counts: look.counts,
            check: look.check,
            problem: self.problem.clone().or_else(|| self.waits.as_ref().map(|(_, _, says)| says.clone())),
            ..HostHealth::of(self.agent.options.host.clone(), self.plugin.clone())
        };
        self.agent.links.send_if_modified(|links| {
            let has_changed = links.get(&self.plugin) != Some(&self.link);
            if has_changed {
                links.insert(self.plugin.clone(), self.link.clone());
            }
            has_changed
        });
        self.health.send_if_modified(|told| {
            let has_changed = *told != health;
            *told = health;
            has_changed
        });
    }
}
