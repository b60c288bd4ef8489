//! A process's requests to the host's bus, and their events on the way to it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use controllerbus::directive::{DirectiveType, RawEvent, RawRequest};
use controllerbus::error::ErrorKind;
use controllerbus::{BusHandle, Error, Result};
use tokio::sync::{Semaphore, SetOnce};
use tokio::task::AbortHandle;

use super::outbox::Outbox;
use super::protocol::{EVENT_CREDIT, ToChild, WireEvent};

/// The open requests of one process.
pub(super) struct Requests {
    bus: BusHandle,
    outbox: Arc<Outbox>,
    most: u64,
    open: Mutex<HashMap<u64, Open>>,
}

struct Open {
    task: AbortHandle,
    credit: Arc<Semaphore>,
    /// The request on the bus, once it was made; `None` if that failed.
    raw: Arc<SetOnce<Option<Raw>>>,
}

type Raw = Mutex<Box<dyn RawRequest>>;

fn lock(raw: &Raw) -> MutexGuard<'_, Box<dyn RawRequest>> {
    raw.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Requests {
    pub(super) fn new(bus: BusHandle, outbox: Arc<Outbox>, most: u64) -> Arc<Self> {
        Arc::new(Self { bus, outbox, most, open: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a directive for the process. If that fails, the error is the request's first event.
    pub(super) fn add(self: &Arc<Self>, request: u64, directive: &str, bytes: &[u8], facts: &[u8]) {
        let (directive, bytes, facts) = (directive.to_owned(), bytes.to_vec(), facts.to_vec());
        let bus = self.bus.clone();
        let add = async move { Ok(bus.raw(DirectiveType::decode_with(&directive, &bytes, &facts)?)?) };
        self.open(request, None, add);
    }

    /// Adds a reference to a directive that the process refers to. The process may release the original next, so this
    /// is done at once, unless the directive itself is still being added.
    pub(super) fn refer(self: &Arc<Self>, request: u64, to: u64, strong: bool) {
        let released = || Error::new(ErrorKind::Closed, "the request was released");
        let known = self.lock().get(&to).map(|open| Arc::clone(&open.raw));
        let refer = move |raw: Option<&Raw>| raw.ok_or_else(released).and_then(|raw| lock(raw).reference(strong));
        let made = match &known {
            Some(known) => known.get().map(|raw| refer(raw.as_ref())),
            None => Some(Err(released())),
        };
        // Only a reference that still waits for the other request keeps it.
        let known = known.filter(|_| made.is_none());
        self.open(request, made, async move {
            match known {
                Some(known) => refer(known.wait().await.as_ref()),
                None => Err(released()),
            }
        });
    }

    fn open(
        self: &Arc<Self>,
        request: u64,
        made: Option<Result<Box<dyn RawRequest>>>,
        add: impl Future<Output = Result<Box<dyn RawRequest>>> + Send + 'static,
    ) {
        let mut open = self.lock();
        if open.len() as u64 >= self.most {
            drop(open);
            let what = format!("the plugin has {} requests open, which is its limit", self.most);
            return self.refuse(request, Error::new(ErrorKind::Invalid, what));
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
        // Adding it may run other controllers' code, which must not delay this process's next messages.
        let task = tokio::spawn(async move {
            let mut failed = failed;
            if !place.initialized() {
                let added = match add.await {
                    Ok(raw) => Some(Mutex::new(raw)),
                    Err(error) => {
                        failed = Some(error);
                        None
                    }
                };
                let _ = place.set(added);
                // Released meanwhile, but added for those that refer to it.
                if !this.lock().contains_key(&request) {
                    return;
                }
            }
            match (place.get(), failed) {
                (Some(Some(raw)), _) => drop(this.forward(request, raw, &spending).await),
                (_, Some(error)) => this.refuse(request, error),
                _ => {}
            }
        });
        open.insert(request, Open { task: task.abort_handle(), credit, raw });
    }

    fn refuse(&self, request: u64, error: Error) {
        for event in [WireEvent::Failed(error), WireEvent::Idle, WireEvent::End] {
            let _ = self.outbox.push(&ToChild::Event { request, event });
        }
    }

    async fn forward(&self, request: u64, raw: &Raw, credit: &Semaphore) -> Result<()> {
        loop {
            // Unread events stay in the bus's queue, which is bounded by the number of current values.
            match credit.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => return Ok(()),
            }
            let value;
            let event = match poll_fn(|cx| lock(raw).poll_event(cx)).await {
                Some(RawEvent::Added(id, added)) => {
                    value = added;
                    match value.encode() {
                        Ok(bytes) => {
                            let event = WireEvent::Added { value: id.0, bytes: &bytes };
                            match self.outbox.send(&ToChild::Event { request, event }).await {
                                Ok(()) => continue,
                                Err(error) if error.kind() == ErrorKind::Encoding => WireEvent::Failed(error),
                                Err(error) => return Err(error),
                            }
                        }
                        Err(error) => WireEvent::Failed(error),
                    }
                }
                Some(RawEvent::Removed(id)) => WireEvent::Removed { value: id.0 },
                Some(RawEvent::Idle) => WireEvent::Idle,
                Some(RawEvent::Busy) => WireEvent::Busy,
                Some(RawEvent::Failed(error)) => WireEvent::Failed(error),
                None => return self.outbox.send(&ToChild::Event { request, event: WireEvent::End }).await,
            };
            self.outbox.send(&ToChild::Event { request, event }).await?;
        }
    }

    /// The process has read events.
    pub(super) fn credit(&self, request: u64, events: u32) {
        if let Some(open) = self.lock().get(&request) {
            open.credit.add_permits(events.min(EVENT_CREDIT) as usize);
        }
    }

    /// The process has dropped a request.
    pub(super) fn release(&self, request: u64) {
        let open = self.lock().remove(&request);
        if let Some(open) = open.filter(|open| open.raw.initialized()) {
            open.task.abort();
        }
    }

    /// The process is gone.
    pub(super) fn release_all(&self) {
        let open = std::mem::take(&mut *self.lock());
        for open in open.into_values() {
            open.task.abort();
        }
    }
}
