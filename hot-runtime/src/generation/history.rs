//! The artifacts of earlier generations, for going back to one of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use controllerbus::bus::LastStates;

use crate::artifact::PrivateCopy;
use crate::error::Result;

/// How many earlier artifacts to keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    pub(crate) generations: usize,
    pub(crate) bytes: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { generations: 3, bytes: 256 << 20 }
    }
}

/// An earlier generation.
pub(crate) struct Past {
    pub(crate) number: u64,
    pub(crate) build_hash: String,
    /// The verified bytes, in a file of their own.
    pub(crate) copy: PrivateCopy,
    bytes: u64,
    /// Its last states.
    pub(crate) states: LastStates,
}

impl Past {
    /// Keeps the artifact of a generation that was just replaced. Blocks.
    pub(crate) fn of(number: u64, build_hash: String, copy: &PrivateCopy, states: LastStates) -> Result<Self> {
        static SEQUENCE: AtomicU64 = AtomicU64::new(0);
        let copy = copy.again_as(&format!("past-{}", SEQUENCE.fetch_add(1, Ordering::Relaxed)))?;
        let bytes = std::fs::metadata(copy.path()).map_or(0, |found| found.len());
        Ok(Self { number, build_hash, copy, bytes, states })
    }
}

impl Drop for Past {
    fn drop(&mut self) {
        self.copy.remove();
    }
}

/// A plugin's earlier generations, latest first, each artifact once.
#[derive(Default)]
pub(crate) struct History(VecDeque<Past>);

impl History {
    pub(crate) fn add(&mut self, past: Past, keep: Keep) {
        self.0.retain(|known| known.copy.hash() != past.copy.hash());
        self.0.push_front(past);
        self.0.truncate(keep.generations);
        while self.0.iter().map(|past| past.bytes).sum::<u64>() > keep.bytes {
            self.0.pop_back();
        }
    }

    /// The generation whose build hash or artifact hash starts with `wanted`, or else the latest one that was not taken
    /// back.
    pub(crate) fn find(&self, is_taken_back: impl Fn(&str) -> bool, wanted: Option<&str>) -> Option<&Past> {
        self.0.iter().find(|past| match wanted {
            Some(wanted) => past.build_hash.starts_with(wanted) || past.copy.hash().starts_with(wanted),
            None => !is_taken_back(past.copy.hash()),
        })
    }

    /// The numbers of the generations, latest first.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.0.iter().map(|past| past.number).collect()
    }

    /// The build hashes, latest first.
    pub(crate) fn builds(&self) -> Vec<String> {
        self.0.iter().map(|past| past.build_hash.clone()).collect()
    }
}
