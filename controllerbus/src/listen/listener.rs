//! A controller's listener: it accepts while the controller is the one that serves.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use super::connection::{Connection, Connections, Stream};
use super::{Address, HostSocket, Kept, Service};
use crate::{Error, Result};

/// A listener whose socket the host keeps. See [the module](super).
#[must_use = "dropping it stops listening"]
pub struct Listener {
    socket: Socket,
    service: watch::Receiver<Service>,
    keep: std::sync::Arc<dyn Fn() -> Kept + Send + Sync>,
    connections: Connections,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listener of the standard library, in non-blocking mode.
#[derive(Debug)]
pub enum StdListener {
    /// A TCP socket.
    Tcp(std::net::TcpListener),
    /// A Unix socket.
    Unix(StdUnixListener),
}

impl StdListener {
    /// From a descriptor of a listening socket.
    ///
    /// # Errors
    /// When it is a socket of another kind, or not a socket.
    pub(crate) fn of(descriptor: OwnedFd) -> io::Result<Self> {
        let tcp = std::net::TcpListener::from(descriptor);
        if tcp.local_addr().is_ok() {
            return Ok(Self::Tcp(tcp));
        }
        let unix = StdUnixListener::from(OwnedFd::from(tcp));
        unix.local_addr()?;
        Ok(Self::Unix(unix))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(tcp) => Ok(Address::Tcp(tcp.local_addr()?.to_string())),
            Self::Unix(unix) => {
                Ok(Address::Unix(unix.local_addr()?.as_pathname().map(std::path::Path::to_owned).unwrap_or_default()))
            }
        }
    }
}

impl From<StdListener> for OwnedFd {
    fn from(listener: StdListener) -> Self {
        match listener {
            StdListener::Tcp(tcp) => tcp.into(),
            StdListener::Unix(unix) => unix.into(),
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket, whose peers have no address.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl Listener {
    /// Over the host's socket. Must be called inside a tokio runtime.
    pub(crate) fn new(socket: HostSocket) -> Result<Self> {
        let HostSocket { descriptor, service, keep } = socket;
        let listening = StdListener::of(descriptor).and_then(|socket| match socket {
            StdListener::Tcp(tcp) => TcpListener::from_std(tcp).map(Socket::Tcp),
            StdListener::Unix(unix) => UnixListener::from_std(unix).map(Socket::Unix),
        });
        let socket = listening.map_err(|error| Error::from(error).context("the host's socket cannot be used"))?;
        Ok(Self { socket, service, keep, connections: Connections::default() })
    }

    /// Waits for the next connection while the controller serves; `None` once another one serves in its place, or it is to
    /// end. Cancel-safe.
    ///
    /// # Errors
    /// The system's, such as that too many files are open. The next call may succeed.
    pub async fn accept(&mut self) -> io::Result<Option<(Connection, Peer)>> {
        loop {
            let service = *self.service.borrow_and_update();
            if service.has_ended() {
                return Ok(None);
            }
            let accepting = async {
                match (service, &self.socket) {
                    (Service::Serving, Socket::Tcp(tcp)) => {
                        tcp.accept().await.map(|(stream, peer)| (Stream::Tcp(stream), Peer::Tcp(peer)))
                    }
                    (Service::Serving, Socket::Unix(unix)) => {
                        unix.accept().await.map(|(stream, _)| (Stream::Unix(stream), Peer::Unix))
                    }
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = self.service.changed() => if changed.is_err() { return Ok(None) },
                accepted = accepting => {
                    let (stream, peer) = accepted?;
                    return Ok(Some((self.connections.open(stream, (self.keep)()), peer)));
                }
            }
        }
    }

    /// Where it listens; with the actual port if port 0 was asked for.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<Address> {
        match &self.socket {
            Socket::Tcp(tcp) => Ok(Address::Tcp(tcp.local_addr()?.to_string())),
            Socket::Unix(unix) => {
                Ok(Address::Unix(unix.local_addr()?.as_pathname().map(std::path::Path::to_owned).unwrap_or_default()))
            }
        }
    }

    /// Whether the controller serves, now and whenever that changes. A closed channel means that it has ended.
    pub fn service(&self) -> watch::Receiver<Service> {
        self.service.clone()
    }

    /// The open connections that it has accepted.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Waits until the controller serves; false if it is to end before that.
    pub async fn serves(&mut self) -> bool {
        let found = self.service.wait_for(|service| *service != Service::Waiting).await;
        found.is_ok_and(|service| *service == Service::Serving)
    }

    /// Waits until another controller serves in its place, or it is to end; returns which.
    pub async fn ended(&mut self) -> Service {
        let found = self.service.wait_for(|service| service.has_ended()).await;
        found.map_or(Service::Removed, |service| *service)
    }

    /// The plain socket, for libraries that need one. It accepts whether the controller serves or not: wait for
    /// [`Listener::serves`] before, and stop accepting when [`Listener::service`] says so.
    ///
    /// # Errors
    /// The system's.
    pub fn into_std(self) -> io::Result<StdListener> {
        match self.socket {
            Socket::Tcp(tcp) => tcp.into_std().map(StdListener::Tcp),
            Socket::Unix(unix) => unix.into_std().map(StdListener::Unix),
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string());
        f.debug_struct("Listener").field("address", &address).field("service", &*self.service.borrow()).finish()
    }
}
