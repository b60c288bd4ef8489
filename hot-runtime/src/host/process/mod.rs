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
pub(crate) mod deadline;
mod find;
mod heartbeat;
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

/// The value of that variable with which a plugin host prints its versions and ends.
const ASKS_VERSIONS: &str = "versions";

/// The plugin host that a runtime would use where none is configured, and why it would not do, if it would not. Blocks.
///
/// # Errors
/// Why there is none.
pub(crate) fn examine_plugin_host() -> Result<(std::path::PathBuf, Option<String>), String> {
    let path = find::plugin_host(None)?;
    if find::is_self(&path) {
        return Ok((path, None));
    }
    let asked =
        std::process::Command::new(&path).env(MARKER, ASKS_VERSIONS).stdin(std::process::Stdio::null()).output();
    let said = asked.map_err(|error| format!("{} cannot be run: {error}", path.display()))?;
    let unfit = match serde_json::from_slice::<protocol::Versions>(&said.stdout) {
        Ok(versions) => versions.mismatch("it"),
        Err(_) => {
            Some("it does not say which version it is; use a plugin host that was built with this runtime".to_owned())
        }
    };
    Ok((path, unfit))
}
