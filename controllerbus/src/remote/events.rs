//! The events of one ask that its reader has not read, and what it has been told, where that can be told again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use super::inflow::OVERHEAD;
use super::message::EVENT_CREDIT;
use super::world::World;
use super::{Endpoint, Message, Post, Receiving, lock};
use crate::Error;
use crate::directive::{AnyDirective, AnyValue, RawEvent, ValueId};

/// The events of one ask that have not been read. Bounded by the credit that the other end has.
#[derive(Default)]
pub(super) struct EventQueue {
    pub(super) unread: Mutex<Unread>,
    /// What is asked, where it can be asked again.
    pub(super) directive: Option<Arc<dyn AnyDirective>>,
}

#[derive(Default)]
pub(super) struct Unread {
    pub(super) events: VecDeque<RawEvent>,
    pub(super) ended: bool,
    pub(super) waker: Option<Waker>,
    /// What has been told, where that can be told again.
    pub(super) world: Option<Box<World>>,
    /// Events that were told again, and which nobody reads for that reason.
    pub(super) repeated: u32,
}

impl EventQueue {
    /// A queue for what may be told again.
    pub(super) fn resumable(directive: Option<Arc<dyn AnyDirective>>) -> Self {
        Self { unread: Mutex::new(Unread { world: Some(Box::default()), ..Unread::default() }), directive }
    }

    pub(super) fn push(&self, event: RawEvent) {
        self.change(|unread| unread.events.push_back(event));
    }

    /// There are no events after those that are there.
    pub(super) fn end(&self) {
        self.change(|unread| unread.ended = true);
    }

    pub(super) fn has_ended(&self) -> bool {
        lock(&self.unread).ended
    }

    fn change<T>(&self, change: impl FnOnce(&mut Unread) -> T) -> T {
        let (changed, waker) = {
            let mut unread = lock(&self.unread);
            let changed = change(&mut unread);
            let is_news = unread.ended || !unread.events.is_empty();
            (changed, if is_news { unread.waker.take() } else { None })
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        changed
    }

    /// Queues an event if the world says that it is news. Returns how many events that nobody reads are to be credited.
    fn tell(&self, is_news: impl FnOnce(&mut World) -> bool, event: RawEvent) -> u32 {
        self.change(|unread| {
            if unread.world.as_deref_mut().is_none_or(is_news) {
                unread.events.push_back(event);
                return 0;
            }
            unread.repeated += 1;
            if unread.repeated < EVENT_CREDIT / 2 { 0 } else { std::mem::take(&mut unread.repeated) }
        })
    }
}

impl<P: Post> Endpoint<P> {
    fn repeated(&self, ask: u64, events: u32) {
        if events > 0 {
            let _ = self.post.push_later(&Message::Credit { ask, events });
        }
    }

    pub(super) fn event_added(&self, ask: u64, queue: &EventQueue, value: u64, bytes: &[u8]) {
        let counted = bytes.len() as u64 + OVERHEAD;
        let mut fits = true;
        let event = RawEvent::Added(ValueId(value), AnyValue::encoded(bytes));
        let is_news = |world: &mut World| {
            if !self.limits.of_world(world, |world| world.is_news(value)) {
                return false;
            }
            fits = self.limits.stands(counted, self.limits.missing());
            if fits {
                world.added(value, counted);
            }
            fits
        };
        let repeated = queue.tell(is_news, event);
        if !fits {
            return self.too_much();
        }
        self.repeated(ask, repeated);
    }

    pub(super) fn event_removed(&self, ask: u64, queue: &EventQueue, value: u64) {
        let stood = |world: &mut World| {
            self.limits.of_world(world, |world| {
                let counted = world.removed(value);
                self.limits.gone(counted.unwrap_or(0));
                counted.is_some()
            })
        };
        let repeated = queue.tell(stood, RawEvent::Removed(ValueId(value)));
        self.repeated(ask, repeated);
    }

    pub(super) fn event_idle(&self, ask: u64, queue: &EventQueue, idle: bool) {
        let event = if idle { RawEvent::Idle } else { RawEvent::Busy };
        let repeated = queue.tell(|world| world.idle(idle), event);
        self.repeated(ask, repeated);
    }

    pub(super) fn event_failed(&self, ask: u64, queue: &EventQueue, error: Error) {
        let repeated = queue.tell(|world| world.failed(&error), RawEvent::Failed(error.clone()));
        self.repeated(ask, repeated);
    }

    /// What stands for an ask is told again from here.
    pub(super) fn anew(&self, ask: u64) {
        if let Some(Receiving::Events(queue)) = self.receiving(ask) {
            queue.change(|unread| unread.world.as_deref_mut().map(|world| self.limits.of_world(world, World::anew)));
        }
    }

    /// It has been told: what was not told again is gone.
    pub(super) fn told(&self, ask: u64) {
        let Some(Receiving::Events(queue)) = self.receiving(ask) else { return };
        queue.change(|unread| {
            let Some(world) = unread.world.as_deref_mut() else { return };
            let changed = self.limits.of_world(world, |world| {
                let changed = world.told();
                self.limits.gone(changed.counted);
                changed
            });
            unread.events.extend(changed.gone.into_iter().map(|value| RawEvent::Removed(ValueId(value))));
            unread.events.extend(changed.idle.map(|idle| if idle { RawEvent::Idle } else { RawEvent::Busy }));
        });
        // What did not count because it was missing may have been told again after all.
        if P::RESUMES && self.limits.are_exceeded() {
            self.too_much();
        }
    }

    /// Nobody reads the events of an ask any more.
    pub(super) fn unread(&self, queue: &EventQueue) {
        let mut unread = lock(&queue.unread);
        if let Some(world) = unread.world.as_deref_mut() {
            self.limits.of_world(world, |world| self.limits.gone(world.release()));
        }
    }
}
