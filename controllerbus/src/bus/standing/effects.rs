//! What a change of a directive entails, once its lock has been released.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use smallvec::SmallVec;

use super::Standing;
use super::resolvers::Resolver;
use super::subscribers::Subscriber;
use super::task::ResolverTask;
use super::values::StandingValue;
use crate::Error;
use crate::bus::entry::LaneRef;
use crate::bus::pins::pass_on;
use crate::bus::resolver::restart;
use crate::bus::table::Release;
use crate::directive::Callback;

/// What is to be done once the lock has been released: user code (wakers, callbacks, destructors) does not run under it.
#[derive(Default)]
#[must_use]
pub(in crate::bus) struct Effects {
    pub(super) wakers: SmallVec<[Waker; 2]>,
    pub(super) values: SmallVec<[StandingValue; 1]>,
    pub(super) resolvers: SmallVec<[Resolver; 1]>,
    pub(super) subscribers: SmallVec<[Subscriber; 1]>,
    /// Runs that are over.
    pub(super) tasks: Vec<Arc<ResolverTask>>,
    rare: Option<Box<Rare>>,
}

/// What most changes do not entail, apart, so that these pay nothing for it.
#[derive(Default)]
pub(super) struct Rare {
    pub(super) callbacks: Vec<Callback>,
    /// A callback that is dropped without being called.
    pub(super) refused: Option<Callback>,
    /// Resolvers that begin again, because there is room for their values.
    pub(super) again: Vec<(Arc<LaneRef>, u32)>,
    /// Those to which the directive is pinned no longer.
    pub(super) unpinned: Vec<Arc<LaneRef>>,
    /// The directive has no references, and has lost its last value.
    pub(super) empty: bool,
}

impl Effects {
    /// For what is rare.
    #[cold]
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Adds callbacks, in this order.
    pub(super) fn call(&mut self, callbacks: &mut Vec<Callback>) {
        if !callbacks.is_empty() {
            self.rare().callbacks.append(callbacks);
        }
    }

    /// Whether there is nothing to do and nothing to free: what most changes come to.
    pub(super) fn are_none(&self) -> bool {
        let Self { wakers, values, resolvers, subscribers, tasks, rare } = self;
        let is_empty = wakers.is_empty() && values.is_empty() && resolvers.is_empty() && subscribers.is_empty();
        let is_inline = !wakers.spilled() && !values.spilled() && !resolvers.spilled() && !subscribers.spilled();
        is_empty && is_inline && tasks.capacity() == 0 && rare.is_none()
    }

    /// Wakes, aborts, calls and drops what was collected, and frees the removed resolvers' slots. A panic in one of these does
    /// not prevent the others.
    pub(in crate::bus) fn apply(&mut self, standing: &Standing) {
        // They are taken from the back, the first one first.
        if self.values.len() > 1 {
            self.values.reverse();
        }
        if self.resolvers.len() > 1 {
            self.resolvers.reverse();
        }
        if let Some(rare) = &mut self.rare {
            rare.callbacks.reverse();
            rare.again.reverse();
        }
        while let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.apply_rest(standing))) {
            let error = Error::from_panic(payload);
            tracing::error!(%error, "a removal callback or a destructor panicked");
        }
    }

    /// Applies what is left, item by item.
    fn apply_rest(&mut self, standing: &Standing) {
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
            if !resolver.gone.is_empty() {
                let rare = self.rare.get_or_insert_default();
                rare.callbacks.extend(resolver.gone.drain(..).rev());
            }
            self.resolvers.truncate(self.resolvers.len() - 1);
        }
        while let Some(task) = self.tasks.pop() {
            task.end();
        }
        while let Some(callback) = self.rare.as_mut().and_then(|rare| rare.callbacks.pop()) {
            callback();
        }
        drop(self.rare.as_mut().and_then(|rare| rare.refused.take()));
        while let Some(subscriber) = self.subscribers.last_mut() {
            // One by one: if a destructor panics while another panic is unwinding, the process aborts.
            subscriber.unread.clear();
            self.subscribers.truncate(self.subscribers.len() - 1);
        }
        if let Some(rare) = &mut self.rare {
            rare.begin(standing);
        }
    }
}

impl Rare {
    /// What begins something else, and so comes last. Nothing does once the directive has ended.
    #[cold]
    fn begin(&mut self, standing: &Standing) {
        let Some(standing) = standing.shared() else { return };
        while let Some((lane_ref, run)) = self.again.pop() {
            restart(&standing, &lane_ref, run);
        }
        while let Some(lane_ref) = self.unpinned.pop() {
            pass_on(&standing, &lane_ref);
        }
        if std::mem::take(&mut self.empty) {
            standing.table.release(&standing, Release::Empty);
        }
    }
}
