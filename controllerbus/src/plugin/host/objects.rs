//! The host's objects that a guest calls: its bus, sinks, and the ends of calls. No panic leaves them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::trace::Traces;
use super::{ControllerProxy, FactoryProxy, read_info};
use crate::bus::{BusHandle, RawRunning, Source};
use crate::controller::{BoxFuture, State};
use crate::directive::{AnyValue, DirectiveType, RawEvent, RawRequest, ValueId, ValueSink, confined, wire};
use crate::error::ErrorKind;
use crate::plugin::abi::{
    EVENT_ADDED, EVENT_BUSY, EVENT_END, EVENT_FAILED, EVENT_IDLE, EVENT_PENDING, EVENT_REMOVED, FactoryInfo,
    GuestControllerPtr, GuestFactoryPtr, GuestWakerDyn, GuestWakerPtr, HostConstructed, HostDone, HostRequest,
    HostRequestPtr, HostSaved, HostSide, HostSink, List, ObjectPtr, Outcome, PolledEvent, SavedState, Text,
    TraceRecord, boxed,
};
use crate::plugin::contained::{Contained, contain};
use crate::plugin::fallible::{Fallible, Tagged};
use crate::plugin::interface::Object;
use crate::plugin::lease::{Holder, Lease, Leases};
use crate::plugin::level;
use crate::{Error, Result};

/// Runs the host's code for a guest; a panic is logged and answered with `otherwise`.
pub(super) fn guard<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    let mut answer = otherwise;
    contain("the host panicked in a call from a plugin", || answer = work());
    answer
}

/// The host as one generation sees it.
pub(super) struct HostObject {
    bus: BusHandle,
    references: References,
    /// The generation, as it is named.
    name: String,
    source: Source,
    traces: Contained<Traces>,
    added: Contained<Mutex<HashMap<u64, Arc<Added>>>>,
    factories: Contained<Kept<Box<dyn Send + Sync>>>,
}

/// A controller that the guest has added. Of each of these, one task of the guest's asks, so that nobody waits for its lock.
struct Added {
    /// `None` once it is being closed.
    running: Mutex<Option<Box<dyn RawRunning>>>,
    exited: Mutex<Later<Result<()>>>,
    closed: Mutex<Later<()>>,
}

impl Added {
    /// Begins to remove it.
    fn let_go(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(running);
    }
}

fn poll_later<T: Clone>(later: &Mutex<Later<T>>, cx: &mut Context<'_>) -> Option<T> {
    later.lock().unwrap_or_else(PoisonError::into_inner).poll(cx)
}

/// What comes at some time, and is told as often as it is asked for.
enum Later<T> {
    Coming(BoxFuture<'static, T>),
    There(T),
}

impl<T: Clone> Later<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<T> {
        if let Self::Coming(coming) = self {
            match coming.as_mut().poll(cx) {
                Poll::Ready(there) => *self = Self::There(there),
                Poll::Pending => return None,
            }
        }
        match self {
            Self::There(there) => Some(there.clone()),
            Self::Coming(_) => None,
        }
    }
}

/// How a generation gets references to directives.
#[derive(Clone)]
pub(super) struct References {
    runtime: Handle,
    leases: Arc<Leases>,
    /// Those that it has asked for and not yet fetched.
    referred: Arc<Contained<Kept<Box<dyn RawRequest>>>>,
}

impl References {
    pub(super) fn new(runtime: Handle, leases: Arc<Leases>) -> Self {
        Self { runtime, leases, referred: Arc::new(Contained::new(Kept::default())) }
    }

    pub(super) fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    fn object(&self, raw: Box<dyn RawRequest>) -> HostRequestPtr {
        boxed(RequestObject { raw: Mutex::new(raw), references: self.clone() }).into()
    }
}

impl HostObject {
    pub(super) fn new(bus: BusHandle, references: References, plugin: String, generation: u64) -> Self {
        let (name, source) = (format!("{plugin}#{generation}"), Source(generation));
        let traces = Contained::new(Traces::new(plugin, generation));
        let (added, factories) = (Contained::new(Mutex::default()), Contained::new(Kept::default()));
        Self { bus, references, name, source, traces, added, factories }
    }

    fn add(&self, id: &str, bytes: &[u8], facts: &[u8]) -> Result<HostRequestPtr> {
        let _runtime = self.references.runtime.enter();
        let directive = DirectiveType::decode_with(id, bytes, facts)?;
        let raw = self.bus.backend().add_for(confined(directive, self.source), self.source)?;
        Ok(self.references.object(raw))
    }

