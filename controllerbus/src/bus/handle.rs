//! The bus as controllers see it: directives go in, values come out; the same in the host and in a plugin.

use std::sync::Arc;

use super::running::{AddedFactories, RawRunning, Running};
use super::{Bus, Source};
use crate::controller::factory::Factory;
use crate::controller::{AnyController, Info};
use crate::directive::{AnyDirective, Directive, RawRequest, ReadFrom, Request, Wait};
use crate::{BusError, Error, Result, Retry};

/// What adds directives: the engine in this process, or the connection to the host's across the plugin boundary.
pub trait Backend: Send + Sync {
    /// Adds a reference to a directive; equal directives are merged.
    ///
    /// # Errors
    /// The directive is invalid, or the bus is closed.
    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>>;

    /// The same for code of a source, which tools then show as the one that asks.
    ///
    /// # Errors
    /// As [`Backend::add`].
    fn add_for(&self, directive: Arc<dyn AnyDirective>, source: Source) -> Result<Box<dyn RawRequest>> {
        let _ = source;
        self.add(directive)
    }

    /// [`Backend::add`] for a typed request.
    ///
    /// # Errors
    /// As [`Backend::add`].
    #[doc(hidden)]
    fn read_from(&self, directive: Arc<dyn AnyDirective>) -> Result<ReadFrom> {
        Ok(ReadFrom::Boxed(self.add(directive)?))
    }

    /// The bus itself, where what is behind this is a bus of this library: a bridge to it keeps apart what comes from where.
    #[doc(hidden)]
    fn bus(&self) -> Option<Bus> {
        None
    }

    /// Adds a controller of a source, which is removed when what is returned is dropped.
    ///
    /// # Errors
    /// Why it cannot be added from here.
    fn add_controller(
        &self,
        _controller: Arc<dyn AnyController>,
        _info: Info,
        _source: Source,
        _retry: Retry,
    ) -> Result<Box<dyn RawRunning>> {
        Err(not_here("controllers"))
    }

    /// Adds factories of a source, which are removed, with their controllers, when what is returned is dropped, or with the
    /// source.
    ///
    /// # Errors
    /// Why they cannot be added from here.
    fn add_factories(&self, _factories: Vec<Arc<dyn Factory>>, _source: Source) -> Result<Box<dyn Send + Sync>> {
        Err(not_here("factories"))
    }
}

fn not_here(what: &str) -> Error {
    Error::msg(format!("{what} cannot be added to the bus from here: they are objects of another process")).permanent()
}

/// A handle to a bus. Cheap to clone.
#[derive(Clone)]
pub struct BusHandle(Arc<dyn Backend>);

impl std::fmt::Debug for BusHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BusHandle").finish_non_exhaustive()
    }
}

