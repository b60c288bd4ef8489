//! The connection to one running process: pending calls, and what is asked and answered over it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use controllerbus::controller::State;
use controllerbus::directive::wire;
use controllerbus::error::ErrorKind;
use controllerbus::plugin::Leases;
use controllerbus::remote::{Endpoint, EndpointLimits, Offers};
use controllerbus::{Error, Result, Retry};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::carrier::ToProcess;
use super::inbox::Inbox;
use super::listening::Listeners;
use super::outbox::Outbox;
use super::protocol::{Answer, ToChild, ToParent};
use super::traces::Traces;
use crate::host::options::Limits;

/// The most directives that a controller may resolve.
const MOST_RESOLVED: usize = 1000;

/// The result of a call.
pub(super) enum CallResult {
    Nothing,
    Constructed(Resolved),
    State(Option<State>),
}

/// What a controller resolves, and how often its resolvers are tried again, where it says so itself.
#[derive(Clone)]
pub(super) struct Resolved {
    pub(super) ids: Vec<String>,
    pub(super) retries: Vec<(String, Retry)>,
}

impl Resolved {
    pub(super) fn new(mut ids: Vec<String>, mut retries: Vec<(String, Retry)>) -> Self {
        ids.truncate(MOST_RESOLVED);
        retries.truncate(MOST_RESOLVED);
        Self { ids, retries }
    }
}

/// One running process, as the proxies see it.
pub(super) struct Link {
    /// Counts the processes of the generation.
    pub(super) epoch: u64,
    pub(super) pid: u32,
    pub(super) outbox: Arc<Outbox>,
    calls: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
    /// Its controllers' values, and what it asks of the bus.
    pub(super) remote: Arc<Endpoint<ToProcess>>,
    pub(super) traces: Traces,
    pub(super) listeners: Arc<Listeners>,
    /// The last answered heartbeat.
    pub(super) answered: AtomicU64,
    /// Odd while a message is being handled; written by the one that reads.
    reading: AtomicU64,
    dead: CancellationToken,
    why: OnceLock<Error>,
}

struct Entry {
    done: Option<oneshot::Sender<Result<CallResult>>>,
    began: Option<Began>,
}

/// Called when an execution has started.
pub(super) type Began = Box<dyn FnOnce() + Send>;

