//! The references to a directive, and the events that each has not read yet.

use std::collections::BTreeMap;
use std::task::Waker;

use super::StandingState;
use super::effects::Effects;
use super::sides::Turn;
use super::unread::Unread;
use crate::bus::Source;
use crate::bus::entry::ControllerEntry;
use crate::bus::introspect::AskerSnapshot;
use crate::bus::origin::{HostNumber, Origin, Sides};
use crate::directive::{Options, RawEvent};

pub(super) struct Subscriber {
    pub(super) id: u64,
    pub(super) strong: bool,
    /// What it is told. This and what follows is in what would be padding otherwise.
    pub(super) told: Sides,
    /// The host of a fleet that it stands for, if it does.
    host: HostNumber,
    /// Whose code asks: there are fewer generations than this can count.
    pub(super) source: u32,
    pub(super) unread: Unread,
    pub(super) waker: Option<Waker>,
}

/// Who asks, and what they are told.
#[derive(Clone, Copy)]
pub(in crate::bus) struct Asker {
    pub(in crate::bus) source: Source,
    pub(in crate::bus) told: Sides,
    pub(in crate::bus) host: HostNumber,
}

impl Asker {
    pub(in crate::bus) fn new(source: Source, origin: Origin) -> Self {
        Self { source, told: origin.told(), host: origin.number() }
    }

    /// A controller that watches a directive which it answers: for another host of the fleet as that host. It may keep the
    /// directive, and does not ask the fleet for what it answers itself.
    pub(in crate::bus) fn watching(controller: &ControllerEntry) -> Self {
        let told = if controller.side == Sides::FLEET { Sides::HERE } else { Sides::WATCHED };
        Self { source: controller.source, told, host: controller.host }
    }
}

impl Subscriber {
    fn asker(&self) -> Asker {
        Asker { source: Source(u64::from(self.source)), told: self.told, host: self.host }
    }

    /// Queues an event, and returns whom to wake.
    pub(super) fn tell(&mut self, event: RawEvent) -> Option<Waker> {
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
    /// Adds the subscription of a new reference, which reads the current values, errors and idleness first. What it changes for
    /// resolvers, if it does, is to be done by [`turned`](crate::bus::resolver::turned) after the lock.
    pub(in crate::bus) fn subscribe(
        &mut self,
        strong: bool,
        asker: Asker,
        options: &Options,
    ) -> (u64, Option<Box<Turn>>) {
        let Asker { source, told, host } = asker;
        if strong {
            self.references += 1;
            self.epoch += 1;
            drop(self.kept.take());
        }
        let id = self.next;
        self.next += 1;
        let mut unread = Unread::default();
        for value in self.values.iter().filter(|value| !value.staged && told.meets(value.side)) {
            unread.push(RawEvent::Added(value.id, value.value.clone()));
        }
        for resolver in &self.resolvers {
            // Most have none, which costs less to see than the rest.
            if let Some(error) = &resolver.error
                && !self.holds_back(&resolver.lane_ref)
                && told.meets(resolver.lane_ref.side)
            {
                unread.push(RawEvent::Failed((**error).clone()));
            }
        }
        if let Some(error) = self.refusal() {
            unread.push(RawEvent::Failed(error.clone()));
        }
        if self.idle.is(told) {
            unread.push(RawEvent::Idle);
        }
        let source = source.0 as u32;
        self.subscribers.push(Subscriber { id, strong, told, host, source, unread, waker: None });
        let turns = strong && self.joins(told);
        (id, if turns { Some(self.turn(options)) } else { None })
    }

    /// Who asks: the sources of the strong references, each with the number of them.
    pub(super) fn askers(&self) -> Vec<AskerSnapshot> {
        let mut counts: BTreeMap<(Source, HostNumber), usize> = BTreeMap::new();
        for subscriber in self.subscribers.iter().filter(|subscriber| subscriber.strong) {
            let asker = subscriber.asker();
            *counts.entry((asker.source, asker.host)).or_default() += 1;
        }
        let snapshot = |((source, host), references): ((Source, HostNumber), usize)| AskerSnapshot {
            source,
            references,
            host: host.shown(),
        };
        counts.into_iter().map(snapshot).collect()
    }

    /// Who a subscription is of.
    pub(in crate::bus) fn asker(&self, id: u64) -> Asker {
        let found = self.subscribers.iter().find(|subscriber| subscriber.id == id);
        found.map_or(Asker::new(Source::STATIC, Origin::HERE), Subscriber::asker)
    }

    /// Removes a subscription; returns whether it was a strong one.
    pub(in crate::bus) fn unsubscribe(&mut self, id: u64, options: &Options, effects: &mut Effects) -> bool {
        let Some(at) = self.subscribers.iter().position(|subscriber| subscriber.id == id) else { return false };
        let Subscriber { strong, told, .. } = self.subscribers[at];
        self.references -= usize::from(strong);
        effects.subscribers.push(self.subscribers.swap_remove(at));
        if strong && self.leaves(told) {
            self.turn_into(options, effects);
        }
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

    /// Tells those who are told what a side answers.
    pub(super) fn emit(&mut self, event: &RawEvent, side: Sides, effects: &mut Effects) {
        for subscriber in &mut self.subscribers {
            if subscriber.told.meets(side) {
                effects.wakers.extend(subscriber.tell(event.clone()));
            }
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
            let subscriber = Subscriber {
                id: 0,
                strong: true,
                told: Sides::BOTH,
                host: HostNumber::default(),
                source: 0,
                unread: Unread::default(),
                waker: None,
            };
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
