//! The host's side: starts a loaded library as a guest and makes ordinary factories and controllers of it.

#[cfg(target_os = "linux")]
mod current;
mod hooks;
mod objects;
#[cfg(target_os = "linux")]
mod signals;
mod sockets;
mod threads;
mod trace;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::abi::{
    FactoryInfo, GuestControllerDyn, GuestControllerPtr, GuestFactoryDyn, GuestFactoryPtr, GuestPtr, GuestSideDyn,
    GuestStart, GuestTaskDyn, GuestTaskPtr, HostDonePtr, SavedState, Text, boxed,
};
use super::guest::{Entry, EntryCall};
use super::lease::{Holder, Lease, Leases};
use crate::bus::BusHandle;
use crate::controller::factory::Factory;
use crate::controller::{AnyController, BoxFuture, Context, Info, OnStarted, State, SwapMode};
use crate::directive::{AnyDirective, ValueSink, asked_as, wire};
use crate::error::ErrorKind;
use crate::{BusError, Error, Result, Retry};

/// What a guest is started with.
pub struct HostOptions {
    /// The bus that its controllers use.
    pub bus: BusHandle,
    /// The plugin's id.
    pub plugin: String,
    /// The generation's number.
    pub generation: u64,
    /// How many worker threads its runtime gets.
    pub workers: u32,
    /// Where its leases are counted.
    pub leases: Arc<Leases>,
}

impl std::fmt::Debug for HostOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostOptions")
            .field("plugin", &self.plugin)
            .field("generation", &self.generation)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// One loaded generation: the root of all that the host has of it.
pub struct Connection {
    shared: Arc<Shared>,
    ties: Arc<hooks::Ties>,
}

struct Shared {
    guest: GuestPtr,
    references: objects::References,
    leases: Arc<Leases>,
    name: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

/// How a shutdown went. The library must not be unmapped unless nothing of it runs any more.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shutdown {
    /// Threads of the library that still run.
    pub threads_left: usize,
    /// Whether a signal handler of it does.
    pub handler_left: bool,
    /// Thread-local values with destructors that were left behind on the host's threads.
    pub leaked_thread_locals: u64,
}

impl Connection {
    /// Calls a library's entry symbol. Must be called inside a tokio runtime.
    ///
    /// # Safety
    /// `entry` must be the entry symbol of a library whose boundary is one of [`super::manifest::ACCEPTED`],
    /// and the library must stay loaded until [`Connection::shutdown`] reported no thread left, the
    /// connection is dropped, and [`Leases::released`] has come true.
    ///
    /// # Errors
    /// What kept the guest from starting; a panic in it is one.
    pub unsafe fn start(entry: Entry, options: HostOptions) -> Result<Self, BusError> {
        let HostOptions { bus, plugin, generation, workers, leases } = options;
        let name = format!("{plugin}#{generation}");
        let ties = Arc::<hooks::Ties>::default();
        let references = objects::References::new(Handle::current(), Arc::clone(&leases));
        let host = objects::HostObject::new(bus, references.clone(), plugin, generation);
        let mut call = EntryCall::new(GuestStart {
            host: boxed(host).into(),
            hooks: ties.hooks(),
            workers,
            name: Text::from(name.as_str()),
        });
        entry(&mut call);
        let guest = call.into_answer().map_err(|error| error.context(format!("starting {name}")))?;
        Ok(Self { shared: Arc::new(Shared { guest, references, leases, name }), ties })
    }

    /// The guest's factories; each holds a lease.
    pub fn factories(&self) -> Vec<Arc<dyn Factory>> {
        let Shared { guest, name, references, .. } = &*self.shared;
        guest.factories().into_iter().map(|factory| FactoryProxy::of(factory, name, references)).collect()
    }

    /// Whether every worker of the guest's runtime still runs tasks: ends once each has run one of this call.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] when one did not in time: it is blocked, or computes without a pause.
    pub async fn ping(&self) -> Result<(), BusError> {
        let _lease = self.shared.leases.take(Holder::Waker);
        let (done, ended) = oneshot::channel();
        let _task = self.shared.guest.ping(boxed(objects::Told::by(done)).into());
        let answered = ended.await.unwrap_or_else(|_| {
            let what = format!("a worker thread of {} does not answer", self.shared.name);
            Err(Error::new(ErrorKind::TimedOut, what))
        });
        Ok(answered?)
    }

