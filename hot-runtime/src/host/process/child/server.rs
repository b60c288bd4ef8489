//! Serves one loaded artifact: each message of the runtime becomes a call of the guest, on a thread for that alone.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controllerbus::__private::contained;
use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Context, Info, State};
use controllerbus::directive::{AnyDirective, ValueSink, wire};
use controllerbus::error::ErrorKind;
use controllerbus::listen::Service;
use controllerbus::remote::{Endpoint, EndpointLimits, Offers};
use controllerbus::{BusHandle, Error, Result, Retry};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::line::Line;
use super::sockets::{Listeners, SocketsOf};
use super::trace;
use super::watch::Deadline;
use crate::host::library::{LoadOptions, Loaded};
use crate::host::process::inbox::Inbox;
use crate::host::process::outbox::Outbox;
use crate::host::process::protocol::{ADDED, Answer, Hello, Offered, ToChild, ToParent, Versions, Welcome, span_of};
use crate::host::process::socket::halves;

/// Loads and serves until the runtime ends it. Returns the process's exit code.
pub(super) fn run(mut socket: UnixStream, hello: Hello, layers: Vec<String>, deadline: Deadline) -> i32 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say!("cannot start a plugin host's runtime: {error}");
            return 66;
        }
    };
    runtime.block_on(async move {
        let longest = usize::try_from(hello.limits.message).unwrap_or(usize::MAX).min(u32::MAX as usize);
        let (reading, writing) = match socket.try_clone().and_then(halves) {
            Ok(halves) => halves,
            Err(error) => {
                say!("cannot use a plugin host's socket: {error}");
                return 66;
            }
        };
        let outbox = Arc::new(Outbox::new(writing, longest, usize::MAX));
        let line = Line { outbox: Arc::clone(&outbox), serving: std::thread::current().id() };
        let tables = Arc::<Tables>::default();
        let offers = Controllers(Arc::clone(&tables));
        let remote = Endpoint::new(line.clone(), offers, EndpointLimits::none("the runtime"));
        let handle = remote.bus();
        let options = LoadOptions {
            bus: handle.clone(),
            plugin: hello.plugin.clone(),
            generation: hello.generation,
            workers: hello.workers,
        };
        let loaded = Loaded::open(&hello.library, options);
        let factories = loaded.as_ref().map(Loaded::factories).map_err(|error| Error::msg(error.with_causes()));
        let offered = factories.as_ref().map(|found| {
            let offer = |factory: &Arc<dyn Factory>| Offered {
                info: factory.info(),
                schema: factory.schema(),
                swap: factory.swap_mode(),
                persist: factory.persist(),
            };
            found.iter().map(offer).collect()
        });
        let welcome = Welcome { versions: Versions::ours(), factories: offered.map_err(Clone::clone), layers };
        // Nothing else is written yet. The socket is non-blocking, so the first frame is written in blocking mode.
        if let Err(error) = socket.set_nonblocking(false).and_then(|()| super::write_frame(&mut socket, &welcome)) {
            say!("cannot answer the runtime: {error}");
            return 66;
        }
        let _ = socket.set_nonblocking(true);
        drop(socket);
        let (Ok(loaded), Ok(factories)) = (loaded, factories) else { return 67 };
        trace::forward_to(Arc::clone(&outbox), hello.trace_level);
        let flushing = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.run().await }
        });
        let (listeners, loaded) = (Listeners::new(line.clone()), Arc::new(loaded));
        *lock(&tables.factories) = (0..).zip(factories).collect();
        let server = Server { deadline, line, remote, handle, listeners, loaded, tables };
        let code = server.serve(Inbox::with_descriptors(reading, longest)).await;
        flushing.abort();
        code
    })
}

struct Server {
    deadline: Deadline,
    line: Line,
    /// What is asked of these controllers, and what they ask of the runtime's bus.
    remote: Arc<Endpoint<Line>>,
    handle: BusHandle,
    listeners: Arc<Listeners>,
    loaded: Arc<Loaded>,
    tables: Arc<Tables>,
}

/// The factories, the controllers, and the running calls.
#[derive(Default)]
struct Tables {
    factories: Mutex<HashMap<u64, Arc<dyn Factory>>>,
    /// How many factories and controllers were added by controllers.
    added: AtomicU64,
    controllers: Mutex<HashMap<u64, Controller>>,
    calls: Mutex<HashMap<u64, Call>>,
}

#[derive(Clone)]
struct Controller {
    object: Arc<dyn AnyController>,
    info: Arc<Info>,
}

struct Call {
    task: AbortHandle,
    cancel: CancellationToken,
}

impl Tables {
    fn number(&self) -> u64 {
        ADDED | self.added.fetch_add(1, Ordering::Relaxed)
    }
}

/// The controllers and factories, for the runtime to ask.
struct Controllers(Arc<Tables>);

