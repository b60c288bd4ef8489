//! One reference to a standing directive, as requesters get it.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::ResolverSnapshot;
use super::resolver::turned;
use super::standing::Standing;
use super::table::Release;
use crate::Result;
use crate::directive::{RawEvent, RawRequest, superseded};

pub(super) struct Reference {
    standing: Arc<Standing>,
    subscriber: u64,
}

impl Reference {
    pub(super) fn new(standing: Arc<Standing>, subscriber: u64) -> Self {
        Self { standing, subscriber }
    }

    pub(super) fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }
}

impl RawRequest for Reference {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RawEvent>> {
        // The replaced waker may be the last reference to a task, so it is dropped after the lock.
        let next = self.standing.lock().next_event(self.subscriber, cx.waker());
        match next {
            Ok(event) => Poll::Ready(event),
            Err(_replaced) => Poll::Pending,
        }
    }

    fn reference(&self, strong: bool) -> Result<Box<dyn RawRequest>> {
        let (subscriber, turn) = {
            let mut state = self.standing.lock();
            if state.ended {
                return Err(superseded(self.standing.directive.id()));
            }
            let asker = state.asker(self.subscriber);
            state.subscribe(strong, asker, &self.standing.options)
        };
        match turn {
            Some(turn) => turned(&self.standing, turn),
            None => self.standing.notify_changed(),
        }
        Ok(Box::new(Self::new(Arc::clone(&self.standing), subscriber)))
    }

    fn resolvers(&self) -> Result<Vec<ResolverSnapshot>> {
        let id = self.standing.directive.id();
        let state = self.standing.lock();
        Ok(state.resolver_snapshots(id, state.asker(self.subscriber).told))
    }

    fn givers(&self) -> Vec<ResolverSnapshot> {
        let id = self.standing.directive.id();
        let mut all = {
            let state = self.standing.lock();
            state.resolver_snapshots(id, state.asker(self.subscriber).told)
        };
        all.retain(|resolver| resolver.values > 0);
        all
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.standing.table.release(&self.standing, Release::Reference(self.subscriber));
    }
}
