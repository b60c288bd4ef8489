//! The page on its own loopback port, for browsers, which cannot connect to a Unix socket.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::auth::{Door, Way};
use super::controller::{Listener, serve};
use super::server::Service;
use crate::page;

/// The door to the page, once `cbus page` has asked for it.
#[derive(Default)]
pub struct Pages {
    open: Mutex<Option<(Arc<Door>, u16)>>,
}

impl Pages {
    /// The door to the page, and its port. Nobody gets in without a session.
    pub async fn open(&self, service: &Service) -> io::Result<(Arc<Door>, u16)> {
        let mut open = self.open.lock().await;
        if let Some((door, port)) = &*open {
            return Ok((Arc::clone(door), *port));
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let door = Door::new(Way::Tcp { port, loopback: true, tls: false, certificates: false }, None, false);
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
