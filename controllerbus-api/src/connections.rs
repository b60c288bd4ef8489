//! The page's connections, which leave nothing behind when the daemon is the first to close them, not even when it is killed.
//!
//! The system keeps what is left of a connection for a minute, and as long as it does so, nobody gets the port to himself. But that
//! is what the next daemon needs, so that pages can come back to it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// After how long what was written has arrived: on this machine, unless nobody reads it.
const ARRIVED: Duration = Duration::from_secs(1);

/// A connection to the page's port.
pub struct Connection {
    stream: TcpStream,
    /// When something was written last.
    written: Instant,
    end: CancellationToken,
}

impl Connection {
    /// Reset rather than closed once `end` is cancelled, or if it was idle, or if the system closes it because the daemon was killed.
    pub fn new(stream: TcpStream, end: CancellationToken) -> Self {
        let connection = Self { stream, written: Instant::now(), end };
        connection.will_reset(true);
        connection
    }

    /// Whether the system resets it when it is closed, and does not wait for what was written to arrive.
    fn will_reset(&self, resets: bool) {
        #[cfg(unix)]
        let _ = rustix::net::sockopt::set_socket_linger(&self.stream, resets.then_some(Duration::ZERO));
        #[cfg(not(unix))]
        let _ = resets;
    }

    /// Whether nothing that somebody waits for is lost if it is reset.
    fn may_reset(&self) -> bool {
        self.end.is_cancelled() || self.written.elapsed() > ARRIVED
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.will_reset(self.may_reset());
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written = Instant::now();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.written = Instant::now();
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if cfg!(unix) && self.may_reset() {
            // With a farewell it could not be reset any more.
            return Poll::Ready(Ok(()));
        }
        self.will_reset(false);
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
