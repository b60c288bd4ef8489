//! The runtime's bus as the guest sees it: requests go over the socket, with credit for the events that it reads.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use controllerbus::Result;
use controllerbus::bus::Backend;
use controllerbus::directive::{AnyDirective, AnyValue, Facts, RawEvent, RawRequest, ValueId};

use super::sink::Line;
use crate::host::process::protocol::{EVENT_CREDIT, ToParent, WireEvent};

/// The requests that the guest has open.
pub(super) struct SocketBus {
    line: Line,
    next: Arc<AtomicU64>,
    open: Arc<Open>,
}

type Open = Mutex<HashMap<u64, Arc<Mutex<Unread>>>>;

#[derive(Default)]
struct Unread {
    events: VecDeque<RawEvent>,
    ended: bool,
    waker: Option<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SocketBus {
    pub(super) fn new(line: Line) -> Self {
        Self { line, next: Arc::default(), open: Arc::default() }
    }

    /// Delivers an event to a request, unless that was released meanwhile.
    pub(super) fn event(&self, request: u64, event: WireEvent<'_>) {
        let unread = lock(&self.open).get(&request).cloned();
        let Some(unread) = unread else { return };
        let mut unread = lock(&unread);
        match event {
            WireEvent::Added { value, bytes } => {
                unread.events.push_back(RawEvent::Added(ValueId(value), AnyValue::encoded(bytes)));
            }
            WireEvent::Removed { value } => unread.events.push_back(RawEvent::Removed(ValueId(value))),
            WireEvent::Idle => unread.events.push_back(RawEvent::Idle),
            WireEvent::Busy => unread.events.push_back(RawEvent::Busy),
            WireEvent::Failed(error) => unread.events.push_back(RawEvent::Failed(error)),
            WireEvent::End => unread.ended = true,
        }
        let waker = unread.waker.take();
        drop(unread);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Backend for SocketBus {
    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>> {
        let (bytes, facts) = (directive.encode()?, Facts::encode(&*directive)?);
        let request = Request::open(&self.line, &self.next, &self.open);
        let directive = directive.id();
        self.line.say(&ToParent::Request { request: request.number, directive, bytes: &bytes, facts: &facts })?;
        Ok(Box::new(request))
    }
}

struct Request {
    number: u64,
    unread: Arc<Mutex<Unread>>,
    /// Events that were read and not yet reported.
    read: u32,
    line: Line,
    next: Arc<AtomicU64>,
    open: Arc<Open>,
}

impl Request {
    fn open(line: &Line, next: &Arc<AtomicU64>, open: &Arc<Open>) -> Self {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let unread = Arc::<Mutex<Unread>>::default();
        lock(open).insert(number, Arc::clone(&unread));
        Self { number, unread, read: 0, line: line.clone(), next: Arc::clone(next), open: Arc::clone(open) }
    }
}

impl RawRequest for Request {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RawEvent>> {
        let event = {
            let mut unread = lock(&self.unread);
            match unread.events.pop_front() {
                Some(event) => event,
                None if unread.ended => return Poll::Ready(None),
                None => {
                    unread.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        };
        self.read += 1;
        if self.read >= EVENT_CREDIT / 2 {
            let _ = self.line.say(&ToParent::Credit { request: self.number, events: self.read });
            self.read = 0;
        }
        Poll::Ready(Some(event))
    }

    fn reference(&self, strong: bool) -> Result<Box<dyn RawRequest>> {
        let request = Self::open(&self.line, &self.next, &self.open);
        self.line.say(&ToParent::Refer { request: request.number, to: self.number, strong })?;
        Ok(Box::new(request))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        lock(&self.open).remove(&self.number);
        let _ = self.line.say(&ToParent::Release { request: self.number });
    }
}
