//! Sockets that a service manager has opened for the daemon (`LISTEN_FDS`), for controllers that listen on their addresses
//! or on `systemd:NAME`.

use std::os::fd::OwnedFd;

use controllerbus::{Bus, Error, Result};
use listenfd::ListenFd;

/// The name of a socket without one.
const UNNAMED: &str = "unknown";

/// Hands all sockets to the bus. Those that do not listen are logged and skipped.
pub fn adopt(bus: &Bus) {
    let mut given = ListenFd::from_env();
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<_> = names.split(':').collect();
    for at in 0..given.len() {
        let name = names.get(at).copied().filter(|name| !name.is_empty()).unwrap_or(UNNAMED);
        match take(&mut given, at).and_then(|socket| Ok(bus.adopt_listener(name, socket)?)) {
            Ok(()) => tracing::info!(target: "cbus", "the service manager passed the socket `systemd:{name}`"),
            Err(error) => tracing::warn!(target: "cbus", "ignoring a socket from the service manager: {error}"),
        }
    }
}

fn take(given: &mut ListenFd, at: usize) -> Result<OwnedFd> {
    if let Ok(Some(tcp)) = given.take_tcp_listener(at) {
        return Ok(tcp.into());
    }
    match given.take_unix_listener(at) {
        Ok(Some(unix)) => Ok(unix.into()),
        Ok(None) => Err(Error::msg(format!("number {at} does not exist"))),
        Err(error) => Err(Error::msg(format!("number {at} is neither a TCP nor a Unix listening socket: {error}"))),
    }
}
