//! The two halves of a connection, each registered for what it waits for and no more; descriptors travel beside the bytes.
//!
//! A socket that is registered for writing wakes its process whenever the other side has read something. Between two
//! processes that answer each other that is a wake-up for each message, for nothing.

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

/// Makes the halves of a socket. Must be called inside a tokio runtime.
///
/// # Errors
/// What the system said.
pub(super) fn halves(socket: UnixStream) -> Result<(ReadingHalf, WritingHalf)> {
    socket.set_nonblocking(true)?;
    // A descriptor of its own: one can be registered once only.
    let writing = WritingHalf(socket.try_clone()?);
    Ok((ReadingHalf(register(socket, Interest::READABLE)?), writing))
}

/// Deprecated because a type may lie about which descriptor it has; those of the standard library do not.
#[allow(deprecated)]
fn register<T: AsFd + AsRawFd>(socket: T, interest: Interest) -> Result<AsyncFd<T>> {
    AsyncFd::with_interest(socket, interest)
}

pub(super) struct ReadingHalf(AsyncFd<UnixStream>);

impl ReadingHalf {
    /// Reads what is there, once something is; 0 at the end. Cancel-safe.
    pub(super) async fn read(&self, into: &mut [u8]) -> Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|socket| socket.get_ref().read(into)) {
                Ok(Ok(read)) => {
                    // That was all; what comes next is told of again.
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

/// Takes the descriptors that come with what is read; without it they are closed. A message that has one begins with it.
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
    // The system ends what it hands out behind a message that has some.
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(received.bytes)
}

pub(super) struct WritingHalf(UnixStream);

impl WritingHalf {
    /// Writes what the socket takes now; 0 if it is full.
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

    /// As [`WritingHalf::try_write`], with a descriptor that travels with the first byte.
    pub(super) fn try_write_with(&self, bytes: &[u8], descriptor: &OwnedFd) -> Result<usize> {
        let descriptors = [descriptor.as_fd()];
        loop {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(Error::other("there is no room for a descriptor"));
            }
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).map_err(Error::from) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Ok(0) => return Err(Error::from(ErrorKind::WriteZero)),
                written => return written,
            }
        }
    }

    /// Waits until the socket may take more. Cancel-safe.
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
