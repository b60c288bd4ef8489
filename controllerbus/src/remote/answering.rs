//! What the other end has asked: a directive of this end's bus, or one of this end's controllers.

use std::borrow::Cow;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::sync::{Notify, Semaphore, SetOnce};
use tokio::task::{AbortHandle, JoinHandle};

use super::in_place::InPlace;
use super::limits::Place;
use super::message::EVENT_CREDIT;
use super::sink::{Sends, WireSink};
use super::{Endpoint, Message, Post, Receiving, lock};
use crate::bus::contained;
use crate::controller::AnyController;
use crate::directive::{
    AnyDirective, AnyValue, DirectiveType, Facts, OpaqueDirective, RawEvent, RawRequest, ValueSink, confined,
};
use crate::error::ErrorKind;
use crate::{BusError, Error, Result};

/// One open ask of the other end.
pub(super) enum Answer<P> {
    /// By the bus.
    Bus(ByBus),
    /// By a controller.
    Resolver { work: Resolving, sink: Arc<WireSink<P>>, _place: Place },
    /// A controller, or factories, of the other end, which are on the bus for as long as the task is there.
    Added { task: AbortHandle, remove: Arc<Notify>, _place: Place },
}

/// What waits for the end of a resolver.
pub(super) enum Resolving {
    Task(AbortHandle),
    InPlace(Arc<InPlace>),
}

impl Resolving {
    fn abort(&self) {
        match self {
            Self::Task(task) => task.abort(),
            Self::InPlace(work) => work.abort(),
        }
    }
}

/// An ask that the bus answers.
pub(super) struct ByBus {
    /// Forwards the events.
    pub(super) task: JoinHandle<()>,
    pub(super) credit: Arc<Semaphore>,
    pub(super) added: Arc<SetOnce<Result<Raw>>>,
    /// What is asked, where it may be asked again.
    pub(super) key: u64,
    pub(super) place: Place,
}

impl ByBus {
    /// Ends the forwarding. While the directive is being added the task is left alone, for those that refer to it.
    pub(super) fn stop(&self) {
        if self.added.initialized() {
            self.task.abort();
        }
    }
}

pub(super) type Raw = Mutex<Box<dyn RawRequest>>;

impl<P> Answer<P> {
    /// To be called when it is not in the table any more.
    pub(super) fn release(self) {
        match self {
            Self::Bus(by_bus) => by_bus.stop(),
            Self::Added { task, .. } => task.abort(),
            Self::Resolver { work, sink, .. } => {
                sink.cancel();
                work.abort();
            }
        }
    }
}

/// How an answer by the bus begins.
#[derive(Default)]
pub(super) struct Beginning {
    /// See [`ByBus::key`].
    pub(super) key: u64,
    /// The other end has been told of it before, and compares.
    pub(super) anew: bool,
}

pub(super) fn released() -> Error {
    Error::new(ErrorKind::Closed, "the request was released")
}

impl<P: Post> Endpoint<P> {
    /// Adds a directive for the other end. If that fails, the error is its first event.
    pub(super) fn ask(self: &Arc<Self>, ask: u64, directive: &str, bytes: &[u8], facts: &[u8], again: bool) {
        let key = if P::RESUMES { self.key(ask, directive, bytes, facts) } else { 0 };
        if P::RESUMES && self.adopt(ask, key, again) {
            return;
        }
        // What cannot be read is told where the directive is added.
        let origin = if P::RESUMES { Facts::decode(facts).map_or(0, |facts| facts.origin) } else { 0 };
        let bus = match self.bus_of_offers(origin) {
            Ok(bus) => bus,
            Err(error) => return self.refuse(ask, error),
        };
        let (directive, bytes, facts) = (directive.to_owned(), bytes.to_vec(), facts.to_vec());
        let library = self.offers.library();
        let add = async move {
            let directive = DirectiveType::decode_with(&directive, &bytes, &facts)?;
            bus.backend().add_for(confined(directive, library), library)
        };
        self.answer_by_bus(ask, None, add, Beginning { key, anew: again });
    }

