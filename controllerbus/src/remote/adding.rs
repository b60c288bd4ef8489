//! Controllers and factories of one end on the bus of the other; and asks for which a thread waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::answering::Answer;
use super::{Endpoint, Message, Post, Receiving, lock};
use crate::bus::{ControllerId, RawRunning, contained};
use crate::controller::factory::Factory;
use crate::controller::{AnyController, BoxFuture, Info, SwapMode};
use crate::directive::wire;
use crate::error::ErrorKind;
use crate::{BusHandle, Error, Result, Retry};

/// How long the other end may take to answer a thread that waits.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// The most factories that are added at once.
const MOST_FACTORIES: usize = 1000;

/// What an end has to know of a controller at the other end that it has on its bus.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RemoteController {
    /// The number by which it is called.
    pub number: u64,
    /// Who it is.
    pub info: Info,
    /// The ids of the directives that it resolves.
    pub resolves: Vec<String>,
    /// How often its resolvers are tried again, where it says so itself; by directive id.
    pub retries: Vec<(String, Retry)>,
    /// How often it is executed again.
    pub retry: Retry,
}

/// What an end has to know of a factory at the other end that it has on its bus.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RemoteFactory {
    /// The number by which it is called.
    pub number: u64,
    /// What its controllers will be.
    pub info: Info,
    /// The JSON schema of its configs.
    pub schema: String,
    /// How its controllers replace others.
    pub swap: SwapMode,
}

/// Where the one answer to an ask goes.
pub(super) type Reply = SyncSender<Result<Vec<u8>>>;

fn removed() -> Error {
    Error::new(ErrorKind::Closed, "the controller was removed")
}

/// A controller of this end on the other end's bus.
pub(super) struct Added {
    reply: Mutex<Option<Reply>>,
    exit: watch::Sender<Option<Result<()>>>,
    ended: CancellationToken,
}

impl Added {
    fn reply(&self) -> Option<Reply> {
        lock(&self.reply).take()
    }

    /// It was added.
    pub(super) fn answer(&self, bytes: &[u8]) {
        if let Some(reply) = self.reply() {
            let _ = reply.try_send(Ok(bytes.to_vec()));
        }
    }

    /// Its execution has ended for good; or it was not added.
    pub(super) fn exited(&self, how: Result<()>) {
        match (self.reply(), how) {
            (Some(reply), Err(error)) => drop(reply.try_send(Err(error))),
            (_, how) => {
                self.exit.send_if_modified(|exit| {
                    let is_news = exit.is_none();
                    exit.get_or_insert(how);
                    is_news
                });
            }
        }
    }

    /// It was removed, and has ended.
    pub(super) fn end(&self) {
        self.exited(Err(removed()));
        self.ended.cancel();
    }

    pub(super) fn fail(&self, why: Error) {
        self.exited(Err(why));
        self.ended.cancel();
    }
}

