//! The process that currently serves a generation, for its proxies, which wait while it is restarted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use controllerbus::error::ErrorKind;
use controllerbus::plugin::Leases;
use controllerbus::{Error, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use super::deadline::Limited;
use super::link::Link;
use super::protocol::ToChild;
use crate::host::moment::Moment;

/// A call waits for a restart that is due within this time, and otherwise fails at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the proxies know about the process.
pub(super) struct Current {
    /// The plugin and the generation.
    pub(super) name: String,
    pub(super) leases: Arc<Leases>,
    pub(super) state: watch::Sender<State>,
    pub(super) controllers: AtomicU64,
}

impl Limited for Current {
    fn limit(&self, at: Option<Moment>) {
        if let Some(link) = self.standing() {
            let _ = link.outbox.push(&ToChild::Deadline { at });
        }
    }
}

pub(super) enum State {
    Up(Arc<Link>),
    /// It crashed, and is restarted at `until`.
    Down {
        error: Error,
        until: Instant,
    },
    Ended,
}

impl Current {
    /// Waits for a running process.
    ///
    /// # Errors
    /// The generation has ended, or its process crashes so often that the next restart is not due soon.
    pub(super) async fn up(&self) -> Result<Arc<Link>> {
        if let Some(link) = self.standing() {
            return Ok(link);
        }
        let mut states = self.state.subscribe();
        loop {
            match &*states.borrow_and_update() {
                State::Up(link) if !link.is_dead() => return Ok(Arc::clone(link)),
                State::Up(_) => {}
                State::Down { error, until } => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left > PATIENCE {
                        let what = format!("{}: {error}; it is restarted in {:.0} s", self.name, left.as_secs_f64());
                        return Err(Error::new(ErrorKind::Crashed, what));
                    }
                }
                State::Ended => return Err(self.ended()),
            }
            if states.changed().await.is_err() {
                return Err(self.ended());
            }
        }
    }

    pub(super) fn ended(&self) -> Error {
        Error::new(ErrorKind::Closed, format!("{} has been unloaded", self.name))
    }

    /// The running process, if there is one.
    pub(super) fn standing(&self) -> Option<Arc<Link>> {
        match &*self.state.borrow() {
            State::Up(link) if !link.is_dead() => Some(Arc::clone(link)),
            _ => None,
        }
    }

    pub(super) fn next_controller(&self) -> u64 {
        self.controllers.fetch_add(1, Ordering::Relaxed)
    }
}
