//! How a host joins a fleet: config ID `controllerbus/fleet`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use controllerbus::prelude::*;

/// How this host joins a fleet, as an entry of a config set.
///
/// ```yaml
/// fleet:
///   id: controllerbus/fleet
///   config:
///     name: shop
///     host: edge-7
///     labels: { role: edge, zone: eu }
///     connect: [ "hub-1.shop:7447", "hub-2.shop:7447" ]
///     tls: { ca: ca.pem, cert: edge-7.pem, key: edge-7.key }
///     offers: [ example/greet, "inventory/**" ]
///     asks:
///       - example/greet
///       - { id: inventory/stock, of: one }
/// ```
#[derive(Config, Serialize, Deserialize, PartialEq, Clone, Debug)]
#[config(id = "controllerbus/fleet")]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FleetConfig {
    /// The fleet's name. Hosts of other fleets are not seen.
    pub name: String,
    /// This host's name; that of the machine unless set.
    #[serde(default)]
    pub host: Option<String>,
    /// What this host is, for who selects hosts.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where others can connect: `HOST:PORT` or `unix:PATH`. It makes this host a hub.
    #[serde(default)]
    pub listen: Vec<String>,
    /// The hubs to connect to: `HOST:PORT` or `unix:PATH`.
    #[serde(default)]
    pub connect: Vec<String>,
    /// Certificates. Needed to listen beyond this machine.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// A file with rules about who may ask and offer what, which a hub enforces: see `cbus fleet acl`.
    #[serde(default)]
    pub access: Option<PathBuf>,
    /// The directives that others may ask of this host: ids, or `inventory/**` for all below.
    #[serde(default)]
    pub offers: Vec<String>,
    /// The directives that this host asks of others, too.
    #[serde(default)]
    pub asks: Vec<Asks>,
    /// Finds hosts by multicast. Off, because it fails silently in containers and clouds.
    #[serde(default)]
    pub discover: bool,
    /// Whether programs in other languages may ask what this host offers, by queries of the engine.
    #[serde(default)]
    pub expose: bool,
    /// How long what another host has asked is kept when it is out of reach; 10 seconds unless set.
    #[serde(default = "ten_seconds")]
    pub resume_within_ms: u64,
    /// Settings of the engine, for those who know it.
    #[serde(default)]
    pub zenoh: serde_json::Map<String, serde_json::Value>,
}

const fn ten_seconds() -> u64 {
    10_000
}

/// Certificates of a host, as PEM files.
#[derive(Serialize, Deserialize, PartialEq, Clone, Debug, Schema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The authority that has signed the certificates of all hosts.
    pub ca: PathBuf,
    /// This host's certificate. Its common name is the host's name.
    pub cert: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
}

/// A directive that this host asks of others.
#[derive(Serialize, Deserialize, PartialEq, Clone, Debug, Schema)]
#[serde(untagged)]
pub enum Asks {
    /// Of all that offer it.
    OfAll(String),
    /// As said.
    Of {
        /// The directive's id.
        id: String,
        /// Of whom.
        of: AskOf,
    },
}

impl Asks {
    /// The directive's id.
    pub fn id(&self) -> &str {
        match self {
            Self::OfAll(id) | Self::Of { id, .. } => id,
        }
    }

    /// Of whom.
    pub fn of(&self) -> AskOf {
        match self {
            Self::OfAll(_) => AskOf::All,
            Self::Of { of, .. } => *of,
        }
    }
}

/// Of which hosts a directive is asked.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Copy, Debug, Schema)]
#[serde(rename_all = "lowercase")]
pub enum AskOf {
    /// Of each that offers it.
    All,
    /// Of one of them, which is chosen by the directive's key.
    One,
}
