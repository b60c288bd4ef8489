//! The connection to one running process: pending calls, their values, and the process's requests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use controllerbus::controller::State;
use controllerbus::directive::{AnyValue, ValueId, ValueSink};
use controllerbus::error::ErrorKind;
use controllerbus::plugin::Leases;
use controllerbus::{BusHandle, Error, Result};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::inbox::Inbox;
use super::listening::Listeners;
use super::outbox::Outbox;
use super::protocol::{Answer, ToChild, ToParent};
use super::requests::Requests;
use super::traces::Traces;
use crate::host::options::Limits;

/// The most directives that a controller may resolve.
const MOST_RESOLVED: usize = 1000;

/// The result of a call.
pub(super) enum CallResult {
    Nothing,
    Constructed(Vec<String>),
    State(Option<State>),
}

/// One running process, as the proxies see it.
pub(super) struct Link {
    /// Counts the processes of the generation.
    pub(super) epoch: u64,
    pub(super) pid: u32,
    pub(super) outbox: Arc<Outbox>,
    calls: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
    requests: Arc<Requests>,
    traces: Traces,
    pub(super) listeners: Arc<Listeners>,
    /// Bytes of the current values, and their limit.
    standing: AtomicU64,
    most: u64,
    pub(super) flooded: Notify,
    /// The last answered heartbeat.
    pub(super) answered: AtomicU64,
    dead: CancellationToken,
    why: OnceLock<Error>,
}

struct Entry {
    done: Option<oneshot::Sender<Result<CallResult>>>,
    began: Option<Began>,
    sink: Option<Arc<Values>>,
}

/// Called when an execution has started.
pub(super) type Began = Box<dyn FnOnce() + Send>;

/// The current values of one call, by the process's numbers.
struct Values {
    sink: Arc<dyn ValueSink>,
    answered: bool,
    standing: Mutex<HashMap<u64, (ValueId, u64)>>,
}

