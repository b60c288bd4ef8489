//! A directive as its references see it.

use std::task::{Context, Poll};

use super::ResolverSnapshot;
use super::resolver::turned;
use super::standing::Standing;
use super::table::Release;
use crate::Result;
use crate::directive::{RawEvent, Reference, Referred, superseded};

impl Referred for Standing {
    fn poll_event(&self, reference: u64, cx: &mut Context<'_>) -> Poll<Option<RawEvent>> {
        // The replaced waker may be the last reference to a task, so it is dropped after the lock.
        let next = self.lock().next_event(reference, cx.waker());
        match next {
            Ok(event) => Poll::Ready(event),
            Err(_replaced) => Poll::Pending,
        }
    }

    fn another(&self, reference: u64, strong: bool) -> Result<Reference> {
        let gone = || superseded(self.directive.id());
        let standing = self.shared().ok_or_else(gone)?;
        let (subscriber, turn) = {
            let mut state = standing.lock();
            if state.ended {
                return Err(gone());
            }
            let asker = state.asker(reference);
            state.subscribe(strong, asker, &standing.options)
        };
        match turn {
            Some(turn) => turned(&standing, turn),
            None => standing.notify_changed(),
        }
        Ok(Reference::new(standing, subscriber))
    }

    fn resolvers(&self, reference: u64) -> Result<Vec<ResolverSnapshot>> {
        let state = self.lock();
        Ok(state.resolver_snapshots(self.directive.id(), state.asker(reference).told))
    }

    fn givers(&self, reference: u64) -> Vec<ResolverSnapshot> {
        let mut all = {
            let state = self.lock();
            state.resolver_snapshots(self.directive.id(), state.asker(reference).told)
        };
        all.retain(|resolver| resolver.values > 0);
        all
    }

    fn release(&self, reference: u64) {
        self.table.release(self, Release::Reference(reference));
    }
}
