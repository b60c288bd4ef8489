//! Telling again what was lost on the way, and holding over a cut what the other end has asked.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::SetOnce;
use tokio::task::JoinHandle;

use super::answering::{Answer, Beginning, ByBus, Raw, released};
use super::events::EventQueue;
use super::{Endpoint, Message, Post, Receiving, lock};
use crate::directive::{AnyDirective, Facts, RawEvent, RawRequest, wire};
use crate::error::ErrorKind;
use crate::{Error, Result};

/// Asks that are told nothing for now, with their references: by what they ask, and by number.
type Held = HashMap<u64, BTreeMap<u64, ByBus>>;

/// What the other end has asked and may ask again.
#[derive(Default)]
pub(super) struct AllHeld {
    /// Until the other end has told its asks again.
    until_told: Held,
    /// Until [`Endpoint::let_go`]: who asks again may have another number for it then.
    until_let_go: Held,
}

/// Another reference to the same directive, once what was done for this one has ended.
async fn another(task: JoinHandle<()>, added: Arc<SetOnce<Result<Raw>>>) -> Result<Box<dyn RawRequest>> {
    let _ = task.await;
    match added.get() {
        Some(Ok(raw)) => lock(raw).reference(true),
        Some(Err(error)) => Err(error.clone()),
        None => Err(released()),
    }
}