    /// Adds another reference to the directive of an ask. The other end may release that next, so this is done at once, unless
    /// the directive itself is still being added.
    pub(super) fn refer(self: &Arc<Self>, ask: u64, to: u64, strong: bool) {
        let known = match lock(&self.answers).get(&to) {
            Some(Answer::Bus(by_bus)) => Some(Arc::clone(&by_bus.added)),
            _ => None,
        };
        let refer = move |raw: &Result<Raw>| match raw {
            Ok(raw) => lock(raw).reference(strong),
            Err(_) => Err(released()),
        };
        let made = match &known {
            Some(known) => known.get().map(refer),
            None => Some(Err(released())),
        };
        // Only a reference that still waits for the other ask keeps it.
        let known = known.filter(|_| made.is_none());
        let add = async move {
            match known {
                Some(known) => refer(known.wait().await),
                None => Err(released()),
            }
        };
        self.answer_by_bus(ask, made, add, Beginning::default());
    }

    /// Adds a reference to the directive that this end has asked the other one to resolve.
    pub(super) fn refer_back(self: &Arc<Self>, ask: u64, to: u64) {
        let made = match self.receiving(to) {
            Some(Receiving::Values(inflow)) => inflow.sink.reference(),
            _ => Err(released()),
        };
        self.answer_by_bus(ask, Some(made), std::future::ready(Err(released())), Beginning::default());
    }