impl BusHandle {
    /// What is behind the handle, for another backend that stands before it.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.0
    }

    /// A handle on top of a backend.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self(backend)
    }

    /// Adds a directive and returns a reference to it. It stays active until the last reference is dropped.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Invalid`] if the directive refuses itself,
    /// [`crate::error::ErrorKind::Closed`] if the bus is closed.
    pub fn request<D: Directive>(&self, directive: D) -> Result<Request<D>, BusError> {
        Ok(Request::new(self.0.read_from(Arc::new(directive))?))
    }

    /// Adds a controller to the bus, which executes it and offers it the active directives, until what is returned is dropped.
    /// [`Closures`](crate::controller::Closures) makes one of closures. If its execution fails, it is tried again with backoff.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use controllerbus::bus::Running;
    /// # use controllerbus::controller::{Closures, Info};
    /// # use controllerbus::prelude::*;
    /// # #[derive(Config, Serialize, Deserialize, PartialEq)]
    /// # #[config(id = "example/house")]
    /// # struct HouseConfig {}
    /// /// A controller that has another one, which ends with it.
    /// struct House {
    ///     _heating: Running,
    /// }
    ///
    /// #[hot_plugin(id = "example/house", version = "1.0.0")]
    /// impl Controller for House {
    ///     type Config = HouseConfig;
    ///
    ///     async fn construct(_: HouseConfig, context: &Context) -> Result<Self> {
    ///         let heating = Closures::new().executes(|context| async move {
    ///             context.cancelled().await;
    ///             Ok(())
    ///         });
    ///         let info = Info::new("example/heating", "1.0.0".parse()?, "example/heating");
    ///         Ok(Self { _heating: context.bus().add_controller(Arc::new(heating), info)? })
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// # let bus = Bus::new();
    /// # bus.apply(ConfigSet::from_yaml("house: { id: example/house }")?).await?;
    /// # assert_eq!(bus.controllers().len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the bus is closed, if the plugin's capabilities do not name what it answers, or if another generation of the plugin has
    /// taken over: what a task of the old one adds goes nowhere.
    pub fn add_controller(&self, controller: Arc<dyn AnyController>, info: Info) -> Result<Running, BusError> {
        Ok(Running::new(self.0.add_controller(controller, info, Source::STATIC, Retry::default())?))
    }

    /// Runs a controller once: adds it, executes it a single time, and removes it. Dropping the future removes it, too.
    ///
    /// # Errors
    /// What its execution fails with; as [`BusHandle::add_controller`].
    pub async fn run(&self, controller: Arc<dyn AnyController>, info: Info) -> Result<(), BusError> {
        let running = Running::new(self.0.add_controller(controller, info, Source::STATIC, Retry::never())?);
        let exited = running.exited().await;
        running.close().await;
        exited
    }

    /// Adds factories, until what is returned is dropped; then their controllers go, too. Configs that wait for them get their
    /// controllers in the background.
    ///
    /// A controller that answers [`LoadFactory`](super::loading::LoadFactory) is asked for every config that has no factory, and
    /// adds it by this: so factories can come from wherever it finds them.
    ///
    /// In a plugin they are its generation's, and go with it at the latest. A swap hands the state of their controllers over
    /// to those of the next generation, if that adds a factory for the same config ID before its own controllers have reached
    /// the first wait of [`execute`](crate::Controller::execute). Otherwise they are made anew, once there is a factory. So are
    /// those of a controller with `swap = "stop-first"`: it ends before its successor is constructed, and what it has added goes
    /// with it. What a generation adds before it serves counts for those successors alone, until then. So a controller must not wait
    /// in `construct`, or before the first wait of `execute`, for a controller that its own factory is to make: its swap would
    /// never be ready, and fails after the time that it has with an error that says so.
    ///
    /// # Errors
    /// If the bus is closed, if the plugin's capabilities do not name their config IDs, or if another generation of the plugin has
    /// taken over.
    pub fn add_factories(&self, factories: Vec<Arc<dyn Factory>>) -> Result<AddedFactories, BusError> {
        Ok(AddedFactories::new(self.0.add_factories(factories, Source::STATIC)?))
    }

    /// [`BusHandle::request`] for a directive whose type is known only at run time.
    ///
    /// # Errors
    /// As [`BusHandle::request`].
    pub fn raw(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>, BusError> {
        Ok(self.0.add(directive)?)
    }

    /// The first value of a directive; waits until a controller provides one. The [`Wait`] takes a deadline and a condition:
    /// `bus.resolve(directive).matching(check).within(limit)`. Cancel-safe.
    ///
    /// # Errors
    /// As [`BusHandle::request`], or a resolver's error when no other resolver is still working on a value.
    pub fn resolve<D: Directive>(&self, directive: D) -> Wait<'static, D, Arc<D::Value>> {
        Wait::first(self.request(directive))
    }

    /// All values, once no resolver has more to add. Cancel-safe.
    ///
    /// # Errors
    /// As [`BusHandle::request`], or a resolver's error if there is no value.
    pub fn resolve_all<D: Directive>(&self, directive: D) -> Wait<'static, D, Vec<Arc<D::Value>>> {
        Wait::all(self.request(directive))
    }

    /// The first value, or `None` once no resolver has anything to add. Cancel-safe.
    ///
    /// # Errors
    /// As [`BusHandle::resolve_all`].
    pub fn try_resolve<D: Directive>(&self, directive: D) -> Wait<'static, D, Option<Arc<D::Value>>> {
        Wait::if_any(self.request(directive))
    }
}