    /// Ends the guest's runtime and joins its threads. Blocks for up to `timeout`.
    ///
    /// To be called once its leases are drained; the connection stays good for another try.
    pub fn shutdown(&self, timeout: Duration) -> Shutdown {
        let deadline = Instant::now() + timeout;
        self.shared.guest.shutdown(timeout.as_millis() as u64);
        let threads_left = self.ties.threads.wait_until_none(deadline);
        let handler_left = !self.ties.let_go_of_signals(deadline);
        Shutdown { threads_left, handler_left, leaked_thread_locals: self.shared.guest.leaked_thread_locals() }
    }

    /// Lets go of the guest, and gives the keys for thread-local data back that its library has made: how many.
    ///
    /// # Safety
    /// [`Connection::shutdown`] has reported that nothing is left, no lease is held, and no code of the library is called
    /// after this: what it keeps for its threads is gone.
    pub unsafe fn end(self) -> u32 {
        let last = self.shared.guest.last_call();
        drop(self);
        // SAFETY: the caller's promise.
        unsafe { (last.give_keys_back)() }
    }

    /// The names of the library's threads that run now, as the system has them: the first 15 characters.
    pub fn threads(&self) -> Vec<String> {
        self.ties.threads.names()
    }
}

fn read_info(info: &FactoryInfo) -> Info {
    Info {
        id: info.id.as_str().to_owned(),
        version: info.version.as_str().parse().unwrap_or(semver::Version::new(0, 0, 0)),
        description: info.description.as_str().to_owned(),
        config_id: info.config_id.as_str().to_owned(),
        value_types: Vec::new(),
    }
}

/// How much longer than it may take a guest has to say what takes so long.
const ANSWER: Duration = Duration::from_millis(200);

/// A factory of a guest. Fields drop in order: the lease goes last.
struct FactoryProxy {
    pointer: GuestFactoryPtr,
    info: Info,
    schema: String,
    swap: SwapMode,
    persist: Option<Duration>,
    /// The generation, as it is named.
    name: String,
    references: objects::References,
    _lease: Lease,
}

impl FactoryProxy {
    fn of(pointer: GuestFactoryPtr, name: &str, references: &objects::References) -> Arc<dyn Factory> {
        let lease = references.leases().take(Holder::Factory);
        let info = pointer.info();
        Arc::new(Self {
            pointer,
            schema: info.schema.as_str().to_owned(),
            swap: if info.stop_first { SwapMode::StopFirst } else { SwapMode::Beside },
            persist: (info.persist_ms > 0).then(|| Duration::from_millis(info.persist_ms)),
            info: read_info(&info),
            name: name.to_owned(),
            references: references.clone(),
            _lease: lease,
        })
    }
}

impl Factory for FactoryProxy {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn schema(&self) -> String {
        self.schema.clone()
    }

    fn swap_mode(&self) -> SwapMode {
        self.swap
    }

    fn persist(&self) -> Option<Duration> {
        self.persist
    }

    fn ends_when_cancelled(&self) -> bool {
        true
    }

    fn construct(
        self: Arc<Self>,
        config: Vec<u8>,
        context: Context,
    ) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let lease = self.references.leases().take(Holder::Call);
            let (done, mut made) = oneshot::channel();
            let done = boxed(objects::Told::by(done)).into();
            let sockets = Arc::clone(context.sockets());
            let sockets = boxed(sockets::SocketsObject::new(sockets, Arc::clone(self.references.leases()))).into();
            let made = {
                let task = self.pointer.construct(config.as_slice().into(), sockets, done);
                tokio::select! {
                    made = &mut made => made,
                    () = context.cancelled() => {
                        drop(task);
                        // What the guest drops tells its end. It may have made a controller before that.
                        let cancelled = || Error::new(ErrorKind::Closed, "cancelled while it was being constructed");
                        made.await.or_else(|_| Ok(Err(cancelled())))
                    }
                }
            };
            let pointer = made.map_err(|_| dropped(&self.name))??;
            drop(lease);
            let proxy = ControllerProxy::new(pointer, self.name.clone(), self.references.clone());
            Ok(Arc::new(proxy) as Arc<dyn AnyController>)
        })
    }
}

/// A task of the guest and the lease that it needs. Fields drop in order: the lease goes last.
struct Call {
    task: GuestTaskPtr,
    _lease: Lease,
}

