//! The events that one reference has not read yet, bounded by the number of values.

use std::collections::VecDeque;

use crate::directive::RawEvent;

/// The number of unread failures that a reference keeps.
const FAILURES: usize = 8;

/// A queue that does not allocate for its first two events: most references read one value and are dropped.
#[derive(Default)]
pub(super) struct Unread {
    first: Option<RawEvent>,
    second: Option<RawEvent>,
    rest: VecDeque<RawEvent>,
}

impl Unread {
    /// Queues an event. If it cancels one that is queued, both are dropped, so that the queue stays bounded.
    pub(super) fn push(&mut self, event: RawEvent) {
        match &event {
            RawEvent::Removed(id) => {
                if self.take(|queued| matches!(queued, RawEvent::Added(other, _) if other == id)) {
                    return;
                }
            }
            // The two alternate, so that they cancel each other.
            RawEvent::Busy | RawEvent::Idle => {
                let last = self.last();
                if matches!(last, Some(RawEvent::Idle | RawEvent::Busy)) {
                    self.pop_last();
                    return;
                }
            }
            RawEvent::Failed(_) => {
                let is_failure = |queued: &RawEvent| matches!(queued, RawEvent::Failed(_));
                if self.iter().filter(|queued| is_failure(queued)).count() >= FAILURES {
                    self.take(is_failure);
                }
            }
            RawEvent::Added(..) => {}
        }
        if self.first.is_none() {
            self.first = Some(event);
        } else if self.second.is_none() {
            self.second = Some(event);
        } else {
            self.rest.push_back(event);
        }
    }

    /// The oldest event.
    pub(super) fn pop(&mut self) -> Option<RawEvent> {
        let event = self.first.take()?;
        if self.second.is_some() {
            self.first = self.second.take();
            self.second = self.rest.pop_front();
        }
        Some(event)
    }

    /// Drops the events one by one. If a destructor panics, the next call drops the rest.
    pub(super) fn clear(&mut self) {
        self.first = None;
        self.second = None;
        while !self.rest.is_empty() {
            self.rest.truncate(self.rest.len() - 1);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &RawEvent> {
        self.first.iter().chain(&self.second).chain(&self.rest)
    }

    fn last(&self) -> Option<&RawEvent> {
        self.rest.back().or(self.second.as_ref()).or(self.first.as_ref())
    }

    fn pop_last(&mut self) {
        if self.rest.pop_back().is_none() && self.second.take().is_none() {
            self.first = None;
        }
    }

    /// Removes the first event that matches; false if there is none.
    fn take(&mut self, which: impl Fn(&RawEvent) -> bool) -> bool {
        if self.first.as_ref().is_some_and(&which) {
            self.pop();
            return true;
        }
        if self.second.as_ref().is_some_and(&which) {
            self.second = self.rest.pop_front();
            return true;
        }
        let at = self.rest.iter().position(which);
        at.and_then(|at| self.rest.remove(at)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::directive::{AnyValue, ValueId};

    fn added(id: u64) -> RawEvent {
        RawEvent::Added(ValueId(id), AnyValue::native(id))
    }

    fn read(unread: &mut Unread) -> Vec<String> {
        std::iter::from_fn(|| unread.pop())
            .map(|event| match event {
                RawEvent::Added(id, _) => format!("+{}", id.0),
                RawEvent::Removed(id) => format!("-{}", id.0),
                RawEvent::Idle => "idle".to_owned(),
                RawEvent::Busy => "busy".to_owned(),
                RawEvent::Failed(error) => error.to_string(),
            })
            .collect()
    }

    #[test]
    fn events_are_read_in_order_and_a_value_that_came_and_went_is_not() {
        let mut unread = Unread::default();
        for id in 0..5 {
            unread.push(added(id));
        }
        for gone in [1, 0, 4] {
            unread.push(RawEvent::Removed(ValueId(gone)));
        }
        unread.push(RawEvent::Removed(ValueId(9)));
        assert_eq!(read(&mut unread), ["+2", "+3", "-9"]);
    }

    #[test]
    fn idle_and_busy_take_each_other_back_and_failures_are_bounded() {
        let mut unread = Unread::default();
        unread.push(RawEvent::Idle);
        unread.push(RawEvent::Busy);
        assert!(read(&mut unread).is_empty());
        for number in 0..20 {
            unread.push(RawEvent::Failed(Error::msg(number)));
        }
        assert_eq!(read(&mut unread), ["12", "13", "14", "15", "16", "17", "18", "19"]);
    }
}
