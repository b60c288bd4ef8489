//! A process's factories and controllers as the bus sees them: they outlive the process, and continue with its
//! successor.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use controllerbus::__private::RUN;
use controllerbus::bus::Source;
use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Context, Info, LastState, OnStarted, State, SwapMode};
use controllerbus::directive::{AnyDirective, ValueSink, asked_as};
use controllerbus::error::ErrorKind;
use controllerbus::listen::Sockets;
use controllerbus::plugin::Lease;
use controllerbus::plugin::lease::Holder;
use controllerbus::remote::{Offers, RemoteController, RemoteFactory};
use controllerbus::{BusHandle, Error, Result, Retry};
use tokio::sync::Mutex;
use tracing::Span;

use super::current::Current;
use super::link::{CallResult, Link, Resolved};
use super::protocol::{ADDED, Offered, ToChild};

/// A factory of a process-hosted plugin.
pub(super) struct FactoryProxy {
    pub(super) offered: Offered,
    pub(super) number: u64,
    pub(super) host: Arc<Current>,
    /// The epoch of the process whose controllers have added it, if it is not the artifact's own: there is none of it in
    /// another one.
    pub(super) only_in: Option<u64>,
    pub(super) _lease: Lease,
}

impl Factory for FactoryProxy {
    fn info(&self) -> Info {
        self.offered.info.clone()
    }

    fn schema(&self) -> String {
        self.offered.schema.clone()
    }

    fn swap_mode(&self) -> SwapMode {
        self.offered.swap
    }

    fn persist(&self) -> Option<Duration> {
        self.offered.persist
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
            let _call = self.host.leases.take(Holder::Call);
            let link = self.host.up().await?;
            if self.only_in.is_some_and(|epoch| epoch != link.epoch) {
                return Err(gone());
            }
            let number = self.host.next_controller();
            let (sockets, span) = (Arc::clone(context.sockets()), Span::current());
            let last_state = context.last_state().cloned();
            let made = Made { factory: self.number, config, sockets, span, last_state };
            let resolved = construct(&link, number, &made, Some(&context)).await?;
            let made = Some(made).filter(|_| self.only_in.is_none());
            Ok(ControllerProxy::of(&self.host, link.epoch, number, made, resolved))
        })
    }
}

/// How much longer than the time limit to wait for the process's own report.
const ANSWER: Duration = Duration::from_millis(500);

/// What a controller is constructed of.
struct Made {
    factory: u64,
    config: Vec<u8>,
    sockets: Arc<dyn Sockets>,
    /// In which its code runs.
    span: Span,
    /// What it has saved last, if its state is kept.
    last_state: Option<Arc<LastState>>,
}

/// The error of what was in a process that is gone.
fn gone() -> Error {
    Error::new(ErrorKind::Closed, "the process that has added it has ended")
}

/// A controller that is being constructed in a process. Unless it is kept, both ends forget it.
struct Making<'a> {
    link: &'a Link,
    controller: u64,
    is_kept: bool,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.link.forget(self.controller);
            let _ = self.link.outbox.push(&ToChild::Forget { controller: self.controller });
        }
    }
}

/// Constructs a controller in a process; returns what it resolves. If the future is dropped, there is none. If it is cancelled, the
/// process is, and says when that has ended.
async fn construct(link: &Arc<Link>, controller: u64, made: &Made, cancel: Option<&Context>) -> Result<Resolved> {
    // Dropped after the call, which aborts the construction.
    let mut making = Making { link, controller, is_kept: false };
    link.listeners.know(controller, &made.sockets);
    link.traces.know(controller, &made.span);
    let mut call = link.begin();
    let (factory, config) = (made.factory, made.config.as_slice());
    let construct = ToChild::Construct { call: call.number, controller, factory, config };
    let constructed = async {
        link.send(&construct).await?;
        let ended = match cancel {
            None => call.ended().await,
            Some(context) => tokio::select! {
                ended = call.ended() => ended,
                () = context.cancelled() => {
                    link.send(&ToChild::Cancel { call: call.number }).await?;
                    call.ended().await
                }
            },
        };
        match ended? {
            CallResult::Constructed(resolved) => Ok(resolved),
            _ => Err(Error::msg("the plugin's process returned no controller")),
        }
    };
    let constructed = constructed.await;
    making.is_kept = constructed.is_ok();
    constructed
}

/// A controller of a process-hosted plugin. In a new process it is constructed again when it is first needed there.
struct ControllerProxy {
    number: u64,
    /// `None` if there is none of it in another process than the one that has it.
    made: Option<Made>,
    resolved: Resolved,
    host: Arc<Current>,
    /// The epoch of the process that has it.
    built: AtomicU64,
    building: Mutex<()>,
    /// Whether a crash was reported to the bus, so that a generation that is being staged is rolled back.
    told: AtomicBool,
    _lease: Lease,
}

