//! Notifications to a service manager: that the daemon is ready, is reloading its config, its status, and that it is alive.
//! Without one (no `NOTIFY_SOCKET`), nothing is sent.

use std::sync::Arc;
use std::time::Duration;

use controllerbus_api::Host;
use controllerbus_api::state;
use sd_notify::{NotifyState, notify};

/// How often the status is sent, at least.
const OFTEN: Duration = Duration::from_secs(5);

/// Sent once the plugins are there.
pub fn ready(host: &Host) {
    tell(&[NotifyState::Ready, NotifyState::Status(&status(host))]);
}

/// Sent before the config is reloaded; `ready` follows.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now, NotifyState::Status("reloading the config")]);
    }
}

/// Sent when shutdown begins.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Sends the status, and signs of life, for as long as this is polled. The daemon is alive if its bus answers: the service
/// manager restarts a daemon that hangs.
pub async fn keep_telling(host: &Arc<Host>) {
    let watchdog = sd_notify::watchdog_enabled();
    let mut clock = tokio::time::interval(watchdog.map_or(OFTEN, |limit| (limit / 3).min(OFTEN)));
    let mut told = String::new();
    loop {
        clock.tick().await;
        let asked = Arc::clone(host);
        // Not on a worker thread: the query itself may hang.
        let Ok(now) = tokio::task::spawn_blocking(move || status(&asked)).await else { continue };
        if watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
        if now != told {
            tell(&[NotifyState::Status(&now)]);
            told = now;
        }
    }
}

fn status(host: &Host) -> String {
    let plugins = host.plugins();
    let serving = plugins.iter().filter(|plugin| plugin.serving().is_some()).count();
    let failed = host.configs().iter().filter(|config| config.state == state::FAILED).count();
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!(
        "{serving} of {} plugins serving, {} controllers running{failed}",
        plugins.len(),
        host.bus.controllers().len()
    )
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = notify(state) {
        tracing::debug!(target: "cbus", "cannot notify the service manager: {error}");
    }
}
