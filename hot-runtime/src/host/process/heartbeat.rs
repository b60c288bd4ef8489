//! Whether a process answers.

use std::time::Duration;

use tokio::time::Instant;

/// How many heartbeats fit into the watchdog's time.
pub(super) const BEATS: u32 = 5;

/// Which heartbeats a process was sent, and which of them it has answered.
pub(super) struct Heartbeat {
    sent: u64,
    answered: u64,
    /// When it last answered one.
    alive: Instant,
    /// Where the reader was at the last beat.
    reading: u64,
}

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Self {
        Self { sent: 0, answered: 0, alive: now, reading: 0 }
    }

    /// The number of the next one.
    pub(super) fn next(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    /// Takes the number of the last one that it says it has answered.
    pub(super) fn answered(&mut self, number: u64, now: Instant) {
        // It cannot have answered one that was not sent.
        let number = number.min(self.sent);
        if number > self.answered {
            self.answered = number;
            self.alive = now;
        }
    }

    /// Takes [where the reader is](super::link::Link::reading), once in each beat. While it works on one message for a whole beat, what the process
    /// has answered lies behind that: it is this process that is slow.
    pub(super) fn reader_is_at(&mut self, reading: u64, now: Instant) {
        let is_stuck_here = !reading.is_multiple_of(2) && reading == self.reading;
        self.reading = reading;
        if is_stuck_here {
            self.answered = self.sent;
            self.alive = now;
        }
    }

    /// Whether it has not answered for so long, although it was asked again and again.
    pub(super) fn is_lost(&self, now: Instant, watchdog: Duration) -> bool {
        self.sent - self.answered >= u64::from(BEATS) && now.duration_since(self.alive) >= watchdog
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_answer_heartbeats_before_they_are_sent() {
        let (watchdog, begun) = (Duration::from_secs(5), Instant::now());
        let mut heartbeat = Heartbeat::new(begun);
        for answer in [u64::MAX, 1, u64::MAX - 1] {
            heartbeat.answered(answer, begun + watchdog);
            assert!(!heartbeat.is_lost(begun + watchdog, watchdog));
        }
        for _ in 0..BEATS {
            heartbeat.next();
        }
        assert!(heartbeat.is_lost(begun + watchdog, watchdog), "what it said too early counts for nothing");
        let answered = begun + watchdog * 2;
        heartbeat.answered(u64::from(BEATS), answered);
        // One that slept with its machine was not asked meanwhile.
        assert!(!heartbeat.is_lost(answered + watchdog * 10, watchdog));
        for _ in 0..BEATS {
            heartbeat.next();
            heartbeat.answered(0, answered + watchdog);
        }
        assert!(heartbeat.is_lost(answered + watchdog, watchdog));
    }

    /// Of a hundred beats, the one after which a process counts as silent that answers none of them.
    fn silent_after(reading: impl Fn(u64) -> u64) -> Option<u64> {
        let (watchdog, begun) = (Duration::from_secs(5), Instant::now());
        let mut heartbeat = Heartbeat::new(begun);
        (0..100).find(|beat| {
            let now = begun + watchdog / BEATS * *beat as u32;
            heartbeat.reader_is_at(reading(*beat), now);
            let is_lost = heartbeat.is_lost(now, watchdog);
            heartbeat.next();
            is_lost
        })
    }

    #[test]
    fn what_lies_behind_a_message_on_which_this_process_works_is_no_silence_and_what_does_not_is() {
        let beats = u64::from(BEATS);
        assert_eq!(silent_after(|_| 8), Some(beats), "it works on none");
        assert_eq!(silent_after(|_| 7), None, "it works on one all the time");
        assert_eq!(silent_after(|beat| 2 * beat + 1), Some(beats), "it works on another one at each beat");
        // When it is done with it, the time begins anew.
        assert_eq!(silent_after(|beat| if beat <= 30 { 7 } else { 8 }), Some(30 + beats));
    }
}
