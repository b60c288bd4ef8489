//! How long a stage of a rollout lasts, although whoever counts may die and another host goes on.
//!
//! The leader notes in its lease how long it has counted. Its successor goes on from there, by its own clock, which never stands
//! still or jumps: so what is watched is watched long enough, and no clock of another host shortens that. For deadlines the time
//! since the stage was written counts as well, by the clocks of both: so nobody stretches them by dying.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::link::{Link, Stage};
use crate::state::Spent;

/// Which stage is counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    rollout: u64,
    stage: Stage,
    step: usize,
    began_ms: u64,
}

impl Counted {
    pub(crate) fn of(link: &Link) -> Self {
        Self { rollout: link.rollout, stage: link.stage, step: link.step, began_ms: link.began_ms }
    }
}

/// What a leader notes for its successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    #[serde(flatten)]
    counted: Counted,
    spent_ms: u64,
}

/// A count.
#[derive(Clone, Debug)]
pub(crate) struct Elapsed {
    counted: Counted,
    /// When this host began to count.
    since: Duration,
    /// What was counted before.
    before: Duration,
}

impl Elapsed {
    /// Begins to count a stage, from what the leader before had counted; `ago` is how long ago that was noted.
    pub(crate) fn begin(link: &Link, clock: &Clock, noted: Option<&Note>, ago: Duration) -> Self {
        let counted = Counted::of(link);
        let before = noted.filter(|note| note.counted == counted);
        let before = before.map_or(Duration::ZERO, |note| Duration::from_millis(note.spent_ms) + ago);
        Self { counted, since: clock.now(), before }
    }

    /// Whether it counts the stage of this link.
    pub(crate) fn is_of(&self, link: &Link) -> bool {
        self.counted == Counted::of(link)
    }

    pub(crate) fn spent(&self, clock: &Clock) -> Spent {
        let at_least = self.before + clock.now().saturating_sub(self.since);
        let by_clocks = Duration::from_millis(clock.wall_ms().saturating_sub(self.counted.began_ms));
        Spent { at_least, at_most: at_least.max(by_clocks) }
    }

    pub(crate) fn note(&self, clock: &Clock) -> Note {
        Note { counted: self.counted.clone(), spent_ms: crate::release::millis(self.spent(clock).at_least) }
    }
}
