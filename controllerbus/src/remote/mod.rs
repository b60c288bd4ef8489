//! Asking and answering over a wire: two buses, or a bus and the controllers of another process, each at one [`Endpoint`].
//!
//! There is no transport in here. A *carrier* moves [`Message`]s: it implements [`Post`] for what this end says, and gives what
//! the other end said to [`Endpoint::handle`], in order. When the connection is gone it calls [`Endpoint::cut`]. Process-hosted
//! plugins are carried over a socket pair, by `hot-runtime`.
//!
//! ```text
//!   the end that asks                                   the end that answers
//!
//!   BusHandle::request ──> EventQueue  ── Ask ────────> a task, which reads a reference to the bus's directive
//!                            ^            Credit ─────>   and waits for credit: what is not read stays in the bus's own
//!                            └─────────── Added, .. <──   queue, which is bounded by what stands
//!
//!   Endpoint::resolve ──> Inflow ─────── Resolve ─────> a controller's resolver, with a `WireSink`
//!     (a proxy's future)     ^            Accepted ───>   (a value waits for this if the directive has a hard cap)
//!                            └─────────── Added, .. <──
//!
//!   dropping either ──────────────────── Release ─────> the reference, or the resolver and its values, are dropped
//!
//!   BusHandle::add_controller ────────── AddController > a task, which keeps the controller's proxy on the bus
//!   BusHandle::add_factories               ..            (this thread waits for the answer)
//! ```
//!
//! Both ends have the same type, and each may do both.
//!
//! # Rules
//!
//! * **An ask has one entry at each end**, from when it is made or arrives until it is released, or the connection is cut. What
//!   comes for a number without an entry is ignored; so nothing is told after a release or a cut, and nothing twice. A number that
//!   is used again, which no proper end does, releases what had it.
//! * **A cut ends everything at both ends**: what this end has asked fails with the reason and ends, and what the other end has
//!   asked is released here. An ask that is made after a cut fails with the same reason.
//! * **No lock is held while user code, the bus or the carrier is called**, nor while a sink, a reference or a callback is dropped.
//!   (But for a reference's own lock, which only what forwards its events takes, and who refers to it.)
//! * **What a user's type does, its encoding, decoding and destructor, is contained**: a panic there is the error of who asked.
//! * **[`Endpoint::handle`] does not wait.** What may take time runs in a task, and so a slow controller delays no other ask.
//! * **A local directive's value stays at the end that makes it.** What crosses says which one it is; who reads it there gets the
//!   value itself, if it still stands.
//! * **What a carrier loses is told again as a whole**, where its [`Post`] resumes: [`Endpoint::tell_again`] repeats what is asked, and
//!   tells anew what stands. The other end compares: what stands on both sides is left alone, what is missing is withdrawn, and what is
//!   new is added (`world.rs`, `again.rs`). Over a cut the references can be held ([`Endpoint::hold`]), so that nothing runs again.
//! * Values wait nowhere in here: an event is posted when its reader has credit and the carrier has room.

mod adding;
mod again;
mod answering;
mod asking;
mod events;
mod in_place;
mod inflow;
mod limits;
mod message;
mod removals;
#[cfg(test)]
mod resume_tests;
mod sink;
#[cfg(test)]
mod tests;
mod world;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, SetOnce};

use adding::{Added, Reply};
pub use adding::{RemoteController, RemoteFactory};
use answering::Answer;
use events::EventQueue;
pub use inflow::Asked;
use inflow::Inflow;
pub use limits::EndpointLimits;
pub use message::Message;
pub(crate) use removals::Removals;
use sink::Sends;

use crate::bus::Source;
use crate::controller::factory::Factory;
use crate::controller::{AnyController, Info};
use crate::directive::{RawEvent, superseded};
use crate::error::ErrorKind;
use crate::{BusHandle, Error, Result};

