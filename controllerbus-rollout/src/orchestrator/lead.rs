//! Leads one rollout: reads how the hosts are, and writes the next step.

use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use controllerbus::{BusHandle, Request};
use tokio::time::sleep;

use super::Shared;
use super::call::RollCall;
use crate::bad::{self, BadMark};
use crate::chain::Chain;
use crate::elapsed::{Elapsed, Note};
use crate::error::Result;
use crate::health::{HostHealth, PluginHealth, RolloutStep};
use crate::link::{Link, Stage, Writer};
use crate::release::Releases;
use crate::state::{Observed, Spent, next};

/// What comes within so long is looked at once.
const TOGETHER: Duration = Duration::from_millis(20);

/// So many calls of the roll are there within the time for which a host may be silent.
const CALLS: u32 = 3;

/// Hosts have so long to answer before a rollout is planned, even if nobody seems to have more to say.
const SETTLE: Duration = Duration::from_secs(2);

/// One rollout, while this host leads it.
pub(super) struct Leading {
    shared: Arc<Shared>,
    bus: BusHandle,
    chain: Chain,
    link: Link,
    elapsed: Elapsed,
    /// When this host began to listen.
    begun: Duration,
    /// When each host was in reach last.
    heard: HashMap<String, Duration>,
    roll: RollCall,
    /// When the store was looked at for what others wrote.
    looked: Duration,
    /// Tells the hosts of the newest step, also those that come later.
    telling: Option<Request<RolloutStep>>,
}

/// What the hosts say now.
struct Answers {
    hosts: Vec<Arc<HostHealth>>,
    is_idle: bool,
}

impl Leading {
    pub(super) fn new(shared: Arc<Shared>, bus: BusHandle, link: Link, noted: Option<&Note>, ago: Duration) -> Self {
        let clock = &shared.options.clock;
        let chain = Chain::new(&shared.options.store, &link.wanted.plugin);
        let (elapsed, now) = (Elapsed::begin(&link, clock, noted, ago), clock.now());
        let (heard, roll) = (HashMap::new(), RollCall::new(bus.clone(), link.wanted.plugin.clone()));
        Self { shared, bus, chain, link, elapsed, begun: now, heard, roll, looked: now, telling: None }
    }

    /// Leads it until it is over, or this host does not lead any more. Returns the number of the newest step.
    pub(super) async fn run(mut self) -> u64 {
        let plugin = self.link.wanted.plugin.clone();
        let mut told = self.shared.told.subscribe();
        let Ok(mut health) = self.bus.request(PluginHealth::of(&plugin)) else { return self.link.number };
        self.tell();
        while !self.link.stage.is_over() && self.shared.leads().is_some() {
            tokio::select! {
                event = health.next() => if event.is_none() { break },
                () = sleep(self.shared.options.tick) => {}
                _ = told.changed() => {}
                () = self.roll.next() => {}
            }
            sleep(TOGETHER).await;
            self.roll.take().await;
            if !drain(&mut health).await {
                break;
            }
            let told = told.borrow_and_update().get(&plugin).copied().unwrap_or(0);
            let answers = Answers { hosts: health.standing().cloned().collect(), is_idle: health.is_idle() };
            if let Err(error) = self.look(&answers, told).await {
                tracing::warn!(%error, plugin, "the rollout waits");
            }
        }
        let mut notes = self.shared.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.link.stage.is_over() {
            notes.remove(&plugin);
        }
        self.link.number
    }

    /// Whether the store may have something new.
    fn is_time_to_look(&self, told: u64) -> bool {
        let now = self.shared.options.clock.now();
        told > self.link.number || now.saturating_sub(self.looked) >= self.shared.options.look
    }

    /// Whether the hosts that have the release are called anew while they are watched: some times within the time for which one may
    /// be silent, and when they were watched for long enough.
    fn is_time_to_call(&self, spent: Spent, now: Duration) -> bool {
        let Some(ago) = self.roll.ago(now) else { return true };
        let over = self.link.baked_for(spent.at_least);
        ago >= self.shared.options.patience / CALLS || over.is_some_and(|over| over < ago)
    }