impl Offers for Controllers {
    fn controller(&self, number: u64) -> Option<Arc<dyn AnyController>> {
        let object = lock(&self.0.controllers).get(&number).map(|found| Arc::clone(&found.object))?;
        Some(Arc::new(InSpan { object, span: span_of(number) }))
    }

    fn register_controller(&self, object: Arc<dyn AnyController>, info: &Info) -> Result<u64> {
        let (number, info) = (self.0.number(), Arc::new(info.clone()));
        lock(&self.0.controllers).insert(number, Controller { object, info });
        Ok(number)
    }

    fn forget_controller(&self, number: u64) {
        let forgotten = lock(&self.0.controllers).remove(&number);
        drop(forgotten);
    }

    fn register_factory(&self, factory: Arc<dyn Factory>) -> Result<u64> {
        let number = self.0.number();
        lock(&self.0.factories).insert(number, factory);
        Ok(number)
    }

    fn forget_factory(&self, number: u64) {
        let forgotten = lock(&self.0.factories).remove(&number);
        drop(forgotten);
    }
}

/// A controller whose resolvers run in a span of the runtime's.
struct InSpan {
    object: Arc<dyn AnyController>,
    span: u64,
}

impl AnyController for InSpan {
    fn resolves(&self) -> Vec<String> {
        self.object.resolves()
    }

    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        let work = Arc::clone(&self.object).resolve(directive, sink)?;
        Some(Box::pin(trace::within(self.span, work)))
    }
}

/// The result of a call, before it is encoded.
enum CallResult {
    Nothing,
    /// The ids that it resolves, and how often its resolvers are tried again, encoded.
    Constructed(Vec<String>, Vec<u8>),
    State(Option<State>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    async fn serve(self, mut inbox: Inbox) -> i32 {
        loop {
            let frame = match inbox.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return 0,
                Err(error) => {
                    say!("cannot read from the runtime: {error}");
                    return 68;
                }
            };
            match rmp_serde::from_slice(&frame) {
                Ok(ToChild::Shutdown { timeout_ms }) => return self.end(Duration::from_millis(timeout_ms)).await,
                Ok(ToChild::Listening { listener, error }) => {
                    let given = match error {
                        Some(error) => Err(error),
                        None => inbox.descriptor().ok_or_else(|| Error::msg("the runtime sent no socket")),
                    };
                    self.listeners.listening(listener, given);
                }
                Ok(message) => self.handle(message),
                Err(error) => {
                    say!("a message of the runtime is not valid: {error}");
                    return 68;
                }
            }
        }
    }

    fn handle(&self, message: ToChild<'_>) {
        match message {
            ToChild::Construct { call, controller, factory, config } => {
                self.construct(call, controller, factory, config.to_vec());
            }
            ToChild::Execute { call, controller } => {
                let cancel = CancellationToken::new();
                let (token, bus, line) = (cancel.clone(), self.handle.clone(), self.line.clone());
                self.with(call, controller, cancel, move |found| async move {
                    let context = Context::new(bus, token, found.info);
                    // Sent on the guest's thread before the execution can end, so that it arrives before the result.
                    let began = Box::new(move || drop(line.say(&ToParent::Began { call })));
                    found.object.execute(context, began).await.map(|()| CallResult::Nothing)
                });
            }
            ToChild::Close { call, controller } => {
                self.with(call, controller, CancellationToken::new(), |found| async move {
                    found.object.close().await;
                    Ok(CallResult::Nothing)
                });
            }
            ToChild::Part { call, controller, within_ms } => {
                let within = Duration::from_millis(within_ms);
                self.with(call, controller, CancellationToken::new(), move |found| async move {
                    found.object.part(within).await.map(|()| CallResult::Nothing)
                });
            }
            ToChild::Serves { listener, service } => self.listeners.serves(listener, Service::of(service)),
            ToChild::Health { call, controller } => {
                self.with(call, controller, CancellationToken::new(), |found| async move {
                    found.object.health().await.map(|()| CallResult::Nothing)
                });
            }
            ToChild::Save { call, controller } => {
                self.with(call, controller, CancellationToken::new(), |found| async move {
                    found.object.save().await.map(CallResult::State)
                });
            }
            ToChild::Restore { call, controller, schema, state } => {
                let state = State { schema, bytes: state.to_vec() };
                self.with(call, controller, CancellationToken::new(), |found| async move {
                    found.object.restore(state).await.map(|()| CallResult::Nothing)
                });
            }
            ToChild::Cancel { call } => {
                if let Some(call) = lock(&self.tables.calls).get(&call) {
                    call.cancel.cancel();
                }
            }
            ToChild::Abort { call } => {
                let call = lock(&self.tables.calls).remove(&call);
                if let Some(call) = call {
                    call.cancel.cancel();
                    call.task.abort();
                }
            }
            ToChild::Forget { controller } => {
                // Its destructor runs on the guest's runtime.
                let controller = lock(&self.tables.controllers).remove(&controller);
                drop(controller);
            }
            ToChild::Remote(message) => self.remote.handle(message),
            ToChild::Deadline { at } => self.deadline.set(at),
            ToChild::Ping { number, trace_level } => {
                trace::set_level(trace_level);
                let (loaded, outbox) = (Arc::clone(&self.loaded), Arc::clone(&self.line.outbox));
                // A thread that waits for the runtime, to read or to answer, does not hang: the runtime is slow.
                if outbox.has_waited() | self.remote.has_waited() {
                    let _ = outbox.push(&ToParent::Pong { number });
                    return;
                }
                drop(tokio::spawn(async move {
                    if loaded.ping().await.is_ok() {
                        let _ = outbox.push(&ToParent::Pong { number });
                    }
                }));
            }
            ToChild::Listening { .. } | ToChild::Shutdown { .. } => {}
        }
    }