/// Where the messages of one end go. Implemented by a carrier.
///
/// All of these may be called from any thread, and keep the order of calls from one thread. They fail with
/// [`ErrorKind::Closed`] once the connection is gone, and with [`ErrorKind::Encoding`] for a message that is too long.
pub trait Post: Send + Sync + 'static {
    /// Sends a message, without waiting for room: it answers another, or ends something.
    ///
    /// # Errors
    /// As above.
    fn push(&self, message: &Message<'_>) -> Result<()>;

    /// [`Post::push`] for a message that nobody waits for, and which may therefore be sent with the next one.
    ///
    /// # Errors
    /// As above.
    fn push_later(&self, message: &Message<'_>) -> Result<()> {
        self.push(message)
    }

    /// Sends a message of this thread's code, which the carrier may block until there is room.
    ///
    /// # Errors
    /// As above.
    fn say(&self, message: &Message<'_>) -> Result<()> {
        self.push(message)
    }

    /// Sends a message if there is room for it now; false, and nothing is sent, if there is not.
    ///
    /// # Errors
    /// As above.
    fn try_send(&self, message: &Message<'_>) -> Result<bool> {
        let _ = message;
        Ok(false)
    }

    /// Sends a message once there is room. Cancel-safe.
    ///
    /// # Errors
    /// As above.
    fn send(&self, message: &Message<'_>) -> impl Future<Output = Result<()>> + Send;

    /// Whether this end's controllers only pass on what they are asked, to where threads of their own answer. Then the thread on
    /// which an answer ends says so itself, by [`Post::end`].
    const PASSES_ON: bool = false;

    /// [`Post::push`] for the last message of an answer, which ends on this thread.
    ///
    /// # Errors
    /// As above.
    fn end(&self, message: &Message<'_>) -> Result<()> {
        self.push(message)
    }

    /// Whether this thread may be blocked until the other end has answered.
    fn may_block(&self) -> bool {
        false
    }

    /// Whether messages may be lost, and are told again then: see [`Endpoint::tell_again`]. Both ends' posts say the same.
    const RESUMES: bool = false;

    /// The other end has more open asks, or more standing values, than it may have. It is up to the carrier to end the connection.
    fn exceeded(&self, why: Error) {
        let _ = why;
    }

    /// Events of an ask wait now until the other end has read those before.
    fn waits_for_credit(&self) {}
}

/// What one end lets the other ask.
pub trait Offers: Send + Sync + 'static {
    /// The bus that answers.
    fn bus(&self) -> Option<BusHandle> {
        None
    }

    /// The bus that answers what the other end keeps apart by a key, which supersedes nothing of another key: see
    /// [`Origin::keyed`](crate::bus::Origin::keyed). It is asked where the post [resumes](Post::RESUMES).
    fn bus_for(&self, key: u64) -> Option<BusHandle> {
        let _ = key;
        self.bus()
    }

    /// A controller, by the number that both ends have for it.
    fn controller(&self, number: u64) -> Option<Arc<dyn AnyController>> {
        let _ = number;
        None
    }

    /// The library whose code the other end runs: its local directives, and what it adds to the bus, are that one's.
    fn library(&self) -> Source {
        Source::STATIC
    }

    /// A controller at the other end, for this end's bus.
    ///
    /// # Errors
    /// That controllers of the other end cannot be called.
    fn controller_proxy(&self, there: &RemoteController) -> Result<Arc<dyn AnyController>> {
        Err(not_called(&there.info))
    }

    /// A factory at the other end, for this end's bus.
    ///
    /// # Errors
    /// That factories of the other end cannot be called.
    fn factory_proxy(&self, there: &RemoteFactory) -> Result<Arc<dyn Factory>> {
        Err(not_called(&there.info))
    }

    /// Has a number for a controller of this end, by which the other end calls it, until that forgets it.
    ///
    /// # Errors
    /// That the other end cannot call this one's controllers.
    fn register_controller(&self, controller: Arc<dyn AnyController>, info: &Info) -> Result<u64> {
        drop(controller);
        Err(not_called(info))
    }

    /// Forgets a controller that the other end has refused.
    fn forget_controller(&self, number: u64) {
        let _ = number;
    }

    /// Has a number for a factory of this end, by which the other end calls it, until it is forgotten.
    ///
    /// # Errors
    /// That the other end cannot call this one's factories.
    fn register_factory(&self, factory: Arc<dyn Factory>) -> Result<u64> {
        Err(not_called(&factory.info()))
    }

    /// Forgets a factory.
    fn forget_factory(&self, number: u64) {
        let _ = number;
    }
}

fn not_called(info: &Info) -> Error {
    Error::msg(format!("`{}` cannot be called over this connection", info.id)).permanent()
}

impl Offers for BusHandle {
    fn bus(&self) -> Option<BusHandle> {
        Some(self.clone())
    }
}