    fn added(&self) -> MutexGuard<'_, HashMap<u64, Arc<Added>>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls something about a controller that the guest has added; `None` if there is none.
    fn ask<T>(
        &self,
        id: u64,
        waker: GuestWakerPtr,
        poll: impl FnOnce(&Added, &mut Context<'_>) -> Option<T>,
    ) -> Option<Option<T>> {
        let waker = Waker::from(Arc::new(WakerHolder { waker, _lease: self.references.leases.take(Holder::Waker) }));
        let _runtime = self.references.runtime.enter();
        // Not under the lock: it may end something of the guest's.
        let added = self.added().get(&id).cloned()?;
        Some(poll(&added, &mut Context::from_waker(&waker)))
    }
}

impl HostSide for HostObject {
    extern "C" fn request(&self, id: Text, bytes: List<u8>, facts: List<u8>) -> Fallible<HostRequestPtr> {
        answered(|| self.add(id.as_str(), bytes.as_ref(), facts.as_ref()))
    }
    extern "C" fn referred(&self, number: u64) -> Fallible<HostRequestPtr> {
        answered(|| {
            let raw = self.references.referred.take(number);
            let raw = raw.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no reference {number} is kept")))?;
            Ok(self.references.object(raw))
        })
    }
    extern "C" fn add_controller(
        &self,
        info: FactoryInfo,
        retry: List<u8>,
        controller: GuestControllerPtr,
    ) -> Fallible<u64> {
        answered(|| {
            let _runtime = self.references.runtime.enter();
            let retry = wire::decode(retry.as_ref())?;
            let proxy = ControllerProxy::new(controller, self.name.clone(), self.references.clone());
            let running = self.bus.backend().add_controller(Arc::new(proxy), read_info(&info), self.source, retry)?;
            let (id, exited) = (running.id().0, Mutex::new(Later::Coming(running.exited())));
            let closed = Mutex::new(Later::Coming(running.close()));
            self.added().insert(id, Arc::new(Added { running: Mutex::new(Some(running)), exited, closed }));
            Ok(id)
        })
    }
    extern "C" fn exited(&self, controller: u64, waker: GuestWakerPtr) -> PolledEvent {
        let gone = || Err(Error::new(ErrorKind::Closed, "the controller was removed"));
        guard(polled(EVENT_FAILED, 0, &[], gone()), || {
            match self.ask(controller, waker, |added, cx| poll_later(&added.exited, cx)) {
                Some(None) => polled(EVENT_PENDING, 0, &[], Ok(())),
                Some(Some(Ok(()))) => polled(EVENT_END, 0, &[], Ok(())),
                Some(Some(Err(error))) => polled(EVENT_FAILED, 0, &[], Err(error)),
                None => polled(EVENT_FAILED, 0, &[], gone()),
            }
        })
    }
    extern "C" fn close(&self, controller: u64, waker: GuestWakerPtr) -> bool {
        guard(true, || {
            let closed = self.ask(controller, waker, |added, cx| {
                added.let_go();
                poll_later(&added.closed, cx)
            });
            // One that is not there has ended.
            closed.is_none_or(|closed| closed.is_some())
        })
    }
    extern "C" fn let_go(&self, controller: u64) {
        guard((), || {
            let _runtime = self.references.runtime.enter();
            let gone = self.added().remove(&controller);
            // At once, even if another thread is asking about it.
            gone.iter().for_each(|gone| gone.let_go());
            drop(gone);
        });
    }
    extern "C" fn add_factories(&self, factories: List<GuestFactoryPtr>) -> Fallible<u64> {
        answered(|| {
            let _runtime = self.references.runtime.enter();
            let proxies = factories.into_iter().map(|factory| FactoryProxy::of(factory, &self.name, &self.references));
            Ok(self.factories.keep(self.bus.backend().add_factories(proxies.collect(), self.source)?))
        })
    }
    extern "C" fn remove_factories(&self, number: u64) {
        guard((), || {
            let _runtime = self.references.runtime.enter();
            drop(self.factories.take(number));
        });
    }
    extern "C" fn trace_level(&self) -> u8 {
        guard(0, level::listened)
    }
    extern "C" fn trace_event(&self, record: TraceRecord) {
        guard((), || self.traces.event(&record));
    }
    extern "C" fn span_new(&self, record: TraceRecord) -> u64 {
        guard(0, || self.traces.open(&record))
    }
    extern "C" fn span_enter(&self, id: u64) {
        guard((), || self.traces.switch(id, true));
    }
    extern "C" fn span_exit(&self, id: u64) {
        guard((), || self.traces.switch(id, false));
    }
    extern "C" fn span_clone(&self, id: u64) {
        guard((), || self.traces.refer(id));
    }
    extern "C" fn span_close(&self, id: u64) {
        guard((), || self.traces.close(id));
    }
}

/// Runs the host's code for a guest; a panic is an error.
fn answered<T: Tagged>(work: impl FnOnce() -> Result<T>) -> Fallible<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(Error::from_panic(payload))).into()
}

