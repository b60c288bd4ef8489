//! The sink of a resolver that answers the other end: it sends values there, and keeps what must be known here.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::adding::ANSWER;
use super::answering::{Answer, encoded};
use super::asking::WireRequest;
use super::{Endpoint, Message, Post, Removals, lock};
use crate::bus::contain;
use crate::directive::{AnyValue, Callback, RawRequest, ValueId, ValueSink, wire};
use crate::{Error, Result};

/// How the values of one ask are sent.
#[derive(Clone, Copy)]
pub(super) struct Sends {
    /// Each is accepted or rejected.
    pub(super) answered: bool,
    /// They stay here, and what is sent says which they are.
    pub(super) local: bool,
}

/// A value of a local directive, as it crosses: the end that has it, the ask and the value's number.
#[derive(Serialize, Deserialize)]
struct LocalValue {
    local: (u64, u64, u64),
}

impl<P: Post> Endpoint<P> {
    /// The value of a local directive that this end has sent, if it still stands.
    pub(super) fn local_value(&self, sent: &AnyValue) -> Option<AnyValue> {
        let (own, ask, value) = wire::decode::<LocalValue>(&sent.encode().ok()?).ok()?.local;
        let sink = match lock(&self.answers).get(&ask)? {
            Answer::Resolver { sink, .. } if own == self.own => Arc::clone(sink),
            _ => return None,
        };
        let found = lock(&sink.live).get(&value).cloned();
        found.flatten()
    }
}

/// The sink of one ask.
pub(super) struct WireSink<P> {
    endpoint: Arc<Endpoint<P>>,
    ask: u64,
    next: AtomicU64,
    cancelled: AtomicBool,
    /// The values that stand, with those that stay here.
    live: Mutex<HashMap<u64, Option<AnyValue>>>,
    is_local: bool,
    removals: Removals,
    /// Threads that wait for a value to be accepted or rejected, if the directive may reject some.
    answers: Option<Mutex<HashMap<u64, SyncSender<bool>>>>,
}

impl<P> WireSink<P> {
    pub(super) fn new(endpoint: Arc<Endpoint<P>>, ask: u64, sends: Sends) -> Self {
        Self {
            endpoint,
            ask,
            next: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            live: Mutex::default(),
            is_local: sends.local,
            removals: Removals::default(),
            answers: sends.answered.then(Mutex::default),
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
        let mut live = std::mem::take(&mut *lock(&self.live));
        live.retain(|_, value| value.is_some());
        if live.is_empty() {
            return;
        }
        // Their destructors are a user's code, which may take its time.
        let drop_them = move || contain("a value's destructor", move || drop(live));
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(drop_them)),
            Err(_) => drop_them(),
        }
    }

    /// Takes a value off; whether it stood.
    fn take(&self, value: u64) -> bool {
        let taken = lock(&self.live).remove(&value);
        taken.is_some()
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

    /// Hands a value over, perhaps in place of another, which is gone in any case. What cannot be sent fails the ask, so that the
    /// requester gets the error; nothing is heard of the ask after that.
    fn hand_over(&self, value: &AnyValue, replaces: Option<u64>) -> Option<ValueId> {
        match self.try_to(value, replaces) {
            Ok(id) => Some(id),
            Err(error) => {
                if let Some(value) = replaces {
                    let _ = self.say(&Message::Removed { ask: self.ask, value });
                }
                if let Some(error) = error {
                    let _ = self.say(&Message::Failed { ask: self.ask, error });
                }
                None
            }
        }
    }

    /// The error is `None` where the value is not wanted.
    fn try_to(&self, value: &AnyValue, replaces: Option<u64>) -> Result<ValueId, Option<Error>> {
        if self.is_cancelled() {
            return Err(None);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let bytes = if self.is_local {
            Cow::Owned(wire::encode(&LocalValue { local: (self.endpoint.own, self.ask, number) })?)
        } else {
            encoded(value)?
        };
        lock(&self.live).insert(number, self.is_local.then(|| value.clone()));
        // Whoever cancels sets this first, and then takes them all.
        if self.is_cancelled() {
            self.take(number);
            return Err(None);
        }
        let answer = self.expect_answer(number);
        let added = Message::Added { ask: self.ask, value: number, replaces, bytes: &bytes };
        if let Err(error) = self.say(&added) {
            self.take(number);
            return Err(Some(error));
        }
        if let Some(answer) = answer
            && !self.endpoint.waits.wait(|| answer.recv_timeout(ANSWER)).unwrap_or(false)
        {
            self.take(number);
            // It may still be accepted, only later.
            let _ = self.say(&Message::Removed { ask: self.ask, value: number });
            return Err(None);
        }
        Ok(ValueId(number))
    }
}

impl<P: Post> ValueSink for WireSink<P> {
    fn add(&self, value: AnyValue) -> Option<ValueId> {
        self.hand_over(&value, None)
    }

    fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
        let before = lock(&self.live).remove(&old.0);
        let there = before.is_some();
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
        let there = self.take(id.0) && !self.is_cancelled();
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

    fn reference(&self) -> Result<Box<dyn RawRequest>> {
        WireRequest::refer_back(&self.endpoint, self.ask, self.is_local)
    }

    fn close(&self, even_if_referred: bool) -> Result<bool> {
        if self.is_cancelled() {
            return Ok(false);
        }
        let closed = self.endpoint.wait_for(|ask| Message::Close { ask, to: self.ask, even_if_referred })?;
        wire::decode(&closed)
    }
}
