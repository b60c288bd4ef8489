//! A cable that can be cut: it passes bytes between two TCP ports, or does not.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::Result;

/// How long is waited after a connection could not be accepted.
const AGAIN: Duration = Duration::from_millis(100);

/// Passes bytes to a port as long as it is there.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    is_whole: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Passes on what comes, to a port of this machine.
    pub async fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (is_whole, seen) = watch::channel(true);
        Ok(Self { address, is_whole, task: tokio::spawn(accept(listener, port, seen)) })
    }

    /// From now on nothing gets through, in neither direction, and nobody is told: the connections stay open.
    pub fn cut(&self) {
        self.is_whole.send_replace(false);
    }

    /// It gets through again, also what was sent meanwhile.
    pub fn mend(&self) {
        self.is_whole.send_replace(true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, whole: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((from, _)) = listener.accept().await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let whole = whole.clone();
        connections.spawn(async move {
            let mut seen = whole.clone();
            // Nobody answers at the end of a cable that is cut.
            if seen.wait_for(|whole| *whole).await.is_err() {
                return;
            }
            let Ok(to) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let _ = (from.set_nodelay(true), to.set_nodelay(true));
            let (read_from, write_from) = from.into_split();
            let (read_to, write_to) = to.into_split();
            // A connection is over when one side has closed it.
            tokio::select! {
                () = pass(read_from, write_to, whole.clone()) => {}
                () = pass(read_to, write_from, whole) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut whole: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if whole.wait_for(|whole| *whole).await.is_err() {
            return;
        }
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        // What was on its way when it was cut waits in front of the gap.
        if whole.wait_for(|whole| *whole).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
