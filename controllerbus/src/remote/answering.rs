//! What the other end has asked: a directive of this end's bus, or one of this end's controllers.

use std::borrow::Cow;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore, SetOnce};
use tokio::task::AbortHandle;

use super::message::EVENT_CREDIT;
use super::sink::{Sends, WireSink};
use super::{Endpoint, Message, Post, Receiving, lock};
use crate::bus::contained;
use crate::controller::AnyController;
use crate::directive::{
    AnyDirective, AnyValue, DirectiveType, OpaqueDirective, RawEvent, RawRequest, ValueSink, confined,
};
use crate::error::ErrorKind;
use crate::{BusError, Error, Result};

/// One open ask of the other end.
pub(super) enum Answer<P> {
    /// By the bus.
    Bus {
        /// Forwards the events.
        task: AbortHandle,
        credit: Arc<Semaphore>,
        /// The reference, once it was added; `None` if that failed.
        raw: Arc<SetOnce<Option<Raw>>>,
    },
    /// By a controller.
    Resolver { task: AbortHandle, sink: Arc<WireSink<P>> },
    /// A controller, or factories, of the other end, which are on the bus for as long as the task is there.
    Added { task: AbortHandle, remove: Arc<Notify> },
}

pub(super) type Raw = Mutex<Box<dyn RawRequest>>;

impl<P> Answer<P> {
    /// To be called when it is not in the table any more.
    pub(super) fn release(self) {
        match self {
            // While it is being added it is left alone, for those that refer to it.
            Self::Bus { task, raw, .. } if raw.initialized() => task.abort(),
            Self::Bus { .. } => {}
            Self::Added { task, .. } => task.abort(),
            Self::Resolver { task, sink } => {
                sink.cancel();
                task.abort();
            }
        }
    }
}

fn released() -> Error {
    Error::new(ErrorKind::Closed, "the request was released")
}

impl<P: Post> Endpoint<P> {
    /// Adds a directive for the other end. If that fails, the error is its first event.
    pub(super) fn ask(self: &Arc<Self>, ask: u64, directive: &str, bytes: &[u8], facts: &[u8]) {
        let bus = match self.bus_of_offers() {
            Ok(bus) => bus,
            Err(error) => return self.refuse(ask, error),
        };
        let (directive, bytes, facts) = (directive.to_owned(), bytes.to_vec(), facts.to_vec());
        let library = self.offers.library();
        let add = async move {
            let directive = DirectiveType::decode_with(&directive, &bytes, &facts)?;
            bus.backend().add_for(confined(directive, library), library)
        };
        self.answer_by_bus(ask, None, add);
    }

    /// Adds another reference to the directive of an ask. The other end may release that next, so this is done at once, unless
    /// the directive itself is still being added.
    pub(super) fn refer(self: &Arc<Self>, ask: u64, to: u64, strong: bool) {
        let known = match lock(&self.answers).get(&to) {
            Some(Answer::Bus { raw, .. }) => Some(Arc::clone(raw)),
            _ => None,
        };
        let refer = move |raw: Option<&Raw>| raw.ok_or_else(released).and_then(|raw| lock(raw).reference(strong));
        let made = match &known {
            Some(known) => known.get().map(|raw| refer(raw.as_ref())),
            None => Some(Err(released())),
        };
        // Only a reference that still waits for the other ask keeps it.
        let known = known.filter(|_| made.is_none());
        self.answer_by_bus(ask, made, async move {
            match known {
                Some(known) => refer(known.wait().await.as_ref()),
                None => Err(released()),
            }
        });
    }

    /// Adds a reference to the directive that this end has asked the other one to resolve.
    pub(super) fn refer_back(self: &Arc<Self>, ask: u64, to: u64) {
        let made = match self.receiving(to) {
            Some(Receiving::Values(inflow)) => inflow.sink.reference(),
            _ => Err(released()),
        };
        self.answer_by_bus(ask, Some(made), std::future::ready(Err(released())));
    }

