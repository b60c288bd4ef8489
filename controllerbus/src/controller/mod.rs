//! Controllers: control loops with a config that execute and resolve directives.

mod closures;
mod context;
pub(crate) mod exclusive;
pub mod factory;
mod routes;
pub(crate) mod state;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::directive::{AnyDirective, ValueSink};
use crate::{Result, Retry};

pub use closures::Closures;
pub use context::Context;
#[doc(hidden)]
pub use routes::Answer;
pub use routes::{Hold, ResolveWith, Routes};
#[doc(hidden)]
pub use state::LastState;
pub use state::{State, StateCell, Stateful};

/// A boxed future, as object-safe traits return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The id of a controller that `#[hot_plugin]` is on and that has no config of its own.
#[doc(hidden)]
pub trait PluginId: 'static {
    /// The plugin's id.
    const ID: &'static str;
}

/// A control loop with a config.
///
/// [`#[hot_plugin]`](crate::hot_plugin) on the `impl` block adds [`Controller::routes`] from the methods marked
/// `#[resolves]`, and registers the controller under its config ID.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use controllerbus::prelude::*;
///
/// #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// #[directive(id = "example/count", value = u64)]
/// struct Count { nonce: u64 }
///
/// #[derive(Config, Serialize, Deserialize, PartialEq)]
/// #[config(id = "example/counter")]
/// struct CounterConfig { from: u64 }
///
/// struct Counter { count: AtomicU64 }
///
/// #[hot_plugin(id = "example/counter", version = "1.0.0")]
/// impl Controller for Counter {
///     type Config = CounterConfig;
///
///     async fn construct(config: CounterConfig, _: &Context) -> Result<Self> {
///         Ok(Self { count: config.from.into() })
///     }
///
///     // The next version of the code goes on counting where this one ended.
///     fn save(&self) -> Result<Option<State>> {
///         State::encode(1, &self.count.load(Ordering::Relaxed)).map(Some)
///     }
///
///     async fn restore(&self, state: State) -> Result<()> {
///         self.count.store(state.decode()?, Ordering::Relaxed);
///         Ok(())
///     }
///
///     #[resolves]
///     async fn count(&self, _: Count) -> Result<u64> {
///         Ok(self.count.fetch_add(1, Ordering::Relaxed))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let bus = Bus::new();
/// bus.apply(ConfigSet::from_yaml("counter: { id: example/counter, config: { from: 7 } }")?).await?;
/// assert_eq!(*bus.resolve(Count { nonce: 1 }).await?, 7);
/// assert_eq!(*bus.resolve(Count { nonce: 2 }).await?, 8);
/// # Ok(())
/// # }
/// ```
pub trait Controller: Send + Sync + Sized + 'static {
    /// What the controller is made from. A `#[hot_plugin]` block that names none has
    /// [`NoConfig`](crate::config::NoConfig), whose id is the plugin's; it needs no `construct` then, if the type has a `Default`:
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    /// # #[directive(id = "example/dice", value = u8, once)]
    /// # struct Throw;
    /// #[derive(Default)]
    /// struct Dice;
    ///
    /// #[hot_plugin(id = "example/dice", version = "1.0.0")]
    /// impl Controller for Dice {
    ///     #[resolves]
    ///     async fn throw(&self, _: Throw) -> Result<u8> {
    ///         Ok(4)
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let bus = Bus::new();
    /// bus.apply(ConfigSet::from_yaml("dice: { id: example/dice }")?).await?.all_running()?;
    /// assert_eq!(*bus.resolve(Throw).await?, 4);
    /// # Ok(())
    /// # }
    /// ```
    type Config: Config;

    /// Makes the controller.
    ///
    /// # Errors
    /// Why the controller cannot be made; this is retried with backoff, unless the error is [permanent](crate::Error::permanent).
    fn construct(config: Self::Config, context: &Context) -> impl Future<Output = Result<Self>> + Send;

    /// Runs until the work is done or `context` is cancelled. The default waits for cancellation.
    ///
    /// # Errors
    /// An error (or a panic) makes the bus execute the controller again with backoff; `Ok` ends it cleanly.
    fn execute(&self, context: &Context) -> impl Future<Output = Result<()>> + Send {
        async {
            context.cancelled().await;
            Ok(())
        }
    }

    /// Called once when the controller goes, after `execute` has ended. It is dropped next, which frees what it owns.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Whether it is healthy. A new generation is asked for a while after it has taken over; if it is not healthy, it is
    /// taken back, and the previous generation serves again. The default is always healthy.
    ///
    /// # Errors
    /// What is wrong.
    fn health(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// The state to hand over to the next generation, or `None` if there is none. In a plugin it is called on a thread that
    /// may block, but it should be quick, because calls wait for it.
    ///
    /// It is called once while the next generation is being made ready and, if it returned `Some`, again right before that
    /// one takes over. During the second call no new calls begin, and calls without an answer get 5 ms to end (a host may set
    /// another time). What a longer call, or `execute`, changes after the second `save` is lost with this generation.
    ///
    /// With `swap = "stop-first"` the second call comes after `close`, when nothing of the controller is running any more.
    ///
    /// With `#[hot_plugin(.., persist = "1s")]` it is also called at that interval, and when the controller ends, before `close`: see
    /// [`Bus::keep_states_in`](crate::Bus::keep_states_in). There, `None` leaves what was kept before.
    ///
    /// # Errors
    /// An error keeps this generation running and rolls the swap back.
    fn save(&self) -> Result<Option<State>> {
        Ok(None)
    }

    /// Takes over the state of the previous generation, before `execute` is called; and again right before this generation
    /// takes over, if the state has changed since. It replaces what was restored before.
    ///
    /// With `swap = "stop-first"` it is called once, and also with the state of the controller that had the previous config.
    ///
    /// With `persist` it is also called with the state that was kept when the controller, or its process, ended; if it refuses that, the
    /// controller is made again without a state.
    ///
    /// The state may come from another version of this code, as [`State::schema`] tells: migrate it, or reject it.
    ///
    /// # Errors
    /// Rejecting the state rolls the swap back. The default ignores the state.
    fn restore(&self, _state: State) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Registers the resolvers. Written by `#[hot_plugin]`; write it by hand only without the attribute.
    fn routes(_routes: &mut Routes<Self>) {}
}

