//! The values of one directive, shown at another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{AnyValue, RawEvent, RawRequest, ValueId, ValueSink};
use crate::few::Few;

/// Passes on values that come and go elsewhere. What is refused because there are as many values as are wanted waits for
/// one of these to go: a replacement comes before what it replaces goes. Of room that others make it hears by
/// [`Relay::poll_room`], or else with the next of its own values that comes or goes.
pub struct Relay {
    sink: Arc<dyn ValueSink>,
    /// The values here, by those there.
    shown: Few<ValueId, ValueId>,
    /// While there is no room for some.
    late: Option<Box<Late>>,
}

struct Late {
    /// What there was no room for, in the order in which it came.
    waiting: VecDeque<(ValueId, AnyValue)>,
    /// Where it hears of room.
    room: Option<Box<dyn RawRequest>>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waiting = self.late.as_ref().map_or(0, |late| late.waiting.len());
        f.debug_struct("Relay").field("shown", &self.shown.len()).field("waiting", &waiting).finish()
    }
}

impl Relay {
    /// A relay to a sink.
    pub fn new(sink: Arc<dyn ValueSink>) -> Self {
        Self { sink, shown: Few::default(), late: None }
    }

    /// A value has come there.
    pub fn added(&mut self, there: ValueId, value: AnyValue) {
        if self.late.is_none()
            && let Some(here) = self.sink.add(value.clone())
        {
            self.shown.insert(there, here);
            return;
        }
        let late = self.late.get_or_insert_with(|| Box::new(Late { waiting: VecDeque::new(), room: None }));
        late.waiting.push_back((there, value));
        self.offer();
    }

    /// A value has gone there.
    pub fn removed(&mut self, there: ValueId) {
        if let Some(late) = &mut self.late {
            late.waiting.retain(|(id, _)| *id != there);
        }
        if let Some(old) = self.shown.remove(there) {
            match self.late.as_mut().and_then(|late| late.waiting.pop_front()) {
                None => {
                    self.sink.remove(old);
                }
                // In one step, so that there is always one.
                Some((id, value)) => match self.sink.replace(old, value.clone()) {
                    Some(new) => {
                        self.shown.insert(id, new);
                    }
                    None => self.late.iter_mut().for_each(|late| late.waiting.push_front((id, value.clone()))),
                },
            }
        }
        // Others may have made room too.
        self.offer();
    }

    /// Whether nothing of it is there, and nothing waits.
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty() && self.late.is_none()
    }

    /// Offers what waits whenever others make room, as far as it is told of them; wakes the task when they do.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) {
        if self.late.as_ref().is_some_and(|late| late.room.is_none()) {
            let room = self.sink.reference().ok();
            self.late.iter_mut().zip(room).for_each(|(late, room)| late.room = Some(room));
            // There may be room since it was refused.
            self.offer();
        }
        while let Some(late) = &mut self.late
            && let Some(room) = &mut late.room
            && let Poll::Ready(event) = room.poll_event(cx)
        {
            match event {
                Some(RawEvent::Removed(_)) => self.offer(),
                Some(_) => {}
                None => late.room = None,
            }
        }
    }

    fn offer(&mut self) {
        while let Some(late) = &mut self.late {
            let Some((_, value)) = late.waiting.front() else {
                self.late = None;
                return;
            };
            let Some(here) = self.sink.add(value.clone()) else { return };
            if let Some((there, _)) = late.waiting.pop_front() {
                self.shown.insert(there, here);
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for (_, here) in self.shown.iter() {
            self.sink.remove(*here);
        }
    }
}
