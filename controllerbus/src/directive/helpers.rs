//! The usual cases of resolvers: a watched value, a stream, another directive's values mapped, one value per key, a shared
//! value that is made once, and resolvers within resolvers. A fixed value needs only [`Values::add`].

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_core::Stream;
use tokio::sync::watch;

use super::{
    AnyValue, Callback, Directive, Event, Held, RawRequest, Relay, Request, Shared, ValueId, ValueSink, Values,
};
use crate::bus::contained;
use crate::{Backoff, Result};

/// What a function says that maps something to a value: an `Option`, where `None` is no value, or a `Result` of one, whose
/// error is the resolver's.
pub trait Mapped<V> {
    /// The value, if there is one.
    ///
    /// # Errors
    /// Why it could not be made.
    fn mapped(self) -> Result<Option<V>>;
}

impl<V> Mapped<V> for Option<V> {
    fn mapped(self) -> Result<Option<V>> {
        Ok(self)
    }
}

impl<V> Mapped<V> for Result<Option<V>> {
    fn mapped(self) -> Result<Option<V>> {
        self
    }
}

impl<V: Send + Sync + 'static> Values<V> {
    /// Shows what a watch channel holds, one value at a time, until its sender is gone; the last value stays. The channel may
    /// also be one of `Option`s: `None` withdraws the value.
    ///
    /// # Errors
    /// Never; it returns what a resolver returns.
    pub async fn follow<T: Into<Option<V>> + Clone>(&self, mut source: watch::Receiver<T>) -> Result<()> {
        let mut slot = self.slot();
        loop {
            let value = source.borrow_and_update().clone();
            slot.show(value.into());
            self.idle();
            if source.changed().await.is_err() {
                slot.leave();
                return Ok(());
            }
        }
    }

    /// Shows each item of a stream in place of the one before; one that maps to `None` withdraws it. The last value
    /// stays when the stream ends.
    ///
    /// # Errors
    /// Those of the function, which may return an `Option` or a `Result` of one; they withdraw the value.
    pub async fn follow_stream<S: Stream, R: Mapped<V>>(
        &self,
        stream: S,
        mut map: impl FnMut(S::Item) -> R,
    ) -> Result<()> {
        let mut stream = std::pin::pin!(stream);
        let mut slot = self.slot();
        while let Some(item) = std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
            slot.show(map(item).mapped()?);
        }
        slot.leave();
        Ok(())
    }

    /// Shows another directive's values, mapped: they come and go with those, and this resolver is idle when that
    /// directive is. A value that maps to `None` is left out.
    ///
    /// # Errors
    /// Those of the function, which may return an `Option` or a `Result` of one; the other directive's, while it has no values;
    /// [`crate::error::ErrorKind::Closed`] when it is gone.
    pub async fn map<D: Directive, R: Mapped<V>>(
        &self,
        mut request: Request<D>,
        mut map: impl FnMut(&D::Value) -> R,
    ) -> Result<()> {
        let mut held = Relay::new(self.sink());
        while let Some(event) = request.next().await {
            match event {
                Event::Added(id, value) => {
                    if let Some(value) = map(&value).mapped()? {
                        held.added(id, self.pack(value));
                    }
                }
                Event::Removed(id) => held.removed(id),
                Event::Idle => self.idle(),
                Event::Busy => self.busy(),
                Event::Failed(error) if held.is_empty() => return Err(error),
                Event::Failed(error) => tracing::debug!(%error, "one of the mapped directive's resolvers failed"),
            }
        }
        Err(super::superseded(D::ID))
    }

    /// One value for each key; they are withdrawn when the returned map is dropped.
    pub fn keyed<K: Hash + Eq>(&self) -> Keyed<K, V> {
        Keyed { values: self.clone(), held: HashMap::new() }
    }

    /// Shows what a [`Shared`] holds, and keeps that for as long as the value stands. Whenever it is
    /// [invalidated](Shared::invalidate), it is made anew, and its value takes the place of the one before.
    ///
    /// # Errors
    /// Why it could not be made.
    pub async fn share<T: Send + Sync + 'static>(
        &self,
        shared: &Shared<T>,
        mut view: impl FnMut(&T) -> V,
    ) -> Result<()> {
        let mut slot = self.slot();
        let mut kept = shared.get().await?;
        loop {
            slot.set(view(&kept));
            self.idle();
            shared.invalidated(&kept).await;
            self.busy();
            // The old one stays until there is a new one.
            kept = shared.get().await?;
        }
    }

    /// Runs another resolver of the same directive within this one: it has its own values, which go when the returned
    /// [`Child`] is dropped, when it fails (then it runs again, with backoff), and when this resolver goes.
    ///
    /// # Errors
    /// When it is called outside a tokio runtime.
    pub fn child<F>(&self, resolve: impl Fn(Values<V>) -> F + Send + 'static) -> Result<Child>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let runtime = tokio::runtime::Handle::try_current()?;
        let group = Arc::new(Group {
            parent: self.sink(),
            live: Mutex::new(Live { values: Some(HashSet::new()), gone: Vec::new() }),
            idle: watch::Sender::new(false),
        });
        let target = Arc::clone(&group);
        let handle = self.clone();
        let task = runtime.spawn(async move {
            let mut backoff = Backoff::default();
            loop {
                let run = Arc::clone(&target) as Arc<dyn ValueSink>;
                let Err(error) = contained(resolve(handle.with_sink(run))).await else {
                    target.idle.send_replace(true);
                    return;
                };
                tracing::warn!(%error, "a child resolver failed; it is tried again");
                target.withdraw(false);
                target.idle.send_replace(true);
                tokio::time::sleep(backoff.next().unwrap_or_default()).await;
                target.idle.send_replace(false);
            }
        });
        let child = Child { group, task: task.abort_handle() };
        let (group, task) = (Arc::downgrade(&child.group), child.task.clone());
        self.on_gone(move || {
            task.abort();
            if let Some(group) = group.upgrade() {
                group.withdraw(true);
            }
        });
        Ok(child)
    }
}