impl<P: Post> Endpoint<P> {
    /// Asks what is answered once, and waits for that on this thread.
    ///
    /// # Errors
    /// The other end's; [`ErrorKind::TimedOut`]; why the connection is gone; or that this thread must not wait.
    pub(super) fn wait_for<'a>(&self, message: impl FnOnce(u64) -> Message<'a>) -> Result<Vec<u8>> {
        self.may_wait()?;
        let (reply, answer) = sync_channel(1);
        let ask = self.open(Receiving::Reply(reply));
        let said = self.post.say(&message(ask)).map_err(|error| self.unsent(error));
        let answered = said.and_then(|()| self.wait(&answer));
        self.close(ask);
        answered
    }

    /// Waits on this thread for an answer.
    fn wait(&self, answer: &Receiver<Result<Vec<u8>>>) -> Result<Vec<u8>> {
        let late =
            |_| Err(Error::new(ErrorKind::TimedOut, format!("the other process has not answered within {ANSWER:?}")));
        self.waits.wait(|| answer.recv_timeout(ANSWER)).unwrap_or_else(late)
    }

    fn may_wait(&self) -> Result<()> {
        if self.post.may_block() { Ok(()) } else { Err(Error::msg("this thread must not wait for the other process")) }
    }

    /// Adds a controller of this end to the other end's bus.
    pub(super) fn lend_controller(
        self: &Arc<Self>,
        controller: Arc<dyn AnyController>,
        info: Info,
        retry: Retry,
    ) -> Result<Box<dyn RawRunning>> {
        self.may_wait()?;
        let resolves = controller.resolves();
        let own = |id: &String| controller.retry(id).map(|retry| (id.clone(), retry));
        let retries = resolves.iter().filter_map(own).collect();
        let number = self.offers.register_controller(controller, &info)?;
        let (reply, answer) = sync_channel(1);
        let (exit, ended) = (watch::Sender::new(None), CancellationToken::new());
        let added = Arc::new(Added { reply: Mutex::new(Some(reply)), exit, ended });
        let ask = self.open(Receiving::Added(Arc::clone(&added)));
        let lent = Lent { endpoint: Arc::clone(self), ask, added, is_removed: AtomicBool::new(false) };
        let adding = || {
            let about = wire::encode(&RemoteController { number, info, resolves, retries, retry })?;
            lent.say(&Message::AddController { ask, about: &about })?;
            wire::decode::<u64>(&self.wait(&answer)?)
        };
        match adding() {
            Ok(id) => Ok(Box::new(Running { id: ControllerId(id), lent: Arc::new(lent) })),
            Err(error) => {
                self.offers.forget_controller(number);
                Err(error)
            }
        }
    }

    /// Adds factories of this end to the other end's bus.
    pub(super) fn lend_factories(self: &Arc<Self>, factories: Vec<Arc<dyn Factory>>) -> Result<Box<dyn Send + Sync>> {
        self.may_wait()?;
        let ask = self.next.fetch_add(1, Ordering::Relaxed);
        let mut lent = LentFactories { endpoint: Arc::clone(self), ask, numbers: Vec::new() };
        let mut about = Vec::new();
        for factory in factories {
            let (info, schema, swap) = (factory.info(), factory.schema(), factory.swap_mode());
            let number = self.offers.register_factory(factory)?;
            lent.numbers.push(number);
            about.push(RemoteFactory { number, info, schema, swap });
        }
        let about = wire::encode(&about)?;
        let (reply, answer) = sync_channel(1);
        self.open_as(ask, Receiving::Reply(reply));
        let said = self.post.say(&Message::AddFactories { ask, about: &about }).map_err(|error| self.unsent(error));
        said.and_then(|()| self.wait(&answer))?;
        Ok(Box::new(lent))
    }
}

/// What was asked to add a controller. The last reference releases it.
struct Lent<P: Post> {
    endpoint: Arc<Endpoint<P>>,
    ask: u64,
    added: Arc<Added>,
    is_removed: AtomicBool,
}

impl<P: Post> Lent<P> {
    fn say(&self, message: &Message<'_>) -> Result<()> {
        self.endpoint.post.say(message).map_err(|error| self.endpoint.unsent(error))
    }

    /// Begins to remove it.
    fn remove(&self) {
        if !self.is_removed.swap(true, Ordering::AcqRel) {
            let _ = self.say(&Message::Remove { ask: self.ask });
        }
    }
}

impl<P: Post> Drop for Lent<P> {
    fn drop(&mut self) {
        self.endpoint.close(self.ask);
        let _ = self.say(&Message::Release { ask: self.ask });
    }
}

/// A controller of this end that runs on the other end's bus until this is dropped.
struct Running<P: Post> {
    id: ControllerId,
    lent: Arc<Lent<P>>,
}

impl<P: Post> RawRunning for Running<P> {
    fn id(&self) -> ControllerId {
        self.id
    }

    fn exited(&self) -> BoxFuture<'static, Result<()>> {
        let mut exit = self.lent.added.exit.subscribe();
        Box::pin(async move {
            let exited = exit.wait_for(Option::is_some).await.ok().and_then(|exited| exited.clone());
            exited.unwrap_or_else(|| Err(removed()))
        })
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let lent = Arc::clone(&self.lent);
        Box::pin(async move {
            lent.remove();
            lent.added.ended.cancelled().await;
        })
    }
}

impl<P: Post> Drop for Running<P> {
    fn drop(&mut self) {
        self.lent.remove();
    }
}

/// Factories of this end that are on the other end's bus until this is dropped.
struct LentFactories<P: Post> {
    endpoint: Arc<Endpoint<P>>,
    ask: u64,
    numbers: Vec<u64>,
}

impl<P: Post> Drop for LentFactories<P> {
    fn drop(&mut self) {
        self.endpoint.close(self.ask);
        let _ = self.endpoint.post.say(&Message::Release { ask: self.ask });
        self.numbers.iter().for_each(|number| self.endpoint.offers.forget_factory(*number));
    }
}

