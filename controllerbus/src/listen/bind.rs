//! Makes the sockets that a host keeps.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::listener::StdListener;
use super::{Address, HostSocket, Service, Sockets};
use crate::controller::BoxFuture;
use crate::error::{Code, ErrorKind};
use crate::{Error, Result};

/// How many connections may wait in a socket's queue, as far as the system allows it.
const QUEUE: i32 = 4096;

/// Makes a socket that listens, in non-blocking mode. Blocks while a name is looked up.
pub(crate) fn bind(address: &Address) -> Result<StdListener> {
    let bound = match address {
        Address::Tcp(text) => bind_any(text),
        Address::Unix(path) => bind_path(path),
        Address::Inherited(name) => {
            let what = format!("cannot listen at `systemd:{name}`: the host was given no socket of that name");
            return Err(Error::new(ErrorKind::NotFound, what));
        }
    };
    // Not the system's message, by which `bus/owning.rs` recognizes a controller's own `bind`.
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Error::msg(format!("cannot listen at {address}: the address is already in use"))
            .with_code(Code::ADDRESS_IN_USE),
        _ => Error::msg(format!("cannot listen at {address}: {error}")),
    })
}

fn bind_any(text: &str) -> io::Result<StdListener> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in text.to_socket_addrs()? {
        match bind_tcp(address) {
            Ok(socket) => return Ok(StdListener::Tcp(socket.into())),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of a host that has just ended do not block the address.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    ready(socket)
}

fn bind_path(path: &Path) -> io::Result<StdListener> {
    let try_it = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        ready(socket).map(|socket| StdListener::Unix(socket.into()))
    };
    match try_it() {
        // Left behind by a host that was killed.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path) => {
            std::fs::remove_file(path)?;
            try_it()
        }
        bound => bound,
    }
}

fn is_left_behind(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(refused)
}

fn ready(socket: Socket) -> io::Result<Socket> {
    socket.listen(QUEUE)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// For a context that was made without a bus: each address is bound for it alone, and accepts at once.
pub(crate) struct Unshared;

impl Sockets for Unshared {
    fn listen(&self, address: Address) -> BoxFuture<'static, Result<HostSocket>> {
        Box::pin(async move {
            let bound = tokio::task::spawn_blocking(move || bind(&address)).await.map_err(Error::msg)??;
            let (serving, service) = tokio::sync::watch::channel(Service::Serving);
            // The sender is kept with the listener, which would end without one.
            let keep = std::sync::Arc::new(move || {
                let _ = &serving;
                Box::new(()) as super::Kept
            });
            Ok(HostSocket { descriptor: bound.into(), service, keep })
        })
    }
}
