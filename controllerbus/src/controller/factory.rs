//! Factories, which make controllers of one config ID.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::{AnyController, BoxFuture, Context, Controller, Hold, Info, OnStarted, Routes, State, SwapMode, starting};
use crate::config::secret::without_secrets;
use crate::config::unknown::{unknown, warn, with_unknown};
use crate::directive::{AnyDirective, ValueSink, wire};
use crate::error::{Code, ErrorKind};
use crate::linked::FactoryEntry;
use crate::{Config, Error, Result, Retry};

/// Makes controllers of one config ID, from this binary or from behind a plugin boundary.
pub trait Factory: Send + Sync + 'static {
    /// What the controllers will be called.
    fn info(&self) -> Info;

    /// The JSON schema of its configs; `{}`, which allows anything, if there is none.
    fn schema(&self) -> String {
        "{}".to_owned()
    }

    /// How its controllers replace others, and are replaced. `StopFirst` counts if either of the two says so.
    fn swap_mode(&self) -> SwapMode {
        SwapMode::Beside
    }

    /// How often its controllers' states are kept beyond the process, at most: `#[hot_plugin(.., persist = "1s")]`. They are not,
    /// unless overridden.
    fn persist(&self) -> Option<Duration> {
        None
    }

    /// Whether the future of [`Factory::construct`] ends once its context is cancelled, and not before all that it runs elsewhere,
    /// such as in a library or a process, has ended. Where there cannot be two controllers, it is not dropped at its time limit
    /// then, but cancelled and waited for.
    fn ends_when_cancelled(&self) -> bool {
        false
    }

    /// Makes a controller from a config in the boundary's encoding. After an error this is retried with backoff, unless the
    /// error is [permanent](Error::permanent), such as for a config that does not fit.
    fn construct(
        self: Arc<Self>,
        config: Vec<u8>,
        context: Context,
    ) -> BoxFuture<'static, Result<Arc<dyn AnyController>>>;

    /// The type of its controllers, where that is known.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    fn controller_type(&self) -> Option<std::any::TypeId> {
        None
    }
}

/// The factory of a [`Controller`] type.
pub struct FactoryOf<C> {
    info: Info,
    swap: SwapMode,
    persist: Option<Duration>,
    controller: PhantomData<fn() -> C>,
}

impl<C> std::fmt::Debug for FactoryOf<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FactoryOf").field("info", &self.info).field("swap", &self.swap).finish_non_exhaustive()
    }
}

impl<C: Controller> FactoryOf<C> {
    /// A factory for a controller without `#[hot_plugin]`.
    pub fn with_info(info: Info) -> Arc<dyn Factory> {
        Self::with_swap(info, SwapMode::Beside)
    }

    /// The same for a controller that replaces others in this way.
    pub fn with_swap(info: Info, swap: SwapMode) -> Arc<dyn Factory> {
        Arc::new(Self { info, swap, persist: None, controller: PhantomData })
    }

    /// The one that `#[hot_plugin]` says.
    pub(crate) fn linked(entry: &FactoryEntry) -> Arc<dyn Factory> {
        let (info, swap, persist) = (entry.info(), entry.swap, entry.persist());
        Arc::new(Self { info, swap, persist, controller: PhantomData })
    }
}

impl<C: Controller> Factory for FactoryOf<C> {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn schema(&self) -> String {
        C::Config::SCHEMA.to_json()
    }

    fn swap_mode(&self) -> SwapMode {
        self.swap
    }

    fn persist(&self) -> Option<Duration> {
        self.persist
    }

    fn construct(
        self: Arc<Self>,
        config: Vec<u8>,
        context: Context,
    ) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let unknown = unknown(C::Config::SCHEMA, &config);
            let refused = |e| {
                let error = with_unknown(without_secrets(e, C::Config::SCHEMA), unknown.as_deref());
                error.context(format!("config {}", C::Config::ID)).with_code(Code::CONFIG_MISFIT).permanent()
            };
            let config: C::Config = wire::decode(&config).map_err(refused)?;
            if let Some(unknown) = &unknown {
                warn(C::Config::ID, unknown);
            }
            config.validate().map_err(|error| {
                Error::new(ErrorKind::Invalid, format!("config {} is not valid: {error}", C::Config::ID))
                    .with_code(Code::CONFIG_INVALID)
                    .permanent()
            })?;
            Ok(erase(C::construct(config, &context).await?))
        })
    }

    #[cfg(feature = "testing")]
    fn controller_type(&self) -> Option<std::any::TypeId> {
        Some(std::any::TypeId::of::<C>())
    }
}

/// Gives an error of a constructor its code, which does not come with one that has crossed a boundary.
pub(crate) fn with_code_of_construction(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Encoding if error.is_permanent() => error.with_code(Code::CONFIG_MISFIT),
        // As it is made above, perhaps in a plugin.
        ErrorKind::Invalid if error.message().starts_with("config ") && error.message().contains(" is not valid: ") => {
            error.with_code(Code::CONFIG_INVALID)
        }
        _ => error,
    }
}

/// Makes a typed controller object-safe.
struct Erased<C> {
    controller: Hold<C>,
    routes: Arc<Routes<C>>,
}

impl<C: Controller> AnyController for Erased<C> {
    fn execute(self: Arc<Self>, context: Context, on_started: OnStarted) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move { starting(self.controller.execute(&context), on_started).await })
    }
    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.controller.close().await })
    }
    fn health(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move { self.controller.health().await })
    }
    fn save(self: Arc<Self>) -> BoxFuture<'static, Result<Option<State>>> {
        Box::pin(async move { self.controller.save() })
    }
    fn restore(self: Arc<Self>, state: State) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move { self.controller.restore(state).await })
    }
    fn clone_for_lane(&self) -> Option<Arc<dyn AnyController>> {
        Some(Arc::new(Self { controller: self.controller.clone_for_lane(), routes: Arc::clone(&self.routes) }))
    }
    fn retry(&self, directive: &str) -> Option<Retry> {
        self.routes.retry_of(directive)
    }
    fn resolves(&self) -> Vec<String> {
        self.routes.ids().map(str::to_owned).collect()
    }
    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        self.routes.resolve(self.controller.clone(), &*directive, sink)
    }
}

/// Wraps a controller that was made by hand, for [`crate::Bus::add_controller`].
pub fn erase<C: Controller>(controller: C) -> Arc<dyn AnyController> {
    let mut routes = Routes::new();
    C::routes(&mut routes);
    Arc::new(Erased { controller: Hold::new(Arc::new(controller)), routes: Arc::new(routes) })
}
