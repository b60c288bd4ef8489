//! The writing half of a connection: written in place while it is quiet, in batches while it is busy, never unbounded.

use std::io::ErrorKind as IoErrorKind;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, BytesMut};
use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};
use serde::Serialize;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

/// How many queued bytes make a sender wait.
const FULL: usize = 1 << 20;

/// A message that comes sooner than this after a write is left to the next batch: a system call costs more than to queue.
const BATCH: Duration = Duration::from_micros(15);

/// An emptied queue larger than this is given back.
const KEPT: usize = 4 << 20;

/// What is to be written, and who waits for room.
pub(super) struct Outbox {
    socket: OwnedWriteHalf,
    longest: usize,
    queue: Mutex<Queue>,
    flush: Notify,
    room: Notify,
    freed: Condvar,
}

struct Queue {
    bytes: BytesMut,
    written: Instant,
    /// Whether the flushing task has been told and has not emptied the queue since.
    scheduled: bool,
    closed: bool,
}

impl Outbox {
    pub(super) fn new(socket: OwnedWriteHalf, longest: usize) -> Self {
        Self {
            socket,
            longest,
            queue: Mutex::new(Queue {
                bytes: BytesMut::new(),
                written: Instant::now(),
                scheduled: false,
                closed: false,
            }),
            flush: Notify::new(),
            room: Notify::new(),
            freed: Condvar::new(),
        }
    }

    /// Queues a message without waiting: for those of which there are few, or one for each message that came.
    ///
    /// # Errors
    /// The connection is closed, or the message is too long.
    pub(super) fn push<M: Serialize>(&self, message: &M) -> Result<()> {
        self.append(&mut self.lock(), message)
    }

    /// Queues a message unless others wait; false if it was not.
    pub(super) fn try_send<M: Serialize>(&self, message: &M) -> bool {
        let mut queue = self.lock();
        queue.bytes.len() < FULL && self.append(&mut queue, message).is_ok()
    }

    /// Queues a message once there is room. Cancel-safe.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    pub(super) async fn send<M: Serialize>(&self, message: &M) -> Result<()> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            {
                let mut queue = self.lock();
                if queue.closed || queue.bytes.len() < FULL {
                    return self.append(&mut queue, message);
                }
                room.as_mut().enable();
            }
            room.await;
        }
    }

    /// Queues a message once there is room, for a thread that may block: never one that the connection runs on.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    pub(super) fn send_blocking<M: Serialize>(&self, message: &M) -> Result<()> {
        let mut queue = self.lock();
        while !queue.closed && queue.bytes.len() >= FULL {
            queue = self.freed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        self.append(&mut queue, message)
    }

    /// Refuses messages from now on and lets those go who wait for room.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.bytes = BytesMut::new();
        drop(queue);
        self.freed.notify_all();
        self.room.notify_waiters();
        self.flush.notify_one();
    }

    /// Writes what is queued, until the connection is closed.
    pub(super) async fn run(&self) {
        loop {
            self.flush.notified().await;
            loop {
                // Those who are ready to send get to add to the batch.
                tokio::task::yield_now().await;
                let blocked = {
                    let mut queue = self.lock();
                    if queue.closed {
                        return;
                    }
                    self.write(&mut queue);
                    if queue.bytes.is_empty() {
                        queue.scheduled = false;
                        break;
                    }
                    !queue.closed
                };
                if blocked && self.socket.writable().await.is_err() {
                    return self.close();
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append<M: Serialize>(&self, queue: &mut Queue, message: &M) -> Result<()> {
        if queue.closed {
            return Err(Error::new(ErrorKind::Closed, "the connection of a plugin's process is closed"));
        }
        let start = queue.bytes.len();
        queue.bytes.put_u32_le(0);
        let encoded = rmp_serde::encode::write(&mut (&mut queue.bytes).writer(), message);
        let length = queue.bytes.len() - start - 4;
        let refused = match encoded {
            Err(error) => Some(format!("a message to a plugin's process cannot be encoded: {error}")),
            Ok(()) if length > self.longest => {
                Some(format!("a message of {length} bytes is longer than the limit of {} bytes", self.longest))
            }
            Ok(()) => None,
        };
        if let Some(refused) = refused {
            queue.bytes.truncate(start);
            return Err(Error::new(ErrorKind::Encoding, refused));
        }
        queue.bytes[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
        if queue.scheduled {
            return Ok(());
        }
        if queue.written.elapsed() >= BATCH {
            self.write(queue);
        }
        if !queue.bytes.is_empty() {
            queue.scheduled = true;
            self.flush.notify_one();
        }
        Ok(())
    }

    /// Writes as much as the socket takes now.
    fn write(&self, queue: &mut Queue) {
        while !queue.bytes.is_empty() {
            match self.socket.try_write(&queue.bytes) {
                Ok(0) => break,
                Ok(written) => queue.bytes.advance(written),
                Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                Err(error) if error.kind() == IoErrorKind::WouldBlock => break,
                Err(_) => {
                    queue.closed = true;
                    queue.bytes = BytesMut::new();
                }
            }
        }
        queue.written = Instant::now();
        if queue.bytes.is_empty() && queue.bytes.capacity() > KEPT {
            queue.bytes = BytesMut::new();
        }
        if queue.bytes.len() < FULL {
            self.freed.notify_all();
            self.room.notify_waiters();
        }
    }
}
