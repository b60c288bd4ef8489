//! The host's bus and sinks as a guest's code sees them: the same traits, over the boundary.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::{GuestObject, factory};
use crate::bus::{Backend, BusHandle, ControllerId, RawRunning, ResolverSnapshot, Source};
use crate::controller::factory::Factory;
use crate::controller::{AnyController, BoxFuture, Info, SwapMode};
use crate::directive::{AnyDirective, AnyValue, Callback, Facts, RawEvent, RawRequest, ValueId, ValueSink, wire};
use crate::error::ErrorKind;
use crate::plugin::abi::{
    EVENT_ADDED, EVENT_BUSY, EVENT_END, EVENT_FAILED, EVENT_IDLE, EVENT_PENDING, EVENT_REMOVED, GuestWaker,
    GuestWakerPtr, HostPtr, HostRequestDyn, HostRequestPtr, HostSideDyn, HostSinkDyn, HostSinkPtr, List, ObjectPtr,
    Text, boxed,
};
use crate::plugin::contained::{Contained, contain};
use crate::plugin::fallible::Fallible;
use crate::plugin::interface::Object;
use crate::remote::Removals;
use crate::{Error, Result, Retry};

/// The host's bus.
#[derive(Clone)]
pub(in crate::plugin) struct HostBus {
    host: Arc<HostPtr>,
    runtime: Handle,
}

impl HostBus {
    pub(in crate::plugin) fn new(host: Arc<HostPtr>, runtime: Handle) -> Self {
        Self { host, runtime }
    }

    pub(super) fn host(&self) -> &Arc<HostPtr> {
        &self.host
    }

    /// The guest's own runtime.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Backend for HostBus {
    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>> {
        // Here the type is known for certain.
        directive.validate().map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("directive {} is not valid: {error}", directive.id()))
        })?;
        let (bytes, facts) = (directive.encode()?, Facts::encode(&*directive)?);
        let id = Text::from(directive.id());
        let result = self.host.request(id, bytes.as_slice().into(), facts.as_slice().into());
        requested(result, &self.host)
    }

    /// All that this side adds belongs to its own generation, whatever `source` says.
    fn add_controller(
        &self,
        controller: Arc<dyn AnyController>,
        info: Info,
        _source: Source,
        retry: Retry,
    ) -> Result<Box<dyn RawRunning>> {
        let told = factory::told(&info, "", SwapMode::Beside, None);
        let context =
            crate::Context::new(BusHandle::new(Arc::new(self.clone())), CancellationToken::new(), Arc::new(info));
        let object = GuestObject {
            resolves: controller.resolves(),
            controller: Arc::new(Mutex::new(Some(controller))),
            context,
            host: Arc::clone(&self.host),
            handle: self.runtime.clone(),
        };
        let retry = wire::encode(&retry)?;
        let added = self.host.add_controller(told, retry.as_slice().into(), boxed(object).into());
        let id = added.into_result()?;
        let (host, runtime) = (Arc::clone(&self.host), self.runtime.clone());
        Ok(Box::new(RemoteRunning { host, id, runtime, exit: OnceLock::new() }))
    }

    fn add_factories(&self, factories: Vec<Arc<dyn Factory>>, _source: Source) -> Result<Box<dyn Send + Sync>> {
        let mut objects = List::default();
        factories.into_iter().for_each(|one| objects.push(boxed(factory::Object::new(one, self)).into()));
        let number = self.host.add_factories(objects).into_result()?;
        Ok(Box::new(RemoteFactories { host: Arc::clone(&self.host), number }))
    }
}

/// Factories of this library that were added to the host's bus.
struct RemoteFactories {
    host: Arc<HostPtr>,
    number: u64,
}

impl Drop for RemoteFactories {
    fn drop(&mut self) {
        self.host.remove_factories(self.number);
    }
}

/// A controller of this library that was added to the host's bus.
struct RemoteRunning {
    host: Arc<HostPtr>,
    id: u64,
    runtime: Handle,
    /// How its execution has ended, and the task that asks the host for that; once somebody wants to know. The host tells only
    /// one, so that one asks for all.
    exit: OnceLock<(watch::Receiver<Option<Result<()>>>, AbortHandle)>,
}

impl RawRunning for RemoteRunning {
    fn id(&self) -> ControllerId {
        ControllerId(self.id)
    }

    fn exited(&self) -> BoxFuture<'static, Result<()>> {
        let (told, _) = self.exit.get_or_init(|| {
            let (tell, told) = watch::channel(None);
            let (host, id) = (Arc::clone(&self.host), self.id);
            let asking = self.runtime.spawn(async move {
                let exited = poll_fn(|cx| {
                    let event = host.exited(id, waker_of(cx));
                    match event.kind {
                        EVENT_PENDING => Poll::Pending,
                        _ => Poll::Ready(Result::from(event.failure)),
                    }
                });
                tell.send_replace(Some(exited.await));
            });
            (told, asking.abort_handle())
        });
        let mut told = told.clone();
        Box::pin(async move {
            let exited = told.wait_for(Option::is_some).await.ok().and_then(|exited| exited.clone());
            exited.unwrap_or_else(|| Err(Error::new(ErrorKind::Closed, "the controller was removed")))
        })
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let (host, id) = (Arc::clone(&self.host), self.id);
        Box::pin(poll_fn(move |cx| if host.close(id, waker_of(cx)) { Poll::Ready(()) } else { Poll::Pending }))
    }
}

impl Drop for RemoteRunning {
    fn drop(&mut self) {
        if let Some((_, asking)) = self.exit.get() {
            asking.abort();
        }
        self.host.let_go(self.id);
    }
}

