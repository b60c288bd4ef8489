//! What the parts of a fleet on one host share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use controllerbus::bus::{ControllerId, Origin};
use controllerbus::controller::{AnyController, Info};
use controllerbus::error::ErrorKind;
use controllerbus::{Bus, Error};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::carrier::{Guard, Lane, Peer, Seen};
use crate::counts::Counting;
use crate::event::FleetEvent;
use crate::link::greeting::LinkMessage;
use crate::link::{Link, clock, lock};
use crate::options::FleetOptions;
use crate::outbox::Outbox;

/// What the task of the fleet is told.
pub(crate) enum Tell {
    Seen(Seen),
    /// A host greets to which there is no link.
    Stranger(Peer, Bytes),
    Up(Arc<Link>),
    Lost(Arc<Link>, String),
    Left(Arc<Link>),
    Refused(Arc<Link>, String),
    /// The link's task has ended, and the link is to be [ended](Link::end).
    Over(Arc<Link>, Error),
    /// This host leaves; who waits for it is told.
    Leave(Option<oneshot::Sender<()>>),
}

/// How many strangers' greetings may wait.
const STRANGERS: usize = 1000;

pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) own: Peer,
    pub(crate) options: FleetOptions,
    pub(crate) counts: Arc<Counting>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) events: broadcast::Sender<FleetEvent>,
    /// The hosts that there are, as they are shown.
    pub(crate) hosts: RwLock<BTreeMap<Peer, ShownHost>>,
    /// What this host offers now.
    pub(crate) own_offers: RwLock<BTreeSet<Arc<str>>>,
    pub(crate) since_ms: u64,
    /// What the carrier keeps for this host; `None` once it has left.
    kept: Mutex<Option<Kept>>,
    links: RwLock<HashMap<Peer, Arc<Link>>>,
    tells: mpsc::UnboundedSender<Tell>,
    changed: watch::Sender<u64>,
    /// The strangers' greetings that wait.
    pub(crate) strangers: AtomicUsize,
}

/// A host as the fleet's task knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShownHost {
    pub(crate) since_ms: u64,
    pub(crate) offers: Vec<Arc<str>>,
    pub(crate) problem: Option<String>,
    pub(crate) refused: bool,
    pub(crate) lost: bool,
}

/// What the carrier keeps for a host until it is dropped, where the carrier may block.
#[derive(Default)]
struct Kept {
    guards: Vec<Guard>,
    offers: BTreeMap<Arc<str>, Guard>,
}

/// The error of what a host was at work on.
pub(crate) fn unreachable(host: &str, why: &str) -> Error {
    let what = format!(
        "host `{host}` is out of reach ({why}) while it worked on this; what stands is asked again when it is back"
    );
    Error::new(ErrorKind::Unreachable, what)
}

impl Shared {
    pub(crate) fn new(
        bus: Bus,
        own: Peer,
        options: FleetOptions,
        counts: Arc<Counting>,
        outbox: Arc<Outbox>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Tell>) {
        let (tells, told) = mpsc::unbounded_channel();
        let shared = Self {
            bus,
            own,
            options,
            counts,
            outbox,
            events: broadcast::Sender::new(256),
            hosts: RwLock::default(),
            own_offers: RwLock::default(),
            since_ms: clock(),
            kept: Mutex::new(Some(Kept::default())),
            links: RwLock::default(),
            tells,
            changed: watch::Sender::new(0),
            strangers: AtomicUsize::new(0),
        };
        (Arc::new(shared), told)
    }

    /// Adds a controller that stands for a host; for all of them, if it is this one.
    pub(crate) fn add_controller(&self, host: &str, controller: Arc<dyn AnyController>, info: Info) -> ControllerId {
        self.bus.add_controller_from(Origin::fleet(host), controller, info)
    }

    pub(crate) fn tell(&self, what: Tell) {
        // Once its task has ended, nothing of the fleet is left to be told.
        let _ = self.tells.send(what);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn notify_changed(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    pub(crate) fn event(&self, event: FleetEvent) {
        match &event {
            FleetEvent::Up(_) | FleetEvent::Left(_) => tracing::info!("{event}"),
            _ => tracing::warn!("{event}"),
        }
        // Nobody may listen.
        let _ = self.events.send(event);
    }

    pub(crate) fn link(&self, peer: &Peer) -> Option<Arc<Link>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).get(peer).cloned()
    }

    pub(crate) fn all_links(&self) -> Vec<Arc<Link>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn keep_link(&self, link: &Arc<Link>) {
        self.links.write().unwrap_or_else(PoisonError::into_inner).insert(link.peer().clone(), Arc::clone(link));
    }

    /// Forgets a link, if it is still the one to that host.
    pub(crate) fn forget_link(&self, link: &Arc<Link>) -> bool {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let is_known = links.get(link.peer()).is_some_and(|known| Arc::ptr_eq(known, link));
        let forgotten = if is_known { links.remove(link.peer()) } else { None };
        drop(links);
        forgotten.is_some()
    }

    /// Keeps what the carrier gave; to be called where that may block.
    pub(crate) fn keep(&self, guards: Vec<Guard>) {
        let late = match &mut *lock(&self.kept) {
            Some(kept) => {
                kept.guards.extend(guards);
                None
            }
            None => Some(guards),
        };
        drop(late);
    }

    /// Whether it is announced that this host offers an id.
    pub(crate) fn is_announced(&self, id: &str) -> bool {
        lock(&self.kept).as_ref().is_none_or(|kept| kept.offers.contains_key(id))
    }

    /// Keeps the announcement of an offer, or withdraws it; to be called where that may block.
    pub(crate) fn keep_offer(&self, id: Arc<str>, guard: Option<Guard>) {
        let before = match (&mut *lock(&self.kept), guard) {
            (Some(kept), Some(guard)) => kept.offers.insert(id, guard),
            (Some(kept), None) => kept.offers.remove(&id),
            (None, guard) => guard,
        };
        drop(before);
    }

    /// Gives back what the carrier keeps, after what is to be sent; and then ends what sends.
    pub(crate) fn let_go(self: &Arc<Self>) -> oneshot::Receiver<()> {
        let shared = Arc::clone(self);
        let (done, gone) = oneshot::channel();
        self.outbox.run_with_carrier(move |_| {
            let kept = lock(&shared.kept).take();
            drop(kept);
            // Only who leaves waits for it.
            let _ = done.send(());
        });
        self.outbox.close();
        gone
    }

    /// Takes a frame from the carrier. Does not wait.
    pub(crate) fn receive(&self, from: Peer, lane: Lane, frame: Bytes) {
        match self.link(&from) {
            Some(link) => link.receive(lane, frame),
            None if lane == Lane::Link && self.strangers.load(Ordering::Relaxed) < STRANGERS && is_greeting(&frame) => {
                self.strangers.fetch_add(1, Ordering::Relaxed);
                self.tell(Tell::Stranger(from, frame));
            }
            None => {}
        }
    }
}

fn is_greeting(frame: &[u8]) -> bool {
    frame.len() < 64 << 10 && matches!(LinkMessage::read(frame), Ok(Some(LinkMessage::Hello(_))))
}
