//! Tests of controllers: a bus with a clock that the test moves, on which code is swapped without cargo, and which remembers what
//! happened.
//!
//! It needs the feature `testing`, among the `[dev-dependencies]`, so that the plugin itself pays nothing for it:
//!
//! ```toml
//! [dev-dependencies]
//! controllerbus = { version = "0.1", features = ["testing"] }
//! tokio = { version = "1", features = ["macros", "rt"] }
//! ```
//!
//! ```
//! use std::sync::Mutex;
//! use std::time::Duration;
//!
//! use controllerbus::prelude::*;
//! use controllerbus::testing::TestBus;
//! # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
//! # #[directive(id = "example/visits", value = u64, unmerged)]
//! # struct Visit {}
//! # #[derive(Config, Serialize, Deserialize, PartialEq)]
//! # #[config(id = "example/visits")]
//! # struct VisitsConfig {}
//! # #[derive(State, Default)]
//! # struct Seen { visits: u64 }
//! # #[derive(Default)]
//! # struct Visits { seen: Mutex<Seen> }
//! # #[hot_plugin(id = "example/visits", version = "1.0.0", state = seen)]
//! # impl Controller for Visits {
//! #     type Config = VisitsConfig;
//! #     async fn construct(_: VisitsConfig, _: &Context) -> Result<Self> { Ok(Self::default()) }
//! #     async fn execute(&self, context: &Context) -> Result<()> {
//! #         loop {
//! #             tokio::select! {
//! #                 () = tokio::time::sleep(Duration::from_secs(3600)) => self.seen.lock().unwrap().visits = 0,
//! #                 () = context.cancelled() => return Ok(()),
//! #             }
//! #         }
//! #     }
//! #     #[resolves]
//! #     async fn visit(&self, _: Visit) -> Result<u64> {
//! #         let mut seen = self.seen.lock().unwrap();
//! #         seen.visits += 1;
//! #         Ok(seen.visits)
//! #     }
//! # }
//!
//! #[tokio::test(start_paused = true)]
//! # async fn hidden() {}
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! async fn visits_are_counted_over_a_swap_and_forgotten_after_an_hour() -> Result<()> {
//!     let bus = TestBus::new();
//!     bus.run(VisitsConfig {}).await?;
//!     assert_eq!(*bus.ask(Visit {}).await?, 1);
//!
//!     // The same code once more, or any other type: its state is handed over as in a real swap.
//!     bus.swap::<Visits>().await?;
//!     assert_eq!(*bus.ask(Visit {}).await?, 2);
//!
//!     // An hour takes no time.
//!     bus.advance(Duration::from_secs(3600)).await;
//!     assert_eq!(*bus.ask(Visit {}).await?, 1);
//!     Ok(())
//! }
//! # visits_are_counted_over_a_swap_and_forgotten_after_an_hour().unwrap();
//! ```
//!
//! # The clock
//!
//! With `start_paused = true` tokio's clock stands while anything can still be done, and goes on by itself to whatever is due next as
//! soon as every task waits: a retry after 30 s, a directive that is kept for an hour, the limit of a constructor or of
//! [`Wait::within`] are over at once, and always in the same order. [`TestBus::advance`] lets a certain time pass.
//!
//! So a wait for something that the clock knows nothing of, such as a socket or another process, seems to take forever, and what
//! limits it is over at once. Such a test uses [`TestBus::in_real_time`]. (Work on `spawn_blocking` holds the clock until it is done.)
//! Code that reads [`std::time`] sees the time of the machine; `tokio::time::Instant` is on the test's clock.
//!
//! # Swaps
//!
//! Two versions of a controller are two types in the test, with one config ID and, where both have `#[hot_plugin]`, two plugin ids.
//! [`TestBus::swap`] does what loading a plugin does: the new one is made ready beside the old one with its state, checked, and
//! takes over in one step; a swap that is refused is an error that says why, and the old one serves on. What a test in one binary
//! cannot show is what the build and the boundary do, such as types that do not cross: for that, load a built plugin with
//! `hot-runtime`.
//!
//! # What happened
//!
//! [`TestBus::events`] has what controllers did and what was logged, in order. A test that fails prints all of it.

mod event;
mod limit;
mod logs;
mod recorder;

use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::AbortHandle;

use crate::bus::{Bus, Committed, ConfigState, ControllerId, ControllerSnapshot, Execution, RunState, Source};
use crate::controller::Info;
use crate::controller::factory::{Factory, FactoryOf};
use crate::directive::Wait;
use crate::error::ErrorKind;
use crate::linked::{FACTORIES, FactoryEntry};
use crate::{BusError, Config, ConfigSet, Controller, Directive, Error, Result};

pub use event::{LogLine, TestEvent};
pub use recorder::Events;

use limit::{STUCK, in_real_limit};
use logs::Logs;
use recorder::Recorder;

/// How long a wait of the kit may take, unless the test says otherwise.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a swap lets calls finish that are at work on a controller with a state, as hosts do.
const PATIENCE: Duration = Duration::from_millis(5);

/// How many times the runtime is let run until nothing is left to do.
const ROUNDS: usize = 64;

/// A bus to test controllers on. It is a [`Bus`], which knows the controllers that are linked into the test, with what a test needs
/// beside that: see the [module](self).
///
/// Each of its waits has a limit, 10 s of its clock unless [`TestBus::within`] says otherwise, and an error that says what was there
/// instead. A test that waits is never stuck: if a task works without a pause, so that the clock cannot go on, the wait ends after
/// 30 s of real time.
///
/// ```
/// # use controllerbus::prelude::*;
/// # use controllerbus::testing::TestBus;
/// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// # #[directive(id = "example/greet", value = String)]
/// # struct Greet { name: String }
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let bus = TestBus::new();
/// let error = bus.ask(Greet { name: "Ada".into() }).await.unwrap_err().to_string();
/// assert_eq!(error, "no value of example/greet within 10s: no controller resolves it; no controller is on the bus");
/// # }
/// ```
pub struct TestBus {
    bus: Bus,
    /// What makes controllers, and where from: linked in, or swapped in.
    versions: Mutex<Vec<(Source, Info)>>,
    recorder: Arc<Recorder>,
    watching: AbortHandle,
    limit: Duration,
    is_paused: bool,
    /// Log lines of this thread are recorded.
    _logs: Option<tracing::dispatcher::DefaultGuard>,
}

impl std::fmt::Debug for TestBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestBus")
            .field("bus", &self.bus)
            .field("limit", &self.limit)
            .field("is_paused", &self.is_paused)
            .finish_non_exhaustive()
    }
}