    /// Says who answers the directive of an ask, once that was added.
    pub(super) fn resolvers(self: &Arc<Self>, ask: u64, of: u64) {
        let known = match lock(&self.answers).get(&of) {
            Some(Answer::Bus { raw, .. }) => Some(Arc::clone(raw)),
            _ => None,
        };
        let this = Arc::clone(self);
        drop(tokio::spawn(async move {
            let found = contained(async {
                let known = known.ok_or_else(released)?;
                let raw = known.wait().await.as_ref().ok_or_else(released)?;
                lock(raw).resolvers()
            });
            match found.await {
                Ok(resolvers) => this.answer(ask, &resolvers),
                Err(error) => this.tell(ask, &Message::Failed { ask, error }),
            }
        }));
    }

    /// Ends the directive that this end has asked the other one to resolve.
    pub(super) fn close_directive(self: &Arc<Self>, ask: u64, to: u64, even_if_referred: bool) {
        let asked = match self.receiving(to) {
            Some(Receiving::Values(inflow)) => Some(inflow),
            _ => None,
        };
        let this = Arc::clone(self);
        drop(tokio::spawn(async move {
            // One that is not asked any more has ended already.
            let close = async { asked.map_or(Ok(false), |asked| asked.sink.close(even_if_referred)) };
            match contained(close).await {
                Ok(closed) => this.answer(ask, &closed),
                Err(error) => this.tell(ask, &Message::Failed { ask, error }),
            }
        }));
    }

    fn answer_by_bus(
        self: &Arc<Self>,
        ask: u64,
        made: Option<Result<Box<dyn RawRequest>>>,
        add: impl Future<Output = Result<Box<dyn RawRequest>>> + Send + 'static,
    ) {
        let mut answers = lock(&self.answers);
        if self.cut.initialized() {
            return;
        }
        if answers.len() as u64 >= self.limits.asks {
            drop(answers);
            return self.refuse(ask, self.too_many());
        }
        let credit = Arc::new(Semaphore::new(EVENT_CREDIT as usize));
        let place = Arc::new(SetOnce::new());
        let failed = made.and_then(|made| {
            let (raw, error) = match made {
                Ok(raw) => (Some(Mutex::new(raw)), None),
                Err(error) => (None, Some(error)),
            };
            let _ = place.set(raw);
            error
        });
        let (this, spending, raw) = (Arc::clone(self), Arc::clone(&credit), Arc::clone(&place));
        // Adding it may run controllers' code, which must not delay the other end's next messages.
        let task = tokio::spawn(async move {
            let mut failed = failed;
            if !place.initialized() {
                // It reads a directive, whose type is a user's.
                let added = match contained(add).await {
                    Ok(raw) => Some(Mutex::new(raw)),
                    Err(error) => {
                        failed = Some(error);
                        None
                    }
                };
                let _ = place.set(added);
                // Released meanwhile, but added for those that refer to it.
                if !this.is_open(ask, &place) {
                    return;
                }
            }
            match (place.get(), failed) {
                (Some(Some(raw)), _) => {
                    if let Err(error) = contained(this.forward(ask, raw, &spending)).await {
                        this.refuse(ask, error);
                    }
                }
                (_, Some(error)) => this.refuse(ask, error),
                _ => {}
            }
        });
        let before = answers.insert(ask, Answer::Bus { task: task.abort_handle(), credit, raw });
        drop(answers);
        before.into_iter().for_each(Answer::release);
    }

    pub(super) fn too_many(&self) -> Error {
        let what = format!("{} has {} requests open, which is its limit", self.limits.name, self.limits.asks);
        Error::new(ErrorKind::Invalid, what)
    }

    /// Whether an ask is still the one whose reference is in this place.
    fn is_open(&self, ask: u64, place: &Arc<SetOnce<Option<Raw>>>) -> bool {
        matches!(lock(&self.answers).get(&ask), Some(Answer::Bus { raw, .. }) if Arc::ptr_eq(raw, place))
    }

    fn refuse(&self, ask: u64, error: Error) {
        for message in [Message::Failed { ask, error }, Message::Idle { ask }, Message::End { ask }] {
            let _ = self.post.push(&message);
        }
    }

