//! References that share what they refer to, each by its number, so that none needs an allocation of its own.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::{RawEvent, RawRequest};
use crate::Result;
use crate::bus::ResolverSnapshot;

/// What has numbered references: a directive of a bus in this library. Its functions are those of [`RawRequest`].
pub(crate) trait Referred: Send + Sync {
    fn poll_event(&self, reference: u64, cx: &mut Context<'_>) -> Poll<Option<RawEvent>>;
    fn another(&self, reference: u64, strong: bool) -> Result<Reference>;
    fn resolvers(&self, reference: u64) -> Result<Vec<ResolverSnapshot>>;
    fn givers(&self, reference: u64) -> Vec<ResolverSnapshot>;
    fn release(&self, reference: u64);
}

/// A reference with a number. Dropping it releases it.
pub struct Reference {
    of: Arc<dyn Referred>,
    number: u64,
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reference").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Reference {
    /// One that was counted by what it refers to.
    pub(crate) fn new(of: Arc<dyn Referred>, number: u64) -> Self {
        Self { of, number }
    }

    fn another(&self, strong: bool) -> Result<Self> {
        self.of.another(self.number, strong)
    }
}

impl RawRequest for Reference {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RawEvent>> {
        self.of.poll_event(self.number, cx)
    }

    fn reference(&self, strong: bool) -> Result<Box<dyn RawRequest>> {
        Ok(Box::new(self.another(strong)?))
    }

    fn resolvers(&self) -> Result<Vec<ResolverSnapshot>> {
        self.of.resolvers(self.number)
    }

    fn givers(&self) -> Vec<ResolverSnapshot> {
        self.of.givers(self.number)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.of.release(self.number);
    }
}

/// What a [`Request`](super::Request) reads from.
pub enum ReadFrom {
    /// A directive of a bus in this library.
    Numbered(Reference),
    /// Any other.
    Boxed(Box<dyn RawRequest>),
}

impl std::fmt::Debug for ReadFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadFrom").finish_non_exhaustive()
    }
}

impl ReadFrom {
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RawEvent>> {
        match self {
            Self::Numbered(reference) => reference.poll_event(cx),
            Self::Boxed(reference) => reference.poll_event(cx),
        }
    }

    pub(super) fn another(&self, strong: bool) -> Result<Self> {
        match self {
            Self::Numbered(reference) => reference.another(strong).map(Self::Numbered),
            Self::Boxed(reference) => reference.reference(strong).map(Self::Boxed),
        }
    }

    pub(super) fn resolvers(&self) -> Result<Vec<ResolverSnapshot>> {
        match self {
            Self::Numbered(reference) => reference.resolvers(),
            Self::Boxed(reference) => reference.resolvers(),
        }
    }

    pub(super) fn givers(&self) -> Vec<ResolverSnapshot> {
        match self {
            Self::Numbered(reference) => reference.givers(),
            Self::Boxed(reference) => reference.givers(),
        }
    }
}