impl ControllerProxy {
    /// A controller that one process has.
    fn of(
        host: &Arc<Current>,
        epoch: u64,
        number: u64,
        made: Option<Made>,
        resolved: Resolved,
    ) -> Arc<dyn AnyController> {
        Arc::new(Self {
            number,
            made,
            resolved,
            host: Arc::clone(host),
            built: AtomicU64::new(epoch),
            building: Mutex::new(()),
            told: AtomicBool::new(false),
            _lease: host.leases.take(Holder::Controller),
        })
    }

    /// Waits for a process that has this controller.
    async fn ready(&self) -> Result<Arc<Link>> {
        let Some(made) = &self.made else { return self.standing().ok_or_else(gone) };
        loop {
            let link = self.host.up().await?;
            if self.built.load(Ordering::Acquire) == link.epoch {
                return Ok(link);
            }
            let _building = self.building.lock().await;
            if self.built.load(Ordering::Acquire) == link.epoch {
                return Ok(link);
            }
            match construct(&link, self.number, made, None).await {
                Ok(_) => {
                    if self.give_back(&link, made).await {
                        self.built.store(link.epoch, Ordering::Release);
                        return Ok(link);
                    }
                }
                // Tried again with the next process, if `up` finds one.
                Err(_) if link.is_dead() => {}
                Err(error) => return Err(error.context("constructing it again after a crash")),
            }
        }
    }

    /// Gives it the state back that it had in the process before, if that was kept. False if it has to be constructed again: this
    /// process has ended, too, or it refuses the state, and begins without one. A state that ends its process again is refused.
    async fn give_back(&self, link: &Arc<Link>, made: &Made) -> bool {
        let Some(last) = &made.last_state else { return true };
        let Some(state) = last.get() else { return true };
        match self.restore_in(link, &state).await {
            Err(_) if link.is_dead() && !last.ended_a_process() => false,
            Err(error) => {
                tracing::warn!(plugin = self.host.name, %error, "it begins without the state that it had before a crash");
                last.refuse(error);
                link.forget(self.number);
                // In the order in which they are sent: what is half restored is gone before it is constructed again.
                let _ = link.outbox.push(&ToChild::Forget { controller: self.number });
                false
            }
            Ok(()) => {
                last.is_restored();
                true
            }
        }
    }

    async fn restore_in(&self, link: &Arc<Link>, state: &State) -> Result<()> {
        let mut call = link.begin();
        let State { schema, bytes } = state;
        let message = ToChild::Restore { call: call.number, controller: self.number, schema: *schema, state: bytes };
        link.send(&message).await?;
        call.ended().await.map(drop)
    }

    /// The process that has this controller, if there is one.
    fn standing(&self) -> Option<Arc<Link>> {
        self.host.standing().filter(|link| link.epoch == self.built.load(Ordering::Acquire))
    }

    /// Makes a call and waits for its end.
    async fn call(&self, link: &Arc<Link>, message: impl FnOnce(u64) -> ToChild<'static>) -> Result<CallResult> {
        let mut call = link.begin();
        let message = message(call.number);
        link.send(&message).await?;
        call.ended().await
    }

    /// Executes it in one process.
    async fn execute_once(&self, link: &Arc<Link>, context: &Context, began: OnStarted) -> Result<()> {
        let mut call = link.begin();
        call.when_begun(began);
        link.send(&ToChild::Execute { call: call.number, controller: self.number }).await?;
        tokio::select! {
            ended = call.ended() => {
                ended?;
                if self.made.is_none() {
                    return Ok(());
                }
                // It is done, but must be done again if the process crashes.
                tokio::select! {
                    error = link.died() => return Err(error),
                    () = context.cancelled() => return Ok(()),
                }
            }
            () = context.cancelled() => {}
        }
        link.send(&ToChild::Cancel { call: call.number }).await?;
        call.ended().await.map(drop)
    }
}

/// A callback that calls the original at most once, however many copies of it are called.
fn once(began: &Arc<std::sync::Mutex<Option<OnStarted>>>) -> OnStarted {
    let began = Arc::clone(began);
    Box::new(move || {
        let began = began.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(began) = began {
            began();
        }
    })
}

