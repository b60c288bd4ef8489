//! What a host knows of its fleet, as directives of its own bus: for the command line, the page and metrics.
//!
//! They are answered by the controller `controllerbus/fleet`, and never cross to another host.

use std::collections::BTreeMap;

use controllerbus::prelude::*;

/// Asks which hosts there are. Each is a value, which is replaced when something changes.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "controllerbus/fleet/hosts", value = HostStatus)]
pub struct Hosts {}

/// A host of the fleet, as seen from this one.
#[derive(Serialize, Deserialize, PartialEq, Clone, Debug)]
#[non_exhaustive]
pub struct HostStatus {
    /// Its name.
    pub host: String,
    /// Which start of its process it is, in 16 hexadecimal digits.
    pub epoch: String,
    /// Whether it is this host.
    pub own: bool,
    /// Its labels; empty as long as there is no link to it.
    pub labels: BTreeMap<String, String>,
    /// The version of its program; empty as long as there is no link to it.
    pub version: String,
    /// How the link to it is.
    pub link: LinkState,
    /// When it was first seen, in milliseconds since 1970.
    pub since_ms: u64,
    /// The last round trip, in microseconds.
    pub round_trip_us: Option<u64>,
    /// Its clock minus this host's, in milliseconds, as of the last round trip.
    #[serde(default)]
    pub clock_offset_ms: Option<i64>,
    /// How many directives this host asks it now.
    pub asks: u64,
    /// How many it asks this host.
    pub asked: u64,
    /// What is wrong with it, and what to do.
    pub problem: Option<String>,
}

/// How a link is.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Copy, Debug)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinkState {
    /// Neither host asks what the other one offers.
    NotNeeded,
    /// They have not greeted each other yet.
    Greeting,
    /// It works.
    Up,
    /// It is out of reach, and what it has asked is kept for a while.
    Lost,
    /// It is refused; `problem` says why.
    Refused,
}

/// Asks who offers what, and whom this host asks. Each pair of a host and a directive's id is a value.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "controllerbus/fleet/offers", value = Offer)]
pub struct Offers {
    /// Only of this directive.
    #[serde(default)]
    pub id: Option<String>,
}

/// A host that resolves directives of an id for others.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Debug)]
#[non_exhaustive]
pub struct Offer {
    /// The directive's id.
    pub id: String,
    /// The host.
    pub host: String,
    /// How many of these this host asks it now.
    pub asks: u64,
}

/// Asks for what has been counted since this host joined. Each time it is asked, there is one fresh value.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "controllerbus/fleet/counts", value = Counts, once)]
pub struct AskCounts {}

/// What has been counted since this host joined; `links`, `hosts`, `asks` and `asked` are of now.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Counts {
    /// The links that work.
    pub links: u64,
    /// The other hosts that are there.
    pub hosts: u64,
    /// The links that were lost.
    pub lost: u64,
    /// The links that were ended for a reason: a limit, or what could not be read.
    pub refused: u64,
    /// The lanes that were told again, because a frame was lost or a link was back.
    pub resyncs: u64,
    /// How often events of a request waited because those before were not read.
    pub credit_waits: u64,
    /// How often a message waited because the other host had not seen those before.
    pub window_waits: u64,
    /// The frames sent.
    pub sent_frames: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// The frames received.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// The directives that this host asks others.
    pub asks: u64,
    /// Those that others ask this host.
    pub asked: u64,
}
