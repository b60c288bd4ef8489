//! The host's objects that a guest calls: its bus, sinks, and the ends of calls. No panic leaves them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use stabby::string::String as StableString;
use stabby::vec::Vec as StableVec;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::trace::Traces;
use crate::bus::BusHandle;
use crate::directive::{AnyValue, DirectiveType, RawEvent, RawRequest, ValueId, ValueSink};
use crate::error::ErrorKind;
use crate::plugin::abi::{
    EVENT_ADDED, EVENT_BUSY, EVENT_END, EVENT_FAILED, EVENT_IDLE, EVENT_PENDING, EVENT_REMOVED, Failure,
    GuestControllerPtr, GuestWakerDyn, GuestWakerPtr, HostConstructed, HostDone, HostRequest, HostRequestPtr, HostSide,
    HostSink, ObjectPtr, Outcome, PolledEvent, TraceRecord,
};
use crate::plugin::interface::Object;
use crate::plugin::lease::{Holder, Lease, Leases};
use crate::plugin::level;
use crate::{Error, Result};

/// Runs the host's code for a guest; a panic is logged and answered with `otherwise`.
fn guard<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let error = Error::from_panic(payload);
        let _ = catch_unwind(|| tracing::error!(%error, "the host panicked in a call from a plugin"));
        otherwise
    })
}

/// The host as one generation sees it.
pub(super) struct HostObject {
    bus: BusHandle,
    runtime: Handle,
    leases: Arc<Leases>,
    traces: Traces,
    referred: Arc<Referred>,
}

impl HostObject {
    pub(super) fn new(bus: BusHandle, runtime: Handle, leases: Arc<Leases>, plugin: String, generation: u64) -> Self {
        Self { bus, runtime, leases, traces: Traces::new(plugin, generation), referred: Arc::default() }
    }

    fn add(&self, id: &str, bytes: &[u8], facts: &[u8]) -> Result<HostRequestPtr> {
        let _runtime = self.runtime.enter();
        let directive = DirectiveType::decode_with(id, bytes, facts)?;
        let raw = self.bus.raw(directive)?;
        Ok(self.object(raw))
    }

    fn object(&self, raw: Box<dyn RawRequest>) -> HostRequestPtr {
        let request = RequestObject {
            raw: Mutex::new(raw),
            runtime: self.runtime.clone(),
            leases: Arc::clone(&self.leases),
            referred: Arc::clone(&self.referred),
        };
        stabby::boxed::Box::new(request).into()
    }
}

impl HostSide for HostObject {
    extern "C" fn request(
        &self,
        id: StableString,
        bytes: StableVec<u8>,
        facts: StableVec<u8>,
    ) -> stabby::result::Result<HostRequestPtr, Failure> {
        requested(|| self.add(id.as_str(), bytes.as_ref(), facts.as_ref()))
    }
    extern "C" fn referred(&self, number: u64) -> stabby::result::Result<HostRequestPtr, Failure> {
        requested(|| {
            let raw = self.referred.take(number);
            let raw = raw.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no reference {number} is kept")))?;
            Ok(self.object(raw))
        })
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
    extern "C" fn span_close(&self, id: u64) {
        guard((), || self.traces.close(id));
    }
}

fn requested(add: impl FnOnce() -> Result<HostRequestPtr>) -> stabby::result::Result<HostRequestPtr, Failure> {
    let added = catch_unwind(AssertUnwindSafe(add)).unwrap_or_else(|payload| Err(Error::from_panic(payload)));
    match added {
        Ok(request) => stabby::result::Result::Ok(request),
        Err(error) => stabby::result::Result::Err(error.into()),
    }
}

/// A guest's reference to a standing directive.
struct RequestObject {
    raw: Mutex<Box<dyn RawRequest>>,
    runtime: Handle,
    leases: Arc<Leases>,
    referred: Arc<Referred>,
}

/// References that a guest has asked for and not yet fetched.
#[derive(Default)]
struct Referred {
    next: AtomicU64,
    kept: Mutex<HashMap<u64, Box<dyn RawRequest>>>,
}

impl Referred {
    fn keep(&self, raw: Box<dyn RawRequest>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(number, raw);
        number
    }

    fn take(&self, number: u64) -> Option<Box<dyn RawRequest>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }
}

