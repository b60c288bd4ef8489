//! The engine behind every handle of a bus: adds references to directives, and has the controllers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::bridge::{BridgeTo, Bridged};
use super::configs::Configs;
use super::entry::{ControllerEntry, Ties};
use super::factories::Factories;
use super::handle::{Backend, BusHandle};
use super::limits::Limits;
use super::origin::Origin;
use super::resolver::{offer, turned};
use super::running::{Held, RawRunning};
#[cfg(unix)]
use super::sockets::{ControllerSockets, SocketTable};
use super::standing::{Asker, Effects, Standing, StandingState};
use super::states::States;
use super::table::Release;
use super::types::Types;
use super::{Bus, Source, loading};
use crate::controller::factory::Factory;
use crate::controller::{AnyController, Context, Info};
use crate::directive::{AnyDirective, RawRequest, ReadFrom, Reference, Supersede, check};
use crate::error::ErrorKind;
use crate::{Error, Result, Retry};

/// Which controllers there are, and which there are to be: under one lock, so that electing a config, installing a controller
/// and switching generations see each other's results.
#[derive(Default)]
pub(super) struct Life {
    pub(super) controllers: BTreeMap<u64, Arc<ControllerEntry>>,
    /// Taken off the bus, and not closed yet.
    pub(super) leaving: BTreeMap<u64, Arc<ControllerEntry>>,
    pub(super) factories: Factories,
    pub(super) configs: Configs,
}

pub(super) struct Engine {
    pub(super) types: Types,
    runtime: Option<Handle>,
    life: Mutex<Life>,
    #[cfg(unix)]
    sockets: Mutex<SocketTable>,
    pub(super) states: Arc<States>,
    pub(super) limits: Limits,
    pub(super) changed: watch::Sender<u64>,
    pub(super) directives_changed: watch::Sender<u64>,
    pub(super) bridges: Mutex<Vec<BridgeTo>>,
    /// The bridges that lead here.
    pub(super) bridged: Mutex<Bridged>,
    next: AtomicU64,
    closed: AtomicBool,
    /// Whether what is linked in and runs by itself was started: it needs a runtime.
    pub(super) has_linked: AtomicBool,
    own: Weak<Self>,
}