/// A guest's reference to a standing directive.
struct RequestObject {
    raw: Mutex<Box<dyn RawRequest>>,
    references: References,
}

/// What is kept for a guest, under numbers.
struct Kept<T> {
    next: AtomicU64,
    kept: Mutex<HashMap<u64, T>>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), kept: Mutex::default() }
    }
}

impl<T> Kept<T> {
    fn keep(&self, one: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(number, one);
        number
    }

    fn take(&self, number: u64) -> Option<T> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }
}

impl HostRequest for RequestObject {
    extern "C" fn refer(&self, strong: bool) -> Fallible<u64> {
        answered(|| {
            let _runtime = self.references.runtime.enter();
            let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner).reference(strong)?;
            Ok(self.references.referred.keep(raw))
        })
    }
    extern "C" fn resolvers(&self) -> Fallible<List<u8>> {
        answered(|| {
            let resolvers = self.raw.lock().unwrap_or_else(PoisonError::into_inner).resolvers()?;
            Ok(wire::encode(&resolvers)?.as_slice().into())
        })
    }
    extern "C" fn poll(&self, waker: GuestWakerPtr) -> PolledEvent {
        let holder = WakerHolder { waker, _lease: self.references.leases.take(Holder::Waker) };
        let failed = polled(EVENT_FAILED, 0, &[], Err(Error::msg("the host's bus panicked")));
        guard(failed, || {
            let _runtime = self.references.runtime.enter();
            let waker = Waker::from(Arc::new(holder));
            let mut raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
            match raw.poll_event(&mut Context::from_waker(&waker)) {
                Poll::Pending => polled(EVENT_PENDING, 0, &[], Ok(())),
                Poll::Ready(None) => polled(EVENT_END, 0, &[], Ok(())),
                Poll::Ready(Some(event)) => match event {
                    RawEvent::Added(id, value) => match value.encode_with_objects() {
                        Ok((bytes, objects)) => {
                            let mut event = polled(EVENT_ADDED, id.0, &bytes, Ok(()));
                            objects.iter().for_each(|object| event.objects.push(object.pass_on()));
                            event
                        }
                        Err(error) => polled(EVENT_FAILED, id.0, &[], Err(error.into_inner())),
                    },
                    RawEvent::Removed(id) => polled(EVENT_REMOVED, id.0, &[], Ok(())),
                    RawEvent::Idle => polled(EVENT_IDLE, 0, &[], Ok(())),
                    RawEvent::Busy => polled(EVENT_BUSY, 0, &[], Ok(())),
                    RawEvent::Failed(error) => polled(EVENT_FAILED, 0, &[], Err(error)),
                },
            }
        })
    }
}

impl Drop for RequestObject {
    fn drop(&mut self) {
        // Releasing may run resolvers' destructors and spawn: the bus wants its runtime, and nothing may unwind.
        let runtime = self.references.runtime.clone();
        let raw = std::mem::replace(&mut *self.raw.lock().unwrap_or_else(PoisonError::into_inner), Box::new(Ended));
        guard((), move || {
            let _runtime = runtime.enter();
            drop(raw);
        });
    }
}

struct Ended;

impl RawRequest for Ended {
    fn reference(&self, _: bool) -> Result<Box<dyn RawRequest>> {
        Err(Error::new(ErrorKind::Closed, "the request was released"))
    }
    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Option<RawEvent>> {
        Poll::Ready(None)
    }
}

fn polled(kind: u8, value: u64, bytes: &[u8], outcome: Result<()>) -> PolledEvent {
    PolledEvent { kind, value, bytes: bytes.into(), objects: List::default(), failure: outcome.into() }
}

/// A guest's waker in the host's hands. Fields drop in order: the lease goes last.
struct WakerHolder {
    waker: GuestWakerPtr,
    _lease: Lease,
}

impl WakerHolder {
    /// By a method, so that a closure which calls it keeps all of it, the lease too.
    fn tell(&self) {
        self.waker.wake();
    }
}

impl Wake for WakerHolder {
    fn wake(self: Arc<Self>) {
        self.tell();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.tell();
    }
}

