//! What is received on one lane: frames in their order, or the news that one is missing.

use std::time::Duration;

use tokio::time::Instant;

use super::frame::Head;

/// What is not reported for so long, the other host may believe to be lost.
const REPORT: Duration = Duration::from_millis(100);

/// It is reported at once when it is as many bytes, as the other host counts them, of a lane; and of all lanes of a link.
const MANY: usize = 64 << 10;
pub(crate) const MANY_OF_ALL: usize = 128 << 10;

/// How often, and at last how seldom, it is said again that a frame is missing.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// It is the next one.
    Next,
    /// It was seen before, or belongs to a telling that is over.
    Repeated,
    /// One before it is missing.
    Missing,
}

/// The receiving half of a lane.
#[derive(Debug, Default)]
pub(crate) struct LaneIn {
    /// Where the next frame belongs; era 0 if there has been none.
    next: Option<Head>,
    broken: Option<Broken>,
    /// Bytes that were seen and not reported.
    unreported: usize,
    since: Option<Instant>,
    /// The frame with which the other host needs a report, because something waits there.
    awaited: Option<Head>,
}

/// A frame is missing: nothing is taken until all of it is told again.
#[derive(Debug)]
struct Broken {
    /// The newest era that is known to lack something.
    era: u64,
    due: Instant,
    wait: Duration,
}

impl LaneIn {
    pub(crate) fn take(&mut self, head: Head, now: Instant) -> Order {
        let known = self.next.unwrap_or(Head { era: 0, number: 0 });
        let newest = self.broken.as_ref().map_or(known.era, |broken| broken.era.max(known.era));
        if head.era > known.era && head.number == 0 {
            self.next = Some(Head { era: head.era, number: 1 });
            self.awaited = self.awaited.filter(|awaited| awaited.era >= head.era);
            // Something of a still newer one may be known.
            if newest <= head.era {
                self.broken = None;
            }
            return Order::Next;
        }
        if head.era < known.era || (head.era == known.era && head.number < known.number) {
            return Order::Repeated;
        }
        if head == known && self.broken.is_none() {
            self.next = Some(Head { era: known.era, number: known.number + 1 });
            return Order::Next;
        }
        self.lacks(head.era.max(newest), now);
        Order::Missing
    }

    /// The other host has sent so many frames of an era.
    pub(crate) fn was_sent(&mut self, era: u64, frames: u64, now: Instant) {
        let known = self.next.unwrap_or(Head { era: 0, number: 0 });
        if era > known.era || (era == known.era && frames > known.number) {
            self.lacks(era, now);
        } else if era == known.era {
            // Its report was lost.
            self.is_due(now);
        }
    }

    /// The other host waits until it hears that this frame was seen. It may not have come yet, which does not mean that it was lost.
    pub(crate) fn is_awaited(&mut self, frame: Head, now: Instant) {
        let known = self.next.unwrap_or(Head { era: 0, number: 0 });
        if frame.era == known.era && frame.number < known.number {
            // If it has been reported, that was lost.
            self.is_due(now);
        } else if frame >= known {
            self.awaited = self.awaited.max(Some(frame));
        }
    }

    /// It is to be reported at once.
    fn is_due(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.unreported = self.unreported.max(MANY);
    }

    fn lacks(&mut self, era: u64, now: Instant) {
        match &mut self.broken {
            Some(broken) if broken.era >= era => {}
            _ => self.broken = Some(Broken { era, due: now, wait: AGAIN.0 }),
        }
    }

    /// The era that is to be told again, if it is time to say so.
    pub(crate) fn again(&mut self, now: Instant) -> Option<u64> {
        let broken = self.broken.as_mut().filter(|broken| broken.due <= now)?;
        broken.due = now + broken.wait;
        broken.wait = (broken.wait * 2).min(AGAIN.1);
        Some(broken.era)
    }

    /// A frame was handled that counted so many bytes.
    pub(crate) fn handled(&mut self, counted: usize, now: Instant) {
        self.unreported += counted;
        self.since.get_or_insert(now);
        if self.awaited.is_some_and(|awaited| self.next.is_some_and(|next| awaited < next)) {
            self.awaited = None;
            self.is_due(now);
        }
    }

    /// How many bytes were seen and not reported.
    pub(crate) fn unreported(&self) -> usize {
        self.unreported
    }

