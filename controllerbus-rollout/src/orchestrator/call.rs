//! Calls the roll: which hosts live, and not only what they said last.
//!
//! What a host has said stands, and so it does for a while when its host has frozen: a fleet notices after its lease. So whoever
//! leads asks anew, again and again, and each answer to a new question is a sign of life.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use controllerbus::{BusHandle, Request};

use super::lead::drain;
use crate::health::PluginHealth;

/// The calls of one rollout.
pub(super) struct RollCall {
    bus: BusHandle,
    plugin: String,
    /// The newest call, until all have answered.
    calling: Option<Request<PluginHealth>>,
    /// When the newest call began.
    begun: Option<Duration>,
    /// When the newest call began that a host has answered.
    answered: HashMap<String, Duration>,
    /// When the first call began that a host has not answered.
    owing: HashMap<String, Duration>,
}

impl RollCall {
    pub(super) fn new(bus: BusHandle, plugin: String) -> Self {
        Self { bus, plugin, calling: None, begun: None, answered: HashMap::new(), owing: HashMap::new() }
    }

    /// How long ago the newest call began.
    pub(super) fn ago(&self, now: Duration) -> Option<Duration> {
        Some(now.saturating_sub(self.begun?))
    }

    /// Calls nobody any more, and waits for nobody.
    pub(super) fn rest(&mut self) {
        (self.calling, self.begun) = (None, None);
        self.owing.clear();
    }

    /// Calls these hosts.
    pub(super) fn call(&mut self, hosts: &[String], now: Duration) {
        let asked = PluginHealth { plugin: self.plugin.clone(), call: fastrand::u64(1..) };
        // A bus that is closing is noticed by whoever leads.
        let Ok(calling) = self.bus.request(asked) else { return };
        self.calling = Some(calling);
        self.begun = Some(now);
        for host in hosts {
            self.owing.entry(host.clone()).or_insert(now);
        }
    }

    /// Waits until somebody answers; for ever while nobody is called.
    pub(super) async fn next(&mut self) {
        let answers = match &mut self.calling {
            Some(calling) => calling.next().await.is_some(),
            None => false,
        };
        if !answers {
            self.calling = None;
            std::future::pending::<()>().await;
        }
    }

    /// Takes the answers that have come.
    pub(super) async fn take(&mut self) {
        let (Some(calling), Some(begun)) = (&mut self.calling, self.begun) else { return };
        drain(calling).await;
        for health in calling.standing() {
            self.answered.insert(health.host.clone(), begun);
            self.owing.remove(&health.host);
        }
        if self.owing.is_empty() {
            self.calling = None;
        }
    }

    /// How long ago a host was asked for the newest sign of life that it has given, by its name.
    pub(super) fn lived(&self, now: Duration) -> BTreeMap<String, Duration> {
        self.answered.iter().map(|(host, at)| (host.clone(), now.saturating_sub(*at))).collect()
    }

    /// Whether a host owes an answer for so long.
    pub(super) fn owes(&self, host: &str, now: Duration, patience: Duration) -> bool {
        self.owing.get(host).is_some_and(|since| now.saturating_sub(*since) >= patience)
    }
}
