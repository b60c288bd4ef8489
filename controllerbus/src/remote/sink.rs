//! The sink of a resolver that answers the other end: it sends values there, and keeps what must be known here.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Endpoint, Message, Post, Removals, lock};
use crate::bus::contain;
use crate::directive::{AnyValue, Callback, ValueId, ValueSink};
use crate::{Error, Result};

/// How long the other end may take to accept or reject a value.
const ANSWER: Duration = Duration::from_secs(10);

/// The sink of one ask.
pub(super) struct WireSink<P> {
    endpoint: Arc<Endpoint<P>>,
    ask: u64,
    next: AtomicU64,
    cancelled: AtomicBool,
    live: Mutex<HashSet<u64>>,
    removals: Removals,
    /// Threads that wait for a value to be accepted or rejected, if the directive may reject some.
    answers: Option<Mutex<HashMap<u64, SyncSender<bool>>>>,
}

impl<P> WireSink<P> {
    pub(super) fn new(endpoint: Arc<Endpoint<P>>, ask: u64, answered: bool) -> Self {
        Self {
            endpoint,
            ask,
            next: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            live: Mutex::default(),
            removals: Removals::default(),
            answers: answered.then(Mutex::default),
        }
    }

    /// Its values are gone, and no others are wanted.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        if let Some(answers) = &self.answers {
            lock(answers).clear();
        }
        for callback in self.removals.end() {
            contain("telling that a value is gone", callback);
        }
    }

    /// The other end has accepted or rejected a value.
    pub(super) fn accepted(&self, value: u64, yes: bool) {
        let waits = self.answers.as_ref().and_then(|answers| lock(answers).remove(&value));
        if let Some(waits) = waits {
            let _ = waits.try_send(yes);
        }
    }
}

impl<P: Post> WireSink<P> {
    fn say(&self, message: &Message<'_>) -> Result<()> {
        self.endpoint.post.say(message)
    }

    fn expect_answer(&self, value: u64) -> Option<Receiver<bool>> {
        let answers = self.answers.as_ref().filter(|_| self.endpoint.post.may_block())?;
        let (sender, receiver) = sync_channel(1);
        let mut answers = lock(answers);
        // Whoever cancels sets this first, and then drops the senders.
        if !self.cancelled.load(Ordering::Acquire) {
            answers.insert(value, sender);
        }
        Some(receiver)
    }

    /// Fails the ask, because a value cannot be sent; the requester gets the error. What the value was to replace goes first:
    /// after a failure nothing more is heard.
    fn fail(&self, error: Error, replaces: Option<u64>) {
        self.gone(replaces);
        let _ = self.say(&Message::Failed { ask: self.ask, error });
    }

    fn gone(&self, value: Option<u64>) {
        if let Some(value) = value {
            let _ = self.say(&Message::Removed { ask: self.ask, value });
        }
    }

    /// Sends a value. If it is not accepted, what it was to replace is gone all the same.
    fn hand_over(&self, value: &AnyValue, replaces: Option<u64>) -> Option<ValueId> {
        if self.is_cancelled() {
            self.gone(replaces);
            return None;
        }
        let bytes = match value.encode() {
            Ok(bytes) => bytes,
            Err(error) => {
                self.fail(error.into_inner(), replaces);
                return None;
            }
        };
        let value = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.live).insert(value);
        let answer = self.expect_answer(value);
        if let Err(error) = self.say(&Message::Added { ask: self.ask, value, replaces, bytes: &bytes }) {
            lock(&self.live).remove(&value);
            self.fail(error, replaces);
            return None;
        }
        if let Some(answer) = answer
            && !answer.recv_timeout(ANSWER).unwrap_or(false)
        {
            lock(&self.live).remove(&value);
            // It may still be accepted, only later.
            self.gone(Some(value));
            self.gone(replaces);
            return None;
        }
        Some(ValueId(value))
    }
}

impl<P: Post> ValueSink for WireSink<P> {
    fn add(&self, value: AnyValue) -> Option<ValueId> {
        self.hand_over(&value, None)
    }

    fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
        let there = lock(&self.live).remove(&old.0);
        let new = self.hand_over(&value, there.then_some(old.0));
        if there {
            self.removals.removed(old);
        }
        new
    }

    fn add_watched(&self, value: AnyValue, removed: Callback) -> Option<ValueId> {
        let id = self.add(value)?;
        self.removals.watch(id, removed);
        Some(id)
    }

    fn on_gone(&self, callback: Callback) {
        self.removals.on_gone(callback);
    }

    fn remove(&self, id: ValueId) -> bool {
        let there = lock(&self.live).remove(&id.0) && !self.is_cancelled();
        if there {
            self.removals.removed(id);
        }
        there && self.say(&Message::Removed { ask: self.ask, value: id.0 }).is_ok()
    }

    fn set_idle(&self, idle: bool) {
        let ask = self.ask;
        let _ = self.say(&if idle { Message::Idle { ask } } else { Message::Busy { ask } });
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}
