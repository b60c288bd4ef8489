//! The other end's bus: a reference to a directive there, read as events, with credit for those that were read.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use super::events::EventQueue;
use super::message::EVENT_CREDIT;
use super::{Endpoint, Message, Post, Receiving, lock};
use crate::bus::{Backend, RawRunning, ResolverSnapshot, Source};
use crate::controller::factory::Factory;
use crate::controller::{AnyController, Info};
use crate::directive::{AnyDirective, Facts, RawEvent, RawRequest, ValueId, wire};
use crate::{BusHandle, Result, Retry};

impl<P: Post> Endpoint<P> {
    /// The other end's bus.
    pub fn bus(self: &Arc<Self>) -> BusHandle {
        BusHandle::new(Arc::new(RemoteBus(Arc::clone(self))))
    }
}

struct RemoteBus<P>(Arc<Endpoint<P>>);

impl<P: Post> Backend for RemoteBus<P> {
    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>> {
        let (bytes, facts) = (directive.encode()?, Facts::encode(&*directive)?);
        let request = WireRequest::open(&self.0, directive.confined_to().is_some(), Some(&directive));
        request.say(&Message::Ask { ask: request.ask, directive: directive.id(), bytes: &bytes, facts: &facts })?;
        Ok(Box::new(request))
    }

    /// Whose code it is, the other end knows.
    fn add_controller(
        &self,
        controller: Arc<dyn AnyController>,
        info: Info,
        _: Source,
        retry: Retry,
    ) -> Result<Box<dyn RawRunning>> {
        self.0.lend_controller(controller, info, retry)
    }

    fn add_factories(&self, factories: Vec<Arc<dyn Factory>>, _: Source) -> Result<Box<dyn Send + Sync>> {
        self.0.lend_factories(factories)
    }
}

/// A reference to a directive of the other end's bus.
pub(super) struct WireRequest<P: Post> {
    endpoint: Arc<Endpoint<P>>,
    ask: u64,
    queue: Arc<EventQueue>,
    /// Events that were read and not yet reported.
    read: u32,
    /// If the directive is local: the values that did not stand any more when their events were read.
    #[expect(clippy::box_collection, reason = "a set is 48 bytes, also where there is none")]
    missed: Option<Box<HashSet<ValueId>>>,
}

impl<P: Post> WireRequest<P> {
    fn open(endpoint: &Arc<Endpoint<P>>, is_local: bool, directive: Option<&Arc<dyn AnyDirective>>) -> Self {
        let queue =
            Arc::new(if P::RESUMES { EventQueue::resumable(directive.cloned()) } else { EventQueue::default() });
        let ask = endpoint.open(Receiving::Events(Arc::clone(&queue)));
        Self { endpoint: Arc::clone(endpoint), ask, queue, read: 0, missed: is_local.then(Box::default) }
    }

    /// A weak reference to the directive that the other end asks this one to resolve.
    pub(super) fn refer_back(endpoint: &Arc<Endpoint<P>>, to: u64, is_local: bool) -> Result<Box<dyn RawRequest>> {
        let request = Self::open(endpoint, is_local, None);
        request.say(&Message::ReferBack { ask: request.ask, to })?;
        Ok(Box::new(request))
    }

    /// An event with the value that stands here; `None` if it does not, and then it was never seen.
    fn found(&mut self, event: RawEvent) -> Option<RawEvent> {
        let Some(missed) = &mut self.missed else { return Some(event) };
        match event {
            RawEvent::Added(id, sent) => match self.endpoint.local_value(&sent) {
                Some(value) => Some(RawEvent::Added(id, value)),
                None => {
                    missed.insert(id);
                    None
                }
            },
            RawEvent::Removed(id) if missed.remove(&id) => None,
            other => Some(other),
        }
    }

    fn say(&self, message: &Message<'_>) -> Result<()> {
        self.endpoint.post.say(message).map_err(|error| self.endpoint.unsent(error))
    }
}

impl<P: Post> RawRequest for WireRequest<P> {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RawEvent>> {
        loop {
            let event = {
                let mut unread = lock(&self.queue.unread);
                match unread.events.pop_front() {
                    Some(event) => {
                        self.read += std::mem::take(&mut unread.repeated);
                        event
                    }
                    None if unread.ended => return Poll::Ready(None),
                    None => {
                        // Most asks have no further event for long.
                        unread.events = VecDeque::new();
                        let before = unread.waker.replace(cx.waker().clone());
                        drop(unread);
                        drop(before);
                        return Poll::Pending;
                    }
                }
            };
            self.read += 1;
            if self.read >= EVENT_CREDIT / 2 {
                let _ = self.say(&Message::Credit { ask: self.ask, events: self.read });
                self.read = 0;
            }
            if let Some(event) = self.found(event) {
                return Poll::Ready(Some(event));
            }
        }
    }

    fn reference(&self, strong: bool) -> Result<Box<dyn RawRequest>> {
        let request = Self::open(&self.endpoint, self.missed.is_some(), None);
        request.say(&Message::Refer { ask: request.ask, to: self.ask, strong })?;
        Ok(Box::new(request))
    }

    fn resolvers(&self) -> Result<Vec<ResolverSnapshot>> {
        wire::decode(&self.endpoint.wait_for(|ask| Message::Resolvers { ask, of: self.ask })?)
    }
}

impl<P: Post> Drop for WireRequest<P> {
    fn drop(&mut self) {
        self.endpoint.close(self.ask);
        self.endpoint.unread(&self.queue);
        let _ = self.say(&Message::Release { ask: self.ask });
    }
}