impl Values {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (ValueId, u64)>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    pub(super) fn new(
        epoch: u64,
        pid: u32,
        outbox: Outbox,
        bus: BusHandle,
        limits: &Limits,
        leases: &Arc<Leases>,
        (plugin, generation): (&str, u64),
    ) -> Arc<Self> {
        let (outbox, dead) = (Arc::new(outbox), CancellationToken::new());
        Arc::new(Self {
            epoch,
            pid,
            requests: Requests::new(bus, Arc::clone(&outbox), limits.requests),
            listeners: Listeners::new(Arc::clone(&outbox), Arc::clone(leases), dead.clone()),
            outbox,
            calls: Mutex::default(),
            next: AtomicU64::new(1),
            traces: Traces::new(plugin.to_owned(), generation),
            standing: AtomicU64::new(0),
            most: limits.standing_values,
            flooded: Notify::new(),
            answered: AtomicU64::new(0),
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

    /// The process is gone: every call ends with the reason, and its requests are released.
    pub(super) fn die(&self, why: Error) {
        let _ = self.why.set(why);
        self.outbox.close();
        self.requests.release_all();
        // Calls that are added from now on see that it is dead.
        self.dead.cancel();
        self.listeners.end();
        let waiting: Vec<_> = self.calls().values_mut().filter_map(|entry| entry.done.take()).collect();
        for done in waiting {
            let _ = done.send(Err(self.why()));
        }
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

    /// Starts a call; its values, if any, go to `sink`.
    pub(super) fn begin(self: &Arc<Self>, sink: Option<Arc<dyn ValueSink>>, answered: bool) -> Call {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, ended) = oneshot::channel();
        let values = sink.is_some();
        let sink = sink.map(|sink| Arc::new(Values { sink, answered, standing: Mutex::default() }));
        self.calls().insert(number, Entry { done: Some(done), began: None, sink });
        if self.is_dead()
            && let Some(done) = self.calls().get_mut(&number).and_then(|entry| entry.done.take())
        {
            let _ = done.send(Err(self.why()));
        }
        Call { link: Arc::clone(self), number, ended: Some(ended), values }
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
                Ok(message) => self.handle(message),
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
                        Answer::Constructed(mut resolves) => {
                            resolves.truncate(MOST_RESOLVED);
                            CallResult::Constructed(resolves)
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
            ToParent::Add { call, value, replaces, bytes } => self.add(call, value, replaces, bytes),
            ToParent::Remove { call, value } => {
                let Some(values) = self.values_of(call) else { return };
                let gone = values.lock().remove(&value);
                if let Some((id, length)) = gone {
                    self.standing.fetch_sub(length, Ordering::Relaxed);
                    values.sink.remove(id);
                }
            }
            ToParent::Idle { call, idle } => {
                if let Some(values) = self.values_of(call) {
                    values.sink.set_idle(idle);
                }
            }
            ToParent::Request { request, directive, bytes, facts } => {
                self.requests.add(request, directive, bytes, facts);
            }
            ToParent::Refer { request, to, strong } => self.requests.refer(request, to, strong),
            ToParent::Credit { request, events } => self.requests.credit(request, events),
            ToParent::Release { request } => self.requests.release(request),
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

    /// The values of a call; cloned, because the bus may drop the call while it is given one.
    fn values_of(&self, call: u64) -> Option<Arc<Values>> {
        self.calls().get(&call).and_then(|entry| entry.sink.clone())
    }

    fn add(&self, call: u64, value: u64, replaces: Option<u64>, bytes: &[u8]) {
        let Some(values) = self.values_of(call) else { return };
        let length = bytes.len() as u64 + 64;
        let old = replaces.and_then(|old| Some((old, values.lock().get(&old).copied()?)));
        let freed = old.map_or(0, |(_, (_, length))| length);
        if (self.standing.fetch_add(length, Ordering::Relaxed) + length).saturating_sub(freed) > self.most {
            self.standing.fetch_sub(length, Ordering::Relaxed);
            self.flooded.notify_one();
            return;
        }
        let new = AnyValue::encoded(bytes);
        let added = match old {
            Some((_, (id, _))) => values.sink.replace(id, new),
            None => values.sink.add(new),
        };
        let accepted = added.is_some();
        let mut standing = values.lock();
        if let Some((_, length)) = old.and_then(|(old, _)| standing.remove(&old)) {
            self.standing.fetch_sub(length, Ordering::Relaxed);
        }
        if let Some(id) = added {
            standing.insert(value, (id, length));
        }
        drop(standing);
        // A call that was dropped meanwhile has released only what it knew of.
        let gone = !accepted || (!self.calls().contains_key(&call) && values.lock().remove(&value).is_some());
        if gone {
            self.standing.fetch_sub(length, Ordering::Relaxed);
        }
        if values.answered {
            let _ = self.outbox.push(&ToChild::Accepted { call, value, yes: accepted });
        }
    }
}

/// A pending call, or one with values. Dropping it cancels it and withdraws the values.
pub(super) struct Call {
    link: Arc<Link>,
    pub(super) number: u64,
    ended: Option<oneshot::Receiver<Result<CallResult>>>,
    values: bool,
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

    /// Whether it has a value.
    pub(super) fn stands(&self) -> bool {
        self.link.values_of(self.number).is_some_and(|values| !values.lock().is_empty())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let entry = self.link.calls().remove(&self.number);
        if let Some(values) = entry.and_then(|entry| entry.sink) {
            let standing: u64 = values.lock().drain().map(|(_, (_, length))| length).sum();
            self.link.standing.fetch_sub(standing, Ordering::Relaxed);
        }
        // The process has already forgotten a call that has ended without values.
        if self.ended.is_some() || self.values {
            // Nothing waits for this message: a resolver that continues for a moment is not heard.
            let _ = self.link.outbox.push_later(&ToChild::Abort { call: self.number });
        }
    }
}

#[cfg(test)]
mod tests {
    use controllerbus::directive::Callback;

    use super::*;
    use crate::host::process::socket::halves;

    /// A bus's sink that has room for one value at a time.
    #[derive(Default)]
    struct Place(Mutex<(u64, Option<(ValueId, String)>)>);

    impl Place {
        fn put(&self, value: &AnyValue) -> Option<ValueId> {
            let mut place = self.0.lock().expect("the place");
            place.0 += 1;
            place.1 = Some((ValueId(place.0), value.to_json().to_string()));
            Some(ValueId(place.0))
        }

        fn holds(&self) -> Option<String> {
            self.0.lock().expect("the place").1.clone().map(|(_, value)| value)
        }
    }

    impl ValueSink for Place {
        fn add(&self, value: AnyValue) -> Option<ValueId> {
            if self.holds().is_some() { None } else { self.put(&value) }
        }
        fn add_watched(&self, _: AnyValue, _: Callback) -> Option<ValueId> {
            None
        }
        fn on_gone(&self, _: Callback) {}
        fn remove(&self, _: ValueId) -> bool {
            self.0.lock().expect("the place").1.take().is_some()
        }
        fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
            let there = self.0.lock().expect("the place").1.as_ref().is_some_and(|(id, _)| *id == old);
            if there { self.put(&value) } else { None }
        }
        fn set_idle(&self, _: bool) {}
        fn is_cancelled(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn a_value_of_a_process_takes_the_place_of_another_where_there_is_room_for_one() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a socket");
        let (_, writing) = halves(ours).expect("its halves");
        let bus = controllerbus::Bus::new();
        let limits = Limits { standing_values: 200, ..Limits::default() };
        let link = Link::new(1, 0, Outbox::new(writing, 1 << 20), bus.handle(), &limits, &Leases::new(), ("one", 1));
        let place = Arc::<Place>::default();
        let call = link.begin(Some(place.clone()), false);
        let add = |value, replaces, text: &str| {
            let bytes = AnyValue::native(text.to_owned()).encode().expect("it is encoded").into_owned();
            link.handle(ToParent::Add { call: call.number, value, replaces, bytes: &bytes });
        };
        add(0, None, "first");
        add(1, None, "refused");
        assert_eq!(place.holds().as_deref(), Some("\"first\""));
        // More often than would stand beside each other.
        for value in 2..20 {
            add(value, Some(if value == 2 { 0 } else { value - 1 }), "next");
            assert_eq!(place.holds().as_deref(), Some("\"next\""));
        }
        assert!(call.stands());
        link.handle(ToParent::Remove { call: call.number, value: 19 });
        assert!(!call.stands() && place.holds().is_none());
        assert_eq!(link.standing.load(Ordering::Relaxed), 0);
    }
}
