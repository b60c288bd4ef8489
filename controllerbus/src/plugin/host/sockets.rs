//! The host's sockets, for the controllers of a guest: each controller has one object, which asks for it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use super::objects::guard;
use crate::Result;
use crate::listen::{Address, HostSocket, Kept, Service, Sockets};
use crate::plugin::abi::{GuestListeningDyn, GuestListeningPtr, HostSockets, Text};
use crate::plugin::contained::Contained;
use crate::plugin::lease::{Holder, Lease, Leases};

/// Where one controller's sockets come from.
pub(super) struct SocketsObject {
    sockets: Contained<Arc<dyn Sockets>>,
    runtime: Handle,
    leases: Arc<Leases>,
    open: Contained<Arc<Mutex<Open>>>,
}

/// What is held for connections.
#[derive(Default)]
struct Open {
    /// How the owner of the sockets learns of a connection.
    keep: Option<Keep>,
    held: Vec<(Lease, Option<Kept>)>,
}

type Keep = Arc<dyn Fn() -> Kept + Send + Sync>;

/// A guest's object, in the hands of the host. Fields drop in order: the lease goes last.
struct Listening {
    listening: GuestListeningPtr,
    _lease: Lease,
}

impl Listening {
    /// By methods, so that a future which calls them keeps all of it, the lease too.
    fn serves(&self, service: Service) {
        self.listening.service(service as u8);
    }

    fn done(&self, result: Result<i32>) {
        self.listening.done(result.into());
    }
}

impl SocketsObject {
    /// Must be called inside a tokio runtime.
    pub(super) fn new(sockets: Arc<dyn Sockets>, leases: Arc<Leases>) -> Self {
        let (sockets, open) = (Contained::new(sockets), Contained::new(Arc::default()));
        Self { sockets, runtime: Handle::current(), leases, open }
    }
}

fn lock(open: &Mutex<Open>) -> std::sync::MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HostSockets for SocketsObject {
    extern "C" fn listen(&self, address: Text, listening: GuestListeningPtr) {
        // It ends with the controller's service: a generation that drains does not wait for it.
        let listening = Listening { listening, _lease: self.leases.take(Holder::Waker) };
        guard((), || {
            let (sockets, open) = (Arc::clone(&self.sockets), Arc::clone(&self.open));
            let address = address.as_str().parse::<Address>();
            self.runtime.spawn(async move {
                let asked = async { sockets.listen(address?).await };
                match asked.await {
                    Err(error) => listening.done(Err(error)),
                    Ok(socket) => follow(socket, &open, &listening).await,
                }
            });
        });
    }

    extern "C" fn opened(&self) {
        let lease = self.leases.take(Holder::Connection);
        guard((), || {
            let keep = lock(&self.open).keep.clone();
            let kept = keep.map(|keep| keep());
            lock(&self.open).held.push((lease, kept));
        });
    }

    extern "C" fn closed(&self) {
        guard((), || {
            let one = lock(&self.open).held.pop();
            drop(one);
        });
    }
}

/// Hands a socket over, and tells whether the controller serves until it has.
async fn follow(socket: HostSocket, open: &Mutex<Open>, listening: &Listening) {
    let (mut service, keep) = (socket.service.clone(), Arc::clone(&socket.keep));
    lock(open).keep = Some(keep);
    listening.serves(*service.borrow_and_update());
    listening.done(descriptor(socket));
    loop {
        let now = *service.borrow_and_update();
        listening.serves(now);
        if now.has_ended() {
            return;
        }
        if service.changed().await.is_err() {
            return listening.serves(Service::Removed);
        }
    }
}

/// Its descriptor, which the caller takes over.
#[cfg(unix)]
fn descriptor(socket: HostSocket) -> Result<i32> {
    Ok(std::os::fd::IntoRawFd::into_raw_fd(socket.descriptor))
}

#[cfg(not(unix))]
fn descriptor(_: HostSocket) -> Result<i32> {
    Err(crate::listen::unsupported())
}