    /// What was seen last, if it is time to report it, or all lanes are reported.
    pub(crate) fn report(&mut self, all: bool, now: Instant) -> Option<Head> {
        let since = self.since?;
        if !all && self.unreported < MANY && now.duration_since(since) < REPORT {
            return None;
        }
        (self.since, self.unreported) = (None, 0);
        let next = self.next?;
        Some(Head { era: next.era, number: next.number.checked_sub(1)? })
    }

    /// When to look at the two again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let report = self.since.map(|since| since + REPORT);
        report.into_iter().chain(self.broken.as_ref().map(|broken| broken.due)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(era: u64, number: u64) -> Head {
        Head { era, number }
    }

    #[test]
    fn a_gap_is_seen_at_once_and_ends_with_the_first_frame_of_a_newer_era() {
        let (mut lane, now) = (LaneIn::default(), Instant::now());
        assert_eq!(lane.take(head(3, 0), now), Order::Next);
        assert_eq!(lane.take(head(3, 1), now), Order::Next);
        assert_eq!(lane.take(head(3, 1), now), Order::Repeated);
        assert_eq!(lane.take(head(3, 3), now), Order::Missing);
        assert_eq!(lane.again(now), Some(3));
        assert_eq!(lane.again(now), None);
        assert_eq!(lane.again(now + AGAIN.0), Some(3));
        // Late: what came after it was not taken.
        assert_eq!(lane.take(head(3, 2), now), Order::Missing);
        assert_eq!(lane.take(head(5, 1), now), Order::Missing);
        assert_eq!(lane.again(now), Some(5));
        assert_eq!(lane.take(head(6, 0), now), Order::Next);
        assert_eq!(lane.again(now + AGAIN.1), None);
        assert_eq!(lane.take(head(5, 0), now), Order::Repeated);
        assert_eq!(lane.take(head(6, 1), now), Order::Next);
    }

    #[test]
    fn the_last_frame_is_missed_when_it_is_asked_for() {
        let (mut lane, now) = (LaneIn::default(), Instant::now());
        lane.was_sent(2, 1, now);
        assert_eq!(lane.again(now), Some(2));
        assert_eq!(lane.take(head(3, 0), now), Order::Next);
        lane.was_sent(3, 1, now);
        assert_eq!((lane.again(now), lane.report(false, now)), (None, Some(head(3, 0))));
        lane.was_sent(3, 2, now);
        assert_eq!(lane.again(now), Some(3));
    }

    #[test]
    fn what_was_seen_is_reported_when_it_is_much_or_after_a_while() {
        let (mut lane, now) = (LaneIn::default(), Instant::now());
        lane.take(head(1, 0), now);
        lane.handled(10, now);
        assert_eq!(lane.report(false, now), None);
        assert_eq!(lane.deadline(), Some(now + REPORT));
        assert_eq!(lane.report(false, now + REPORT), Some(head(1, 0)));
        lane.take(head(1, 1), now);
        lane.handled(MANY, now);
        assert_eq!(lane.report(false, now), Some(head(1, 1)));
        assert_eq!(lane.deadline(), None);
        // Those of other lanes are much.
        assert_eq!(lane.report(true, now), None);
        lane.take(head(1, 2), now);
        lane.handled(10, now);
        assert_eq!((lane.unreported(), lane.report(true, now)), (10, Some(head(1, 2))));
    }

    #[test]
    fn what_is_awaited_is_reported_with_its_frame_and_is_not_missed_before() {
        let (mut lane, now) = (LaneIn::default(), Instant::now());
        lane.is_awaited(head(1, 1), now);
        assert_eq!((lane.again(now), lane.deadline()), (None, None));
        for (number, report) in [(0, None), (1, Some(head(1, 1))), (2, None)] {
            assert_eq!(lane.take(head(1, number), now), Order::Next);
            lane.handled(10, now);
            assert_eq!(lane.report(false, now), report);
        }
        // It comes after its frame, or a second time, because the report was lost.
        for _ in 0..2 {
            lane.is_awaited(head(1, 2), now);
            assert_eq!(lane.report(false, now), Some(head(1, 2)));
        }
        // One of an era that is over is forgotten.
        lane.is_awaited(head(1, 3), now);
        assert_eq!(lane.take(head(2, 0), now), Order::Next);
        lane.handled(10, now);
        assert_eq!((lane.report(false, now), lane.again(now)), (None, None));
    }
}
