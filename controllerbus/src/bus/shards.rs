//! A table in shards by key, each with a lock of its own, that ends when it is empty.

use std::sync::PoisonError;

use super::lane::CachePadded;
use crate::sync::{Mutex, MutexGuard};

const SHARDS: usize = if cfg!(all(test, cbus_loom)) { 2 } else { 32 };

/// What belongs to one shard.
#[derive(Default)]
pub(super) struct Shard<T> {
    pub(super) all: T,
    /// The table was removed: look for the one that has replaced it.
    pub(super) ended: bool,
}

pub(super) struct Shards<T>([CachePadded<Mutex<Shard<T>>>; SHARDS]);

impl<T: Default> Shards<T> {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| CachePadded::default()))
    }

    /// The shard of a key with this hash.
    pub(super) fn of(&self, hash: u64) -> MutexGuard<'_, Shard<T>> {
        self.0[(hash >> 32) as usize % SHARDS].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One after the other.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard<T>>> {
        self.0.iter().map(|shard| shard.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the table if nothing is in it. Whoever is about to insert something looks for another table then.
    pub(super) fn end_if_empty(&self, is_empty: impl Fn(&T) -> bool) -> bool {
        if self.each().any(|shard| !is_empty(&shard.all)) {
            return false;
        }
        let is_empty = self.each().all(|mut shard| {
            shard.ended = is_empty(&shard.all);
            shard.ended
        });
        if !is_empty {
            self.each().for_each(|mut shard| shard.ended = false);
        }
        is_empty
    }
}

#[cfg(all(test, cbus_loom))]
mod loom_tests {
    use std::sync::Arc;

    use super::*;

    type Table = Arc<Shards<Vec<u64>>>;

    #[test]
    fn loom_what_is_inserted_while_its_table_is_removed_is_in_the_table_that_counts() {
        for key in 0..SHARDS as u64 {
            loom::model(move || {
                let current = Arc::new(Mutex::new(Table::new(Shards::new())));
                let inserting = Arc::clone(&current);
                let inserts = loom::thread::spawn(move || {
                    loop {
                        let table = Arc::clone(&inserting.lock().unwrap());
                        let mut shard = table.of(key << 32);
                        if !shard.ended {
                            return shard.all.push(key);
                        }
                        drop(shard);
                        loom::thread::yield_now();
                    }
                });
                let table = Arc::clone(&current.lock().unwrap());
                if table.end_if_empty(Vec::is_empty) {
                    *current.lock().unwrap() = Table::new(Shards::new());
                }
                inserts.join().expect("it ends");
                let table = Arc::clone(&current.lock().unwrap());
                let found: Vec<u64> = table.each().flat_map(|shard| shard.all.clone()).collect();
                assert_eq!(found, [key]);
                assert!(table.each().all(|shard| !shard.ended));
            });
        }
    }
}
