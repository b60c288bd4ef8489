//! What happens to the hosts of a fleet, as told to those who listen.

use std::fmt;

use crate::carrier::Peer;

/// What has happened to the hosts of a fleet, as seen from one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FleetEvent {
    /// There is a link to a host.
    Up(Peer),
    /// A host is out of reach.
    Lost {
        /// Which.
        host: Peer,
        /// Why that is believed.
        why: String,
    },
    /// A host has left.
    Left(Peer),
    /// The link to a host was ended for a reason, by either of the two.
    Refused {
        /// Which host.
        host: Peer,
        /// Why.
        why: String,
    },
    /// No host is in reach any more. This host's own controllers go on.
    CutOff,
}

impl fmt::Display for FleetEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(host) => write!(f, "fleet: {} is linked", host.host),
            Self::Lost { host, why } => write!(f, "fleet: {} is out of reach: {why}", host.host),
            Self::Left(host) => write!(f, "fleet: {} has left", host.host),
            Self::Refused { host, why } => write!(f, "fleet: the link to {} was ended: {why}", host.host),
            Self::CutOff => f.write_str("fleet: this host is cut off: no other one is in reach"),
        }
    }
}