impl<P: Post> Endpoint<P> {
    /// Has a controller of the other end on the bus.
    pub(super) fn add_controller(self: &Arc<Self>, ask: u64, about: &[u8]) {
        let (this, about) = (Arc::clone(self), wire::decode::<RemoteController>(about));
        let remove = Arc::<Notify>::default();
        let is_removed = Arc::clone(&remove);
        self.keep(ask, remove, async move {
            let add = async {
                let there = about?;
                let proxy = this.offers.controller_proxy(&there)?;
                let bus = this.bus_of_offers(0)?;
                bus.backend().add_controller(proxy, there.info, this.offers.library(), there.retry)
            };
            let running = match contained(add).await {
                Ok(running) => running,
                Err(error) => return this.tell(ask, &Message::Failed { ask, error }),
            };
            let (mut exited, closed) = (running.exited(), running.close());
            this.answer(ask, &running.id().0);
            let is_removed = is_removed.notified();
            tokio::pin!(is_removed);
            tokio::select! {
                how = &mut exited => {
                    this.tell(ask, &how.map_or_else(|error| Message::Failed { ask, error }, |()| Message::Done { ask }));
                    is_removed.await;
                }
                () = &mut is_removed => {}
            }
            drop(running);
            closed.await;
            this.tell(ask, &Message::End { ask });
        });
    }

    /// Has factories of the other end on the bus.
    pub(super) fn add_factories(self: &Arc<Self>, ask: u64, about: &[u8]) {
        let (this, about) = (Arc::clone(self), wire::decode::<Vec<RemoteFactory>>(about));
        self.keep(ask, Arc::default(), async move {
            let add = async {
                let about = about?;
                if about.len() > MOST_FACTORIES {
                    let what = format!("{} factories are added at once; {MOST_FACTORIES} can be", about.len());
                    return Err(Error::new(ErrorKind::Invalid, what));
                }
                let proxies = about.iter().map(|there| this.offers.factory_proxy(there)).collect::<Result<_>>()?;
                this.bus_of_offers(0)?.backend().add_factories(proxies, this.offers.library())
            };
            match contained(add).await {
                Ok(_held) => {
                    this.answer(ask, &());
                    // Until it is released.
                    std::future::pending::<()>().await;
                }
                Err(error) => this.tell(ask, &Message::Failed { ask, error }),
            }
        });
    }

    /// For what is kept apart by a key; 0 for all else.
    pub(super) fn bus_of_offers(&self, key: u64) -> Result<BusHandle> {
        let missing = || Error::new(ErrorKind::NotFound, "this end of the connection offers no bus");
        let bus = if key == 0 { self.offers.bus() } else { self.offers.bus_for(key) };
        bus.ok_or_else(missing)
    }

    /// Runs what keeps something for the other end until that releases it.
    fn keep(self: &Arc<Self>, ask: u64, remove: Arc<Notify>, work: impl Future<Output = ()> + Send + 'static) {
        let mut answers = lock(&self.answers);
        if self.cut.initialized() {
            return;
        }
        let Some(place) = self.limits.place() else {
            drop(answers);
            return self.tell(ask, &Message::Failed { ask, error: self.too_many() });
        };
        let task = tokio::spawn(work).abort_handle();
        let before = answers.insert(ask, Answer::Added { task, remove, _place: place });
        drop(answers);
        before.into_iter().for_each(Answer::release);
    }

    /// The other end removes a controller that it has added.
    pub(super) fn remove_added(&self, ask: u64) {
        let remove = match lock(&self.answers).get(&ask) {
            Some(Answer::Added { remove, .. }) => Arc::clone(remove),
            _ => return,
        };
        remove.notify_one();
    }

    /// Answers an ask.
    pub(super) fn answer<T: Serialize>(&self, ask: u64, what: &T) {
        match wire::encode(what) {
            Ok(bytes) => self.tell(ask, &Message::Answered { ask, bytes: &bytes }),
            Err(error) => self.tell(ask, &Message::Failed { ask, error }),
        }
    }

    /// Says how an ask goes on. If that is too long, the ask fails.
    pub(super) fn tell(&self, ask: u64, message: &Message<'_>) {
        if let Err(error) = self.post.push(message) {
            let _ = self.post.push(&Message::Failed { ask, error });
        }
    }
}
