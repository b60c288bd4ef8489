//! The controllers that a fleet has on the bus.

pub(crate) mod gate;
pub(crate) mod host;
mod keyed;
pub(crate) mod one;
pub(crate) mod status;

use controllerbus::controller::Info;

/// The config id of a fleet's first controller. Those of the others begin with it, and so do those of an agent and an orchestrator,
/// which are no part of the fleet's controllers, and answer others.
pub(crate) const FLEET: &str = "controllerbus/fleet";

/// Whether a controller is of the fleet itself: what it resolves, it does not resolve for other hosts.
pub(crate) fn is_of_the_fleet(info: &Info) -> bool {
    let below = info.config_id.strip_prefix(FLEET);
    below.is_some_and(|below| ["", "/gate", "/host", "/one"].contains(&below))
}

/// Who a controller of the fleet is.
pub(crate) fn info(id: &str, config_id: &str, description: &str) -> Info {
    // Cargo has checked it.
    let version = env!("CARGO_PKG_VERSION").parse().unwrap_or(semver::Version::new(0, 0, 0));
    Info::new(id, version, config_id).with_description(description)
}
