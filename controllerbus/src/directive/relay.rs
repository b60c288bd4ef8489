//! The values of one directive, shown at another.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{AnyValue, RawEvent, RawRequest, ValueId, ValueSink};

/// Passes on values that come and go elsewhere. What is refused because there are as many values as are wanted waits for
/// one of these to go: a replacement comes before what it replaces goes. Of room that others make it hears by
/// [`Relay::poll_room`], or else with the next of its own values that comes or goes.
pub struct Relay {
    sink: Arc<dyn ValueSink>,
    /// The values here, by those there.
    shown: HashMap<ValueId, ValueId>,
    /// What there was no room for, in the order in which it came.
    waiting: Vec<(ValueId, AnyValue)>,
    /// Where it hears of room, while something waits.
    room: Option<Box<dyn RawRequest>>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("shown", &self.shown.len()).field("waiting", &self.waiting.len()).finish()
    }
}

impl Relay {
    /// A relay to a sink.
    pub fn new(sink: Arc<dyn ValueSink>) -> Self {
        Self { sink, shown: HashMap::new(), waiting: Vec::new(), room: None }
    }

    /// A value has come there.
    pub fn added(&mut self, there: ValueId, value: AnyValue) {
        self.waiting.push((there, value));
        self.offer();
    }

    /// A value has gone there.
    pub fn removed(&mut self, there: ValueId) {
        self.waiting.retain(|(id, _)| *id != there);
        if let Some(old) = self.shown.remove(&there) {
            if self.waiting.is_empty() {
                self.sink.remove(old);
            } else {
                let (id, value) = self.waiting.remove(0);
                // In one step, so that there is always one.
                match self.sink.replace(old, value.clone()) {
                    Some(new) => {
                        self.shown.insert(id, new);
                    }
                    None => self.waiting.insert(0, (id, value)),
                }
            }
        }
        // Others may have made room too.
        self.offer();
    }

    /// Whether nothing of it is there, and nothing waits.
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty() && self.waiting.is_empty()
    }

    /// Offers what waits whenever others make room, as far as it is told of them; wakes the task when they do.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) {
        if self.waiting.is_empty() {
            self.room = None;
            return;
        }
        if self.room.is_none() {
            self.room = self.sink.reference().ok();
            // There may be room since it was refused.
            self.offer();
        }
        while let Some(Poll::Ready(event)) = self.room.as_mut().map(|room| room.poll_event(cx)) {
            match event {
                Some(RawEvent::Removed(_)) => self.offer(),
                Some(_) => {}
                None => self.room = None,
            }
        }
    }

    fn offer(&mut self) {
        while let Some((_, value)) = self.waiting.first()
            && let Some(here) = self.sink.add(value.clone())
        {
            let (there, _) = self.waiting.remove(0);
            self.shown.insert(there, here);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for here in self.shown.values() {
            self.sink.remove(*here);
        }
    }
}