impl HostRequest for RequestObject {
    extern "C" fn refer(&self, strong: bool) -> stabby::result::Result<u64, Failure> {
        let referred = catch_unwind(AssertUnwindSafe(|| {
            let _runtime = self.runtime.enter();
            let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner).reference(strong)?;
            Ok(self.referred.keep(raw))
        }));
        match referred.unwrap_or_else(|payload| Err(Error::from_panic(payload))) {
            Ok(number) => stabby::result::Result::Ok(number),
            Err(error) => stabby::result::Result::Err(Error::into(error)),
        }
    }
    extern "C" fn poll(&self, waker: GuestWakerPtr) -> PolledEvent {
        let holder = WakerHolder { waker, _lease: self.leases.take(Holder::Waker) };
        let failed = polled(EVENT_FAILED, 0, &[], Err(Error::msg("the host's bus panicked")));
        guard(failed, || {
            let _runtime = self.runtime.enter();
            let waker = Waker::from(Arc::new(holder));
            let mut raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
            match raw.poll_event(&mut Context::from_waker(&waker)) {
                Poll::Pending => polled(EVENT_PENDING, 0, &[], Ok(())),
                Poll::Ready(None) => polled(EVENT_END, 0, &[], Ok(())),
                Poll::Ready(Some(event)) => match event {
                    RawEvent::Added(id, value) => match value.encode_with_objects() {
                        Ok((bytes, objects)) => {
                            let mut event = polled(EVENT_ADDED, id.0, &bytes, Ok(()));
                            for Object(pointer) in objects {
                                event.objects.push(pointer);
                            }
                            event
                        }
                        Err(error) => polled(EVENT_FAILED, id.0, &[], Err(error)),
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
        let runtime = self.runtime.clone();
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
    PolledEvent { kind, value, bytes: bytes.into(), objects: StableVec::new(), failure: outcome.into() }
}

/// A guest's waker in the host's hands. Fields drop in order: the lease goes last.
struct WakerHolder {
    waker: GuestWakerPtr,
    _lease: Lease,
}

impl Wake for WakerHolder {
    fn wake(self: Arc<Self>) {
        self.waker.wake();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.waker.wake();
    }
}

/// The bus's sink of one resolver, for a guest.
pub(super) struct Sink {
    sink: Arc<dyn ValueSink>,
    leases: Arc<Leases>,
}

impl Sink {
    pub(super) fn new(sink: Arc<dyn ValueSink>, leases: Arc<Leases>) -> Self {
        Self { sink, leases }
    }
}

impl HostSink for Sink {
    extern "C" fn add(&self, bytes: StableVec<u8>, objects: StableVec<ObjectPtr>) -> u64 {
        guard(0, || {
            let objects = objects.iter().map(|object| Object::leased(object.clone(), &self.leases)).collect();
            self.sink.add(AnyValue::encoded_with(bytes.as_ref(), objects)).map_or(0, |id| id.0 + 1)
        })
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
        let holder = WakerHolder { waker, _lease: self.leases.take(Holder::Waker) };
        guard((), || self.sink.on_gone(Box::new(move || holder.waker.wake())));
    }
}

/// Where the end of a call goes.
pub(super) struct Done(Mutex<Option<oneshot::Sender<Result<()>>>>);

impl Done {
    pub(super) fn new(sender: oneshot::Sender<Result<()>>) -> Self {
        Self(Mutex::new(Some(sender)))
    }
}

impl HostDone for Done {
    extern "C" fn done(&self, outcome: Outcome) {
        guard((), || {
            if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = sender.send(outcome.into());
            }
        });
    }
}

/// Told that an execution has begun.
pub(super) struct Began(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Began {
    pub(super) fn new(began: Box<dyn FnOnce() + Send>) -> Self {
        Self(Mutex::new(Some(began)))
    }
}

impl HostDone for Began {
    extern "C" fn done(&self, _: Outcome) {
        guard((), || {
            let began = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(began) = began {
                began();
            }
        });
    }
}

type ConstructedSender = oneshot::Sender<Result<GuestControllerPtr>>;

/// Where the end of a construction goes.
pub(super) struct Constructed(Mutex<Option<ConstructedSender>>);

impl Constructed {
    pub(super) fn new(sender: ConstructedSender) -> Self {
        Self(Mutex::new(Some(sender)))
    }
}

impl HostConstructed for Constructed {
    extern "C" fn done(&self, result: stabby::result::Result<GuestControllerPtr, Failure>) {
        guard((), || {
            let result = result.match_owned(Ok, |failure| Err(Error::from(failure)));
            if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = sender.send(result);
            }
        });
    }
}