/// One value for each key. Dropping it withdraws them all.
#[must_use = "dropping it withdraws the values"]
pub struct Keyed<K, V> {
    values: Values<V>,
    held: HashMap<K, Held>,
}

impl<K: std::fmt::Debug, V> std::fmt::Debug for Keyed<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyed").field("held", &self.held).finish()
    }
}

impl<K: Hash + Eq, V: Send + Sync + 'static> Keyed<K, V> {
    /// Replaces a key's value in one step: the new one is added, then the old one is withdrawn.
    ///
    /// `None` when it is not wanted: the directive is gone, or its hard cap is reached.
    pub fn set(&mut self, key: K, value: V) -> Option<ValueId> {
        let new = match self.held.remove(&key) {
            Some(held) => held.replace(self.values.pack(value))?,
            None => self.values.hold(value)?,
        };
        let id = new.id();
        self.held.insert(key, new);
        Some(id)
    }

    /// Withdraws a key's value; false if it has none.
    pub fn remove(&mut self, key: &K) -> bool {
        self.held.remove(key).is_some()
    }

    /// Withdraws the values of all keys except the wanted ones.
    pub fn retain(&mut self, mut wanted: impl FnMut(&K) -> bool) {
        self.held.retain(|key, _| wanted(key));
    }

    /// How many keys have a value.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no key has a value.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// A resolver within a resolver. Dropping it ends it and withdraws its values.
#[must_use = "dropping it ends the child resolver"]
pub struct Child {
    group: Arc<Group>,
    task: tokio::task::AbortHandle,
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child").field("is_idle", &*self.group.idle.borrow()).finish_non_exhaustive()
    }
}

impl Child {
    /// Waits until it has nothing more to add for now.
    pub async fn idle(&self) {
        let mut idle = self.group.idle.subscribe();
        // The sender is held here.
        let _ = idle.wait_for(|idle| *idle).await;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.task.abort();
        self.group.withdraw(true);
    }
}

/// A child's values among those of its parent.
struct Group {
    parent: Arc<dyn ValueSink>,
    live: Mutex<Live>,
    idle: watch::Sender<bool>,
}

struct Live {
    /// `None` once the child has ended.
    values: Option<HashSet<ValueId>>,
    gone: Vec<Callback>,
}

impl Group {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Withdraws the values, for good or until the child runs again.
    fn withdraw(&self, ended: bool) {
        let (values, gone) = {
            let mut live = self.live();
            let values = live.values.take();
            if !ended && values.is_some() {
                live.values = Some(HashSet::new());
            }
            (values, std::mem::take(&mut live.gone))
        };
        for id in values.into_iter().flatten() {
            self.parent.remove(id);
        }
        gone.into_iter().for_each(|callback| callback());
    }

    fn keep(&self, id: Option<ValueId>) -> Option<ValueId> {
        let id = id?;
        let kept = self.live().values.as_mut().map(|values| values.insert(id)).is_some();
        if !kept {
            self.parent.remove(id);
        }
        kept.then_some(id)
    }
}

impl ValueSink for Group {
    fn add(&self, value: AnyValue) -> Option<ValueId> {
        let wanted = self.live().values.is_some();
        self.keep(wanted.then(|| self.parent.add(value)).flatten())
    }
    fn add_watched(&self, value: AnyValue, removed: Callback) -> Option<ValueId> {
        let wanted = self.live().values.is_some();
        self.keep(wanted.then(|| self.parent.add_watched(value, removed)).flatten())
    }
    fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
        let own = self.live().values.as_mut().is_some_and(|values| values.remove(&old));
        if own { self.keep(self.parent.replace(old, value)) } else { self.add(value) }
    }
    fn on_gone(&self, callback: Callback) {
        let refused = {
            let mut live = self.live();
            match live.values {
                Some(_) => {
                    live.gone.push(callback);
                    None
                }
                None => Some(callback),
            }
        };
        if let Some(callback) = refused {
            callback();
        }
    }
    fn remove(&self, id: ValueId) -> bool {
        let own = self.live().values.as_mut().is_some_and(|values| values.remove(&id));
        own && self.parent.remove(id)
    }
    fn set_idle(&self, idle: bool) {
        self.idle.send_replace(idle);
    }
    fn is_cancelled(&self) -> bool {
        self.live().values.is_none() || self.parent.is_cancelled()
    }
    fn reference(&self) -> Result<Box<dyn RawRequest>> {
        self.parent.reference()
    }
    fn close(&self, even_if_referred: bool) -> Result<bool> {
        self.parent.close(even_if_referred)
    }
}
