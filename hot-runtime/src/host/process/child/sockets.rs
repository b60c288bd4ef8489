//! The bus's listening sockets, for the controllers of this process.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use controllerbus::controller::BoxFuture;
use controllerbus::error::ErrorKind;
use controllerbus::listen::{Address, HostSocket, Kept, Service, Sockets};
use controllerbus::{Error, Result};
use tokio::sync::{oneshot, watch};

use super::line::Line;
use crate::host::process::protocol::ToParent;

/// The sockets of the controllers of this process.
pub(super) struct Listeners {
    line: Line,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Listener>>,
    /// How many connections are open.
    connections: Mutex<usize>,
}

struct Listener {
    tell: Option<oneshot::Sender<Result<OwnedFd>>>,
    serves: watch::Sender<Service>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Listeners {
    pub(super) fn new(line: Line) -> Arc<Self> {
        Arc::new(Self { line, next: AtomicU64::new(1), open: Mutex::default(), connections: Mutex::default() })
    }

    /// The result of a request to listen.
    pub(super) fn listening(&self, listener: u64, given: Result<OwnedFd>) {
        let tell = {
            let mut open = lock(&self.open);
            let Some(found) = open.get_mut(&listener) else { return };
            let tell = found.tell.take();
            if given.is_err() || found.serves.borrow().has_ended() {
                open.remove(&listener);
            }
            tell
        };
        // If nothing waits for it any more, it is closed.
        if let Some(tell) = tell {
            let _ = tell.send(given);
        }
    }

    /// Sets whether the controller of a listener serves.
    pub(super) fn serves(&self, listener: u64, service: Service) {
        let mut open = lock(&self.open);
        let Some(found) = open.get(&listener) else { return };
        found.serves.send_replace(service);
        if service.has_ended() && found.tell.is_none() {
            open.remove(&listener);
        }
    }

    /// Counts connections, and reports the first and the last one.
    fn count(&self, more: bool) {
        let mut open = lock(&self.connections);
        let before = *open;
        *open = if more { before + 1 } else { before.saturating_sub(1) };
        if (before == 0) != (*open == 0) {
            // Under the lock, so that they are reported in order; this does not wait.
            let _ = self.line.outbox.push_later(&ToParent::Connections { open: *open > 0 });
        }
    }
}

/// Where one controller's sockets come from.
pub(super) struct SocketsOf {
    pub(super) listeners: Arc<Listeners>,
    pub(super) controller: u64,
}

impl Sockets for SocketsOf {
    fn listen(&self, address: Address) -> BoxFuture<'static, Result<HostSocket>> {
        let (listeners, controller) = (Arc::clone(&self.listeners), self.controller);
        Box::pin(async move {
            let listener = listeners.next.fetch_add(1, Ordering::Relaxed);
            let (tell, told) = oneshot::channel();
            let (serves, service) = watch::channel(Service::Waiting);
            lock(&listeners.open).insert(listener, Listener { tell: Some(tell), serves });
            listeners.line.say(&ToParent::Listen { listener, controller, address: &address.to_string() })?;
            let gone = || Error::new(ErrorKind::Closed, format!("cannot listen at {address}: the runtime is gone"));
            let descriptor = told.await.map_err(|_| gone())??;
            let keep = Arc::new(move || Box::new(Open::of(&listeners)) as Kept);
            Ok(HostSocket { descriptor, service, keep })
        })
    }
}

/// An open connection.
struct Open(Arc<Listeners>);

impl Open {
    fn of(listeners: &Arc<Listeners>) -> Self {
        listeners.count(true);
        Self(Arc::clone(listeners))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.count(false);
    }
}