impl<P: Post> Endpoint<P> {
    /// Tells the other end again what this one asks, and what stands for what that one asks. A carrier calls it, in a task that it
    /// can drop, when something that this end has sent is lost; from then on nothing may be lost again, or it is called again.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn tell_again(self: &Arc<Self>) -> Result<()> {
        self.answer_again();
        self.post.send(&Message::AsksAnew).await?;
        // After that message: what is asked meanwhile is either here, or comes after it by itself.
        let mut open: Vec<_> = lock(&self.asks)
            .iter()
            .filter_map(|(ask, receiving)| match receiving {
                Receiving::Events(queue) => Some((*ask, Arc::clone(queue))),
                _ => None,
            })
            .collect();
        open.sort_unstable_by_key(|(ask, _)| *ask);
        for (ask, queue) in open {
            self.ask_again(ask, &queue).await?;
        }
        self.post.send(&Message::AsksTold).await
    }

    async fn ask_again(&self, ask: u64, queue: &EventQueue) -> Result<()> {
        let Some(directive) = queue.directive.as_ref().filter(|_| !queue.has_ended()) else { return Ok(()) };
        match encoded(&**directive) {
            Ok((bytes, facts)) => {
                let message = Message::AskAgain { ask, directive: directive.id(), bytes: &bytes, facts: &facts };
                match self.post.send(&message).await {
                    Err(error) if error.kind() == ErrorKind::Encoding => self.fail(queue, error),
                    sent => sent?,
                }
            }
            Err(error) => self.fail(queue, error),
        }
        // It may have been released before this message was sent.
        if !lock(&self.asks).contains_key(&ask) {
            self.post.push(&Message::Release { ask })?;
        }
        Ok(())
    }

    fn fail(&self, queue: &EventQueue, error: Error) {
        queue.push(RawEvent::Failed(error));
        queue.end();
    }

    /// Tells again what stands for all that the other end asks.
    fn answer_again(self: &Arc<Self>) {
        let mut answers = lock(&self.answers);
        if self.cut.initialized() {
            return;
        }
        let mut all: Vec<_> = answers.extract_if(|_, answer| matches!(answer, Answer::Bus(_))).collect();
        all.sort_unstable_by_key(|(ask, _)| *ask);
        for (ask, answer) in all {
            if let Answer::Bus(by_bus) = answer {
                answers.insert(ask, self.taken_up(ask, by_bus, true));
            }
        }
    }

    /// An answer that goes on with the reference of another one.
    fn taken_up(self: &Arc<Self>, ask: u64, by_bus: ByBus, anew: bool) -> Answer<P> {
        by_bus.stop();
        let ByBus { task, added, key, place, .. } = by_bus;
        self.answer_with(ask, None, another(task, added), Beginning { key, anew }, place)
    }

    /// What tells whether an ask is an earlier one, asked again. A call is only ever itself.
    pub(super) fn key(&self, ask: u64, directive: &str, bytes: &[u8], facts: &[u8]) -> u64 {
        let once = !facts.is_empty() && wire::decode::<Facts>(facts).is_ok_and(|facts| facts.options.once);
        self.hasher.hash_one((directive, bytes, facts, once.then_some(ask)))
    }

    /// Goes on with an earlier ask, if this is one. False if it is new.
    pub(super) fn adopt(self: &Arc<Self>, ask: u64, key: u64, anew: bool) -> bool {
        let mut answers = lock(&self.answers);
        if self.cut.initialized() {
            return true;
        }
        // Who asks and who tells again are two tasks there: an ask may come twice after the others are told again.
        if matches!(answers.get(&ask), Some(Answer::Bus(known)) if known.key == key) {
            if anew && let Some(Answer::Bus(by_bus)) = answers.remove(&ask) {
                answers.insert(ask, self.taken_up(ask, by_bus, anew));
            }
            return true;
        }
        let Some(by_bus) = lock(&self.held).take(ask, key) else { return false };
        let before = answers.insert(ask, self.taken_up(ask, by_bus, anew));
        drop(answers);
        before.into_iter().for_each(Answer::release);
        true
    }

    /// The other end tells its asks again: those that it does not name go.
    pub(super) fn hold_answers(&self, until_let_go: bool) {
        if !P::RESUMES {
            return;
        }
        let mut answers = lock(&self.answers);
        let mut held = lock(&self.held);
        let mut before = Vec::new();
        if until_let_go {
            let all = std::mem::take(&mut held.until_told);
            let all =
                all.into_iter().flat_map(|(key, asks)| asks.into_iter().map(move |(ask, by_bus)| (key, ask, by_bus)));
            all.for_each(|(key, ask, by_bus)| before.extend(put(&mut held.until_let_go, key, ask, by_bus)));
        }
        for (ask, answer) in answers.extract_if(|_, answer| matches!(answer, Answer::Bus(_))) {
            if let Answer::Bus(by_bus) = answer {
                by_bus.stop();
                let into = if until_let_go { &mut held.until_let_go } else { &mut held.until_told };
                before.extend(put(into, by_bus.key, ask, by_bus));
            }
        }
        // A number that is used again, which no proper end does.
        drop((held, answers));
        drop(before);
    }

    /// The other end has told its asks again.
    pub(super) fn asks_told(&self) {
        let gone = std::mem::take(&mut lock(&self.held).until_told);
        drop(gone);
    }

    /// Keeps the references that the other end has, which is out of reach, and tells it nothing, until it asks again or
    /// [`Endpoint::let_go`] is called. An equal ask goes on with the reference that is kept: so nothing runs again for it.
    pub fn hold(&self) {
        self.hold_answers(true);
    }

    /// Releases what is [held](Endpoint::hold) and was not asked again.
    pub fn let_go(&self) {
        let gone = std::mem::take(&mut lock(&self.held).until_let_go);
        drop(gone);
    }

    /// Releases all that is held.
    pub(super) fn hold_nothing(&self) {
        let gone = std::mem::take(&mut *lock(&self.held));
        drop(gone);
    }

    /// How many asks of this end are open.
    pub fn open_asks(&self) -> usize {
        lock(&self.asks).len()
    }

    /// How many asks of the other end are open or held.
    pub fn open_answers(&self) -> usize {
        let held = {
            let held = lock(&self.held);
            held.until_told.values().chain(held.until_let_go.values()).map(BTreeMap::len).sum::<usize>()
        };
        lock(&self.answers).len() + held
    }
}

impl AllHeld {
    /// The one of this number, or, after a cut, an equal one.
    fn take(&mut self, ask: u64, key: u64) -> Option<ByBus> {
        let own = take(&mut self.until_told, key, |all| all.remove(&ask));
        own.or_else(|| take(&mut self.until_let_go, key, |all| all.remove(&ask).or_else(|| Some(all.pop_last()?.1))))
    }
}

fn take(held: &mut Held, key: u64, take: impl FnOnce(&mut BTreeMap<u64, ByBus>) -> Option<ByBus>) -> Option<ByBus> {
    let all = held.get_mut(&key)?;
    let taken = take(all);
    if all.is_empty() {
        held.remove(&key);
    }
    taken
}

/// Returns the one that had this number.
fn put(held: &mut Held, key: u64, ask: u64, by_bus: ByBus) -> Option<ByBus> {
    held.entry(key).or_default().insert(ask, by_bus)
}

/// A directive and its facts, whose encoding is a user's code.
fn encoded(directive: &dyn AnyDirective) -> Result<(Vec<u8>, Vec<u8>)> {
    let encoded = catch_unwind(AssertUnwindSafe(|| Ok((directive.encode()?, Facts::encode(directive)?))));
    encoded.unwrap_or_else(|payload| Err(Error::from_panic(payload)))
}
