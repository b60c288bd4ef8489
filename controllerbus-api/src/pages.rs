//! The page on its own loopback port, for browsers, which cannot connect to a Unix socket.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::auth::{Door, Kept, port_of};
use super::controller::{Listener, serve};
use super::server::Service;
use crate::page;

/// The ports that a page's is chosen from: those that Linux gives to nobody by itself.
const PORTS: std::ops::Range<u16> = 61_000..65_500;

/// The door to the page, once `cbus page` has asked for it, or there are pages that may come back.
#[derive(Default)]
pub struct Pages {
    open: Mutex<Option<(Arc<Door>, u16)>>,
    /// Where the pages that may come back are kept; none if they may not.
    file: Option<PathBuf>,
}

impl Pages {
    /// Pages of the daemon at a socket that may come back after a restart of it.
    pub fn beside(socket: &Path) -> Self {
        let mut file = socket.as_os_str().to_owned();
        file.push(".page");
        Self { open: Mutex::default(), file: Some(file.into()) }
    }

    /// Opens the door if an earlier daemon had pages that may come back.
    pub async fn resume(&self, service: &Service) {
        if self.file.as_deref().is_some_and(|file| port_of(file).is_some())
            && let Err(error) = self.open(service).await
        {
            tracing::warn!(target: "cbus", "open pages cannot come back: {error}");
        }
    }

    /// Listens: if possible at the port that open pages know, or else always at the same one of this daemon's own, because what
    /// the browser stores for the page belongs to its port.
    async fn listen(&self) -> io::Result<TcpListener> {
        let chosen = self.file.as_deref().map(|file| {
            let hash = blake3::hash(file.as_os_str().as_encoded_bytes());
            let number = u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]);
            port_of(file).unwrap_or(PORTS.start + number % (PORTS.end - PORTS.start))
        });
        if let Some(port) = chosen
            && let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
        {
            return Ok(listener);
        }
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
    }

    /// The door to the page, and its port. Nobody gets in without a session.
    pub async fn open(&self, service: &Service) -> io::Result<(Arc<Door>, u16)> {
        let mut open = self.open.lock().await;
        if let Some((door, port)) = &*open {
            return Ok((Arc::clone(door), *port));
        }
        let listener = self.listen().await?;
        let port = listener.local_addr()?.port();
        let door = Door::to_page(port, self.file.clone().map(|file| Kept::at(file, port)));
        let (routes, end, serving) = (page::router(service.clone()), service.end.clone(), Arc::clone(&door));
        tokio::spawn(async move {
            if let Err(error) = serve(Listener::Tcp(listener), routes, &serving, None, &end).await {
                tracing::error!(target: "cbus", "the page has ended: {error}");
            }
        });
        tracing::info!(target: "cbus", "the page is at http://127.0.0.1:{port}; open it with `cbus page`");
        *open = Some((Arc::clone(&door), port));
        Ok((door, port))
    }
}
