//! How many incarnations of one host there may be. Each link has limits of its own, and whoever likes has many epochs.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Host, MOST_HOSTS, Topology};
use crate::carrier::Peer;
use crate::event::FleetEvent;

/// How many links there may be to hosts of one name: a daemon, commands that join by its name, and those that are lost, but held.
const MOST_LINKS: usize = 8;

/// How many hosts of one name may be known.
const MOST_KNOWN: usize = 64;

impl Topology {
    /// The incarnations of a host that are known.
    fn incarnations(&self, host: &Arc<str>) -> impl Iterator<Item = (&Peer, &Host)> {
        let at = |epoch| Peer { host: Arc::clone(host), epoch };
        self.hosts.range(at(0)..=at(u64::MAX))
    }

    /// Whether a host is known, or may be: the oldest one of its name that is not there any more makes room. It is logged now and then
    /// if one may not.
    pub(super) fn admits(&mut self, peer: &Peer) -> bool {
        if self.hosts.contains_key(peer) {
            return true;
        }
        let known = self.incarnations(&peer.host).filter(|(_, host)| !host.is_given_up).count();
        if self.hosts.len() < MOST_HOSTS && (known < MOST_KNOWN || self.give_up_the_oldest(&peer.host, |_| true)) {
            return true;
        }
        let now = Instant::now();
        if self.told_crowded.is_none_or(|told| now.duration_since(told) >= self.shared.options.times.refused) {
            self.told_crowded = Some(now);
            tracing::warn!(
                "fleet: {peer} and perhaps others are not looked at: there are too many hosts, or too many of its name"
            );
        }
        false
    }

    /// Makes room for a link to a host: the oldest one of its name goes that is not there any more.
    ///
    /// # Errors
    /// Why there may be none.
    pub(super) fn make_room(&mut self, peer: &Peer) -> Result<(), String> {
        let is_linked = |host: &Host| host.link.is_some() && !host.is_given_up;
        let links = self.incarnations(&peer.host).filter(|(_, host)| is_linked(host)).count();
        if links < MOST_LINKS || self.give_up_the_oldest(&peer.host, is_linked) {
            return Ok(());
        }
        Err(format!(
            "there are links to {links} other hosts that are called `{}`; give each host a name of its own",
            peer.host
        ))
    }

    /// Gives up the oldest one of a name that is not there any more, of those that are meant. False if there is none.
    fn give_up_the_oldest(&mut self, host: &Arc<str>, is_meant: impl Fn(&Host) -> bool) -> bool {
        let gone = |host: &Host| !host.present && !host.is_given_up && is_meant(host);
        let all = self.incarnations(host).filter(|(_, host)| gone(host));
        let oldest = all.min_by_key(|(_, host)| host.since_ms).map(|(peer, _)| peer.clone());
        let Some(oldest) = oldest else { return false };
        match self.hosts.get_mut(&oldest) {
            Some(Host { is_given_up, link: Some(link), .. }) => {
                *is_given_up = true;
                // Its task ends it, and then it is forgotten.
                link.give_up("another host of its name takes its place");
            }
            _ => drop(self.hosts.remove(&oldest)),
        }
        true
    }

    /// Notes that there is no room for a link to a host, until it is tried again.
    pub(super) fn has_no_room(&mut self, peer: &Peer, why: &str) {
        let again = Instant::now() + self.shared.options.times.refused;
        let Some(host) = self.hosts.get_mut(peer) else { return };
        host.refused = Some((why.to_owned(), again));
        self.shared.counts.refused.one();
        self.shared.event(FleetEvent::Refused { host: peer.clone(), why: why.to_owned() });
        self.show();
    }
}
