//! What the page shows of a fleet: kept as long as somebody looks, and asked only where there is a fleet.

use std::collections::BTreeMap;
use std::task::{Context, Poll};
use std::time::Duration;

use controllerbus::Bus;
use controllerbus::directive::{RawEvent, RawRequest};

use super::rollout::{ROLLOUTS, Rollout};
use super::{HOSTS, Host, OFFERS, Offer};
use crate::proto::AskRequest;

/// How long the first look of a page waits for what the fleet knows.
const SETTLED: Duration = Duration::from_millis(500);

/// The values of one directive.
struct Asked {
    request: Box<dyn RawRequest>,
    values: BTreeMap<u64, serde_json::Value>,
    /// Whether all that there is now has been told.
    idle: bool,
}

/// What is asked, in the order of [`Watching::asked`].
const DIRECTIVES: [&str; 3] = [HOSTS, OFFERS, ROLLOUTS];

/// The hosts and offers of a fleet and the rollouts that this host follows, where there are any.
#[derive(Default)]
pub struct Watching {
    asked: [Option<Asked>; DIRECTIVES.len()],
}

/// What there is at one moment.
#[derive(Clone, Default)]
pub struct Seen {
    /// By name.
    pub hosts: Vec<Host>,
    /// By directive and host.
    pub offers: Vec<Offer>,
    /// By plugin.
    pub rollouts: Vec<Rollout>,
}

impl Watching {
    /// Asks from now on what is answered here, and no longer what is not.
    pub fn look(&mut self, bus: &Bus) {
        let controllers = bus.controllers();
        for (directive, asking) in DIRECTIVES.into_iter().zip(&mut self.asked) {
            let is_answered = controllers.iter().any(|found| found.resolves.iter().any(|id| id == directive));
            match (is_answered, &asking) {
                (true, None) => *asking = asked(bus, directive),
                (false, Some(_)) => *asking = None,
                _ => {}
            }
        }
    }

    /// Waits until something has changed; for ever where there is no fleet. Cancel-safe.
    pub async fn changed(&mut self) {
        std::future::poll_fn(|context| if self.poll(context) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Waits until all that there is now has been told, but not for long.
    pub async fn settled(&mut self) {
        let settled = async {
            while self.asked.iter().flatten().any(|asked| !asked.idle) {
                self.changed().await;
            }
        };
        let _ = tokio::time::timeout(SETTLED, settled).await;
    }

    /// Takes in what has been told. Whether that was anything.
    fn poll(&mut self, context: &mut Context<'_>) -> bool {
        let mut changed = false;
        for asking in &mut self.asked {
            while let Some(asked) = asking
                && let Poll::Ready(event) = asked.request.poll_event(context)
            {
                changed = true;
                match event {
                    Some(RawEvent::Added(id, value)) => drop(asked.values.insert(id.0, value.to_json())),
                    Some(RawEvent::Removed(id)) => drop(asked.values.remove(&id.0)),
                    Some(RawEvent::Idle) => asked.idle = true,
                    Some(RawEvent::Busy | RawEvent::Failed(_)) => {}
                    None => *asking = None,
                }
            }
        }
        changed
    }

    /// What there is now.
    pub fn seen(&self) -> Seen {
        let [hosts, offers, rollouts] = &self.asked;
        let mut seen = Seen { hosts: read(hosts), offers: read(offers), rollouts: read(rollouts) };
        seen.rollouts.sort_by(|one, other| one.plugin.cmp(&other.plugin));
        seen.rollouts.dedup_by(|one, other| one.plugin == other.plugin);
        seen.hosts.sort_by(|one, other| (&one.host, &one.epoch).cmp(&(&other.host, &other.epoch)));
        seen.offers.sort_by(|one, other| (&one.id, &one.host).cmp(&(&other.id, &other.host)));
        // A host is replaced by what is new of it: for a moment there may be both.
        seen.hosts.dedup_by(|one, other| (&one.host, &one.epoch) == (&other.host, &other.epoch));
        seen.offers.dedup_by(|one, other| (&one.id, &one.host) == (&other.id, &other.host));
        seen
    }
}

/// The values that this program understands; the newest of them first.
fn read<T: serde::de::DeserializeOwned>(asked: &Option<Asked>) -> Vec<T> {
    let values = asked.iter().flat_map(|asked| asked.values.values().rev());
    values.filter_map(|value| serde_json::from_value(value.clone()).ok()).collect()
}

fn asked(bus: &Bus, directive: &str) -> Option<Asked> {
    let request = AskRequest { directive: directive.to_owned(), ..AskRequest::default() };
    let request = crate::ask::ask(bus, &request).ok()?;
    Some(Asked { request, values: BTreeMap::new(), idle: false })
}
