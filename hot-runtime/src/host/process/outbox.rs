//! The writing half of a connection: it writes directly while the connection is quiet and in batches while it is busy,
//! with a bounded queue.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, BytesMut};
use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};
use serde::Serialize;
use tokio::sync::Notify;

use super::socket::WritingHalf;

/// How many queued bytes make senders wait.
const FULL: usize = 1 << 20;

/// A message sooner than this after a write waits for the next batch: a system call costs more than queueing.
const BATCH: Duration = Duration::from_micros(15);

/// How long a message that nothing waits for may wait for one that something does.
const LATER: Duration = Duration::from_millis(1);

/// An emptied queue with a larger capacity is freed.
const KEPT: usize = 4 << 20;

/// How much more than that, and than the longest message, may be queued by those that do not wait.
pub(super) const ANSWERS: usize = 16 << 20;

/// The queue of messages, and the senders that wait for room.
pub(super) struct Outbox {
    socket: WritingHalf,
    longest: usize,
    /// How many bytes may be queued by those that do not wait for room.
    most: usize,
    queue: Mutex<Queue>,
    /// There would have been more.
    overfull: Notify,
    flush: Notify,
    later: Notify,
    room: Notify,
    freed: Condvar,
}

struct Queue {
    bytes: BytesMut,
    /// The descriptors to send, each with the offset in `bytes` where its message starts.
    descriptors: VecDeque<(usize, OwnedFd)>,
    written: Instant,
    /// Whether the flushing task was notified and has not emptied the queue since.
    scheduled: bool,
    /// Whether there are messages that nothing waits for, and the flushing task was notified.
    later: bool,
    /// How many threads wait for room.
    blocked: usize,
    /// Whether one has waited since [`Outbox::has_waited`] was called.
    waited: bool,
    closed: bool,
}

impl Outbox {
    /// For messages of at most `longest` bytes. [`Outbox::overfull`] returns when `answers` bytes more than that are queued,
    /// because the other end does not read.
    pub(super) fn new(socket: WritingHalf, longest: usize, answers: usize) -> Self {
        Self {
            socket,
            longest,
            most: FULL.saturating_add(longest).saturating_add(answers),
            overfull: Notify::new(),
            queue: Mutex::new(Queue {
                bytes: BytesMut::new(),
                descriptors: VecDeque::new(),
                written: Instant::now(),
                scheduled: false,
                later: false,
                blocked: 0,
                waited: false,
                closed: false,
            }),
            flush: Notify::new(),
            later: Notify::new(),
            room: Notify::new(),
            freed: Condvar::new(),
        }
    }

    /// Returns when more was to be queued than may be.
    pub(super) async fn overfull(&self) {
        self.overfull.notified().await;
    }

    /// Queues a message without waiting: for rare messages, and for answers to received ones.
    ///
    /// # Errors
    /// The connection is closed, or the message is too long.
    pub(super) fn push<M: Serialize>(&self, message: &M) -> Result<()> {
        self.append(&mut self.lock(), message)
    }

