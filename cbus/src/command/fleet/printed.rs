//! What `cbus fleet` prints as JSON.

use std::path::PathBuf;

use controllerbus::Schema;
use controllerbus_api::fleet::Host;
use serde::Serialize;

/// What was written for a host.
#[derive(Serialize, Schema)]
pub struct Written {
    /// The fleet.
    pub fleet: String,
    /// The host.
    pub host: String,
    /// The authority's certificate, which every host needs.
    pub ca: PathBuf,
    /// The host's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Its config.
    pub config: PathBuf,
    /// The last day on which the certificate is valid, such as `2027-11-29`.
    pub valid_until: String,
    /// Where further hosts connect.
    pub connect: Vec<String>,
    /// What to do next, as commands.
    pub next: Vec<String>,
}

/// Something that happened to a host of the fleet.
#[derive(Serialize, Schema)]
pub struct HostChange {
    /// `added`, `changed` or `removed`.
    pub kind: String,
    /// The host, as it is now, or was at last.
    pub host: Host,
}
