//! Leaving a fleet.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Topology;
use crate::carrier::Peer;
use crate::shared::Tell;

/// How long who leaves waits in all for what it says to be sent: with the engine's end, less than a daemon gives a controller to close.
const FAREWELL: Duration = Duration::from_millis(600);

impl Topology {
    /// Takes this host out of the fleet.
    pub(super) async fn leave(mut self, done: Option<oneshot::Sender<()>>, mut told: UnboundedReceiver<Tell>) {
        let until = Instant::now() + FAREWELL;
        self.offering.abort();
        let links: Vec<_> = self.hosts.values().filter_map(|host| host.link.clone()).collect();
        links.iter().for_each(|link| link.leave());
        for link in &links {
            self.withdraw(link, None);
        }
        let mut over: BTreeSet<Peer> = links.iter().map(|link| link.peer().clone()).collect();
        let all_over = async {
            while !over.is_empty() {
                match told.recv().await {
                    Some(Tell::Over(link, why)) => {
                        self.shared.forget_link(&link);
                        link.end(&why);
                        over.remove(link.peer());
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        };
        let are_over = timeout_at(until, all_over).await;
        let gate = self.gate.take().map(|gate| gate.controller);
        for id in self.own.drain(..).chain(gate) {
            self.shared.bus.remove_controller(id).await;
        }
        self.has_let_go = true;
        // What it has said is sent before the process may end.
        let is_said = timeout_at(until, self.shared.let_go()).await;
        if are_over.is_err() || is_said.is_err() {
            tracing::warn!("fleet: this host has left, and not all that it had to say was sent within {FAREWELL:?}");
        }
        drop(self);
        if let Some(done) = done {
            // Who waited may have given up.
            let _ = done.send(());
        }
    }
}

impl Drop for Topology {
    /// Also where the runtime ends before the fleet was left.
    fn drop(&mut self) {
        self.offering.abort();
        if !self.has_let_go {
            // There is nobody who could wait for it.
            drop(self.shared.let_go());
        }
    }
}
