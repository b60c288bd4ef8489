//! The references to a directive, and the events that each has not read yet.

use std::collections::BTreeMap;
use std::task::Waker;

use super::StandingState;
use super::effects::Effects;
use super::unread::Unread;
use crate::bus::Source;
use crate::bus::introspect::AskerSnapshot;
use crate::directive::RawEvent;

pub(super) struct Subscriber {
    pub(super) id: u64,
    pub(super) strong: bool,
    /// Whose code asks, in what would be padding otherwise: there are fewer generations than this can count.
    pub(super) source: u32,
    pub(super) unread: Unread,
    pub(super) waker: Option<Waker>,
}

impl Subscriber {
    fn source(&self) -> Source {
        Source(u64::from(self.source))
    }

    /// Queues an event, and returns whom to wake.
    fn tell(&mut self, event: RawEvent) -> Option<Waker> {
        self.unread.push(event);
        self.waker.take()
    }

    /// The next event; `None` is the end. `Err` means that there is none yet and the waker was stored; it has the previous waker.
    fn next(&mut self, ended: bool, waker: &Waker) -> Result<Option<RawEvent>, Option<Waker>> {
        match self.unread.pop() {
            Some(event) => Ok(Some(event)),
            None if ended => Ok(None),
            None => Err(self.waker.replace(waker.clone())),
        }
    }
}

impl StandingState {
    /// Adds the subscription of a new reference, which reads the current values, errors and idleness first.
    pub(in crate::bus) fn subscribe(&mut self, strong: bool, source: Source) -> u64 {
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
        let source = source.0 as u32;
        self.subscribers.push(Subscriber { id, strong, source, unread, waker: None });
        id
    }

    /// Who asks: the sources of the strong references, each with the number of them.
    pub(super) fn askers(&self) -> Vec<AskerSnapshot> {
        let mut counts: BTreeMap<Source, usize> = BTreeMap::new();
        for subscriber in self.subscribers.iter().filter(|subscriber| subscriber.strong) {
            *counts.entry(subscriber.source()).or_default() += 1;
        }
        counts.into_iter().map(|(source, references)| AskerSnapshot { source, references }).collect()
    }

    /// Whose code a subscription is of.
    pub(in crate::bus) fn source_of(&self, id: u64) -> Source {
        let found = self.subscribers.iter().find(|subscriber| subscriber.id == id);
        found.map_or(Source::STATIC, Subscriber::source)
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
        subscriber.next(ended, waker)
    }

    pub(super) fn emit(&mut self, event: &RawEvent, effects: &mut Effects) {
        for subscriber in &mut self.subscribers {
            effects.wakers.extend(subscriber.tell(event.clone()));
        }
    }
}

#[cfg(all(test, cbus_loom))]
mod loom_tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;

    use super::*;
    use crate::directive::{AnyValue, ValueId};
    use crate::sync::{Mutex, block_on};

    fn added(id: u64) -> RawEvent {
        RawEvent::Added(ValueId(id), AnyValue::native(id))
    }

    /// A subscriber under the lock of its directive, and whether that has ended.
    type Shared = Arc<Mutex<(Subscriber, bool)>>;

    /// As a change of the directive does it: whoever waits is woken after the lock.
    fn tell(shared: &Shared, events: impl IntoIterator<Item = RawEvent>) {
        for event in events {
            let waker = shared.lock().unwrap().0.tell(event);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    #[test]
    fn loom_a_reader_knows_what_stands_and_is_always_woken_for_it() {
        loom::model(|| {
            let subscriber = Subscriber { id: 0, strong: true, source: 0, unread: Unread::default(), waker: None };
            let shared: Shared = Arc::new(Mutex::new((subscriber, false)));
            let ending = Arc::clone(&shared);
            let ends = loom::thread::spawn(move || {
                tell(&ending, [added(1), RawEvent::Removed(ValueId(1)), RawEvent::Busy, added(2), RawEvent::Idle]);
                let waker = {
                    let mut shared = ending.lock().unwrap();
                    shared.1 = true;
                    shared.0.waker.take()
                };
                waker.into_iter().for_each(Waker::wake);
            });
            let (mut standing, mut idle) = (Vec::new(), true);
            let next = async || {
                poll_fn(|cx| {
                    let mut shared = shared.lock().unwrap();
                    let ended = shared.1;
                    shared.0.next(ended, cx.waker()).map_or(Poll::Pending, Poll::Ready)
                })
                .await
            };
            while let Some(event) = block_on(next()) {
                match event {
                    RawEvent::Added(id, _) => standing.push(id),
                    RawEvent::Removed(id) => {
                        assert_eq!(standing, [id], "only what was read is taken back");
                        standing.clear();
                    }
                    RawEvent::Busy | RawEvent::Idle => {
                        let is_idle = matches!(event, RawEvent::Idle);
                        assert_ne!(is_idle, idle, "the two alternate");
                        idle = is_idle;
                    }
                    RawEvent::Failed(_) => unreachable!("nothing has failed"),
                }
            }
            assert_eq!((standing, idle), (vec![ValueId(2)], true));
            ends.join().expect("it ends");
        });
    }
}
