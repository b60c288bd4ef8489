//! The bus's listening sockets for the controllers of one process, which gets a descriptor of each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use controllerbus::listen::{Address, HostSocket, Service, Sockets};
use controllerbus::plugin::lease::Holder;
use controllerbus::plugin::{Lease, Leases};
use controllerbus::{Error, Result};
use tokio_util::sync::CancellationToken;

use super::outbox::Outbox;
use super::protocol::ToChild;

/// The most sockets that the controllers of a process may have.
const MOST: usize = 1000;

/// The sockets of the controllers of one process.
pub(super) struct Listeners {
    outbox: Arc<Outbox>,
    leases: Arc<Leases>,
    /// Where each controller's sockets come from.
    sockets: Mutex<HashMap<u64, Arc<dyn Sockets>>>,
    open: AtomicUsize,
    /// Held while the process has connections.
    connections: Mutex<Option<Lease>>,
    dead: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Listeners {
    /// For one process; it is notified until `dead`.
    pub(super) fn new(outbox: Arc<Outbox>, leases: Arc<Leases>, dead: CancellationToken) -> Arc<Self> {
        let (sockets, open, connections) = Default::default();
        Arc::new(Self { outbox, leases, sockets, open, connections, dead })
    }

    /// Sets where a controller's sockets come from.
    pub(super) fn know(&self, controller: u64, sockets: &Arc<dyn Sockets>) {
        lock(&self.sockets).insert(controller, Arc::clone(sockets));
    }

    pub(super) fn forget(&self, controller: u64) {
        let forgotten = lock(&self.sockets).remove(&controller);
        drop(forgotten);
    }

    /// Listens for a controller. Must be called inside a tokio runtime.
    pub(super) fn listen(self: &Arc<Self>, listener: u64, controller: u64, address: &str) {
        let sockets = lock(&self.sockets).get(&controller).cloned();
        let address = address.parse::<Address>();
        let this = Arc::clone(self);
        let may = self.open.fetch_add(1, Ordering::Relaxed) < MOST;
        tokio::spawn(async move {
            let dead = this.dead.clone();
            let following = async {
                let asked = async {
                    if !may {
                        return Err(Error::msg(format!(
                            "a plugin's process can have {MOST} listening sockets at most"
                        )));
                    }
                    let sockets = sockets.ok_or_else(|| Error::msg("the controller is not in this process"))?;
                    sockets.listen(address?).await
                };
                let followed = match asked.await {
                    Ok(socket) => this.follow(listener, socket).await,
                    Err(error) => this.outbox.push(&ToChild::Listening { listener, error: Some(error) }),
                };
                if let Err(error) = followed {
                    tracing::debug!(%error, "cannot send a socket to a plugin's process");
                }
            };
            tokio::select! {
                () = following => {}
                () = dead.cancelled() => {}
            }
            this.open.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Sends a socket to the process, and reports whether its controller serves until that ends.
    async fn follow(&self, listener: u64, socket: HostSocket) -> Result<()> {
        let HostSocket { descriptor, mut service, .. } = socket;
        let now = *service.borrow_and_update();
        self.outbox.push(&ToChild::Serves { listener, service: now as u8 })?;
        self.outbox.push_with(&ToChild::Listening { listener, error: None }, descriptor)?;
        let mut told = now;
        while !told.has_ended() {
            told = match service.changed().await {
                Ok(()) => *service.borrow_and_update(),
                Err(_) => Service::Removed,
            };
            self.outbox.push(&ToChild::Serves { listener, service: told as u8 })?;
        }
        Ok(())
    }

    /// The process has connections, or no longer has any.
    pub(super) fn connections(&self, open: bool) {
        let mut held = lock(&self.connections);
        let lease = (open && !self.dead.is_cancelled()).then(|| self.leases.take(Holder::Connection));
        let before = std::mem::replace(&mut *held, lease);
        drop((held, before));
    }

    /// The process is gone.
    pub(super) fn end(&self) {
        self.connections(false);
        let sockets = std::mem::take(&mut *lock(&self.sockets));
        drop(sockets);
    }
}