impl Deref for TestBus {
    type Target = Bus;

    fn deref(&self) -> &Bus {
        &self.bus
    }
}

impl Default for TestBus {
    fn default() -> Self {
        Self::new()
    }
}

impl TestBus {
    /// A bus on the paused clock of the test.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use controllerbus::testing::TestBus;
    /// #[tokio::test(start_paused = true)]
    /// # async fn hidden() {}
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let bus = TestBus::new();
    /// let begun = tokio::time::Instant::now();
    /// bus.advance(Duration::from_secs(3600)).await;
    /// assert_eq!(begun.elapsed(), Duration::from_secs(3600));
    /// # }
    /// ```
    ///
    /// # Panics
    /// If the clock of the test is not paused, or there is no tokio runtime.
    #[track_caller]
    pub fn new() -> Self {
        let flavor = flavor();
        assert!(
            is_paused(),
            "the clock of this test runs: put `#[tokio::test(start_paused = true)]` on it, or use `TestBus::in_real_time()`"
        );
        Self::on(flavor, true)
    }

    /// A bus on the real clock, for what waits for sockets, processes or threads; the runtime may have several threads.
    ///
    /// ```
    /// # use controllerbus::testing::TestBus;
    /// #[tokio::test(flavor = "multi_thread")]
    /// # async fn hidden() {}
    /// # #[tokio::main(flavor = "multi_thread", worker_threads = 1)]
    /// # async fn main() {
    /// let bus = TestBus::in_real_time();
    /// assert!(bus.controllers().is_empty());
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[track_caller]
    pub fn in_real_time() -> Self {
        Self::on(flavor(), false)
    }

    fn on(flavor: RuntimeFlavor, is_paused: bool) -> Self {
        let recorder = Arc::new(Recorder::default());
        // The workers of other flavors have subscribers of their own.
        let logs = if flavor == RuntimeFlavor::CurrentThread { Logs::record_to(&recorder) } else { None };
        recorder.records_logs(logs.is_some());
        let (bus, versions) = Bus::with_sources();
        let watching = tokio::spawn(Recorder::watch(Arc::clone(&recorder), bus.clone())).abort_handle();
        Self { bus, versions: Mutex::new(versions), recorder, watching, limit: LIMIT, is_paused, _logs: logs }
    }

