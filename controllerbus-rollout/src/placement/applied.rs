//! What placement has applied on the buses of this process: whoever follows a set next on a bus takes off what his predecessor has
//! applied there and he does not. It is not kept on disk, because a bus begins empty, too; and what a config file names later by a key
//! that was the set's once is nobody's but the file's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controllerbus::Bus;
use controllerbus::bus::WeakBus;
use controllerbus::config::ConfigSet;
use tokio::time::Instant;

static ALL: Mutex<Vec<Row>> = Mutex::new(Vec::new());

/// What was applied of a set on a bus.
struct Row {
    bus: WeakBus,
    set: String,
    applied: ConfigSet,
    /// Who follows the set there, or did last.
    follower: u64,
    /// When that ended, if it has.
    left: Option<Instant>,
}

fn all() -> MutexGuard<'static, Vec<Row>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody who follows a set on a bus. Dropping it leaves what was applied to the next one.
pub(super) struct Following {
    bus: Bus,
    number: u64,
    begun: Instant,
}

impl Following {
    /// Follows a set in the place of whoever did.
    pub(super) fn begin(bus: &Bus, set: &str) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let following =
            Self { bus: bus.clone(), number: NUMBERS.fetch_add(1, Ordering::Relaxed), begun: Instant::now() };
        let mut all = all();
        all.retain(|row| !row.bus.is_gone());
        match all.iter_mut().find(|row| row.set == set && row.bus.is(bus)) {
            Some(row) => (row.follower, row.left) = (following.number, None),
            None => all.push(Row {
                bus: bus.downgrade(),
                set: set.to_owned(),
                applied: ConfigSet::new(),
                follower: following.number,
                left: None,
            }),
        }
        following
    }

    /// What was applied; none if another one follows the set by now. Where the set has another name than for the predecessor, that is
    /// told by nobody taking his place for so long.
    pub(super) fn applied(&self, settle: Duration) -> Option<ConfigSet> {
        let mut all = all();
        all.iter().find(|row| row.follower == self.number)?;
        let is_ours = |row: &Row| {
            let Some(left) = row.left.filter(|left| left.elapsed() >= settle) else { return false };
            let between = left.max(self.begun) - left.min(self.begun);
            between < settle && row.bus.is(&self.bus)
        };
        let (ours, others) = all.drain(..).partition(is_ours);
        *all = others;
        let own = all.iter_mut().find(|row| row.follower == self.number)?;
        let ours: Vec<Row> = ours;
        for (key, entry) in ours.iter().flat_map(|row| row.applied.iter()) {
            if own.applied.get(key).is_none() {
                own.applied.set(key, entry.clone());
            }
        }
        Some(own.applied.clone())
    }

    /// What is applied now, or about to be.
    pub(super) fn set(&self, applied: ConfigSet) {
        if let Some(own) = all().iter_mut().find(|row| row.follower == self.number) {
            own.applied = applied;
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(own) = all().iter_mut().find(|row| row.follower == self.number) {
            own.left = Some(Instant::now());
        }
    }
}
