//! How much the other end may use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::world::World;

/// How much the other end may use. Clones of one are one limit: endpoints that have them share what is used.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointLimits {
    /// The name of the other end in errors, such as `the plugin`.
    pub name: String,
    /// How many asks of the other end may be open; further ones fail.
    pub asks: u64,
    /// How many bytes of its values may stand; [`Endpoint::flooded`](super::Endpoint::flooded) returns when there would be more.
    pub standing: u64,
    pub(super) used: Arc<Used>,
}

/// What the other end uses now.
#[derive(Debug, Default)]
pub(super) struct Used {
    asks: AtomicU64,
    pub(super) standing: AtomicU64,
    /// Of that, what may be gone: it is being told again, and was not so far.
    missing: AtomicU64,
}

impl EndpointLimits {
    /// Without limits.
    pub fn none(name: impl Into<String>) -> Self {
        Self { name: name.into(), asks: u64::MAX, standing: u64::MAX, used: Arc::default() }
    }

    /// With a limit on open asks.
    #[must_use]
    pub fn with_asks(self, most: u64) -> Self {
        Self { asks: most, ..self }
    }

    /// With a limit on the bytes of standing values.
    #[must_use]
    pub fn with_standing(self, bytes: u64) -> Self {
        Self { standing: bytes, ..self }
    }

    /// How many asks of the other end are open.
    pub fn open_asks(&self) -> u64 {
        self.used.asks.load(Ordering::Relaxed)
    }

    /// How many bytes of its values stand, with what each counts beside its bytes.
    pub fn standing_bytes(&self) -> u64 {
        self.used.standing.load(Ordering::Relaxed)
    }

    /// A place for another ask; `None` if there are as many as may be.
    pub(super) fn place(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.used));
        let before = self.used.asks.fetch_add(1, Ordering::Relaxed);
        // Dropping it takes it back.
        (before < self.asks).then_some(place)
    }

    /// Counts a value that stands instead of others that counted `freed`; false, and not counted, if that were too many bytes.
    pub(super) fn stands(&self, counted: u64, freed: u64) -> bool {
        let standing = self.used.standing.fetch_add(counted, Ordering::Relaxed) + counted;
        let fits = standing.saturating_sub(freed) <= self.standing && standing <= self.standing.saturating_mul(2);
        if !fits {
            self.gone(counted);
        }
        fits
    }

    /// How many of the bytes that stand may be gone: they are being told again, and were not so far.
    pub(super) fn missing(&self) -> u64 {
        self.used.missing.load(Ordering::Relaxed)
    }

    /// Whether more stands than may.
    pub(super) fn are_exceeded(&self) -> bool {
        self.standing_bytes().saturating_sub(self.missing()) > self.standing
    }

    /// Changes what is known of an ask, and counts what is missing of it.
    pub(super) fn of_world<T>(&self, world: &mut World, change: impl FnOnce(&mut World) -> T) -> T {
        let before = world.missing();
        let changed = change(world);
        // It wraps around where there is less than before.
        self.used.missing.fetch_add(world.missing().wrapping_sub(before), Ordering::Relaxed);
        changed
    }

    /// Takes back what values counted.
    pub(super) fn gone(&self, counted: u64) {
        self.used.standing.fetch_sub(counted, Ordering::Relaxed);
    }
}

/// What one open ask counts, until it is dropped.
pub(super) struct Place(Arc<Used>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.asks.fetch_sub(1, Ordering::Relaxed);
    }
}
