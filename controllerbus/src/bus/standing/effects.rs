//! What a change of a directive entails, once its lock is given back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use smallvec::SmallVec;

use super::Standing;
use super::resolvers::{Resolver, ResolverTask};
use super::subscribers::Subscriber;
use super::values::StandingValue;
use crate::Error;
use crate::bus::entry::LaneRef;
use crate::bus::resolver::restart;
use crate::bus::table::Release;
use crate::directive::Callback;

/// What is to be done once the lock is given back: user code (wakers, destructors) never runs under it.
#[derive(Default)]
#[must_use]
pub(in crate::bus) struct Effects {
    pub(super) wakers: SmallVec<[Waker; 2]>,
    pub(super) values: SmallVec<[StandingValue; 1]>,
    pub(super) resolvers: SmallVec<[Resolver; 1]>,
    pub(super) subscribers: SmallVec<[Subscriber; 1]>,
    pub(super) callbacks: Vec<Callback>,
    /// Callbacks that are dropped without being called.
    pub(super) refused: Option<Callback>,
    /// Resolvers that have room for their values again.
    pub(super) again: Vec<(Arc<LaneRef>, u32)>,
    /// Runs that are over.
    pub(super) tasks: Vec<Arc<ResolverTask>>,
    /// The last value of a directive that nobody refers to is gone.
    pub(super) empty: bool,
}

impl Effects {
    /// Wakes, aborts, calls and drops what was collected; tells each resolver's controller that it is done with. What
    /// panics there costs nothing else.
    pub(in crate::bus) fn apply(&mut self, standing: &Arc<Standing>) {
        // Taken from their ends: so the first comes first.
        if self.values.len() > 1 {
            self.values.reverse();
        }
        if self.resolvers.len() > 1 {
            self.resolvers.reverse();
        }
        self.callbacks.reverse();
        self.again.reverse();
        while let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.apply_rest(standing))) {
            let error = Error::from_panic(payload);
            tracing::error!(%error, "a removal callback or a destructor panicked");
        }
    }

    /// Does what is left to do, one after the other.
    fn apply_rest(&mut self, standing: &Arc<Standing>) {
        while let Some(waker) = self.wakers.pop() {
            waker.wake();
        }
        while let Some(value) = self.values.last_mut() {
            if let Some(removed) = value.removed.take() {
                removed();
            }
            self.values.truncate(self.values.len() - 1);
        }
        while let Some(resolver) = self.resolvers.last_mut() {
            if let Some(task) = resolver.task.take() {
                task.end();
            }
            resolver.lane_ref.forget(resolver.slot);
            self.callbacks.extend(resolver.gone.drain(..).rev());
            self.resolvers.truncate(self.resolvers.len() - 1);
        }
        while let Some(task) = self.tasks.pop() {
            task.end();
        }
        while let Some(callback) = self.callbacks.pop() {
            callback();
        }
        drop(self.refused.take());
        while let Some(subscriber) = self.subscribers.last_mut() {
            // One by one: a destructor that panics while another one's panic unwinds ends the process.
            subscriber.unread.clear();
            self.subscribers.truncate(self.subscribers.len() - 1);
        }
        while let Some((lane_ref, run)) = self.again.pop() {
            restart(standing, &lane_ref, run);
        }
        if std::mem::take(&mut self.empty) {
            standing.table.release(standing, Release::Empty);
        }
    }
}