impl AnyController for ControllerProxy {
    fn execute(self: Arc<Self>, context: Context, began: OnStarted) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let _call = self.host.leases.take(Holder::Call);
            // Reported once, by whichever process gets that far.
            let began = Arc::new(std::sync::Mutex::new(Some(began)));
            loop {
                let link = tokio::select! {
                    link = self.ready() => link?,
                    () = context.cancelled() => return Ok(()),
                };
                let ended = self.execute_once(&link, &context, once(&began)).await;
                let crashed = ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::Crashed);
                if !crashed || context.is_cancelled() || !self.told.swap(true, Ordering::AcqRel) {
                    return ended;
                }
            }
        })
    }

    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _call = self.host.leases.take(Holder::Call);
            let Some(link) = self.standing() else { return };
            let number = self.number;
            if let Err(error) = self.call(&link, |call| ToChild::Close { call, controller: number }).await {
                tracing::warn!(plugin = self.host.name, %error, "close failed");
            }
        })
    }

    fn part(self: Arc<Self>, within: Duration) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let _call = self.host.leases.take(Holder::Call);
            // What was in a process that is gone is gone too.
            let Some(link) = self.standing() else { return Ok(()) };
            let (controller, within_ms) = (self.number, within.as_millis() as u64);
            let parting = self.call(&link, |call| ToChild::Part { call, controller, within_ms });
            match tokio::time::timeout(within + ANSWER, parting).await {
                Ok(Err(error)) if error.kind() == ErrorKind::Crashed => Ok(()),
                Ok(parted) => parted.map(drop),
                Err(_) => {
                    let what = format!("the process of {} did not drop it within {within:?}", self.host.name);
                    Err(Error::new(ErrorKind::TimedOut, what))
                }
            }
        })
    }

    fn save(self: Arc<Self>) -> BoxFuture<'static, Result<Option<State>>> {
        Box::pin(async move {
            let _call = self.host.leases.take(Holder::Call);
            let number = self.number;
            // A process that is down or crashes now, or does not have the controller yet, has no state. What it had is
            // lost already, which must not prevent a fixed version from being swapped in.
            let Some(link) = self.standing() else { return Ok(None) };
            match self.call(&link, |call| ToChild::Save { call, controller: number }).await {
                Ok(CallResult::State(state)) => Ok(state),
                Err(error) if error.kind() != ErrorKind::Crashed => Err(error),
                _ => Ok(None),
            }
        })
    }

    fn health(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let _call = self.host.leases.take(Holder::Call);
            let number = self.number;
            let link = self.ready().await?;
            self.call(&link, |call| ToChild::Health { call, controller: number }).await.map(drop)
        })
    }

    fn restore(self: Arc<Self>, state: State) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let _lease = self.host.leases.take(Holder::Call);
            let link = self.ready().await?;
            self.restore_in(&link, &state).await
        })
    }

    fn retry(&self, directive: &str) -> Option<Retry> {
        self.resolved.retries.iter().find(|(id, _)| id == directive).map(|(_, retry)| *retry)
    }

    fn resolves(&self) -> Vec<String> {
        self.resolved.ids.clone()
    }

    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        if !self.resolved.ids.iter().any(|id| id == directive.id()) {
            return None;
        }
        Some(Box::pin(async move {
            let lease = self.host.leases.take(Holder::Call);
            let link = self.ready().await?;
            let asked = link.remote.resolve(self.number, Arc::clone(&directive), sink).await;
            let asked = asked.map_err(|error| asked_as(error, &*directive))?;
            drop(lease);
            match asked {
                // Its values remain while the directive is active: the bus drops this future with the directive. If the
                // process crashes, the error withdraws them, and the bus resolves again.
                Some(asked) => Err(asked.cut().await),
                None => Ok(()),
            }
        }))
    }
}

impl Drop for ControllerProxy {
    fn drop(&mut self) {
        if let Some(link) = self.standing() {
            link.forget(self.number);
            let _ = link.outbox.push(&ToChild::Forget { controller: self.number });
        }
    }
}

/// What one process of a generation may use: the bus, and what its own controllers add to that.
pub(super) struct BusOfHost {
    pub(super) bus: BusHandle,
    pub(super) generation: u64,
    pub(super) epoch: u64,
    pub(super) host: Weak<Current>,
}

impl BusOfHost {
    fn host(&self) -> Result<Arc<Current>> {
        self.host.upgrade().ok_or_else(gone)
    }
}

impl Offers for BusOfHost {
    fn bus(&self) -> Option<BusHandle> {
        Some(self.bus.clone())
    }

    fn library(&self) -> Source {
        Source(self.generation)
    }

    fn controller_proxy(&self, there: &RemoteController) -> Result<Arc<dyn AnyController>> {
        let resolved = Resolved::new(there.resolves.clone(), there.retries.clone());
        let (host, number) = (self.host()?, there.number | ADDED);
        if let Some(link) = host.standing().filter(|link| link.epoch == self.epoch) {
            // The bus makes its own once it has the proxy; this one says the same.
            let span = tracing::error_span!(target: RUN, parent: None, "controller", controller = there.info.id);
            link.traces.know(number, &span);
        }
        Ok(ControllerProxy::of(&host, self.epoch, number, None, resolved))
    }

    fn factory_proxy(&self, there: &RemoteFactory) -> Result<Arc<dyn Factory>> {
        let RemoteFactory { number, info, schema, swap, .. } = there.clone();
        let (host, offered) = (self.host()?, Offered { info, schema, swap, persist: None });
        let _lease = host.leases.take(Holder::Factory);
        Ok(Arc::new(FactoryProxy { offered, number: number | ADDED, host, only_in: Some(self.epoch), _lease }))
    }
}