    /// The same bus, with another limit for each wait.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use controllerbus::testing::TestBus;
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let bus = TestBus::new().within(Duration::from_secs(600));
    /// let error = bus.until_ready("oven").await.unwrap_err().to_string();
    /// assert_eq!(error, "`oven` was not ready within 600s: there is no config of this key; no controller is on the bus");
    /// # }
    /// ```
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs a controller with a config, under the config's ID as its key. Returns when it is ready: it was made, and its `execute`
    /// has come to its first wait.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # use controllerbus::testing::TestBus;
    /// # #[derive(Config, Serialize, Deserialize, PartialEq)]
    /// # #[config(id = "house/door")]
    /// # struct DoorConfig { width: u32 }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// // A crate whose controller makes doors is not linked into this test.
    /// let error = TestBus::new().run(DoorConfig { width: 90 }).await.unwrap_err().to_string();
    /// assert!(error.contains("no factory makes `house/door`"), "{error}");
    /// # }
    /// ```
    ///
    /// # Errors
    /// Why it does not run: nothing makes such a controller, the config is refused, or the first failure of its constructor or
    /// of `execute`.
    pub async fn run<C: Config>(&self, config: C) -> Result<ControllerId, BusError> {
        self.run_as(C::ID, config).await
    }

    /// [`TestBus::run`] under a key, for several configs of one ID, or another config in place of a key's.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # use controllerbus::testing::TestBus;
    /// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    /// # #[directive(id = "house/width", value = u32)]
    /// # struct Width {}
    /// # #[derive(Config, Serialize, Deserialize, PartialEq)]
    /// # #[config(id = "house/door")]
    /// # struct DoorConfig { width: u32 }
    /// # struct Door(u32);
    /// # #[hot_plugin(id = "house/door", version = "1.0.0")]
    /// # impl Controller for Door {
    /// #     type Config = DoorConfig;
    /// #     async fn construct(config: DoorConfig, _: &Context) -> Result<Self> { Ok(Self(config.width)) }
    /// #     #[resolves]
    /// #     async fn width(&self, _: Width) -> Result<u32> { Ok(self.0) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<()> {
    /// let bus = TestBus::new();
    /// bus.run_as("front", DoorConfig { width: 90 }).await?;
    /// bus.run_as("back", DoorConfig { width: 80 }).await?;
    /// assert_eq!(bus.ask_all(Width {}).await?.iter().map(|width| **width).sum::<u32>(), 170);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`TestBus::run`].
    pub async fn run_as<C: Config>(&self, key: &str, config: C) -> Result<ControllerId, BusError> {
        let mut set = ConfigSet::new();
        set.insert(key, 0, &config)?;
        self.run_set(set).await?;
        self.until_ready(key).await
    }