/// The bus's sink of one resolver, for a guest. It holds the resolver's controller: as long as the guest has it, the resolver may run.
pub(super) struct Sink {
    sink: Contained<Arc<dyn ValueSink>>,
    references: References,
    _controller: Contained<Arc<dyn Send + Sync>>,
}

impl Sink {
    pub(super) fn new(sink: Arc<dyn ValueSink>, references: References, controller: Arc<dyn Send + Sync>) -> Self {
        Self { sink: Contained::new(sink), references, _controller: Contained::new(controller) }
    }

    fn value(&self, bytes: &List<u8>, objects: List<ObjectPtr>) -> AnyValue {
        let objects = objects.into_iter().map(|object| Object::leased(object, &self.references.leases)).collect();
        AnyValue::encoded_with(bytes.as_ref(), objects)
    }
}

impl HostSink for Sink {
    extern "C" fn add(&self, bytes: List<u8>, objects: List<ObjectPtr>) -> u64 {
        guard(0, || self.sink.add(self.value(&bytes, objects)).map_or(0, |id| id.0 + 1))
    }
    extern "C" fn replace(&self, old: u64, bytes: List<u8>, objects: List<ObjectPtr>) -> u64 {
        guard(0, || self.sink.replace(ValueId(old), self.value(&bytes, objects)).map_or(0, |id| id.0 + 1))
    }
    extern "C" fn remove(&self, id: u64) -> bool {
        guard(false, || self.sink.remove(ValueId(id)))
    }
    extern "C" fn set_idle(&self, idle: bool) {
        guard((), || self.sink.set_idle(idle));
    }
    extern "C" fn is_cancelled(&self) -> bool {
        guard(true, || self.sink.is_cancelled())
    }
    extern "C" fn on_gone(&self, waker: GuestWakerPtr) {
        let holder = WakerHolder { waker, _lease: self.references.leases.take(Holder::Waker) };
        guard((), || self.sink.on_gone(Box::new(move || holder.tell())));
    }
    extern "C" fn refer(&self) -> Fallible<u64> {
        answered(|| {
            let _runtime = self.references.runtime.enter();
            Ok(self.references.referred.keep(self.sink.reference()?))
        })
    }
    extern "C" fn close(&self, even_if_referred: bool) -> Fallible<u64> {
        answered(|| {
            let _runtime = self.references.runtime.enter();
            self.sink.close(even_if_referred).map(u64::from)
        })
    }
}

/// Where the end of a call goes, or that it has begun, or what it made: called at most once.
pub(super) struct Told<T: 'static>(Contained<Mutex<Option<Tell<T>>>>);

type Tell<T> = Box<dyn FnOnce(T) + Send>;

impl<T> Told<T> {
    pub(super) fn new(tell: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Contained::new(Mutex::new(Some(Box::new(tell)))))
    }

    /// By a channel; when it is dropped without a word, the receiver hears that.
    pub(super) fn by(sender: oneshot::Sender<T>) -> Self
    where
        T: Send,
    {
        Self::new(move |told| drop(sender.send(told)))
    }

    fn tell(&self, what: T) {
        guard((), || {
            let tell = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(tell) = tell {
                tell(what);
            }
        });
    }
}

impl HostDone for Told<Result<()>> {
    extern "C" fn done(&self, outcome: Outcome) {
        self.tell(outcome.into());
    }
}

/// Called when an execution has begun, however.
impl HostDone for Told<()> {
    extern "C" fn done(&self, _: Outcome) {
        self.tell(());
    }
}

impl HostConstructed for Told<Result<GuestControllerPtr>> {
    extern "C" fn done(&self, result: Fallible<GuestControllerPtr>) {
        self.tell(result.into_result());
    }
}