/// A controller of a guest. Fields drop in order: the lease goes last.
struct ControllerProxy {
    pointer: GuestControllerPtr,
    resolves: Vec<String>,
    name: String,
    retries: Vec<(String, Retry)>,
    references: objects::References,
    leases: Arc<Leases>,
    _lease: Lease,
}

fn dropped(name: &str) -> Error {
    Error::new(ErrorKind::Closed, format!("{name} dropped the call"))
}

impl ControllerProxy {
    fn new(pointer: GuestControllerPtr, name: String, references: objects::References) -> Self {
        let resolves = pointer.resolves().as_ref().iter().map(|id| id.as_str().to_owned()).collect();
        let retries = pointer.retries();
        let retries = if retries.as_ref().is_empty() { None } else { wire::decode(retries.as_ref()).ok() };
        let leases = Arc::clone(references.leases());
        let lease = leases.take(Holder::Controller);
        Self { pointer, resolves, name, retries: retries.unwrap_or_default(), references, leases, _lease: lease }
    }

    /// Starts a call of the guest and waits for its end; dropping the future aborts it.
    async fn call(
        self: Arc<Self>,
        cancel: Option<&Context>,
        start: impl FnOnce(HostDonePtr) -> GuestTaskPtr,
    ) -> Result<()> {
        let lease = self.leases.take(Holder::Call);
        let (done, mut ended) = oneshot::channel();
        let task = start(boxed(objects::Told::by(done)).into());
        let call = Call { task, _lease: lease };
        if let Some(context) = cancel {
            tokio::select! {
                ended = &mut ended => return ended.unwrap_or_else(|_| Err(dropped(&self.name))),
                () = context.cancelled() => call.task.cancel(),
            }
        }
        ended.await.unwrap_or_else(|_| Err(dropped(&self.name)))
    }
}

impl AnyController for ControllerProxy {
    fn execute(self: Arc<Self>, context: Context, on_started: OnStarted) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let this = Arc::clone(&self);
            let began = boxed(objects::Told::<()>::new(move |()| on_started())).into();
            self.call(Some(&context), |done| this.pointer.execute(began, done)).await
        })
    }

    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let this = Arc::clone(&self);
            if let Err(error) = self.call(None, |done| this.pointer.close(done)).await {
                tracing::warn!(plugin = this.name, %error, "close failed");
            }
        })
    }

    fn part(self: Arc<Self>, within: Duration) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let (this, name) = (Arc::clone(&self), self.name.clone());
            let parting = self.call(None, |done| this.pointer.part(within.as_millis() as u64, done));
            // It says itself what keeps it, if it can.
            tokio::time::timeout(within + ANSWER, parting).await.unwrap_or_else(|_| {
                let what = format!(
                    "{name} has not dropped it within {within:?}: its destructor blocks, or all its threads do"
                );
                Err(Error::new(ErrorKind::TimedOut, what))
            })
        })
    }

    fn save(self: Arc<Self>) -> BoxFuture<'static, Result<Option<State>>> {
        Box::pin(async move {
            let lease = self.leases.take(Holder::Call);
            let (done, saved) = oneshot::channel();
            let _call = Call { task: self.pointer.save(boxed(objects::Told::by(done)).into()), _lease: lease };
            saved.await.unwrap_or_else(|_| Err(dropped(&self.name)))
        })
    }

    fn health(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let this = Arc::clone(&self);
            self.call(None, |done| this.pointer.health(done)).await
        })
    }

    fn restore(self: Arc<Self>, state: State) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let this = Arc::clone(&self);
            let state = SavedState { there: true, schema: state.schema, bytes: state.bytes.as_slice().into() };
            self.call(None, |done| this.pointer.restore(state, done)).await
        })
    }

    fn retry(&self, directive: &str) -> Option<Retry> {
        self.retries.iter().find(|(id, _)| id == directive).map(|(_, retry)| *retry)
    }

    fn resolves(&self) -> Vec<String> {
        self.resolves.clone()
    }

    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        if !self.resolves.iter().any(|id| id == directive.id()) {
            return None;
        }
        Some(Box::pin(async move {
            let id = Text::from(directive.id());
            let bytes = directive.encode()?;
            let sink = boxed(objects::Sink::new(sink, self.references.clone(), Arc::clone(&self) as _)).into();
            let this = Arc::clone(&self);
            let resolved = self.call(None, |done| this.pointer.resolve(id, bytes.as_slice().into(), sink, done)).await;
            resolved.map_err(|error| asked_as(error, &*directive))
        }))
    }
}