impl Engine {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        // The bus is the controller of the directives that it resolves itself.
        let own = |engine: &Weak<Self>| {
            let info = own_info("controllerbus", "The bus itself");
            Arc::new(ControllerEntry::new(Ties::new(0), info, Source::STATIC, loading::controller(Weak::clone(engine))))
        };
        let runtime = Handle::try_current().ok();
        let directives_changed = watch::Sender::new(0);
        Arc::new_cyclic(|engine| Self {
            types: Types::new(own(engine), runtime.clone(), directives_changed.clone()),
            runtime,
            life: Mutex::default(),
            #[cfg(unix)]
            sockets: Mutex::default(),
            states: Arc::default(),
            limits,
            changed: watch::Sender::new(0),
            directives_changed,
            bridges: Mutex::default(),
            bridged: Mutex::default(),
            next: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            has_linked: AtomicBool::new(false),
            own: Weak::clone(engine),
        })
    }

    /// The engine, unless it is closed.
    fn open(&self) -> Result<Arc<Self>> {
        let open = self.own.upgrade().filter(|engine| !engine.is_closed());
        open.ok_or_else(|| Error::new(ErrorKind::Closed, "the bus is closed"))
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Notifies those who watch the bus's controllers and configs.
    pub(super) fn notify_changed(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(unix)]
    pub(super) fn sockets(&self) -> MutexGuard<'_, SocketTable> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The context of a controller.
    pub(super) fn context(self: &Arc<Self>, ties: &Ties, info: Arc<Info>, instance: Option<u64>) -> Context {
        let context = Context::new(self.handle(), ties.cancel.clone(), info).with_last_state(ties.last_state.clone());
        #[cfg(unix)]
        let context = context.with_sockets(Arc::new(ControllerSockets {
            engine: Arc::downgrade(self),
            controller: ties.id,
            instance,
            service: ties.service.subscribe(),
        }));
        #[cfg(not(unix))]
        let _ = instance;
        context
    }

    /// Where the bus's work is done: the runtime that it was created in, or else that of the caller.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] if there is neither.
    pub(super) fn runtime(&self) -> Result<Handle> {
        self.runtime.clone().or_else(|| Handle::try_current().ok()).ok_or_else(|| {
            Error::new(
                ErrorKind::Closed,
                "the bus was created and is used outside a tokio runtime; create it inside one",
            )
        })
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match self.runtime() {
            Ok(runtime) => drop(runtime.spawn(work)),
            Err(error) => tracing::error!(%error),
        }
    }

    pub(super) fn handle(self: &Arc<Self>) -> BusHandle {
        BusHandle::new(Arc::clone(self) as Arc<dyn Backend>)
    }

    /// The bus for whatever comes from another origin.
    pub(super) fn handle_from(self: &Arc<Self>, origin: Origin) -> BusHandle {
        BusHandle::new(Arc::new(EngineFrom { engine: Arc::clone(self), origin }))
    }

    /// Offers the standing directives to a controller that is routed to.
    pub(super) fn offer_standing(&self, entry: &Arc<ControllerEntry>) {
        for (standing, lane_ref) in self.types.standing_for(entry) {
            offer(&standing, &lane_ref);
        }
    }

    /// Adds a controller that somebody holds.
    fn hold_controller(
        &self,
        controller: Arc<dyn AnyController>,
        info: Info,
        from: (Source, Origin),
        retry: Retry,
    ) -> Result<Box<dyn RawRunning>> {
        let engine = self.open()?;
        let entry = engine.by_hand(controller, info, from, retry);
        engine.put(&entry)?;
        Ok(Box::new(Held::new(engine, &entry)))
    }

    /// Ends every directive, and refuses new ones.
    pub(super) fn close(&self) {
        for standing in self.types.drain(|| self.closed.store(true, Ordering::Release)) {
            standing.change(StandingState::end);
            standing.log("directive removed");
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A bus that was created outside of a runtime may be used in one for the first time.
    #[cold]
    fn nobody_resolves(&self) {
        if !self.has_linked.load(Ordering::Acquire)
            && let Some(engine) = self.own.upgrade()
        {
            engine.start_linked();
        }
    }

    pub(super) fn add_reference(
        &self,
        directive: Arc<dyn AnyDirective>,
        source: Source,
        origin: Origin,
    ) -> Result<Reference> {
        let closed = |id: &str| Error::new(ErrorKind::Closed, format!("the bus is closed; {id} was not added"));
        check(&*directive)?;
        let options = directive.options();
        let mut hash = self.types.hash_key(&*directive);
        if options.supersede != Supersede::Never {
            // Those of different origins would take turns for ever.
            hash ^= origin.key();
        }
        let asker = Asker::new(source, origin);
        let mut superseded = None;
        let (table, turn, standing, subscriber, new) = loop {
            let table = self.types.table(directive.id());
            let mut shard = table.shard(hash);
            if shard.ended {
                // The table is being removed, for which that thread needs no lock of ours.
                drop(shard);
                std::thread::yield_now();
                continue;
            }
            if self.is_closed() {
                drop(shard);
                return Err(closed(directive.id()));
            }
            let found =
                if options.unmerged || options.once { None } else { shard.all.find(hash, &*directive).cloned() };
            let found = found.filter(|standing| {
                if options.supersede.replaces(&standing.options.supersede) {
                    let mut effects = Effects::default();
                    standing.lock().end(&mut effects);
                    shard.all.remove(standing);
                    superseded = Some((Arc::clone(standing), effects));
                }
                superseded.is_none()
            });
            let (standing, new) = match found {
                Some(standing) => (standing, false),
                None => {
                    let standing = Standing::new(directive, hash, options, Arc::clone(&table), asker.told);
                    shard.all.insert(&standing);
                    (standing, true)
                }
            };
            let (subscriber, turn) = standing.lock().subscribe(true, asker, &standing.options);
            drop(shard);
            break (table, turn, standing, subscriber, new);
        };
        let counted = Counted { standing: &standing, subscriber };
        if let Some((superseded, mut effects)) = superseded {
            effects.apply(&superseded);
            superseded.log("directive removed");
        }
        if let Some(turn) = turn {
            turned(&standing, turn);
        }
        if new {
            standing.log("directive added");
            let mut routes = table.routes.load();
            loop {
                routes.iter().for_each(|route| offer(&standing, route.get()));
                // In a swap meanwhile, what stays with one controller has come to the old one too late and to the new one too early.
                let newest = table.routes.load();
                if !standing.options.stays() || Arc::ptr_eq(&routes, &newest) {
                    break;
                }
                routes = newest;
            }
            let is_unheard = routes.is_empty();
            drop(routes);
            if is_unheard {
                self.nobody_resolves();
            }
            standing.change(StandingState::offered);
        } else {
            standing.notify_changed();
        }
        std::mem::forget(counted);
        Ok(Reference::new(standing, subscriber))
    }
}

/// A reference that was counted and is not made yet: it is released if somebody panics meanwhile.
struct Counted<'a> {
    standing: &'a Standing,
    subscriber: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.standing.table.release(self.standing, Release::Reference(self.subscriber));
    }
}

