//! Directives that are asked of one host: the one with the highest hash of the directive's key and its name, as long as it is there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use controllerbus::controller::{AnyController, BoxFuture};
use controllerbus::directive::{AnyDirective, ValueSink};
use controllerbus::{Error, Result};
use tokio::sync::watch;

use super::host::{Asking, ask, begin, stays};
use crate::carrier::Peer;
use crate::link::{Link, lock};
use crate::shared::unreachable;

/// Asks one host of those that offer an id.
pub(crate) struct OneController {
    id: Arc<str>,
    /// The hosts in reach that offer it.
    offering: Mutex<BTreeMap<Peer, Arc<Link>>>,
    changed: watch::Sender<u64>,
    asking: Arc<Asking>,
}

impl OneController {
    pub(crate) fn new(id: Arc<str>, link: &Arc<Link>) -> Self {
        let offering = Mutex::new(BTreeMap::from([(link.peer().clone(), Arc::clone(link))]));
        Self { id, offering, changed: watch::Sender::new(0), asking: Arc::default() }
    }

    /// A host offers the id, and is in reach.
    pub(crate) fn offers(&self, link: &Arc<Link>) {
        let before = lock(&self.offering).insert(link.peer().clone(), Arc::clone(link));
        if before.is_none_or(|before| !Arc::ptr_eq(&before, link)) {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// A host does not offer it any more, or is out of reach. True if there is no other one: those that wait for it are told why.
    pub(crate) fn is_last(&self, link: &Arc<Link>, why: Option<&Error>) -> bool {
        if !self.has(link) {
            return false;
        }
        let is_last = lock(&self.offering).len() == 1;
        if is_last && let Some(why) = why {
            self.asking.fail(why);
        }
        let gone = lock(&self.offering).remove(link.peer());
        drop(gone);
        self.changed.send_modify(|version| *version += 1);
        is_last
    }

    /// The host with the highest hash.
    fn choose(&self, key: &[u8]) -> Option<Arc<Link>> {
        let offering = lock(&self.offering);
        let best = offering.iter().max_by_key(|(peer, _)| (rank(key, &peer.host), peer.epoch))?;
        Some(Arc::clone(best.1))
    }

    fn has(&self, link: &Arc<Link>) -> bool {
        lock(&self.offering).get(link.peer()).is_some_and(|known| Arc::ptr_eq(known, link))
    }

    async fn resolve_by_one(&self, directive: Arc<dyn AnyDirective>, sink: Arc<dyn ValueSink>) -> Result<()> {
        let asked = self.asking.begin(sink);
        let once = directive.options().once;
        let key = key_of(&*directive)?;
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let Some(link) = self.choose(&key) else {
                // It goes off the bus next. We hold the sender.
                let _ = changed.changed().await;
                continue;
            };
            asked.set_idle(false);
            let gone = async {
                while self.has(&link) {
                    let _ = changed.changed().await;
                }
            };
            let begins = begin(&link, &self.id, Arc::clone(&directive), &asked);
            tokio::select! {
                biased;
                () = gone => {
                    if once {
                        return Err(unreachable(&link.peer().host, "it is gone"));
                    }
                }
                ended = ask(&link, &self.id, begins, &asked) => return ended,
            }
        }
    }
}

/// What the choice depends on.
fn key_of(directive: &dyn AnyDirective) -> Result<Vec<u8>, Error> {
    match directive.encode_key() {
        Some(key) => Ok(key),
        None => directive.encode(),
    }
}

/// The rank of a host for a key: the same on all hosts, and so they ask the same one.
fn rank(key: &[u8], host: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key.iter().chain(&[0]).chain(host.as_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The last bytes alone would decide little of it.
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

impl AnyController for OneController {
    fn resolves(&self) -> Vec<String> {
        vec![self.id.to_string()]
    }

    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        if stays(&*directive) {
            return None;
        }
        Some(Box::pin(async move { self.resolve_by_one(directive, sink).await }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_over_hosts_and_only_those_of_a_lost_host_move() {
        let hosts = ["edge-1", "edge-2", "edge-3", "edge-4"];
        let best = |key: u32, hosts: &[&'static str]| {
            *hosts.iter().max_by_key(|host| rank(&key.to_be_bytes(), host)).expect("there are some")
        };
        let mut counts = BTreeMap::new();
        for key in 0..4000 {
            let chosen = best(key, &hosts);
            *counts.entry(chosen).or_insert(0) += 1;
            if chosen != "edge-4" {
                assert_eq!(best(key, &hosts[..3]), chosen);
            }
        }
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
