//! What a service manager is told: that the daemon is ready, that it reads its config again, how it does, that it lives.
//! Without one (no `NOTIFY_SOCKET`) nothing is told.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::{NotifyState, notify};

use super::Host;
use crate::api::state;

/// How often the state is told, at least.
const OFTEN: Duration = Duration::from_secs(5);

/// Told once the plugins are there.
pub fn ready(host: &Host) {
    tell(&[NotifyState::Ready, NotifyState::Status(&status(host))]);
}

/// Told before the config is read again; `ready` follows.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now, NotifyState::Status("reading the config again")]);
    }
}

/// Told when the end begins.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells how the daemon does, and that it lives, for as long as this is polled. It lives if its bus answers: a daemon that
/// hangs is ended by the service manager, and started again.
pub async fn keep_telling(host: &Arc<Host>) {
    let watchdog = sd_notify::watchdog_enabled();
    let mut clock = tokio::time::interval(watchdog.map_or(OFTEN, |limit| (limit / 3).min(OFTEN)));
    let mut told = String::new();
    loop {
        clock.tick().await;
        let asked = Arc::clone(host);
        // Not on a worker thread: the question may be what hangs.
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
    format!("{serving} of {} plugins serve, {} controllers run{failed}", plugins.len(), host.bus.controllers().len())
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = notify(state) {
        tracing::debug!(target: "cbus", "the service manager was not told: {error}");
    }
}