fn waker_of(cx: &Context<'_>) -> GuestWakerPtr {
    boxed(TaskWaker(Contained::new(cx.waker().clone()))).into()
}

fn requested(result: Fallible<HostRequestPtr>, host: &Arc<HostPtr>) -> Result<Box<dyn RawRequest>> {
    let request = result.into_result()?;
    Ok(Box::new(RemoteRequest { request, host: Arc::clone(host) }))
}

struct RemoteRequest {
    request: HostRequestPtr,
    host: Arc<HostPtr>,
}

impl RawRequest for RemoteRequest {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RawEvent>> {
        let event = self.request.poll(waker_of(cx));
        let id = ValueId(event.value);
        Poll::Ready(Some(match event.kind {
            EVENT_PENDING => return Poll::Pending,
            EVENT_END => return Poll::Ready(None),
            EVENT_ADDED => {
                let objects = event.objects.into_iter().map(Object::of).collect();
                RawEvent::Added(id, AnyValue::encoded_with(event.bytes.as_ref(), objects))
            }
            EVENT_REMOVED => RawEvent::Removed(id),
            EVENT_IDLE => RawEvent::Idle,
            EVENT_BUSY => RawEvent::Busy,
            EVENT_FAILED => RawEvent::Failed(match Result::from(event.failure) {
                Err(error) => error,
                Ok(()) => Error::msg("a resolver failed"),
            }),
            other => RawEvent::Failed(Error::msg(format!("the host sent an unknown event {other}"))),
        }))
    }

    fn reference(&self, strong: bool) -> Result<Box<dyn RawRequest>> {
        let number = self.request.refer(strong).into_result()?;
        requested(self.host.referred(number), &self.host)
    }

    fn resolvers(&self) -> Result<Vec<ResolverSnapshot>> {
        let bytes = self.request.resolvers().into_result()?;
        wire::decode(bytes.as_ref())
    }
}

/// Wakes a task of this guest when the host has an event for it. Whatever waker the user's code came with.
struct TaskWaker(Contained<Waker>);

impl GuestWaker for TaskWaker {
    extern "C" fn wake(&self) {
        contain("waking a task", || self.0.wake_by_ref());
    }
}

/// The host's sink of one call of a resolver.
pub(in crate::plugin) struct RemoteSink {
    sink: HostSinkPtr,
    host: Arc<HostPtr>,
    runtime: Handle,
    removals: Arc<Removals>,
    /// Whether the host has been asked to tell when values are gone.
    asked: AtomicBool,
}

impl RemoteSink {
    pub(in crate::plugin) fn new(sink: HostSinkPtr, host: Arc<HostPtr>, runtime: Handle) -> Self {
        Self { sink, host, runtime, removals: Arc::default(), asked: AtomicBool::new(false) }
    }

    fn ask(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            let gone = Gone(Contained::new((Arc::clone(&self.removals), self.runtime.clone())));
            self.sink.on_gone(boxed(gone).into());
        }
    }

    /// Hands a value over by a call that says the id of what was added plus 1, or 0.
    fn hand_over(&self, value: &AnyValue, call: impl FnOnce(List<u8>, List<ObjectPtr>) -> u64) -> Option<ValueId> {
        match value.encode_with_objects() {
            Ok((bytes, objects)) => {
                let mut pointers = List::default();
                objects.iter().for_each(|object| pointers.push(object.pass_on()));
                call(bytes.as_ref().into(), pointers).checked_sub(1).map(ValueId)
            }
            Err(error) => {
                tracing::error!(%error, "a value could not be handed to the host");
                None
            }
        }
    }
}

/// Hears from the host that a resolver's values are gone, and tells it on the guest's runtime.
struct Gone(Contained<(Arc<Removals>, Handle)>);

impl GuestWaker for Gone {
    extern "C" fn wake(&self) {
        let (removals, runtime) = &*self.0;
        let callbacks = removals.end();
        // Where the runtime has ended, they are dropped here.
        contain("telling that values are gone", move || {
            let tell = |callback: Callback| contain("telling that a value is gone", callback);
            drop(runtime.spawn(async move { callbacks.into_iter().for_each(tell) }));
        });
    }
}

impl ValueSink for RemoteSink {
    fn add(&self, value: AnyValue) -> Option<ValueId> {
        self.hand_over(&value, |bytes, objects| self.sink.add(bytes, objects))
    }
    fn add_watched(&self, value: AnyValue, removed: Callback) -> Option<ValueId> {
        self.ask();
        let id = self.add(value)?;
        self.removals.watch(id, removed);
        Some(id)
    }
    fn on_gone(&self, callback: Callback) {
        self.ask();
        self.removals.on_gone(callback);
    }
    fn remove(&self, id: ValueId) -> bool {
        let removed = self.sink.remove(id.0);
        if removed {
            self.removals.removed(id);
        }
        removed
    }
    fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
        let new = self.hand_over(&value, |bytes, objects| self.sink.replace(old.0, bytes, objects));
        self.removals.removed(old);
        new
    }
    fn set_idle(&self, idle: bool) {
        self.sink.set_idle(idle);
    }
    fn is_cancelled(&self) -> bool {
        self.sink.is_cancelled()
    }
    fn reference(&self) -> Result<Box<dyn RawRequest>> {
        let number = self.sink.refer().into_result()?;
        requested(self.host.referred(number), &self.host)
    }
    fn close(&self, even_if_referred: bool) -> Result<bool> {
        self.sink.close(even_if_referred).into_result().map(|ended| ended == 1)
    }
}