    /// As [`Outbox::push`], with a descriptor beside the message.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    pub(super) fn push_with<M: Serialize>(&self, message: &M, descriptor: OwnedFd) -> Result<()> {
        let mut queue = self.lock();
        let begins = queue.bytes.len();
        self.encode(&mut queue, message)?;
        queue.descriptors.push_back((begins, descriptor));
        self.written_soon(&mut queue);
        Ok(())
    }

    /// As [`Outbox::push`], for a message that nothing waits for: it is sent with the next one that something waits
    /// for, or after a moment.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    pub(super) fn push_later<M: Serialize>(&self, message: &M) -> Result<()> {
        let mut queue = self.lock();
        self.encode(&mut queue, message)?;
        if !queue.scheduled && !queue.later {
            queue.later = true;
            self.later.notify_one();
        }
        Ok(())
    }

    /// Queues a message unless the queue is full; false if it was not queued.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    pub(super) fn try_send<M: Serialize>(&self, message: &M) -> Result<bool> {
        let mut queue = self.lock();
        if queue.closed || queue.bytes.len() < FULL {
            return self.append(&mut queue, message).map(|()| true);
        }
        Ok(false)
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

    /// Queues a message once there is room. Blocks, so the connection must not run on this thread.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    pub(super) fn send_blocking<M: Serialize>(&self, message: &M) -> Result<()> {
        self.append(&mut self.queue_with_room(), message)
    }

    fn queue_with_room(&self) -> MutexGuard<'_, Queue> {
        let mut queue = self.lock();
        while !queue.closed && queue.bytes.len() >= FULL {
            queue.blocked += 1;
            queue.waited = true;
            queue = self.freed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.blocked -= 1;
        }
        queue
    }

    /// As [`Outbox::send_blocking`], for a message after which this thread sends nothing for a while: it is written at once, however
    /// soon after another, because waking the thread that writes batches would take longer.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    pub(super) fn send_last(&self, message: &impl Serialize) -> Result<()> {
        let mut queue = self.queue_with_room();
        self.encode(&mut queue, message)?;
        if !queue.scheduled {
            self.write(&mut queue);
        }
        // Where the socket is full.
        self.written_soon(&mut queue);
        Ok(())
    }

    /// Whether a thread waits for room, or has since the last call.
    pub(super) fn has_waited(&self) -> bool {
        let mut queue = self.lock();
        std::mem::replace(&mut queue.waited, false) || queue.blocked > 0
    }

    /// Refuses messages from now on, and wakes the senders that wait for room.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.bytes = BytesMut::new();
        queue.descriptors.clear();
        drop(queue);
        self.freed.notify_all();
        self.room.notify_waiters();
        self.flush.notify_one();
        self.later.notify_one();
    }

    /// Writes what is queued, until the connection is closed.
    pub(super) async fn run(&self) {
        tokio::join!(self.flush(), self.flush_later());
    }

    async fn flush_later(&self) {
        loop {
            self.later.notified().await;
            // Usually another message comes first.
            tokio::time::sleep(LATER).await;
            let mut queue = self.lock();
            if queue.closed {
                return;
            }
            queue.later = false;
            if !queue.bytes.is_empty() && !queue.scheduled {
                queue.scheduled = true;
                self.flush.notify_one();
            }
        }
    }

    async fn flush(&self) {
        loop {
            self.flush.notified().await;
            loop {
                // Lets ready senders add to the batch.
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

    /// Queues a message, and writes it if the connection is quiet.
    fn append<M: Serialize>(&self, queue: &mut Queue, message: &M) -> Result<()> {
        self.encode(queue, message)?;
        self.written_soon(queue);
        Ok(())
    }

    fn written_soon(&self, queue: &mut Queue) {
        if queue.scheduled {
            return;
        }
        if queue.written.elapsed() >= BATCH {
            self.write(queue);
        }
        if !queue.bytes.is_empty() {
            queue.scheduled = true;
            self.flush.notify_one();
        }
    }

    fn encode<M: Serialize>(&self, queue: &mut Queue, message: &M) -> Result<()> {
        if queue.closed {
            return Err(Error::new(ErrorKind::Closed, "the connection of a plugin's process is closed"));
        }
        let start = queue.bytes.len();
        queue.bytes.put_u32_le(0);
        let encoded = rmp_serde::encode::write(&mut (&mut queue.bytes).writer(), message);
        let length = queue.bytes.len() - start - 4;
        let refused = match encoded {
            Err(error) => Some(format!("cannot encode a message to a plugin's process: {error}")),
            Ok(()) if length > self.longest => {
                Some(format!("a message of {length} bytes is longer than the limit of {} bytes", self.longest))
            }
            Ok(()) => None,
        };
        if let Some(refused) = refused {
            queue.bytes.truncate(start);
            return Err(Error::new(ErrorKind::Encoding, refused));
        }
        if queue.bytes.len() > self.most {
            queue.bytes.truncate(start);
            self.overfull.notify_one();
            return Err(Error::new(ErrorKind::Closed, "a plugin's process does not read what it is sent"));
        }
        queue.bytes[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
        Ok(())
    }

    /// Writes as much as the socket accepts now.
    fn write(&self, queue: &mut Queue) {
        while !queue.bytes.is_empty() {
            let until = |at: usize| queue.descriptors.get(at).map_or(queue.bytes.len(), |(begins, _)| *begins);
            let is_due = queue.descriptors.front().filter(|(begins, _)| *begins == 0);
            let wrote = match is_due {
                Some((_, descriptor)) => self.socket.try_write_with(&queue.bytes[..until(1)], descriptor),
                None => self.socket.try_write(&queue.bytes[..until(0)]),
            };
            match wrote {
                Ok(0) => break,
                Ok(written) => {
                    if queue.descriptors.front().is_some_and(|(begins, _)| *begins == 0) {
                        queue.descriptors.pop_front();
                    }
                    queue.descriptors.iter_mut().for_each(|(begins, _)| *begins -= written);
                    queue.bytes.advance(written);
                }
                Err(_) => {
                    queue.closed = true;
                    queue.bytes = BytesMut::new();
                    queue.descriptors.clear();
                }
            }
        }
        queue.written = Instant::now();
        if queue.bytes.is_empty() && queue.bytes.capacity() > KEPT {
            queue.bytes = BytesMut::new();
        }
        if queue.bytes.len() < FULL {
            // Notifying is a system call even if nothing waits.
            if queue.blocked > 0 {
                self.freed.notify_all();
            }
            self.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::process::inbox::Inbox;
    use crate::host::process::socket::halves;

    const LONGEST: usize = 1 << 20;

    /// A message of so many bytes, and a little more.
    fn message(length: usize) -> serde_bytes::ByteBuf {
        serde_bytes::ByteBuf::from(vec![7; length])
    }

    fn queued(outbox: &Outbox) -> usize {
        outbox.lock().bytes.len()
    }

    #[tokio::test]
    async fn who_sends_more_than_is_read_waits_and_everything_arrives_in_order() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        let outbox = Arc::new(Outbox::new(halves(ours).expect("halves").1, LONGEST, ANSWERS));
        let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let sending = tokio::spawn({
            let (outbox, sent) = (Arc::clone(&outbox), Arc::clone(&sent));
            async move {
                for number in 0..4000_usize {
                    outbox.send(&message(number)).await.expect("sending");
                    sent.store(number + 1, std::sync::atomic::Ordering::Relaxed);
                }
            }
        });
        // Nobody reads: the queue fills, and stays as it is.
        while queued(&outbox) < FULL {
            tokio::task::yield_now().await;
        }
        // Not before: while there is room it would not have to wait.
        let blocked = std::thread::spawn({
            let outbox = Arc::clone(&outbox);
            move || outbox.send_blocking(&message(LONGEST / 2))
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(queued(&outbox) < FULL + LONGEST, "no more than one message above the limit");
        assert!(sent.load(std::sync::atomic::Ordering::Relaxed) < 4000);
        assert!(!outbox.try_send(&message(1)).expect("it is open"), "what may be lost is not queued");
        // Also once the thread has got its room.
        while !outbox.has_waited() {
            tokio::task::yield_now().await;
        }
        assert!(outbox.has_waited());

        let running = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.run().await }
        });
        let mut inbox = Inbox::new(halves(theirs).expect("halves").0, LONGEST);
        let mut next = 0;
        let mut others = 0;
        while next < 4000 || others < 1 {
            let frame = inbox.next().await.expect("reading").expect("a frame");
            let bytes: serde_bytes::ByteBuf = rmp_serde::from_slice(&frame).expect("decoding");
            if bytes.len() == LONGEST / 2 {
                others += 1;
            } else {
                assert_eq!(bytes.len(), next);
                next += 1;
            }
        }
        sending.await.expect("the sender ends");
        blocked.join().expect("the thread ends").expect("sending");
        assert_eq!(queued(&outbox), 0);
        outbox.has_waited();
        assert!(!outbox.has_waited());
        outbox.close();
        running.await.expect("it ends");
    }

    #[tokio::test]
    async fn the_last_message_for_a_while_is_written_by_its_own_thread_however_soon_it_comes() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        let outbox = Outbox::new(halves(ours).expect("halves").1, LONGEST, ANSWERS);
        // As if the next batch were not due for an hour.
        outbox.lock().written = Instant::now() + Duration::from_secs(3600);
        outbox.send_last(&message(3)).expect("sending");
        assert_eq!(queued(&outbox), 0);
        outbox.lock().written = Instant::now() + Duration::from_secs(3600);
        outbox.push(&message(4)).expect("sending");
        assert!(queued(&outbox) > 0, "another waits for the batch");
        outbox.send_last(&message(5)).expect("sending");
        let mut inbox = Inbox::new(halves(theirs).expect("halves").0, LONGEST);
        tokio::select! {
            () = outbox.run() => panic!("it is not closed"),
            () = async {
                for length in 3..6 {
                    let frame = inbox.next().await.expect("reading").expect("a frame");
                    let bytes: serde_bytes::ByteBuf = rmp_serde::from_slice(&frame).expect("decoding");
                    assert_eq!(bytes.len(), length);
                }
            } => {}
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_an_error_and_the_connection_goes_on() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        let outbox = Outbox::new(halves(ours).expect("halves").1, 100, 1000);
        let error = outbox.push(&message(101)).expect_err("refused");
        assert!(error.to_string().contains("longer than the limit of 100 bytes"), "{error}");
        outbox.push(&message(50)).expect("queued");
        let mut inbox = Inbox::new(halves(theirs).expect("halves").0, 100);
        tokio::select! {
            () = outbox.run() => panic!("it is not closed"),
            frame = inbox.next() => assert_eq!(frame.expect("reading").expect("a frame").len(), 52),
        }
        outbox.close();
        assert!(outbox.push(&message(1)).is_err());
    }

    #[tokio::test]
    async fn a_plugin_that_asks_and_never_reads_is_noticed_before_the_host_grows() {
        let (ours, _never_read) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        let outbox = Outbox::new(halves(ours).expect("halves").1, 1000, 10_000);
        let most = FULL + 1000 + 10_000;
        let refused = loop {
            match outbox.push(&message(900)) {
                Ok(()) => assert!(queued(&outbox) <= most),
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), ErrorKind::Closed);
        outbox.overfull().await;
    }
}