impl HostSaved for Told<Result<Option<State>>> {
    extern "C" fn done(&self, result: Fallible<SavedState>) {
        let state = |saved: SavedState| {
            saved.there.then(|| State { schema: saved.schema, bytes: saved.bytes.as_ref().to_vec() })
        };
        self.tell(result.into_result().map(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Backend;
    use crate::controller::{Closures, Info};
    use crate::directive::Callback;
    use crate::plugin::guest::bus::{HostBus, RemoteSink};

    /// A bus's sink that notes what comes, and keeps whom to tell at the end.
    #[derive(Default)]
    struct Noted {
        calls: Mutex<Vec<String>>,
        gone: Mutex<Vec<Callback>>,
    }

    impl Noted {
        fn note(&self, call: String) {
            self.calls.lock().expect("the list").push(call);
        }
    }

    impl ValueSink for Noted {
        fn add(&self, value: AnyValue) -> Option<ValueId> {
            self.note(format!("add {}", value.to_json()));
            Some(ValueId(7))
        }
        fn add_watched(&self, _: AnyValue, _: Callback) -> Option<ValueId> {
            None
        }
        fn on_gone(&self, callback: Callback) {
            self.gone.lock().expect("the list").push(callback);
        }
        fn remove(&self, id: ValueId) -> bool {
            self.note(format!("remove {}", id.0));
            true
        }
        fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
            self.note(format!("replace {} by {}", old.0, value.to_json()));
            (value.to_json() != "refused").then_some(ValueId(8))
        }
        fn set_idle(&self, _: bool) {}
        fn is_cancelled(&self) -> bool {
            false
        }
    }

    /// A sink as a guest has it, over the bus's.
    fn remote(leases: &Arc<Leases>) -> (RemoteSink, Arc<Noted>) {
        let noted = Arc::<Noted>::default();
        let references = References::new(Handle::current(), Arc::clone(leases));
        let sink = Sink::new(noted.clone(), references.clone(), Arc::new(()));
        let host = HostObject::new(crate::Bus::new().handle(), references, "test".to_owned(), 1);
        (RemoteSink::new(boxed(sink).into(), Arc::new(boxed(host).into()), Handle::current()), noted)
    }

    #[tokio::test]
    async fn a_guest_puts_a_value_in_place_of_another_by_one_call_and_hears_that_the_old_one_is_gone() {
        let (sink, noted) = remote(&Leases::new());
        let (tell, told) = std::sync::mpsc::channel();
        let old =
            sink.add_watched(AnyValue::native("old".to_owned()), Box::new(move || tell.send(()).expect("it is heard")));
        let old = old.expect("it is added");
        assert!(told.try_recv().is_err(), "it stands");
        assert_eq!(sink.replace(old, AnyValue::native("new".to_owned())), Some(ValueId(8)));
        assert!(told.try_recv().is_ok());
        assert_eq!(sink.replace(ValueId(8), AnyValue::native("refused".to_owned())), None);
        let calls = noted.calls.lock().expect("the list").join(", ");
        assert_eq!(calls, "add \"old\", replace 7 by \"new\", replace 8 by \"refused\"");
    }

    #[tokio::test]
    async fn everybody_who_waits_for_the_end_of_an_execution_hears_of_it() {
        let bus = crate::Bus::new();
        let leases = Leases::new();
        let references = References::new(Handle::current(), Arc::clone(&leases));
        let host = HostObject::new(bus.handle(), references, "test".to_owned(), 1);
        let guest = HostBus::new(Arc::new(boxed(host).into()), Handle::current());
        let (end, ended) = tokio::sync::watch::channel(false);
        let controller = Closures::new().executes(move |_| {
            let mut ended = ended.clone();
            async move {
                let _ = ended.wait_for(|ended| *ended).await;
                Ok(())
            }
        });
        let info = Info::new("test/ends", "1.0.0".parse().expect("a version"), "test/ends");
        let add = |controller| guest.add_controller(controller, info.clone(), Source::STATIC, crate::Retry::never());
        let running = add(Arc::new(controller)).expect("it is added");
        let waiting = [tokio::spawn(running.exited()), tokio::spawn(running.exited())];
        // Each has been polled once this has.
        let unfinished = tokio::time::timeout(std::time::Duration::from_millis(50), running.exited()).await;
        assert!(unfinished.is_err());
        end.send_replace(true);
        for waits in waiting {
            let exited = tokio::time::timeout(std::time::Duration::from_secs(20), waits).await;
            exited.expect("it hears").expect("no panic").expect("it ends well");
        }
        // One that is removed first has not ended by itself.
        let stays = add(Arc::new(Closures::new().executes(|_| std::future::pending()))).expect("it is added");
        let exited = tokio::spawn(stays.exited());
        tokio::task::yield_now().await;
        drop(stays);
        let exited = tokio::time::timeout(std::time::Duration::from_secs(20), exited).await;
        assert_eq!(exited.expect("it hears").expect("no panic").expect_err("removed").kind(), ErrorKind::Closed);
    }

    #[tokio::test]
    async fn who_is_to_be_told_of_the_end_keeps_its_library_until_it_is_told() {
        let leases = Leases::new();
        let (sink, noted) = remote(&leases);
        let (tell, told) = oneshot::channel();
        sink.on_gone(Box::new(move || tell.send(()).expect("it is heard")));
        assert_eq!(leases.holders().wakers, 1);
        let gone = noted.gone.lock().expect("the list").pop().expect("a callback");
        gone();
        told.await.expect("it is told");
        assert_eq!(leases.holders().wakers, 0);
    }
}
