//! The sockets that a service manager has opened for the daemon (`LISTEN_FDS`), for controllers that listen at their
//! addresses or at `systemd:NAME`.

use std::os::fd::OwnedFd;

use controllerbus::{Bus, Error, Result};
use listenfd::ListenFd;

/// What a socket is called that was given no name.
const UNNAMED: &str = "unknown";

/// Gives the bus every socket that came. One that cannot be listened at is told of, and no obstacle.
pub fn adopt(bus: &Bus) {
    let mut given = ListenFd::from_env();
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<_> = names.split(':').collect();
    for at in 0..given.len() {
        let name = names.get(at).copied().filter(|name| !name.is_empty()).unwrap_or(UNNAMED);
        match take(&mut given, at).and_then(|socket| Ok(bus.adopt_listener(name, socket)?)) {
            Ok(()) => tracing::info!(target: "cbus", "the service manager gave the socket `systemd:{name}`"),
            Err(error) => tracing::warn!(target: "cbus", "a socket of the service manager is not used: {error}"),
        }
    }
}

fn take(given: &mut ListenFd, at: usize) -> Result<OwnedFd> {
    if let Ok(Some(tcp)) = given.take_tcp_listener(at) {
        return Ok(tcp.into());
    }
    match given.take_unix_listener(at) {
        Ok(Some(unix)) => Ok(unix.into()),
        Ok(None) => Err(Error::msg(format!("number {at} is not there"))),
        Err(error) => Err(Error::msg(format!("number {at} is neither TCP nor a Unix socket that listens: {error}"))),
    }
}
