//! A connection that a controller's listener has accepted. It keeps its code loaded, and can be cut.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Kept;

/// A connection. While it is open, the generation that accepted it stays loaded, even if its controller is gone.
pub struct Connection {
    stream: Stream,
    token: CancellationToken,
    /// One for the reader and one for the writer, which may be two tasks; created when they first wait.
    cut: [Option<Pin<Box<WaitForCancellationFutureOwned>>>; 2],
    _open: Open,
    // Dropped last: it keeps the code that drops the rest.
    _kept: Kept,
}

pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The open connections of one listener. Cloning it gives another handle to the same ones.
#[derive(Clone, Default)]
pub struct Connections(Arc<Shared>);

#[derive(Default)]
struct Shared {
    open: watch::Sender<usize>,
    cut: CancellationToken,
}

/// Counts a connection while it is open.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

impl Connections {
    pub(super) fn open(&self, stream: Stream, kept: Kept) -> Connection {
        self.0.open.send_modify(|open| *open += 1);
        let token = self.0.cut.clone();
        Connection { stream, token, cut: [None, None], _open: Open(Arc::clone(&self.0)), _kept: kept }
    }

    /// How many connections are open.
    pub fn count(&self) -> usize {
        *self.0.open.borrow()
    }

    /// Waits until no connection is open.
    pub async fn closed(&self) {
        let mut open = self.0.open.subscribe();
        // The sender is held here.
        let _ = open.wait_for(|open| *open == 0).await;
    }

    /// Cuts all open and future connections: reads return the end of the stream, and writes an error.
    pub fn cut(&self) {
        self.0.cut.cancel();
    }
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("open", &self.count()).finish()
    }
}

impl Connection {
    /// The stream, if it is a TCP connection: for its options and addresses.
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        match &self.stream {
            Stream::Tcp(tcp) => Some(tcp),
            Stream::Unix(_) => None,
        }
    }

    /// The stream, if it is a Unix socket: for its peer's credentials.
    pub fn as_unix(&self) -> Option<&UnixStream> {
        match &self.stream {
            Stream::Tcp(_) => None,
            Stream::Unix(unix) => Some(unix),
        }
    }

    /// Whether it is cut; otherwise the task is woken when it is.
    fn is_cut(&mut self, side: usize, cx: &mut Context<'_>) -> bool {
        let token = &self.token;
        let cut = self.cut[side].get_or_insert_with(|| Box::pin(token.clone().cancelled_owned()));
        token.is_cancelled() || cut.as_mut().poll(cx).is_ready()
    }

    /// The outcome of a write. Once it is cut, it does not wait for a peer that may never read.
    fn written<T>(&mut self, outcome: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_pending() && self.is_cut(1, cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        outcome
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.stream {
            Stream::Tcp(tcp) => tcp.fmt(f),
            Stream::Unix(unix) => unix.fmt(f),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Stream::Unix(unix) => Pin::new(unix).poll_read(cx, buffer),
        };
        // Data that has arrived is still read.
        if read.is_pending() && self.is_cut(0, cx) { Poll::Ready(Ok(())) } else { read }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Stream::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
        };
        self.written(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Stream::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, slices),
        };
        self.written(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(tcp) => tcp.is_write_vectored(),
            Stream::Unix(unix) => unix.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}
