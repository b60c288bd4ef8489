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

    /// Whether a host is known, or may be. It is logged now and then if one may not.
    pub(super) fn admits(&mut self, peer: &Peer) -> bool {
        let has_room = self.hosts.len() < MOST_HOSTS && self.incarnations(&peer.host).count() < MOST_KNOWN;
        if has_room || self.hosts.contains_key(peer) {
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
        let linked = |(_, host): &(&Peer, &Host)| host.link.is_some() && !host.is_given_up;
        let links = self.incarnations(&peer.host).filter(linked).count();
        if links < MOST_LINKS {
            return Ok(());
        }
        let gone = self.incarnations(&peer.host).filter(linked).filter(|(_, host)| !host.present);
        let oldest = gone.min_by_key(|(_, host)| host.since_ms).map(|(peer, _)| peer.clone());
        let Some(host) = oldest.and_then(|oldest| self.hosts.get_mut(&oldest)) else {
            return Err(format!(
                "there are links to {links} other hosts that are called `{}`; give each host a name of its own",
                peer.host
            ));
        };
        host.is_given_up = true;
        if let Some(link) = &host.link {
            link.give_up("another host of its name takes its place");
        }
        Ok(())
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