    async fn forward(&self, ask: u64, raw: &Raw, credit: &Semaphore) -> Result<()> {
        loop {
            // Unread events stay in the bus's queue, which is bounded by the number of current values.
            match credit.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => return Ok(()),
            }
            let message = match poll_fn(|cx| lock(raw).poll_event(cx)).await {
                Some(RawEvent::Added(id, value)) => match encoded(&value) {
                    Ok(bytes) => {
                        let added = Message::Added { ask, value: id.0, replaces: None, bytes: &bytes };
                        match self.post.send(&added).await {
                            Ok(()) => continue,
                            Err(error) if error.kind() == ErrorKind::Encoding => Message::Failed { ask, error },
                            Err(error) => return Err(error),
                        }
                    }
                    Err(error) => Message::Failed { ask, error },
                },
                Some(RawEvent::Removed(id)) => Message::Removed { ask, value: id.0 },
                Some(RawEvent::Idle) => Message::Idle { ask },
                Some(RawEvent::Busy) => Message::Busy { ask },
                Some(RawEvent::Failed(error)) => Message::Failed { ask, error },
                None => return self.post.send(&Message::End { ask }).await,
            };
            self.post.send(&message).await?;
        }
    }

    /// The other end has read events.
    pub(super) fn credit(&self, ask: u64, events: u32) {
        if let Some(Answer::Bus { credit, .. }) = lock(&self.answers).get(&ask) {
            credit.add_permits(events.min(EVENT_CREDIT) as usize);
        }
    }

    /// Has a controller resolve a directive for the other end.
    pub(super) fn start_resolver(
        self: &Arc<Self>,
        ask: u64,
        controller: u64,
        directive: &str,
        bytes: &[u8],
        sends: Sends,
    ) {
        let found = self.offers.controller(controller);
        let directive = OpaqueDirective::new(directive, bytes.to_vec());
        let sink = Arc::new(WireSink::new(Arc::clone(self), ask, sends));
        let (this, target, own) = (Arc::clone(self), Arc::clone(&sink), Arc::clone(&sink));
        let mut answers = lock(&self.answers);
        if self.cut.initialized() {
            return;
        }
        if answers.len() as u64 >= self.limits.asks {
            drop(answers);
            let _ = self.post.push(&Message::Failed { ask, error: self.too_many() });
            return;
        }
        let task = tokio::spawn(async move {
            let resolved = contained(resolve(found, directive, target)).await;
            let ended = match resolved {
                Ok(()) => Message::Done { ask },
                Err(error) => {
                    // The other end withdraws the values of one that failed.
                    let ended = {
                        let mut answers = lock(&this.answers);
                        // The number may have been used again.
                        let is_own = |answer: &Answer<P>| matches!(answer, Answer::Resolver { sink, .. } if Arc::ptr_eq(sink, &own));
                        if answers.get(&ask).is_some_and(is_own) { answers.remove(&ask) } else { None }
                    };
                    drop(ended);
                    own.cancel();
                    Message::Failed { ask, error }
                }
            };
            if let Err(error) = this.post.push(&ended) {
                // It may be too long, but the ask must end all the same.
                let _ = this.post.push(&Message::Failed { ask, error });
            }
        });
        let before = answers.insert(ask, Answer::Resolver { task: task.abort_handle(), sink });
        drop(answers);
        before.into_iter().for_each(Answer::release);
    }

    /// The other end has accepted or rejected a value.
    pub(super) fn accepted(&self, ask: u64, value: u64, yes: bool) {
        let sink = match lock(&self.answers).get(&ask) {
            Some(Answer::Resolver { sink, .. }) => Arc::clone(sink),
            _ => return,
        };
        sink.accepted(value, yes);
    }
}

/// A value's encoding, which is a user's code.
pub(super) fn encoded(value: &AnyValue) -> Result<Cow<'_, [u8]>> {
    let encoded = catch_unwind(AssertUnwindSafe(|| value.encode().map_err(BusError::into_inner)));
    encoded.unwrap_or_else(|payload| Err(Error::from_panic(payload)))
}

async fn resolve(
    controller: Option<Arc<dyn AnyController>>,
    directive: OpaqueDirective,
    sink: Arc<dyn ValueSink>,
) -> Result<()> {
    let missing = |what| Error::new(ErrorKind::NotFound, what);
    let controller = controller.ok_or_else(|| missing("the controller is not in this process".to_owned()))?;
    let id = directive.id().to_owned();
    match controller.resolve(Arc::new(directive), sink) {
        Some(work) => work.await,
        None => Err(missing(format!("no resolver for {id}"))),
    }
}