    /// Says who answers the directive of an ask, once that was added.
    pub(super) fn resolvers(self: &Arc<Self>, ask: u64, of: u64) {
        let known = match lock(&self.answers).get(&of) {
            Some(Answer::Bus(by_bus)) => Some(Arc::clone(&by_bus.added)),
            _ => None,
        };
        let this = Arc::clone(self);
        drop(tokio::spawn(async move {
            let found = contained(async {
                let known = known.ok_or_else(released)?;
                let raw = known.wait().await.as_ref().map_err(|_| released())?;
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
        begins: Beginning,
    ) {
        let mut answers = lock(&self.answers);
        if self.cut.initialized() {
            return;
        }
        let Some(place) = self.limits.place() else {
            drop(answers);
            self.post.exceeded(self.too_many());
            return self.refuse(ask, self.too_many());
        };
        let made = made.map(|made| made.map(Mutex::new));
        let before = answers.insert(ask, self.answer_with(ask, made, add, begins, place));
        drop(answers);
        before.into_iter().for_each(Answer::release);
    }

    /// An answer by the bus, and the task that gives it.
    pub(super) fn answer_with(
        self: &Arc<Self>,
        ask: u64,
        made: Option<Result<Raw>>,
        add: impl Future<Output = Result<Box<dyn RawRequest>>> + Send + 'static,
        Beginning { key, anew }: Beginning,
        place: Place,
    ) -> Answer<P> {
        let credit = Arc::new(Semaphore::new(EVENT_CREDIT as usize));
        let added = Arc::new(SetOnce::new());
        if let Some(made) = made {
            let _ = added.set(made);
        }
        let (this, spending, raw) = (Arc::clone(self), Arc::clone(&credit), Arc::clone(&added));
        // Adding it may run controllers' code, which must not delay the other end's next messages.
        let task = tokio::spawn(async move {
            if !raw.initialized() {
                // It reads a directive, whose type is a user's.
                let _ = raw.set(contained(add).await.map(Mutex::new));
                // Released meanwhile, but added for those that refer to it.
                if !this.is_open(ask, &raw) {
                    return;
                }
            }
            if anew {
                let _ = this.post.push(&Message::Anew { ask });
            }
            let told = match raw.get() {
                Some(Ok(raw)) => contained(this.forward(ask, raw, &spending, anew)).await,
                Some(Err(error)) => Err(error.clone()),
                None => return,
            };
            if let Err(error) = told {
                this.refuse(ask, error);
            }
        });
        Answer::Bus(ByBus { task, credit, added, key, place })
    }

    pub(super) fn too_many(&self) -> Error {
        let what = format!("{} has {} requests open, which is its limit", self.limits.name, self.limits.asks);
        Error::new(ErrorKind::Invalid, what)
    }

    /// Whether an ask is still the one whose reference is in this place.
    fn is_open(&self, ask: u64, added: &Arc<SetOnce<Result<Raw>>>) -> bool {
        matches!(lock(&self.answers).get(&ask), Some(Answer::Bus(by_bus)) if Arc::ptr_eq(&by_bus.added, added))
    }

    fn refuse(&self, ask: u64, error: Error) {
        for message in [Message::Failed { ask, error }, Message::Idle { ask }, Message::End { ask }] {
            let _ = self.post.push(&message);
        }
    }

    /// Sends a message once there is room. What waits for that is kept apart, because mostly nothing does.
    async fn send(&self, message: &Message<'_>) -> Result<()> {
        if self.post.try_send(message)? {
            return Ok(());
        }
        Box::pin(self.post.send(message)).await
    }

    /// Forwards the events of a reference. The first ones are what stands: if that is told anew, it is said where that ends.
    fn forward<'a>(
        &'a self,
        ask: u64,
        raw: &'a Raw,
        credit: &'a Semaphore,
        anew: bool,
    ) -> impl Future<Output = Result<()>> + Send + 'a {
        let mut telling = anew;
        async move {
            loop {
                // Unread events stay in the bus's queue, which is bounded by the number of current values.
                match credit.try_acquire() {
                    Ok(permit) => permit.forget(),
                    Err(_) => {
                        self.post.waits_for_credit();
                        match credit.acquire().await {
                            Ok(permit) => permit.forget(),
                            Err(_) => return Ok(()),
                        }
                    }
                }
                let polled = |cx: &mut Context<'_>| match lock(raw).poll_event(cx) {
                    Poll::Pending if telling => Poll::Ready(None),
                    polled => polled.map(Some),
                };
                let Some(event) = poll_fn(polled).await else {
                    telling = false;
                    credit.add_permits(1);
                    self.send(&Message::Told { ask }).await?;
                    continue;
                };
                // These come after all that stood.
                if telling && matches!(event, Some(RawEvent::Removed(_) | RawEvent::Busy)) {
                    telling = false;
                    self.send(&Message::Told { ask }).await?;
                }
                let message = match event {
                    Some(RawEvent::Added(id, value)) => match encoded(&value) {
                        Ok(bytes) => {
                            let added = Message::Added { ask, value: id.0, replaces: None, bytes: &bytes };
                            match self.send(&added).await {
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
                    None => return self.send(&Message::End { ask }).await,
                };
                self.send(&message).await?;
            }
        }
    }

    /// The other end has read events.
    pub(super) fn credit(&self, ask: u64, events: u32) {
        if let Some(Answer::Bus(ByBus { credit, .. })) = lock(&self.answers).get(&ask) {
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
        let Some(place) = self.limits.place() else {
            drop(answers);
            let _ = self.post.push(&Message::Failed { ask, error: self.too_many() });
            return;
        };
        let resolving = async move {
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
            if let Err(error) = this.post.end(&ended) {
                // It may be too long, but the ask must end all the same.
                let _ = this.post.push(&Message::Failed { ask, error });
            }
        };
        let (work, in_place) = if P::PASSES_ON {
            let work = InPlace::new(resolving);
            (Resolving::InPlace(Arc::clone(&work)), Some(work))
        } else {
            (Resolving::Task(tokio::spawn(resolving).abort_handle()), None)
        };
        let before = answers.insert(ask, Answer::Resolver { work, sink, _place: place });
        drop(answers);
        before.into_iter().for_each(Answer::release);
        if let Some(work) = in_place {
            work.go_on();
        }
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
