//! The host's bus and sinks as a guest's code sees them: the same traits, over the boundary.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use stabby::string::String as StableString;

use crate::bus::Backend;
use crate::directive::{AnyDirective, AnyValue, RawEvent, RawRequest, ValueId, ValueSink};
use crate::plugin::abi::{
    EVENT_ADDED, EVENT_BUSY, EVENT_END, EVENT_FAILED, EVENT_IDLE, EVENT_PENDING, EVENT_REMOVED, GuestWaker, HostPtr,
    HostRequestDyn, HostRequestPtr, HostSideDyn, HostSinkDyn, HostSinkPtr,
};
use crate::plugin::interface::Object;
use crate::{Error, Result};

/// The host's bus.
pub(super) struct HostBus(Arc<HostPtr>);

impl HostBus {
    pub(super) fn new(host: Arc<HostPtr>) -> Self {
        Self(host)
    }
}

impl Backend for HostBus {
    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>> {
        let bytes = directive.encode()?;
        self.0.request(StableString::from(directive.id()), bytes.as_slice().into()).match_owned(
            |request| Ok(Box::new(RemoteRequest(request)) as Box<dyn RawRequest>),
            |failure| Err(Error::from(failure)),
        )
    }
}

struct RemoteRequest(HostRequestPtr);

impl RawRequest for RemoteRequest {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RawEvent>> {
        let waker = stabby::boxed::Box::new(TaskWaker(cx.waker().clone())).into();
        let event = self.0.poll(waker);
        let id = ValueId(event.value);
        Poll::Ready(Some(match event.kind {
            EVENT_PENDING => return Poll::Pending,
            EVENT_END => return Poll::Ready(None),
            EVENT_ADDED => {
                let objects = event.objects.iter().cloned().map(Object).collect();
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
}

/// Wakes a task of this guest when the host has an event for it.
struct TaskWaker(Waker);

impl GuestWaker for TaskWaker {
    extern "C" fn wake(&self) {
        self.0.wake_by_ref();
    }
}

/// The host's sink of one resolver.
pub(super) struct RemoteSink(HostSinkPtr);

impl RemoteSink {
    pub(super) fn new(sink: HostSinkPtr) -> Self {
        Self(sink)
    }
}

impl ValueSink for RemoteSink {
    fn add(&self, value: AnyValue) -> Option<ValueId> {
        match value.encode_with_objects() {
            Ok((bytes, objects)) => {
                let mut pointers = stabby::vec::Vec::new();
                for Object(pointer) in objects {
                    pointers.push(pointer);
                }
                self.0.add(bytes.as_ref().into(), pointers).checked_sub(1).map(ValueId)
            }
            Err(error) => {
                tracing::error!(%error, "a value could not be handed to the host");
                None
            }
        }
    }
    fn remove(&self, id: ValueId) -> bool {
        self.0.remove(id.0)
    }
    fn set_idle(&self, idle: bool) {
        self.0.set_idle(idle);
    }
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}