/// One end of a wire.
pub struct Endpoint<P> {
    post: P,
    offers: Box<dyn Offers>,
    limits: EndpointLimits,
    /// The number of the next ask.
    next: AtomicU64,
    /// Which end this is, by chance: no other one has the same.
    own: u64,
    /// What this end has asked.
    asks: Mutex<HashMap<u64, Receiving>>,
    /// What the other end has asked.
    answers: Mutex<HashMap<u64, Answer<P>>>,
    /// What the other end has asked and may ask again, by what it asks: kept, and told nothing meanwhile. May be locked under
    /// `answers`.
    held: Mutex<again::AllHeld>,
    /// Makes the keys of `held`, which the other end cannot guess.
    hasher: RandomState,
    flooded: Notify,
    waits: Waits,
    /// Why the connection is gone. Set before the tables are emptied: whoever adds an entry looks at it afterwards, or under
    /// the table's lock.
    cut: SetOnce<Error>,
}

impl<P> std::fmt::Debug for Endpoint<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("asks", &lock(&self.asks).len())
            .field("answers", &lock(&self.answers).len())
            .field("cut", &self.cut.get())
            .finish_non_exhaustive()
    }
}

/// Threads that wait for the other end's answers.
#[derive(Default)]
struct Waits {
    now: AtomicUsize,
    /// Whether one has waited since [`Endpoint::has_waited`] was called.
    since: AtomicBool,
}

impl Waits {
    /// Waits on this thread.
    fn wait<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.now.fetch_add(1, Ordering::AcqRel);
        self.since.store(true, Ordering::Release);
        let answer = wait();
        self.now.fetch_sub(1, Ordering::AcqRel);
        answer
    }
}

/// What receives the answers to one ask.
#[derive(Clone)]
enum Receiving {
    /// Events, for whoever reads them.
    Events(Arc<EventQueue>),
    /// Values, for a sink.
    Values(Arc<Inflow>),
    /// One answer, for a thread that waits for it.
    Reply(Reply),
    /// What becomes of a controller that was added there.
    Added(Arc<Added>),
}

