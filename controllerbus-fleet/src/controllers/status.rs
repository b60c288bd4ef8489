//! Answers what this host knows of its fleet: see [`crate::status`].

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use controllerbus::Result;
use controllerbus::controller::Closures;
use controllerbus::directive::Slot;
use controllerbus::prelude::Values;

use crate::carrier::Peer;
use crate::shared::Shared;
use crate::status::{AskCounts, Counts, HostStatus, Hosts, LinkState, Offer, Offers};

/// The controller that answers.
pub(crate) fn controller(shared: &Arc<Shared>) -> Closures {
    let (hosts, offers, counts) = (Arc::clone(shared), Arc::clone(shared), Arc::clone(shared));
    Closures::new()
        .resolves(move |_: Hosts, values| follow(Arc::clone(&hosts), values, host_statuses))
        .resolves(move |asked: Offers, values| {
            let wanted = move |shared: &Shared| {
                let mut all = all_offers(shared);
                all.retain(|(_, id), _| asked.id.as_ref().is_none_or(|asked| asked == id));
                all
            };
            follow(Arc::clone(&offers), values, wanted)
        })
        .resolves(move |_: AskCounts, values| {
            values.add(counts_of(&counts));
            async { Ok(()) }
        })
}

/// Shows what there is, each as a value that is replaced when it changes.
async fn follow<K: Ord + Clone, V: PartialEq + Clone + Send + Sync + 'static>(
    shared: Arc<Shared>,
    values: Values<V>,
    all: impl Fn(&Shared) -> BTreeMap<K, V>,
) -> Result<()> {
    let mut changes = shared.changes();
    let mut shown: BTreeMap<K, (Option<V>, Slot<V>)> = BTreeMap::new();
    loop {
        changes.borrow_and_update();
        let now = all(&shared);
        shown.retain(|key, _| now.contains_key(key));
        for (key, value) in now {
            let (before, slot) = shown.entry(key).or_insert_with(|| (None, values.slot()));
            if before.as_ref() != Some(&value) {
                slot.set(value.clone());
                *before = Some(value);
            }
        }
        values.idle();
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn host_statuses(shared: &Shared) -> BTreeMap<Peer, HostStatus> {
    let own = HostStatus {
        host: shared.own.host.to_string(),
        epoch: format!("{:016x}", shared.own.epoch),
        own: true,
        labels: shared.options.labels.clone(),
        version: shared.options.version.clone(),
        link: LinkState::NotNeeded,
        since_ms: shared.since_ms,
        round_trip_us: None,
        clock_offset_ms: None,
        asks: 0,
        asked: 0,
        problem: None,
    };
    let hosts = shared.hosts.read().unwrap_or_else(PoisonError::into_inner).clone();
    let others = hosts.into_iter().map(|(peer, host)| {
        let link = shared.link(&peer);
        let shown = link.as_ref().map(|link| link.shown());
        let state = match &shown {
            _ if host.refused => LinkState::Refused,
            Some(shown) => shown.state,
            None if host.lost => LinkState::Lost,
            None => LinkState::NotNeeded,
        };
        let status = HostStatus {
            host: peer.host.to_string(),
            epoch: format!("{:016x}", peer.epoch),
            own: false,
            labels: shown.as_ref().map(|shown| shown.labels.clone()).unwrap_or_default(),
            version: shown.as_ref().map(|shown| shown.version.clone()).unwrap_or_default(),
            link: state,
            since_ms: host.since_ms,
            round_trip_us: shown.as_ref().and_then(|shown| shown.round_trip_us),
            clock_offset_ms: shown.as_ref().and_then(|shown| shown.clock_offset_ms),
            asks: link.as_ref().map_or(0, |link| link.asks()),
            asked: link.as_ref().map_or(0, |link| link.asked()),
            problem: host.problem,
        };
        (peer, status)
    });
    std::iter::once((shared.own.clone(), own)).chain(others).collect()
}

fn all_offers(shared: &Shared) -> BTreeMap<(Peer, String), Offer> {
    let hosts = shared.hosts.read().unwrap_or_else(PoisonError::into_inner).clone();
    let own = shared.own_offers.read().unwrap_or_else(PoisonError::into_inner).clone();
    let mut all = BTreeMap::new();
    for id in own {
        let offer = Offer { id: id.to_string(), host: shared.own.host.to_string(), asks: 0 };
        all.insert((shared.own.clone(), offer.id.clone()), offer);
    }
    for (peer, host) in hosts {
        let link = shared.link(&peer);
        for id in host.offers {
            let asks = link.as_ref().map_or(0, |link| link.asks_of(&id));
            let offer = Offer { id: id.to_string(), host: peer.host.to_string(), asks };
            all.insert((peer.clone(), offer.id.clone()), offer);
        }
    }
    all
}

/// What is counted, and what is now.
pub(crate) fn counts_of(shared: &Shared) -> Counts {
    let links = shared.all_links();
    Counts {
        links: links.iter().filter(|link| link.is_up()).count() as u64,
        hosts: shared.hosts.read().unwrap_or_else(PoisonError::into_inner).len() as u64,
        asks: links.iter().map(|link| link.asks()).sum(),
        asked: links.iter().map(|link| link.asked()).sum(),
        ..shared.counts.so_far()
    }
}
