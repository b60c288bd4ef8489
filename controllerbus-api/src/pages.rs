//! The page on loopback ports, for browsers, which cannot connect to a Unix socket.
//!
//! `cbus page` opens it on a port that this daemon chooses, and no earlier one has told: whoever had a port while no daemon had it
//! may have left things in the browser that belong to it (scripts in its cache, a service worker), and they would see the code that
//! begins a session. Ports of earlier daemons are opened as well, but only for pages that are still open there and come back
//! ([`Kept`]). These load nothing from it any more, so what somebody has left is not run.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Mutex;

use super::auth::{Door, Kept};
use super::controller::{Listener, serve};
use super::server::Service;
use crate::page;

/// The pauses after which it is tried again to get a port: each is twice as long as the one before.
const PAUSES: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(1);

/// The doors to the page.
#[derive(Default)]
pub struct Pages {
    /// The one for `cbus page`, once that has asked for it, and its port.
    open: Mutex<Option<(Arc<Door>, u16)>>,
    /// The pages that may come back; none if they may not.
    kept: Option<Arc<Kept>>,
}

impl Pages {
    /// Pages of the daemon at a socket that may come back after a restart of it.
    pub fn beside(socket: &Path) -> Self {
        let mut file = socket.as_os_str().to_owned();
        file.push(".page");
        Self { open: Mutex::default(), kept: Some(Arc::new(Kept::at(file.into()))) }
    }

    /// Opens the ports of earlier daemons to the pages that may come back, as soon as nobody else has them.
    pub fn resume(&self, service: &Service) {
        let Some(kept) = &self.kept else { return };
        for port in kept.ports() {
            let (kept, service) = (Arc::clone(kept), service.clone());
            tokio::spawn(async move {
                let end = service.end.clone();
                tokio::select! {
                    () = end.cancelled() => {}
                    opened = wait_for(port, &kept) => match opened {
                        Ok(Some(listener)) => {
                            tracing::debug!(target: "cbus", "open pages come back at port {port}");
                            run(listener, Door::to_returning_pages(port, kept), service).await;
                        }
                        Ok(None) => {}
                        Err(error) => tracing::warn!(target: "cbus", "open pages cannot come back at port {port}: {error}"),
                    }
                }
            });
        }
    }

    /// The door to the page, and its port. Nobody gets in without a session.
    pub async fn open(&self, service: &Service) -> io::Result<(Arc<Door>, u16)> {
        let mut open = self.open.lock().await;
        if let Some((door, port)) = &*open {
            return Ok((Arc::clone(door), *port));
        }
        let known = self.kept.as_ref().map(|kept| kept.ports()).unwrap_or_default();
        // Held until another one is found.
        let mut refused = Vec::new();
        let (listener, port) = loop {
            let listener = listen_alone(0)?;
            let port = listener.local_addr()?.port();
            if !known.contains(&port) {
                break (listener, port);
            }
            refused.push(listener);
        };
        let door = Door::to_page(port, self.kept.clone());
        tokio::spawn(run(listener, Arc::clone(&door), service.clone()));
        tracing::info!(target: "cbus", "the page is at http://127.0.0.1:{port}; open it with `cbus page`");
        *open = Some((Arc::clone(&door), port));
        Ok((door, port))
    }
}

async fn run(listener: TcpListener, door: Arc<Door>, service: Service) {
    let (routes, end) = (page::router(service.clone()), service.end);
    if let Err(error) = serve(Listener::Page(listener), routes, &door, None, &end).await {
        tracing::error!(target: "cbus", "the page has ended: {error}");
    }
}

/// Listens on a port of an earlier daemon as soon as nobody else has it; none once no page may come back to it.
async fn wait_for(port: u16, kept: &Kept) -> io::Result<Option<TcpListener>> {
    let mut pause = *PAUSES.start();
    while kept.ports().contains(&port) {
        match listen_alone(port) {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        let next = (pause * 2).min(*PAUSES.end());
        if next == *PAUSES.end() && pause < next {
            // For a minute, the system also holds what is left of a connection that was closed rather than reset.
            tracing::info!(target: "cbus", "open pages come back once port {port}, or what is left of its connections, is free");
        }
        pause = next;
    }
    Ok(None)
}

/// Listens on a port where nobody listens, and nobody holds a connection that was made to it: whoever did could stand between the
/// daemon and a browser that still uses the connection. Unlike `TcpListener::bind`, this does not set SO_REUSEADDR.
fn listen_alone(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    socket.listen(1024)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_to_which_somebody_still_holds_a_connection_is_not_taken() {
        // All of these set SO_REUSEADDR.
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let before = std::net::TcpListener::bind(address).expect("a port");
            let port = before.local_addr().expect("its address").port();
            let browser = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connecting");
            let (held, _) = before.accept().expect("a connection");
            drop(before);
            let refused = listen_alone(port).map(drop).map_err(|error| error.kind());
            assert_eq!(refused, Err(io::ErrorKind::AddrInUse));
            // The browser is the first to close it: nothing is left here.
            drop(browser);
            assert_eq!(io::Read::read(&mut &held, &mut [0]).expect("its end"), 0);
            drop(held);
            listen_alone(port).expect("it is free");
        }
    }
}
