//! The references to a directive, and the events that each has not read yet.

use std::task::Waker;

use super::StandingState;
use super::effects::Effects;
use super::unread::Unread;
use crate::directive::RawEvent;

pub(super) struct Subscriber {
    pub(super) id: u64,
    pub(super) strong: bool,
    pub(super) unread: Unread,
    pub(super) waker: Option<Waker>,
}

impl StandingState {
    /// Adds the subscription of a new reference, which reads the current values, errors and idleness first.
    pub(in crate::bus) fn subscribe(&mut self, strong: bool) -> u64 {
        if strong {
            self.references += 1;
            self.epoch += 1;
            drop(self.kept.take());
        }
        let id = self.next;
        self.next += 1;
        let mut unread = Unread::default();
        for value in self.values.iter().filter(|value| !value.staged) {
            unread.push(RawEvent::Added(value.id, value.value.clone()));
        }
        for resolver in self.resolvers.iter().filter(|resolver| !self.holds_back(&resolver.lane_ref)) {
            if let Some(error) = &resolver.error {
                unread.push(RawEvent::Failed(error.clone()));
            }
        }
        if let Some(error) = self.refusal() {
            unread.push(RawEvent::Failed(error.clone()));
        }
        if self.idle {
            unread.push(RawEvent::Idle);
        }
        self.subscribers.push(Subscriber { id, strong, unread, waker: None });
        id
    }

    /// Removes a subscription; returns whether it was a strong one.
    pub(in crate::bus) fn unsubscribe(&mut self, id: u64, effects: &mut Effects) -> bool {
        let Some(at) = self.subscribers.iter().position(|subscriber| subscriber.id == id) else { return false };
        let subscriber = self.subscribers.swap_remove(at);
        let strong = subscriber.strong;
        self.references -= usize::from(strong);
        effects.subscribers.push(subscriber);
        strong
    }

    /// The next event of a subscriber. `Err` means that there is none yet and the waker was stored; it has the previous waker.
    pub(in crate::bus) fn next_event(&mut self, id: u64, waker: &Waker) -> Result<Option<RawEvent>, Option<Waker>> {
        let ended = self.ended;
        let Some(subscriber) = self.subscribers.iter_mut().find(|subscriber| subscriber.id == id) else {
            return Ok(None);
        };
        match subscriber.unread.pop() {
            Some(event) => Ok(Some(event)),
            None if ended => Ok(None),
            None => Err(subscriber.waker.replace(waker.clone())),
        }
    }

    pub(super) fn emit(&mut self, event: &RawEvent, effects: &mut Effects) {
        for subscriber in &mut self.subscribers {
            subscriber.unread.push(event.clone());
            effects.wakers.extend(subscriber.waker.take());
        }
    }
}
