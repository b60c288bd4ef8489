//! Process-hosted plugins: the same verified artifact, served by a process of its own over a socket pair.
//!
//! In the host, [`plugin::ProcessPlugin`] is one generation: it starts, monitors and restarts the process, and its
//! proxies implement the same `Factory` and `AnyController` traits as a library's. In the process, [`child`] loads the
//! artifact as the host would, and gives the guest a bus that goes back over the socket.

mod carrier;
#[cfg(target_os = "linux")]
mod cgroup;
mod child;
mod current;
mod find;
mod inbox;
mod link;
mod listening;
mod outbox;
mod output;
pub(crate) mod plugin;
mod protocol;
mod proxy;
mod socket;
mod spawn;
mod traces;

pub use child::plugin_host;
pub use output::ending;

/// The variable that makes a process a plugin host.
const MARKER: &str = "CBUS_PLUGIN_HOST_SOCKET";
