//! The sockets that the host keeps, as a controller of a guest asks for them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::controller::BoxFuture;
use crate::error::ErrorKind;
use crate::listen::{Address, HostSocket, Kept, Service, Sockets};
use crate::plugin::abi::{GuestListening, HostSocketsDyn, HostSocketsPtr, Text, boxed};
use crate::plugin::contained::{Contained, contain};
use crate::plugin::fallible::Fallible;
use crate::{Error, Result};

/// Where one controller's sockets come from.
pub(super) struct RemoteSockets(Arc<HostSocketsPtr>);

impl RemoteSockets {
    pub(super) fn new(host: HostSocketsPtr) -> Self {
        Self(Arc::new(host))
    }
}

impl Sockets for RemoteSockets {
    fn listen(&self, address: Address) -> BoxFuture<'static, Result<HostSocket>> {
        let (tell, told) = oneshot::channel();
        let (serves, service) = watch::channel(Service::Waiting);
        let listening = Listening { tell: Contained::new(Mutex::new(Some(tell))), serves: Contained::new(serves) };
        self.0.listen(Text::from(address.to_string().as_str()), boxed(listening).into());
        let host = Arc::clone(&self.0);
        Box::pin(async move {
            let gone = || Error::new(ErrorKind::Closed, format!("cannot listen at {address}: the host has gone"));
            let given = told.await.map_err(|_| gone())??;
            let keep = Arc::new(move || Box::new(Open::of(&host)) as Kept);
            Ok(given.into_socket(service, keep))
        })
    }
}

/// A descriptor that the host has handed over.
struct Given {
    #[cfg(unix)]
    descriptor: std::os::fd::OwnedFd,
}

impl Given {
    #[cfg(unix)]
    fn of(descriptor: i32) -> Self {
        // SAFETY: it is open, and the host has given it up: see `GuestListening::done`.
        Self { descriptor: unsafe { std::os::fd::FromRawFd::from_raw_fd(descriptor) } }
    }

    #[cfg(not(unix))]
    fn of(_: i32) -> Self {
        Self {}
    }

    fn into_socket(self, service: watch::Receiver<Service>, keep: Arc<dyn Fn() -> Kept + Send + Sync>) -> HostSocket {
        HostSocket {
            #[cfg(unix)]
            descriptor: self.descriptor,
            service,
            keep,
        }
    }
}

/// Hears from the host what became of listening, and whether the controller serves.
struct Listening {
    tell: Contained<Mutex<Option<oneshot::Sender<Result<Given>>>>>,
    serves: Contained<watch::Sender<Service>>,
}

impl GuestListening for Listening {
    extern "C" fn service(&self, service: u8) {
        contain("telling that a controller serves", || {
            let now = Service::of(service);
            self.serves.send_if_modified(|before| std::mem::replace(before, now) != now);
        });
    }

    extern "C" fn done(&self, result: Fallible<i32>) {
        // Owned from here on: closed if nothing waits for it any more.
        let given = result.into_result().map(Given::of);
        contain("telling that a socket is there", || {
            let tell = self.tell.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(tell) = tell {
                drop(tell.send(given));
            }
        });
    }
}

/// A connection that is open: the host keeps the library loaded.
struct Open(Arc<HostSocketsPtr>);

impl Open {
    fn of(host: &Arc<HostSocketsPtr>) -> Self {
        host.opened();
        Self(Arc::clone(host))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed();
    }
}
