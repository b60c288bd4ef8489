//! The sink for one resolver's values: sends them over the socket, and keeps what must be known locally.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use controllerbus::directive::{AnyValue, Callback, ValueId, ValueSink};
use controllerbus::{Error, Result};
use serde::Serialize;

use crate::host::process::outbox::Outbox;
use crate::host::process::protocol::ToParent;

/// How long the runtime may take to accept or reject a value.
const ANSWER: Duration = Duration::from_secs(10);

/// The connection to the runtime, for the guest's threads, which may wait, and for the serving thread, which may not.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) outbox: Arc<Outbox>,
    pub(super) serving: ThreadId,
}

impl Line {
    /// Sends a message; on a thread of the guest, waits while the runtime does not read.
    pub(super) fn say<M: Serialize>(&self, message: &M) -> Result<()> {
        if self.is_serving() { self.outbox.push(message) } else { self.outbox.send_blocking(message) }
    }

    fn is_serving(&self) -> bool {
        std::thread::current().id() == self.serving
    }
}

/// The sink of one call.
pub(super) struct Sink {
    call: u64,
    line: Line,
    next: AtomicU64,
    cancelled: AtomicBool,
    live: Mutex<HashSet<u64>>,
    /// Callbacks for the removal of a value, or of all values.
    removals: Mutex<Removals>,
    /// Threads that wait for a value to be accepted or rejected, if the directive may reject some.
    answers: Option<Mutex<HashMap<u64, SyncSender<bool>>>>,
}

#[derive(Default)]
struct Removals {
    gone: bool,
    values: HashMap<u64, Callback>,
    all: Vec<Callback>,
}

impl Sink {
    pub(super) fn new(call: u64, line: Line, answered: bool) -> Self {
        Self {
            call,
            line,
            next: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            live: Mutex::default(),
            removals: Mutex::default(),
            answers: answered.then(Mutex::default),
        }
    }

    /// Its values are no longer wanted.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        if let Some(answers) = &self.answers {
            answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        let callbacks: Vec<_> = {
            let mut removals = self.removals();
            removals.gone = true;
            let values = std::mem::take(&mut removals.values);
            values.into_values().chain(std::mem::take(&mut removals.all)).collect()
        };
        callbacks.into_iter().for_each(|callback| callback());
    }

    fn removals(&self) -> MutexGuard<'_, Removals> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runtime accepted or rejected a value.
    pub(super) fn accepted(&self, value: u64, yes: bool) {
        let waits = self
            .answers
            .as_ref()
            .and_then(|answers| answers.lock().unwrap_or_else(PoisonError::into_inner).remove(&value));
        if let Some(waits) = waits {
            let _ = waits.try_send(yes);
        }
    }

    fn live(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect_answer(&self, value: u64) -> Option<Receiver<bool>> {
        let answers = self.answers.as_ref().filter(|_| !self.line.is_serving())?;
        let (sender, receiver) = sync_channel(1);
        answers.lock().unwrap_or_else(PoisonError::into_inner).insert(value, sender);
        Some(receiver)
    }

    /// Ends the call, because a value cannot leave this process; the requester gets the error.
    fn fail(&self, error: Error) {
        let _ = self.line.say(&ToParent::Done { call: self.call, result: Err(error) });
    }

    fn hand_over(&self, value: &AnyValue, replaces: Option<u64>) -> Option<ValueId> {
        if self.is_cancelled() {
            return None;
        }
        let bytes = match value.encode() {
            Ok(bytes) => bytes,
            Err(error) => {
                self.fail(error);
                return None;
            }
        };
        let value = self.next.fetch_add(1, Ordering::Relaxed);
        self.live().insert(value);
        let answer = self.expect_answer(value);
        if let Err(error) = self.line.say(&ToParent::Add { call: self.call, value, replaces, bytes: &bytes }) {
            self.live().remove(&value);
            self.fail(error);
            return None;
        }
        if let Some(answer) = answer
            && !answer.recv_timeout(ANSWER).unwrap_or(false)
        {
            self.live().remove(&value);
            return None;
        }
        Some(ValueId(value))
    }

    /// Forgets a value that is gone from the bus, and calls its callback.
    fn forget(&self, value: u64) {
        let callback = self.removals().values.remove(&value);
        if let Some(callback) = callback {
            callback();
        }
    }
}

impl ValueSink for Sink {
    fn add(&self, value: AnyValue) -> Option<ValueId> {
        self.hand_over(&value, None)
    }

    fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
        let there = self.live().remove(&old.0);
        let new = self.hand_over(&value, there.then_some(old.0));
        if there {
            self.forget(old.0);
        }
        new
    }

    fn add_watched(&self, value: AnyValue, removed: Callback) -> Option<ValueId> {
        let id = self.add(value)?;
        let mut removals = self.removals();
        if removals.gone {
            drop(removals);
            removed();
        } else {
            removals.values.insert(id.0, removed);
        }
        Some(id)
    }

    fn on_gone(&self, callback: Callback) {
        let mut removals = self.removals();
        if removals.gone {
            drop(removals);
            callback();
        } else {
            removals.all.push(callback);
        }
    }

    fn remove(&self, id: ValueId) -> bool {
        let there = self.live().remove(&id.0) && !self.is_cancelled();
        if there {
            self.forget(id.0);
        }
        there && self.line.say(&ToParent::Remove { call: self.call, value: id.0 }).is_ok()
    }

    fn set_idle(&self, idle: bool) {
        let _ = self.line.say(&ToParent::Idle { call: self.call, idle });
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}
