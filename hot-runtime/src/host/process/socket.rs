//! The two halves of a connection, each registered only for what it waits for; descriptors are sent beside the bytes.
//!
//! A socket that is registered for writing wakes its process whenever the other side reads. Between two processes that
//! answer each other that would be a needless wake-up for each message.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Read, Result, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Descriptors are not left open in programs that are executed; on Apple's systems that is set once they have come.
#[cfg(not(target_vendor = "apple"))]
const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(target_vendor = "apple")]
const RECEIVE: RecvFlags = RecvFlags::empty();

/// A closed socket is an error, not a signal. Apple's systems have no such flag; programs in Rust ignore the signal.
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::empty();

/// Splits a socket. Must be called inside a tokio runtime.
///
/// # Errors
/// The system's error.
pub(super) fn halves(socket: UnixStream) -> Result<(ReadingHalf, WritingHalf)> {
    socket.set_nonblocking(true)?;
    // A second descriptor, because one can be registered only once.
    let writing = WritingHalf(socket.try_clone()?);
    Ok((ReadingHalf(register(socket, Interest::READABLE)?), writing))
}

/// Deprecated because a type may lie about its descriptor; those of the standard library do not.
#[allow(deprecated)]
fn register<T: AsFd + AsRawFd>(socket: T, interest: Interest) -> Result<AsyncFd<T>> {
    AsyncFd::with_interest(socket, interest)
}

pub(super) struct ReadingHalf(AsyncFd<UnixStream>);

impl ReadingHalf {
    /// Reads available bytes, once there are some; 0 at the end. Cancel-safe.
    pub(super) async fn read(&self, into: &mut [u8]) -> Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|socket| socket.get_ref().read(into)) {
                Ok(Ok(read)) => {
                    // That was all; there is an event for what comes next.
                    if 0 < read && read < into.len() {
                        ready.clear_ready();
                    }
                    return Ok(read);
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_not_ready) => {}
            }
        }
    }
}

/// Receives descriptors as well, which otherwise are closed. A descriptor comes with the first byte of its message.
impl ReadingHalf {
    /// As [`ReadingHalf::read`]. Cancel-safe.
    pub(super) async fn read_with(&self, into: &mut [u8], descriptors: &mut VecDeque<OwnedFd>) -> Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|socket| receive(socket.get_ref(), into, descriptors)) {
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(read) => return read,
                Err(_not_ready) => {}
            }
        }
    }
}

fn receive(socket: &UnixStream, into: &mut [u8], descriptors: &mut VecDeque<OwnedFd>) -> Result<usize> {
    // The system does not return more than one message with descriptors at once.
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, RECEIVE)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            for descriptor in rights {
                #[cfg(target_vendor = "apple")]
                rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
                descriptors.push_back(descriptor);
            }
        }
    }
    Ok(received.bytes)
}

pub(super) struct WritingHalf(UnixStream);

impl WritingHalf {
    /// Writes what the socket accepts now; 0 if it is full.
    pub(super) fn try_write(&self, bytes: &[u8]) -> Result<usize> {
        loop {
            match (&self.0).write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Ok(0) => return Err(Error::from(ErrorKind::WriteZero)),
                written => return written,
            }
        }
    }

    /// As [`WritingHalf::try_write`], with a descriptor that is sent with the first byte.
    pub(super) fn try_write_with(&self, bytes: &[u8], descriptor: &OwnedFd) -> Result<usize> {
        let descriptors = [descriptor.as_fd()];
        loop {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(Error::other("there is no room for a descriptor"));
            }
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SEND).map_err(Error::from) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Ok(0) => return Err(Error::from(ErrorKind::WriteZero)),
                written => return written,
            }
        }
    }

    /// Waits until the socket may accept more. Cancel-safe.
    pub(super) async fn writable(&self) -> Result<()> {
        register(self.0.as_fd(), Interest::WRITABLE)?.writable().await.map(drop)
    }

    /// Writes all of it.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes)? {
                0 => self.writable().await?,
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }
}
