//! What a host counts of its links.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::status::Counts;

/// One number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What has been counted since the host joined.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    pub(crate) lost: Count,
    pub(crate) refused: Count,
    pub(crate) resyncs: Count,
    pub(crate) credit_waits: Count,
    pub(crate) window_waits: Count,
    pub(crate) sent_frames: Count,
    pub(crate) sent_bytes: Count,
    pub(crate) received_frames: Count,
    pub(crate) received_bytes: Count,
}

impl Counting {
    /// Without what is of now.
    pub(crate) fn so_far(&self) -> Counts {
        Counts {
            lost: self.lost.get(),
            refused: self.refused.get(),
            resyncs: self.resyncs.get(),
            credit_waits: self.credit_waits.get(),
            window_waits: self.window_waits.get(),
            sent_frames: self.sent_frames.get(),
            sent_bytes: self.sent_bytes.get(),
            received_frames: self.received_frames.get(),
            received_bytes: self.received_bytes.get(),
            ..Counts::default()
        }
    }
}
