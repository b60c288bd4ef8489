//! Sockets that the host keeps, from which each generation of a controller accepts in turn.
//!
//! A controller that binds an address itself cannot be swapped: its successor is made ready beside it, and cannot bind the
//! same address. So it asks its context:
//!
//! ```no_run
//! # use controllerbus::prelude::*;
//! # async fn answer(_: controllerbus::listen::Connection) {}
//! # async fn execute(context: &Context) -> Result<()> {
//! let mut listener = context.listen("127.0.0.1:8080").await?;
//! while let Some((connection, _)) = listener.accept().await? {
//!     tokio::spawn(answer(connection));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The host makes the socket when it is first asked for, and keeps it for the controller's key in the config set. Every
//! generation, and every config of that key, gets its own descriptor of that one socket, also in a process of its own. A new
//! generation accepts once it serves; connections that arrive meanwhile wait in the socket's queue. So no connection is
//! refused, and none that was accepted is lost with a generation that is rolled back.

mod address;
#[cfg(unix)]
pub(crate) mod bind;
#[cfg(unix)]
mod connection;
#[cfg(unix)]
mod listener;
#[cfg(not(unix))]
#[path = "elsewhere.rs"]
mod listener;

use std::any::Any;
use std::sync::Arc;

use tokio::sync::watch;

pub use address::Address;
#[cfg(unix)]
pub use connection::{Connection, Connections};
#[cfg(unix)]
pub use listener::StdListener;
#[cfg(not(unix))]
pub(crate) use listener::unsupported;
pub use listener::{Listener, Peer};

use crate::Result;
use crate::controller::BoxFuture;

/// Whether a controller is the one that serves its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Service {
    /// It is being made ready.
    Waiting = 0,
    /// It serves.
    Serving = 1,
    /// Another controller serves in its place.
    Replaced = 2,
    /// It is to end, and nothing takes its place.
    Removed = 3,
}

impl Service {
    /// Whether it has stopped serving.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Replaced | Self::Removed)
    }

    /// The inverse of `as u8`.
    pub fn of(number: u8) -> Self {
        match number {
            0 => Self::Waiting,
            1 => Self::Serving,
            2 => Self::Replaced,
            _ => Self::Removed,
        }
    }
}

/// Where a controller's sockets come from: the bus of this process, or the boundary's way to the host's.
pub trait Sockets: Send + Sync + 'static {
    /// A descriptor of the socket at an address, which is made if there is none yet.
    ///
    /// # Errors
    /// Why the host cannot listen there, or that this controller is not allowed to.
    fn listen(&self, address: Address) -> BoxFuture<'static, Result<HostSocket>>;
}

/// Keeps the code that serves a connection loaded.
pub type Kept = Box<dyn Any + Send + Sync>;

/// A descriptor of a socket that the host keeps, for one controller.
pub struct HostSocket {
    /// A listening socket in non-blocking mode.
    #[cfg(unix)]
    pub descriptor: std::os::fd::OwnedFd,
    /// Whether the controller serves.
    pub service: watch::Receiver<Service>,
    /// Called for each connection.
    pub keep: Arc<dyn Fn() -> Kept + Send + Sync>,
}

impl std::fmt::Debug for HostSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostSocket").field("service", &*self.service.borrow()).finish_non_exhaustive()
    }
}