    async fn look(&mut self, answers: &Answers, told: u64) -> Result<()> {
        if self.is_time_to_look(told) {
            self.read().await?;
        }
        let clock = self.shared.options.clock.clone();
        if !self.elapsed.is_of(&self.link) {
            self.elapsed = Elapsed::begin(&self.link, &clock, None, Duration::ZERO);
        }
        {
            let mut notes = self.shared.notes.lock().unwrap_or_else(PoisonError::into_inner);
            notes.insert(self.link.wanted.plugin.clone(), self.elapsed.note(&clock));
        }
        let (now, spent) = (clock.now(), self.elapsed.spent(&clock));
        match self.link.stage {
            Stage::Baking if self.is_time_to_call(spent, now) => self.roll.call(self.link.in_turn(), now),
            // The last call stands: who owed an answer may give it still.
            Stage::Baking | Stage::RollingBack => {}
            // Hosts that load something may have no time for more.
            _ => self.roll.rest(),
        }
        let seen = self.observe(answers, now);
        let Some(change) = next(&self.link, &seen, spent) else { return Ok(()) };
        let Some(lease) = self.shared.leads() else { return Ok(()) };
        let by = self.shared.options.host.clone();
        let writer = Writer { by, lease: Some(lease), at_ms: clock.wall_ms() };
        if change.stage == Stage::RollingBack {
            self.mark(&change.why, &writer).await?;
        }
        let link = self.link.followed_by(change, writer);
        if !self.chain.append(&link).await? {
            return self.read().await;
        }
        tracing::info!(plugin = link.wanted.plugin, release = %link.release, stage = %link.stage, why = link.why, "rollout");
        self.link = link;
        self.tell();
        Ok(())
    }

    /// Reads what others wrote.
    async fn read(&mut self) -> Result<()> {
        self.looked = self.shared.options.clock.now();
        if let Some(newest) = self.chain.newest(self.link.number).await? {
            self.link = newest;
            self.tell();
        }
        Ok(())
    }

    fn observe(&mut self, answers: &Answers, now: Duration) -> Observed {
        let mut seen = Observed::default();
        for host in &answers.hosts {
            self.heard.insert(host.host.clone(), now);
            // Where two of its incarnations are there, the one that knows more is the newer one.
            let known = seen.hosts.entry(host.host.clone()).or_default();
            if known.host.is_empty() || known.step <= host.step {
                *known = HostHealth::clone(host);
            }
        }
        let patience = self.shared.options.patience;
        for host in &self.link.order {
            let last = self.heard.get(host).copied().unwrap_or(self.begun);
            if now.saturating_sub(last) >= patience || self.roll.owes(host, now, patience) {
                seen.hosts.remove(host);
                seen.lost.insert(host.clone());
            }
        }
        seen.lived = self.roll.lived(now);
        let listened = now.saturating_sub(self.begun);
        seen.is_complete = listened >= patience || (listened >= SETTLE && answers.is_idle);
        seen
    }

    /// Marks the artifacts of a release that has failed, before anybody reads that it has.
    async fn mark(&mut self, why: &str, writer: &Writer) -> Result<()> {
        let (plugin, release) = (&self.link.wanted.plugin, &self.link.release);
        let releases = Releases::new(&self.shared.options.store, plugin);
        // Nobody can install what is not there.
        let Some(document) = releases.of_sequence(release.sequence).await? else { return Ok(()) };
        let mark = BadMark::new(release.clone(), &writer.by, writer.at_ms, why);
        bad::mark(&self.shared.options.store, &document, &mark).await
    }

    fn tell(&mut self) {
        let step = RolloutStep { plugin: self.link.wanted.plugin.clone(), number: self.link.number };
        self.telling = self.bus.request(step).ok();
    }
}

/// Takes what has come. False if the bus is closed.
pub(crate) async fn drain(health: &mut Request<PluginHealth>) -> bool {
    loop {
        tokio::select! {
            biased;
            event = health.next() => if event.is_none() { return false },
            () = ready(()) => return true,
        }
    }
}