impl Link {
    pub(super) fn new(
        epoch: u64,
        pid: u32,
        outbox: Outbox,
        offers: impl Offers,
        limits: &Limits,
        leases: &Arc<Leases>,
        (plugin, generation): (&str, u64),
    ) -> Arc<Self> {
        let (outbox, dead) = (Arc::new(outbox), CancellationToken::new());
        let may_use =
            EndpointLimits::none("the plugin").with_asks(limits.requests).with_standing(limits.standing_values);
        Arc::new(Self {
            epoch,
            pid,
            remote: Endpoint::new(ToProcess(Arc::clone(&outbox)), offers, may_use),
            listeners: Listeners::new(Arc::clone(&outbox), Arc::clone(leases), dead.clone()),
            outbox,
            calls: Mutex::default(),
            next: AtomicU64::new(1),
            traces: Traces::new(plugin, generation),
            answered: AtomicU64::new(0),
            reading: AtomicU64::new(0),
            dead,
            why: OnceLock::new(),
        })
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the process is gone; returns why.
    pub(super) async fn died(&self) -> Error {
        self.dead.cancelled().await;
        self.why()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    fn why(&self) -> Error {
        self.why.get().cloned().unwrap_or_else(|| Error::new(ErrorKind::Closed, "the plugin's process has ended"))
    }

    /// The process is gone: every call and ask ends with the reason, and its own asks are released.
    pub(super) fn die(&self, why: Error) {
        let _ = self.why.set(why);
        self.outbox.close();
        // Calls that are added from now on see that it is dead.
        self.dead.cancel();
        self.remote.cut(self.why());
        self.listeners.end();
        let waiting: Vec<_> = self.calls().values_mut().filter_map(|entry| entry.done.take()).collect();
        for done in waiting {
            let _ = done.send(Err(self.why()));
        }
    }

    /// Where the reader is: an odd number while it handles a message, which is another one for each.
    pub(super) fn reading(&self) -> u64 {
        self.reading.load(Ordering::Relaxed)
    }

    /// Sends a message once there is room. Cancel-safe.
    ///
    /// # Errors
    /// The message is too long, or why the process is gone.
    pub(super) async fn send(&self, message: &ToChild<'_>) -> Result<()> {
        match self.outbox.send(message).await {
            Err(error) if error.kind() == ErrorKind::Closed => Err(self.died().await),
            sent => sent,
        }
    }

    /// Forgets what a controller had here.
    pub(super) fn forget(&self, controller: u64) {
        self.listeners.forget(controller);
        self.traces.forget(controller);
    }

    /// Starts a call.
    pub(super) fn begin(self: &Arc<Self>) -> Call {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, ended) = oneshot::channel();
        self.calls().insert(number, Entry { done: Some(done), began: None });
        if self.is_dead()
            && let Some(done) = self.calls().get_mut(&number).and_then(|entry| entry.done.take())
        {
            let _ = done.send(Err(self.why()));
        }
        Call { link: Arc::clone(self), number, ended: Some(ended) }
    }

    /// Handles the process's messages until it closes the connection.
    ///
    /// # Errors
    /// It sent something invalid.
    pub(super) async fn read(&self, mut inbox: Inbox) -> Result<(), String> {
        loop {
            let frame = match inbox.next().await {
                Ok(Some(frame)) => frame,
                // A reset is a close with unread data.
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(format!("it sent an invalid frame: {error}")),
            };
            match rmp_serde::from_slice(&frame) {
                Ok(message) => {
                    let number = self.reading.load(Ordering::Relaxed);
                    self.reading.store(number + 1, Ordering::Relaxed);
                    self.handle(message);
                    self.reading.store(number + 2, Ordering::Relaxed);
                }
                Err(error) => return Err(format!("it sent an invalid message: {error}")),
            }
        }
    }

    fn handle(&self, message: ToParent<'_>) {
        match message {
            ToParent::Done { call, result } => {
                let done = self.calls().get_mut(&call).and_then(|entry| entry.done.take());
                if let Some(done) = done {
                    let _ = done.send(result.map(|answer| match answer {
                        Answer::Nothing => CallResult::Nothing,
                        Answer::Constructed { resolves, retries } => {
                            let retries = wire::decode(retries).unwrap_or_default();
                            CallResult::Constructed(Resolved::new(resolves, retries))
                        }
                        Answer::NoState => CallResult::State(None),
                        Answer::State { schema, bytes } => {
                            CallResult::State(Some(State { schema, bytes: bytes.to_vec() }))
                        }
                    }));
                }
            }
            ToParent::Began { call } => {
                let began = self.calls().get_mut(&call).and_then(|entry| entry.began.take());
                if let Some(began) = began {
                    began();
                }
            }
            ToParent::Remote(message) => self.remote.handle(message),
            ToParent::Listen { listener, controller, address } => {
                self.listeners.listen(listener, controller, address);
            }
            ToParent::Connections { open } => self.listeners.connections(open),
            ToParent::Trace(event) => self.traces.event(&event),
            ToParent::SpanOpened { span, parent, level, name, module, fields } => {
                self.traces.open(span, parent, level, name, module, fields);
            }
            ToParent::SpanClosed { span } => self.traces.close(span),
            ToParent::Pong { number } => {
                self.answered.fetch_max(number, Ordering::Relaxed);
            }
        }
    }
}

/// A pending call. Dropping it cancels it.
pub(super) struct Call {
    link: Arc<Link>,
    pub(super) number: u64,
    ended: Option<oneshot::Receiver<Result<CallResult>>>,
}

impl Call {
    /// Sets what to call when its execution has started; to be set before it is sent.
    pub(super) fn when_begun(&self, began: Began) {
        if let Some(entry) = self.link.calls().get_mut(&self.number) {
            entry.began = Some(began);
        }
    }

    /// Waits for its end. Cancel-safe.
    ///
    /// # Errors
    /// The guest's error, or why the process is gone.
    pub(super) async fn ended(&mut self) -> Result<CallResult> {
        let Some(ended) = &mut self.ended else { return Err(Error::msg("the call has ended before")) };
        let result = ended.await.unwrap_or_else(|_| Err(self.link.why()));
        self.ended = None;
        result
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let entry = self.link.calls().remove(&self.number);
        drop(entry);
        // The process has already forgotten a call that has ended.
        if self.ended.is_some() {
            let _ = self.link.outbox.push_later(&ToChild::Abort { call: self.number });
        }
    }
}
