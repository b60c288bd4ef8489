//! What a daemon tells of its fleet: the directives that its controller `controllerbus/fleet` answers, and what their values are.
//!
//! The values are read as JSON, by their field names, so that a program that shows a fleet need not be able to join one. What a
//! newer daemon tells beyond this is ignored.

pub(crate) mod counts;
pub mod rollout;
pub(crate) mod watching;

use std::collections::BTreeMap;

use controllerbus::Schema;
use serde::{Deserialize, Serialize};

/// The config id with which a host joins a fleet.
pub const CONFIG_ID: &str = "controllerbus/fleet";

/// The directive that asks for the hosts of the fleet; each [`Host`] is a value.
pub const HOSTS: &str = "controllerbus/fleet/hosts";

/// The directive that asks who offers what; each [`Offer`] is a value.
pub const OFFERS: &str = "controllerbus/fleet/offers";

/// The directive that asks for what was counted: one [`Counts`].
pub const COUNTS: &str = "controllerbus/fleet/counts";

/// What a controller is called that stands for another host: this, and the host's name.
pub const CONTROLLER: &str = "fleet host ";

/// How many directives a host asks others at most before `cbus fleet doctor` warns.
pub const MANY_ASKS: u64 = 100_000;

/// Whether a directive only asks what a daemon knows of its fleet.
pub(crate) fn only_looks(directive: &str) -> bool {
    [HOSTS, OFFERS, COUNTS, rollout::ROLLOUTS, rollout::STORE, rollout::HEALTH].contains(&directive)
}

/// A host of the fleet, as another one sees it.
#[derive(Serialize, Deserialize, Schema, PartialEq, Clone, Debug, Default)]
#[non_exhaustive]
pub struct Host {
    /// Its name.
    pub host: String,
    /// Which start of its process it is, in 16 hexadecimal digits.
    #[serde(default)]
    pub epoch: String,
    /// Whether it is the host that was asked.
    #[serde(default)]
    pub own: bool,
    /// Its labels; empty as long as there is no link to it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The version of its program; empty as long as there is no link to it.
    #[serde(default)]
    pub version: String,
    /// How the link to it is: `up`; `greeting` at first; `not_needed` where neither asks what the other offers; `lost` while it is
    /// out of reach; `refused`, with a problem.
    #[serde(default)]
    pub link: String,
    /// When it was first seen, in milliseconds since 1970.
    #[serde(default)]
    pub since_ms: u64,
    /// The last round trip, in microseconds.
    #[serde(default)]
    pub round_trip_us: Option<u64>,
    /// How many directives the host that was asked asks it now.
    #[serde(default)]
    pub asks: u64,
    /// How many it asks that host.
    #[serde(default)]
    pub asked: u64,
    /// How far its clock is ahead, in milliseconds, where that is known.
    #[serde(default)]
    pub clock_offset_ms: Option<i64>,
    /// What is wrong with it, and what to do.
    #[serde(default)]
    pub problem: Option<String>,
}

/// A host that resolves directives of an id for others.
#[derive(Serialize, Deserialize, Schema, PartialEq, Eq, Clone, Debug, Default)]
#[non_exhaustive]
pub struct Offer {
    /// The directive's id.
    pub id: String,
    /// The host.
    pub host: String,
    /// How many of these the host that was asked asks it now.
    #[serde(default)]
    pub asks: u64,
}

/// What a host has counted since it joined the fleet.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Copy, Debug, Default)]
#[serde(default)]
#[non_exhaustive]
pub struct Counts {
    /// The other hosts that are there now.
    pub hosts: u64,
    /// The links that work now.
    pub links: u64,
    /// Links that were lost.
    pub lost: u64,
    /// How often what is asked of a host, and what it answers, was told anew after a gap.
    pub resyncs: u64,
    /// How often a host waited before it told more of a request, because what it had told was not read yet.
    pub credit_waits: u64,
    /// Bytes that were sent to other hosts.
    pub sent_bytes: u64,
    /// Bytes that were received from other hosts.
    pub received_bytes: u64,
    /// How many directives this host asks others now.
    pub asks: u64,
    /// How many others ask this host now.
    pub asked: u64,
}