impl Receiving {
    fn fail(&self, why: Error) {
        match self {
            Self::Events(queue) => {
                queue.push(RawEvent::Failed(why));
                queue.end();
            }
            Self::Values(inflow) => inflow.done(Err(why)),
            Self::Reply(reply) => drop(reply.try_send(Err(why))),
            Self::Added(added) => added.fail(why),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Post> Endpoint<P> {
    /// An end whose messages go to `post`, and which lets the other end ask what `offers` has.
    pub fn new(post: P, offers: impl Offers, limits: EndpointLimits) -> Arc<Self> {
        Arc::new(Self {
            post,
            offers: Box::new(offers),
            limits,
            next: AtomicU64::new(1),
            own: RandomState::new().hash_one(0),
            asks: Mutex::default(),
            answers: Mutex::default(),
            held: Mutex::default(),
            hasher: RandomState::new(),
            flooded: Notify::new(),
            waits: Waits::default(),
            cut: SetOnce::new(),
        })
    }

    /// Whether a thread of this end waits for the other end's answer, or has since the last call.
    pub fn has_waited(&self) -> bool {
        let since = self.waits.since.swap(false, Ordering::AcqRel);
        self.waits.now.load(Ordering::Acquire) > 0 || since
    }

    /// Handles a message of the other end. Does not wait. Must be called inside a tokio runtime.
    pub fn handle(self: &Arc<Self>, message: Message<'_>) {
        match message {
            Message::Ask { ask, directive, bytes, facts } => self.ask(ask, directive, bytes, facts, false),
            Message::AskAgain { ask, directive, bytes, facts } => self.ask(ask, directive, bytes, facts, true),
            Message::AsksAnew => self.hold_answers(false),
            Message::AsksTold => self.asks_told(),
            Message::Anew { ask } => self.anew(ask),
            Message::Told { ask } => self.told(ask),
            Message::Refer { ask, to, strong } => self.refer(ask, to, strong),
            Message::ReferBack { ask, to } => self.refer_back(ask, to),
            Message::Resolvers { ask, of } => self.resolvers(ask, of),
            Message::Close { ask, to, even_if_referred } => self.close_directive(ask, to, even_if_referred),
            Message::AddController { ask, about } => self.add_controller(ask, about),
            Message::AddFactories { ask, about } => self.add_factories(ask, about),
            Message::Remove { ask } => self.remove_added(ask),
            Message::Answered { ask, bytes } => match self.receiving(ask) {
                Some(Receiving::Reply(reply)) => drop(reply.try_send(Ok(bytes.to_vec()))),
                Some(Receiving::Added(added)) => added.answer(bytes),
                _ => {}
            },
            Message::Credit { ask, events } => self.credit(ask, events),
            Message::Resolve { ask, controller, directive, bytes, answered, local } => {
                self.start_resolver(ask, controller, directive, bytes, Sends { answered, local });
            }
            Message::Accepted { ask, value, yes } => self.accepted(ask, value, yes),
            Message::Release { ask } => {
                let released = lock(&self.answers).remove(&ask);
                if let Some(released) = released {
                    released.release();
                }
            }
            Message::Added { ask, value, replaces, bytes } => match self.receiving(ask) {
                Some(Receiving::Events(queue)) => self.event_added(ask, &queue, value, bytes),
                Some(Receiving::Values(inflow)) => self.add(ask, &inflow, (value, replaces), bytes),
                _ => {}
            },
            Message::Removed { ask, value } => match self.receiving(ask) {
                Some(Receiving::Events(queue)) => self.event_removed(ask, &queue, value),
                Some(Receiving::Values(inflow)) => self.remove(&inflow, value),
                _ => {}
            },
            Message::Idle { ask } => self.idle(ask, true),
            Message::Busy { ask } => self.idle(ask, false),
            Message::Failed { ask, error } => match self.receiving(ask) {
                Some(Receiving::Events(queue)) => self.event_failed(ask, &queue, error),
                Some(Receiving::Values(inflow)) => inflow.done(Err(error)),
                Some(Receiving::Reply(reply)) => drop(reply.try_send(Err(error))),
                Some(Receiving::Added(added)) => added.exited(Err(error)),
                None => {}
            },
            Message::Done { ask } => match self.receiving(ask) {
                Some(Receiving::Values(inflow)) => inflow.done(Ok(())),
                Some(Receiving::Added(added)) => added.exited(Ok(())),
                _ => {}
            },
            Message::End { ask } => match self.receiving(ask) {
                Some(Receiving::Events(queue)) => queue.end(),
                Some(Receiving::Values(inflow)) => inflow.done(Err(superseded("the directive"))),
                Some(Receiving::Added(added)) => added.end(),
                _ => {}
            },
        }
    }

    /// The connection is gone: what this end has asked fails with `why` and ends, and what the other end has asked is released.
    /// Only the first call counts.
    pub fn cut(&self, why: Error) {
        if self.cut.set(why).is_err() {
            return;
        }
        self.release_all();
        let asks = std::mem::take(&mut *lock(&self.asks));
        for asked in asks.into_values() {
            asked.fail(self.why());
        }
    }

    /// Releases what the other end has asked.
    pub fn release_all(&self) {
        let answers = std::mem::take(&mut *lock(&self.answers));
        answers.into_values().for_each(Answer::release);
        self.hold_nothing();
    }

    /// Waits until the other end's values would exceed their limit. They are not taken then: the carrier has to end the
    /// connection.
    pub async fn flooded(&self) {
        self.flooded.notified().await;
    }

    fn why(&self) -> Error {
        self.cut.get().cloned().unwrap_or_else(|| Error::new(ErrorKind::Closed, "the connection is closed"))
    }

    /// The error of a message that could not be sent.
    fn unsent(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Closed { self.cut.get().cloned().unwrap_or(error) } else { error }
    }

    /// Adds an ask and returns its number. If the connection is cut, the ask has failed.
    fn open(&self, receiving: Receiving) -> u64 {
        let ask = self.next.fetch_add(1, Ordering::Relaxed);
        self.open_as(ask, receiving);
        ask
    }

    fn open_as(&self, ask: u64, receiving: Receiving) {
        lock(&self.asks).insert(ask, receiving);
        if let Some(why) = self.cut.get() {
            let late = lock(&self.asks).remove(&ask);
            if let Some(late) = late {
                late.fail(why.clone());
            }
        }
    }

    /// Removes an ask: what still comes for it is ignored.
    fn close(&self, ask: u64) {
        let closed = lock(&self.asks).remove(&ask);
        drop(closed);
    }

    /// What receives the answers to an ask; cloned, because it is called without the lock.
    fn receiving(&self, ask: u64) -> Option<Receiving> {
        lock(&self.asks).get(&ask).cloned()
    }

    fn idle(&self, ask: u64, idle: bool) {
        match self.receiving(ask) {
            Some(Receiving::Events(queue)) => self.event_idle(ask, &queue, idle),
            Some(Receiving::Values(inflow)) => inflow.sink.set_idle(idle),
            _ => {}
        }
    }
}
