//! Controllers and factories that are added at run time, and live as long as their guard.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::entry::{ControllerEntry, Ties};
use super::factories::KnownFactory;
use super::origin::{Origin, Sides};
use super::{ControllerId, Source};
use crate::controller::factory::Factory;
use crate::controller::{AnyController, BoxFuture, Info};
use crate::error::ErrorKind;
use crate::{BusError, Error, Result, Retry};

/// What a [`super::Backend`] gives for a controller that it has added. Dropping it removes the controller.
pub trait RawRunning: Send + Sync {
    /// The controller's id on the bus.
    fn id(&self) -> ControllerId;
    /// How its execution ends for good.
    fn exited(&self) -> BoxFuture<'static, Result<()>>;
    /// Removes it, and waits until it has ended or its limits have passed.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// A controller that was added to the bus and runs until this is dropped; made by [`super::BusHandle::add_controller`].
///
/// The holder owns the controller, such as another controller in a field of its own: both end together.
#[must_use = "dropping it removes the controller"]
pub struct Running(Box<dyn RawRunning>);

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Running").field(&self.id()).finish()
    }
}

impl Running {
    pub(super) fn new(raw: Box<dyn RawRunning>) -> Self {
        Self(raw)
    }

    /// Its id on the bus.
    pub fn id(&self) -> ControllerId {
        self.0.id()
    }

    /// Waits until its execution has ended for good: well, or with an error that is not tried again. It keeps answering
    /// directives. Cancel-safe.
    ///
    /// # Errors
    /// Its last error; [`ErrorKind::Closed`] if it was removed before.
    pub async fn exited(&self) -> Result<(), BusError> {
        Ok(self.0.exited().await?)
    }

    /// Removes it, and waits until it has ended or its limits have passed.
    pub async fn close(self) {
        self.0.close().await;
    }
}

/// Factories that were added to the bus, which knows them until this is dropped; made by
/// [`super::BusHandle::add_factories`]. Their controllers go with them.
#[must_use = "dropping it removes the factories"]
pub struct AddedFactories(#[allow(dead_code)] Box<dyn Send + Sync>);

impl AddedFactories {
    pub(super) fn new(guard: Box<dyn Send + Sync>) -> Self {
        Self(guard)
    }
}

impl std::fmt::Debug for AddedFactories {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddedFactories").finish_non_exhaustive()
    }
}

impl Engine {
    /// A controller that no config has asked for.
    pub(super) fn by_hand(
        &self,
        controller: Arc<dyn AnyController>,
        info: Info,
        (source, origin): (Source, Origin),
        retry: Retry,
    ) -> Arc<ControllerEntry> {
        let ties = Ties::new(self.next_id()).named(&info.id, &[]);
        Arc::new(ControllerEntry::new(ties, info, source, controller).of_origin(origin).retried(retry))
    }

    /// Puts it on the bus.
    ///
    /// # Errors
    /// It is a generation's that was replaced.
    pub(super) fn put(self: &Arc<Self>, entry: &Arc<ControllerEntry>) -> Result<()> {
        let is_closed = {
            let mut life = self.life();
            life.factories.may_add(entry.source)?;
            life.controllers.insert(entry.id, Arc::clone(entry));
            self.is_closed()
        };
        if is_closed {
            self.discard(Arc::clone(entry));
        } else {
            self.attach(entry, Vec::new());
            if entry.side == Sides::FLEET {
                self.fleet_came();
            }
        }
        Ok(())
    }

    /// Takes a controller off; whether it was there.
    pub(super) fn take_off(self: &Arc<Self>, id: u64) -> Option<Arc<ControllerEntry>> {
        let entry = {
            let mut life = self.life();
            let entry = life.controllers.get(&id).cloned()?;
            life.configs.take_off(&entry);
            life.leave([&entry]);
            entry
        };
        self.dismiss(std::slice::from_ref(&entry));
        Some(entry)
    }
}

/// A controller of this process that somebody holds. Once it was removed, nothing of it is kept here.
pub(super) struct Held {
    engine: Arc<Engine>,
    id: u64,
    name: String,
    exit: watch::Receiver<Option<Result<()>>>,
    closed: CancellationToken,
}

impl Held {
    pub(super) fn new(engine: Arc<Engine>, entry: &ControllerEntry) -> Self {
        let (name, exit) = (entry.info.id.clone(), entry.exit.subscribe());
        Self { engine, id: entry.id, name, exit, closed: entry.closed.clone() }
    }
}

impl RawRunning for Held {
    fn id(&self) -> ControllerId {
        ControllerId(self.id)
    }

    fn exited(&self) -> BoxFuture<'static, Result<()>> {
        let (mut exit, closed, name) = (self.exit.clone(), self.closed.clone(), self.name.clone());
        Box::pin(async move {
            let exited = tokio::select! {
                biased;
                // `None` if the controller is gone, and the sender with it.
                exited = exit.wait_for(Option::is_some) => exited.ok().and_then(|exited| exited.clone()),
                () = closed.cancelled() => None,
            };
            exited.unwrap_or_else(|| Err(Error::new(ErrorKind::Closed, format!("{name} was removed"))))
        })
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let (engine, id, closed) = (Arc::clone(&self.engine), self.id, self.closed.clone());
        Box::pin(async move {
            // If somebody else has taken it off, it may still be ending.
            drop(engine.take_off(id));
            let _ = timeout(engine.limits.end(), closed.cancelled()).await;
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.engine.take_off(self.id);
    }
}

/// Factories of this process that somebody holds.
struct HeldFactories {
    engine: Arc<Engine>,
    source: Source,
}

impl Drop for HeldFactories {
    fn drop(&mut self) {
        let (engine, source) = (Arc::clone(&self.engine), self.source);
        self.engine.spawn(async move {
            engine.remove_source(source).await;
        });
    }
}

/// The sources of factories that are added by hand begin here; generations are numbered from 1.
const BY_HAND: u64 = 1 << 63;

impl Source {
    /// Of code of this binary that comes and goes by itself.
    pub(super) fn by_hand(number: u64) -> Self {
        Self(BY_HAND | number)
    }

    /// The library whose code this is, unless a plugin has added it by hand.
    pub(super) fn library(self) -> Self {
        if self.0 & BY_HAND == 0 { self } else { Self::STATIC }
    }

    /// As tools see what comes from here and is code of this library: a generation is itself in whatever it adds.
    pub(super) fn shown(self, library: Self) -> Self {
        if library == Self::STATIC { self } else { library }
    }

    /// Whether what comes from here, and is code of this library, ends with another source.
    pub(super) fn ends_with(self, library: Self, other: Self) -> bool {
        self == other || (library == other && other != Self::STATIC)
    }
}

impl Engine {
    /// Adds factories of a library for as long as what is returned is held.
    ///
    /// # Errors
    /// It is a generation that was replaced.
    pub(super) fn hold_factories(
        self: &Arc<Self>,
        factories: Vec<Arc<dyn Factory>>,
        library: Source,
    ) -> Result<Box<dyn Send + Sync>> {
        let source = Source::by_hand(self.next_id());
        let known = KnownFactory::of(source, factories).into_iter().map(|known| KnownFactory { library, ..known });
        self.add_factories_of(library, known.collect())?;
        Ok(Box::new(HeldFactories { engine: Arc::clone(self), source }))
    }
}