/// How a new controller replaces an old one: with the next generation of its code, or with the next config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SwapMode {
    /// The new one is made ready beside the old one, which keeps serving meanwhile.
    #[default]
    Beside,
    /// The old one is ended and dropped before the new one is made, for what only one can own.
    StopFirst,
}

/// A controller as the bus holds it: object-safe, of this binary or behind a plugin boundary.
pub trait AnyController: Send + Sync + 'static {
    /// See [`Controller::execute`], whose default this has too. It calls `on_started` once it has reached its first wait, or
    /// its end without an error, as [`starting`] does: what fails before that is not swapped in.
    fn execute(self: Arc<Self>, context: Context, on_started: OnStarted) -> BoxFuture<'static, Result<()>> {
        let execution = async move {
            context.cancelled().await;
            Ok(())
        };
        Box::pin(starting(execution, on_started))
    }
    /// See [`Controller::close`].
    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Drops the controller, which is closed, once it is not used any more. From the first call on it accepts no other
    /// calls. It may be called again if it was still used.
    ///
    /// # Errors
    /// What still uses it, or that its destructor is still running, when `within` is over. The default, for a controller that
    /// is dropped with its last reference, never fails.
    fn part(self: Arc<Self>, _within: Duration) -> BoxFuture<'static, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// See [`Controller::health`].
    fn health(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// See [`Controller::save`].
    fn save(self: Arc<Self>) -> BoxFuture<'static, Result<Option<State>>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    /// See [`Controller::restore`].
    fn restore(self: Arc<Self>, _state: State) -> BoxFuture<'static, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// How often a resolver of this directive id is tried again; `None` for what the controller's config says.
    fn retry(&self, _directive: &str) -> Option<Retry> {
        None
    }
    /// The same controller with a reference count of its own, for the threads of one lane: counting it does not slow down
    /// those of others. `None` where it is not worth it.
    #[doc(hidden)]
    fn clone_for_lane(&self) -> Option<Arc<dyn AnyController>> {
        None
    }
    /// The ids of the directives that this controller resolves; [`crate::directive::ANY_DIRECTIVE`] for all. None, unless
    /// overridden.
    fn resolves(&self) -> Vec<String> {
        Vec::new()
    }
    /// Resolves a directive into a sink. `None` if the controller has no resolver for it.
    ///
    /// The future ends when the resolver is done, and its values stay. Dropping the future cancels the resolver.
    fn resolve(
        self: Arc<Self>,
        _directive: Arc<dyn AnyDirective>,
        _sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        None
    }
}

/// Called once when an execution has reached its first wait, or its end without an error.
pub type OnStarted = Box<dyn FnOnce() + Send>;

/// Runs an execution, and calls back once it has reached its first wait, or its end without an error.
///
/// # Errors
/// The execution's.
pub async fn starting(execution: impl Future<Output = Result<()>>, on_started: impl FnOnce()) -> Result<()> {
    let mut execution = std::pin::pin!(execution);
    let mut on_started = Some(on_started);
    std::future::poll_fn(move |cx| {
        let polled = execution.as_mut().poll(cx);
        if !matches!(polled, std::task::Poll::Ready(Err(_)))
            && let Some(on_started) = on_started.take()
        {
            on_started();
        }
        polled
    })
    .await
}

/// What a controller is called.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Info {
    /// The plugin's or factory's id, such as `example/greeter`.
    pub id: String,
    /// The version given to `#[hot_plugin]`.
    pub version: semver::Version,
    /// One line about it, such as the first line of the doc comment on the `impl` block.
    pub description: String,
    /// The config ID.
    pub config_id: String,
    /// The types of its values as its own code names them, by directive id, as far as they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub value_types: Vec<(String, String)>,
}

impl Info {
    /// A controller of an id and a version, made from configs of an id.
    pub fn new(id: impl Into<String>, version: semver::Version, config_id: impl Into<String>) -> Self {
        let (id, config_id) = (id.into(), config_id.into());
        Self { id, version, description: String::new(), config_id, value_types: Vec::new() }
    }

    /// With one line about it.
    #[must_use]
    pub fn with_description(self, description: impl Into<String>) -> Self {
        Self { description: description.into(), ..self }
    }

    /// With the types of its values, by directive id.
    #[must_use]
    pub fn with_value_types(self, value_types: Vec<(String, String)>) -> Self {
        Self { value_types, ..self }
    }

    /// The type of its values for a directive.
    pub fn value_type(&self, directive: &str) -> Option<&str> {
        self.value_types.iter().find(|(id, _)| id == directive).map(|(_, of)| of.as_str())
    }
}