/// The info of a controller that is part of the bus.
pub(super) fn own_info(id: &str, description: &str) -> Info {
    let version = semver::Version::parse(env!("CARGO_PKG_VERSION")).expect("cargo has checked it");
    Info {
        id: id.to_owned(),
        version,
        description: description.to_owned(),
        config_id: id.to_owned(),
        value_types: Vec::new(),
    }
}

impl Backend for Engine {
    fn read_from(&self, directive: Arc<dyn AnyDirective>) -> Result<ReadFrom> {
        Ok(ReadFrom::Numbered(self.add_reference(directive, Source::STATIC, Origin::HERE)?))
    }

    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>> {
        Ok(Box::new(self.add_reference(directive, Source::STATIC, Origin::HERE)?))
    }

    fn add_for(&self, directive: Arc<dyn AnyDirective>, source: Source) -> Result<Box<dyn RawRequest>> {
        Ok(Box::new(self.add_reference(directive, source, Origin::HERE)?))
    }

    fn bus(&self) -> Option<Bus> {
        self.own.upgrade().map(Bus)
    }

    fn add_controller(
        &self,
        controller: Arc<dyn AnyController>,
        info: Info,
        source: Source,
        retry: Retry,
    ) -> Result<Box<dyn RawRunning>> {
        self.hold_controller(controller, info, (source, Origin::HERE), retry)
    }

    fn add_factories(&self, factories: Vec<Arc<dyn Factory>>, source: Source) -> Result<Box<dyn Send + Sync>> {
        self.open()?.hold_factories(factories, source)
    }
}

/// The engine for whatever comes from another origin.
struct EngineFrom {
    engine: Arc<Engine>,
    origin: Origin,
}

impl Backend for EngineFrom {
    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>> {
        self.add_for(directive, Source::STATIC)
    }

    fn add_for(&self, directive: Arc<dyn AnyDirective>, source: Source) -> Result<Box<dyn RawRequest>> {
        Ok(Box::new(self.engine.add_reference(directive, source, self.origin)?))
    }

    fn add_controller(
        &self,
        controller: Arc<dyn AnyController>,
        info: Info,
        source: Source,
        retry: Retry,
    ) -> Result<Box<dyn RawRunning>> {
        self.engine.hold_controller(controller, info, (source, self.origin), retry)
    }
}