    fn construct(&self, call: u64, number: u64, factory: u64, config: Vec<u8>) {
        let cancel = CancellationToken::new();
        let (token, bus, tables) = (cancel.clone(), self.handle.clone(), Arc::clone(&self.tables));
        let factory = lock(&self.tables.factories).get(&factory).cloned();
        let sockets = Arc::new(SocketsOf { listeners: Arc::clone(&self.listeners), controller: number });
        let constructing = async move {
            let factory = factory.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such factory"))?;
            let info = Arc::new(factory.info());
            let context = Context::new(bus, token, Arc::clone(&info)).with_sockets(sockets);
            let object = factory.construct(config, context).await?;
            let resolves = object.resolves();
            let own = |id: &String| object.retry(id).map(|retry| (id.clone(), retry));
            let retries = wire::encode(&resolves.iter().filter_map(own).collect::<Vec<(String, Retry)>>())?;
            lock(&tables.controllers).insert(number, Controller { object, info });
            Ok(CallResult::Constructed(resolves, retries))
        };
        self.start(call, cancel, trace::within(span_of(number), constructing));
    }

    /// Starts a call of a controller.
    fn with<F: Future<Output = Result<CallResult>> + Send + 'static>(
        &self,
        call: u64,
        controller: u64,
        cancel: CancellationToken,
        work: impl FnOnce(Controller) -> F + Send + 'static,
    ) {
        let found = lock(&self.tables.controllers).get(&controller).cloned();
        let calling = async move {
            match found {
                Some(found) => work(found).await,
                None => Err(Error::new(ErrorKind::NotFound, "the controller is not in this process")),
            }
        };
        self.start(call, cancel, trace::within(span_of(controller), calling));
    }

    /// Runs a call to its end, forgets it, and sends the result to the runtime.
    fn start(
        &self,
        call: u64,
        cancel: CancellationToken,
        work: impl Future<Output = Result<CallResult>> + Send + 'static,
    ) {
        let (outbox, tables) = (Arc::clone(&self.line.outbox), Arc::clone(&self.tables));
        let task = tokio::spawn(async move {
            let given = contained(work).await;
            let ended = lock(&tables.calls).remove(&call);
            drop(ended);
            let result = given.as_ref().map(|given| match given {
                CallResult::Nothing => Answer::Nothing,
                CallResult::Constructed(resolves, retries) => {
                    Answer::Constructed { resolves: resolves.clone(), retries }
                }
                CallResult::State(None) => Answer::NoState,
                CallResult::State(Some(state)) => Answer::State { schema: state.schema, bytes: &state.bytes },
            });
            let told = outbox.push(&ToParent::Done { call, result: result.map_err(Clone::clone) });
            if let Err(error) = told {
                // It may be too long, but the call must end all the same.
                let _ = outbox.push(&ToParent::Done { call, result: Err(error) });
            }
        });
        // The task cannot have run yet, because this thread runs it.
        lock(&self.tables.calls).insert(call, Call { task: task.abort_handle(), cancel });
    }

    /// Ends the guest as an unload in the runtime's own process would, within a time limit.
    async fn end(self, timeout: Duration) -> i32 {
        let calls = std::mem::take(&mut *lock(&self.tables.calls));
        for call in calls.into_values() {
            call.cancel.cancel();
            call.task.abort();
        }
        self.remote.release_all();
        let controllers = std::mem::take(&mut *lock(&self.tables.controllers));
        let factories = std::mem::take(&mut *lock(&self.tables.factories));
        drop((controllers, factories));
        let Self { loaded, .. } = self;
        // What was aborted ends when this thread gets to it.
        let _ = tokio::time::timeout(timeout, loaded.leases().drained()).await;
        if let Some(mut loaded) = Arc::into_inner(loaded) {
            let _ = loaded.unload(timeout);
        }
        0
    }
}