    /// Applies a config set, such as one that is read from a file, and returns when each of its keys is ready.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # use controllerbus::testing::TestBus;
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<()> {
    /// let bus = TestBus::new();
    /// let set = ConfigSet::from_json(r#"{ "lamp": { "id": "house/lamp" } }"#)?;
    /// let error = bus.run_set(set).await.unwrap_err().to_string();
    /// assert!(error.starts_with("lamp (house/lamp): "), "{error}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Each key that does not run, and why.
    pub async fn run_set(&self, set: ConfigSet) -> Result<(), BusError> {
        let keys: Vec<_> = set.iter().map(|(key, _)| key.to_owned()).collect();
        let report = match in_real_limit(self.is_paused, self.bus.apply(set)).await {
            Some(report) => report?,
            None => return Err(self.stuck("the config set was not applied")),
        };
        report.all_running()?;
        for key in keys {
            self.until_ready(&key).await?;
        }
        Ok(())
    }

    /// The first value of a directive.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # use controllerbus::testing::TestBus;
    /// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    /// # #[directive(id = "example/double", value = u64)]
    /// # struct Double(u64);
    /// # #[derive(Config, Serialize, Deserialize, PartialEq)]
    /// # #[config(id = "example/doubler")]
    /// # struct DoublerConfig {}
    /// # struct Doubler;
    /// # #[hot_plugin(id = "example/doubler", version = "1.0.0")]
    /// # impl Controller for Doubler {
    /// #     type Config = DoublerConfig;
    /// #     async fn construct(_: DoublerConfig, _: &Context) -> Result<Self> { Ok(Self) }
    /// #     #[resolves]
    /// #     async fn double(&self, request: Double) -> Result<u64> {
    /// #         request.0.checked_mul(2).ok_or_else(|| Error::msg("that is too large"))
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<()> {
    /// let bus = TestBus::new();
    /// bus.run(DoublerConfig {}).await?;
    /// assert_eq!(*bus.ask(Double(21)).await?, 42);
    /// assert_eq!(bus.ask(Double(u64::MAX)).await.unwrap_err().to_string(), "that is too large");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Bus::resolve`]; after the limit with who is still working on it, which controllers there are and what they resolve, and which
    /// configs do not run.
    pub async fn ask<D: Directive>(&self, directive: D) -> Result<Arc<D::Value>, BusError> {
        self.waited(self.bus.resolve(directive)).await
    }

    /// All values of a directive, once nobody has more to add; [`TestBus::run_as`] has an example.
    ///
    /// # Errors
    /// As [`Bus::resolve_all`], and after the limit as [`TestBus::ask`].
    pub async fn ask_all<D: Directive>(&self, directive: D) -> Result<Vec<Arc<D::Value>>, BusError> {
        self.waited(self.bus.resolve_all(directive)).await
    }

    async fn waited<D: Directive, T>(&self, wait: Wait<'static, D, T>) -> Result<T, BusError> {
        match in_real_limit(self.is_paused, wait.within(self.limit)).await {
            None => Err(self.stuck(&format!("there is no answer to {}", D::ID))),
            Some(Err(error)) if error.kind() == ErrorKind::TimedOut => Err(self.with_what_is_there(error.into())),
            Some(answer) => answer,
        }
    }

    /// Swaps in a controller's code: it takes over from whatever makes controllers of its config ID, and from those that run, with
    /// their states, as when a plugin is loaded. Where there is none yet, the next one is made by it.
    ///
    /// If the type has `#[hot_plugin]`, its plugin id, version and way of swapping count.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # use controllerbus::testing::TestBus;
    /// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    /// # #[directive(id = "example/who", value = String)]
    /// # pub struct Who {}
    /// # #[derive(Config, Serialize, Deserialize, PartialEq)]
    /// # #[config(id = "example/said")]
    /// # pub struct SaidConfig {}
    /// mod before {
    /// #   use super::*;
    ///     #[derive(State, Default)]
    ///     pub struct Said { pub who: String }
    /// #   pub struct Sayer { said: std::sync::Mutex<Said> }
    /// #   #[hot_plugin(id = "example/said-before", version = "1.0.0", state = said)]
    /// #   impl Controller for Sayer {
    /// #       type Config = SaidConfig;
    /// #       async fn construct(_: SaidConfig, _: &Context) -> Result<Self> {
    /// #           Ok(Self { said: Said { who: "Ada".into() }.into() })
    /// #       }
    /// #   }
    ///     // .. and the controller of that version
    /// }
    ///
    /// #[derive(State, Default)]
    /// struct Said {
    ///     #[state(was = "who")]
    ///     name: String,
    /// }
    /// # struct Sayer { said: std::sync::Mutex<Said> }
    /// # #[hot_plugin(id = "example/said", version = "2.0.0", state = said)]
    /// # impl Controller for Sayer {
    /// #     type Config = SaidConfig;
    /// #     async fn construct(_: SaidConfig, _: &Context) -> Result<Self> { Ok(Self { said: Default::default() }) }
    /// #     #[resolves]
    /// #     async fn who(&self, _: Who) -> Result<String> { Ok(self.said.lock().unwrap().name.clone()) }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<()> {
    /// let bus = TestBus::new();
    /// bus.swap::<before::Sayer>().await?;
    /// bus.run(SaidConfig {}).await?;
    /// bus.swap::<Sayer>().await?;
    /// assert_eq!(*bus.ask(Who {}).await?, "Ada");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Why the swap was refused: what could not be constructed, restored, executed or ready in time. Then everything is as before.
    pub async fn swap<C: Controller>(&self) -> Result<Committed, BusError> {
        self.swap_to(factory_of::<C>()).await
    }

    /// [`TestBus::swap`] to what a factory makes, for controllers that are made by hand.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # use controllerbus::controller::{AnyController, BoxFuture, Closures, Info};
    /// # use controllerbus::controller::factory::Factory;
    /// # use controllerbus::testing::TestBus;
    /// # use std::sync::Arc;
    /// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    /// # #[directive(id = "example/time", value = u64)]
    /// # struct Time {}
    /// struct StoppedClock;
    ///
    /// impl Factory for StoppedClock {
    ///     fn info(&self) -> Info {
    ///         Info::new("test/clock", "1.0.0".parse().unwrap(), "example/clock")
    ///     }
    ///
    ///     fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
    ///         let clock = Closures::new().resolves(|_: Time, values| {
    ///             values.add(1_700_000_000);
    ///             std::future::ready(Ok(()))
    ///         });
    ///         Box::pin(async { Ok(Arc::new(clock) as Arc<dyn AnyController>) })
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<()> {
    /// let bus = TestBus::new();
    /// bus.swap_to(Arc::new(StoppedClock)).await?;
    /// bus.run_set(ConfigSet::from_json(r#"{ "clock": { "id": "example/clock" } }"#)?).await?;
    /// assert_eq!(*bus.ask(Time {}).await?, 1_700_000_000);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`TestBus::swap`].
    pub async fn swap_to(&self, factory: Arc<dyn Factory>) -> Result<Committed, BusError> {
        let new = factory.info();
        let to = self.bus.new_source();
        let known: Vec<_> =
            self.versions().iter().filter(|(_, info)| info.config_id == new.config_id).cloned().collect();
        let sources: Vec<_> = known.iter().map(|(source, _)| *source).collect();
        let running = self.bus.source_that_runs(&new.config_id, &sources);
        // As the bus chooses: the highest version.
        let best = || known.iter().max_by(|(_, a), (_, b)| a.version.cmp(&b.version)).map(|(source, _)| *source);
        let from = running.or_else(best);
        let before = known.iter().find(|(source, _)| Some(*source) == from).map(|(_, info)| info.version.clone());
        let swapping = async {
            let from = from.unwrap_or_else(|| self.bus.new_source());
            self.bus.stage(from, to, vec![factory], self.limit).await?.commit(PATIENCE).await
        };
        let swapped = in_real_limit(self.is_paused, swapping).await;
        match swapped.unwrap_or_else(|| Err(self.stuck(&format!("{} {} was not swapped in", new.id, new.version)))) {
            Err(error) => {
                self.recorder.look(&self.bus);
                let refused =
                    TestEvent::Refused { config_id: new.config_id, version: new.version, error: error.clone().into() };
                self.recorder.push([refused]);
                Err(error)
            }
            Ok(committed) => {
                {
                    let mut versions = self.versions();
                    versions.retain(|(source, _)| !sources.contains(source));
                    versions.push((to, new.clone()));
                }
                // Else one of a higher version would be used for the next config.
                for other in sources.into_iter().filter(|source| Some(*source) != from) {
                    self.bus.remove_source(other).await;
                }
                self.recorder.push([TestEvent::Swapped { config_id: new.config_id, from: before, to: new.version }]);
                self.recorder.look(&self.bus);
                Ok(committed)
            }
        }
    }

    fn versions(&self) -> std::sync::MutexGuard<'_, Vec<(Source, Info)>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass, and what is due meanwhile happen, each thing at its time; also what is due at the very end. On the real clock it
    /// waits for as long.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use controllerbus::prelude::*;
    /// # use controllerbus::testing::TestBus;
    /// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    /// # #[directive(id = "example/answer", value = u64, keep_for_ms = 1000)]
    /// # struct Answer {}
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<()> {
    /// let bus = TestBus::new();
    /// // This directive is kept for a second after its last reference is dropped.
    /// drop(bus.request(Answer {})?);
    /// bus.advance(Duration::from_millis(999)).await;
    /// assert_eq!(bus.directives().len(), 1);
    /// bus.advance(Duration::from_millis(1)).await;
    /// assert!(bus.directives().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If a task works without a pause, so that the clock stands still.
    #[track_caller]
    pub fn advance(&self, time: Duration) -> impl Future<Output = ()> + '_ {
        let at = std::panic::Location::caller();
        async move {
            let passing = async {
                if !time.is_zero() {
                    tokio::time::sleep(time).await;
                }
                // What became due with this sleep was woken with it. Each round lets run all that is woken.
                for _ in 0..if self.is_paused { ROUNDS } else { 1 } {
                    tokio::task::yield_now().await;
                }
            };
            let passed = in_real_limit(self.is_paused, passing).await;
            assert!(passed.is_some(), "{at}: {}", self.stuck(&format!("{time:?} did not pass")));
        }
    }

    /// What has happened on the bus since it was made, from the beginning: see [`Events`].
    pub fn events(&self) -> Events {
        Events::new(Arc::clone(&self.recorder), self.bus.clone(), self.limit, self.is_paused)
    }

    /// Waits until a key's controller is ready: it was made, from the config that was applied last, and its `execute` has come to
    /// its first wait.
    ///
    /// # Errors
    /// Its first failure; what it was doing when the limit had passed.
    pub async fn until_ready(&self, key: &str) -> Result<ControllerId, BusError> {
        self.until(key, "was not ready", |bus, state| match state {
            Some(state) if state.pending.is_some() => state.pending.as_ref().and_then(|pending| failed(&pending.state)),
            Some(state) => match &state.state {
                RunState::Running(id) => {
                    let has_begun = |found: &ControllerSnapshot| found.id == *id && found.begun;
                    bus.controllers().iter().any(has_begun).then_some(Ok(*id))
                }
                other => failed(other),
            },
            None => None,
        })
        .await?
        .map_err(BusError::from)
    }

    /// Waits until a key's controller runs: it was made, and answers directives. It may still be about to be executed, for which
    /// there is [`TestBus::until_ready`]. Failures before that are retried.
    ///
    /// ```
    /// # use std::sync::atomic::{AtomicU32, Ordering};
    /// # use controllerbus::prelude::*;
    /// # use controllerbus::testing::TestBus;
    /// # #[derive(Config, Serialize, Deserialize, PartialEq)]
    /// # #[config(id = "example/late")]
    /// # struct LateConfig {}
    /// # struct Late;
    /// # static TRIES: AtomicU32 = AtomicU32::new(0);
    /// # #[hot_plugin(id = "example/late", version = "1.0.0")]
    /// # impl Controller for Late {
    /// #     type Config = LateConfig;
    /// #     async fn construct(_: LateConfig, _: &Context) -> Result<Self> {
    /// #         if TRIES.fetch_add(1, Ordering::Relaxed) < 5 { Err(Error::msg("not yet")) } else { Ok(Self) }
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<()> {
    /// let bus = TestBus::new();
    /// // Its constructor fails five times, and is tried again with backoff.
    /// assert_eq!(bus.run(LateConfig {}).await.unwrap_err().to_string().matches("not yet").count(), 1);
    /// bus.until_running("example/late").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What it was doing when the limit had passed.
    pub async fn until_running(&self, key: &str) -> Result<ControllerId, BusError> {
        self.until(key, "did not run", |_, state| match state? {
            ConfigState { state: RunState::Running(id), pending: None, .. } => Some(*id),
            _ => None,
        })
        .await
    }

    /// Waits until a key's controller cannot be made, or its execution fails, and returns why.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # use controllerbus::testing::TestBus;
    /// # #[derive(Config, Serialize, Deserialize, PartialEq)]
    /// # #[config(id = "example/fragile")]
    /// # struct FragileConfig {}
    /// # struct Fragile;
    /// # #[hot_plugin(id = "example/fragile", version = "1.0.0")]
    /// # impl Controller for Fragile {
    /// #     type Config = FragileConfig;
    /// #     async fn construct(_: FragileConfig, _: &Context) -> Result<Self> { Ok(Self) }
    /// #     async fn execute(&self, _: &Context) -> Result<()> {
    /// #         tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    /// #         Err(Error::msg("it broke"))
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<()> {
    /// let bus = TestBus::new();
    /// bus.run(FragileConfig {}).await?;
    /// assert_eq!(bus.until_failed("example/fragile").await?.to_string(), "it broke");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What it was doing when the limit had passed.
    pub async fn until_failed(&self, key: &str) -> Result<Error, BusError> {
        self.until(key, "did not fail", |_, state| {
            let pending = state?.pending.as_ref().and_then(|pending| failed::<()>(&pending.state));
            pending.or_else(|| failed(&state?.state)).and_then(Result::err)
        })
        .await
    }

    async fn until<T>(
        &self,
        key: &str,
        otherwise: &str,
        mut look: impl FnMut(&Bus, Option<&ConfigState>) -> Option<T>,
    ) -> Result<T, BusError> {
        let mut changes = self.bus.changes();
        let looking = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = look(&self.bus, self.bus.config(key).as_ref()) {
                    return found;
                }
                // The bus is ours, and so the sender exists.
                let _ = changes.changed().await;
            }
        };
        match in_real_limit(self.is_paused, tokio::time::timeout(self.limit, looking)).await {
            Some(Ok(found)) => Ok(found),
            Some(Err(_)) => {
                let state = self.bus.config(key);
                let is = state.map_or_else(|| "there is no config of this key".to_owned(), |state| in_words(&state));
                let what = format!("`{key}` {otherwise} within {:?}: {is}", self.limit);
                Err(self.with_what_is_there(Error::new(ErrorKind::TimedOut, what)))
            }
            None => Err(self.stuck(&format!("`{key}` {otherwise}"))),
        }
    }

    /// The error of a wait that the clock has not ended.
    fn stuck(&self, what: &str) -> BusError {
        let why = "the clock stands still, because a task works without a pause";
        self.with_what_is_there(Error::new(ErrorKind::TimedOut, format!("{what} in {STUCK:?} of real time: {why}")))
    }

    /// Adds the controllers and what they resolve, and the configs that do not run.
    fn with_what_is_there(&self, error: Error) -> BusError {
        let one = |found: &ControllerSnapshot| {
            let resolves = match found.resolves.as_slice() {
                [] => "nothing".to_owned(),
                ids => ids.join(", "),
            };
            let execution = match &found.execution {
                Execution::Failed { error, .. } | Execution::Stopped { error } => {
                    format!(" (its execution failed: {error})")
                }
                _ => String::new(),
            };
            format!("{} {}, which resolves {resolves}{execution}", found.info.id, found.info.version)
        };
        let controllers: Vec<_> = self.bus.controllers().iter().map(one).collect();
        let there = match controllers.as_slice() {
            [] => "no controller is on the bus".to_owned(),
            all => format!("on the bus: {}", all.join("; ")),
        };
        let not_running = |state: &ConfigState| state.problem.is_some() || state.pending.is_some();
        let configs = self.bus.configs();
        let waiting = configs.iter().filter(|state| not_running(state));
        let waiting: Vec<_> = waiting.map(|state| format!("`{}` {}", state.key, in_words(state))).collect();
        let error = error.and(there);
        if waiting.is_empty() { error.into() } else { error.and(waiting.join("; ")).into() }
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        self.watching.abort();
        if std::thread::panicking() {
            self.recorder.look(&self.bus);
            eprintln!("{}", self.recorder.told());
        }
    }
}

#[track_caller]
fn flavor() -> RuntimeFlavor {
    match Handle::try_current() {
        Ok(runtime) => runtime.runtime_flavor(),
        Err(_) => panic!("a `TestBus` is made inside a tokio runtime: put `#[tokio::test]` on the test"),
    }
}

/// Whether the clock of this runtime is paused, which tokio does not tell.
fn is_paused() -> bool {
    let (before, real) = (tokio::time::Instant::now(), std::time::Instant::now());
    while real.elapsed().is_zero() {}
    tokio::time::Instant::now() == before
}

fn failed<T>(state: &RunState) -> Option<Result<T>> {
    match state {
        RunState::Failed { error, .. } => Some(Err(error.clone())),
        _ => None,
    }
}

/// What a key's controller does.
fn in_words(state: &ConfigState) -> String {
    let is = match (&state.pending, &state.state) {
        (Some(pending), _) => match &pending.state {
            RunState::Failed { .. } => "runs with its earlier config, because the new one failed",
            _ => "runs with its earlier config until the new one does",
        },
        (None, RunState::Queued) => "waits",
        (None, RunState::Constructing) => "is being constructed",
        (None, RunState::Running(_)) => "runs",
        (None, RunState::Removed) => "was taken off",
        (None, RunState::Failed { .. }) => "failed",
    };
    match &state.problem {
        Some(problem) => format!("{is}: {problem}"),
        None => is.to_owned(),
    }
}

/// What `#[hot_plugin]` has registered for a type, or else a factory without any more than the type.
fn factory_of<C: Controller>() -> Arc<dyn Factory> {
    let mut linked = FACTORIES.iter().map(FactoryEntry::factory);
    let own = linked.find(|factory| factory.controller_type() == Some(std::any::TypeId::of::<C>()));
    own.unwrap_or_else(|| {
        FactoryOf::<C>::with_info(Info::new(C::Config::ID, semver::Version::new(0, 0, 0), C::Config::ID))
    })
}
