//! Process-hosted plugins: the same verified artifact, served by a process of its own over a socket pair.
//!
//! In the host, [`plugin::ProcessPlugin`] is one generation: it starts, monitors and restarts the process, and its
//! proxies implement the same `Factory` and `AnyController` traits as a library's. In the process, [`child`] loads the
//! artifact as the host would, and gives the guest a bus that goes back over the socket.

#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(unix)]
mod child;
#[cfg(unix)]
mod current;
#[cfg(unix)]
mod find;
#[cfg(unix)]
mod inbox;
#[cfg(unix)]
mod link;
#[cfg(unix)]
mod listening;
#[cfg(unix)]
mod outbox;
#[cfg(unix)]
mod output;
#[cfg(unix)]
pub(crate) mod plugin;
#[cfg(unix)]
mod protocol;
#[cfg(unix)]
mod proxy;
#[cfg(unix)]
mod requests;
#[cfg(unix)]
mod socket;
#[cfg(unix)]
mod spawn;
#[cfg(unix)]
mod traces;

#[cfg(unix)]
pub use child::plugin_host;
#[cfg(unix)]
pub use output::ending;

/// The variable that makes a process a plugin host.
#[cfg(unix)]
const MARKER: &str = "CBUS_PLUGIN_HOST_SOCKET";

/// Process isolation is not available on this system: returns at once.
#[cfg(not(unix))]
pub fn plugin_host() {}
