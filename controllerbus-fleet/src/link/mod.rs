//! A link: two incarnations of hosts, the lanes between them, and what each asks the other.
//!
//! ```text
//!   greeting ──> up ──> lost ──> up again: both tell anew what they ask and what stands
//!      │          │       └────> over, when `resume_within` has passed
//!      └──────────┴────────────> over, at once: the other host leaves, or one refuses the other
//! ```
//!
//! A link is up when the other host has said that it hears this one ([`Hello::heard`](greeting::Hello)). Each attempt to be linked is a
//! *session* of the host that makes it. Who loses the other begins a new session; who is greeted by a new session tells everything
//! again, because the other one may have missed it. Nothing else is kept of sessions: eras tell old frames from new ones.
//!
//! * Only the link's task (task.rs) handles frames, and it does not wait for anything but frames and time.
//! * What the other host has asked is held while it is lost ([`Endpoint::hold`]), and asked again when it is back: so nothing runs again.
//! * What this host has asked fails when the other one is lost: its controllers are taken off the bus (`topology.rs`).

pub(crate) mod bytes;
pub(crate) mod frame;
pub(crate) mod greeting;
pub(crate) mod incoming;
pub(crate) mod lane;
mod task;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::bytes::Bytes;
use controllerbus::bus::{Backend, BusHandle, Origin};
use controllerbus::directive::{AnyDirective, RawRequest};
use controllerbus::error::ErrorKind;
use controllerbus::remote::{Endpoint, EndpointLimits, Offers};
use controllerbus::{Bus, Error, Result};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::carrier::{Lane, Peer};
use crate::shared::Shared;
use crate::status::LinkState;
use incoming::LaneIn;
use lane::{LINK_WINDOW, LaneOut, LanePost, LinkOut};
pub(crate) use task::clock;

/// How many ids the other host may ask.
const MOST_LANES: usize = 4096;

/// What may wait to be handled, beside one message of the greatest length.
const INBOX: usize = 32 << 20;

/// One lane of a link, in both directions.
pub(crate) struct LinkLane {
    pub(crate) out: Arc<LaneOut>,
    pub(crate) endpoint: Arc<Endpoint<LanePost>>,
    incoming: Mutex<LaneIn>,
    retelling: Mutex<Option<JoinHandle<()>>>,
    /// Held by whoever tells again.
    telling: Arc<tokio::sync::Mutex<()>>,
}

impl LinkLane {
    /// Tells again what is asked and what stands. One that is under way begins again.
    fn tell_again(self: &Arc<Self>) {
        self.out.link.counts.resyncs.one();
        self.stop_telling();
        let this = Arc::clone(self);
        let telling = tokio::spawn(async move {
            let _one_at_a_time = this.telling.lock().await;
            this.out.begin_era();
            // If the link is gone, so is who would hear it.
            let _ = this.endpoint.tell_again().await;
        });
        *lock(&self.retelling) = Some(telling);
    }

    fn stop_telling(&self) {
        let before = lock(&self.retelling).take();
        if let Some(before) = before {
            before.abort();
        }
    }
}

/// What was received and not handled.
#[derive(Default)]
struct Inbox {
    frames: VecDeque<(Lane, Bytes)>,
    bytes: usize,
    overflows: bool,
}

/// What is shown of a link.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) state: LinkState,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) version: String,
    pub(crate) round_trip_us: Option<u64>,
    pub(crate) clock_offset_ms: Option<i64>,
}

pub(crate) struct Link {
    pub(crate) out: Arc<LinkOut>,
    shared: Arc<Shared>,
    limits: EndpointLimits,
    lanes: Mutex<BTreeMap<Arc<str>, Arc<LinkLane>>>,
    inbox: Mutex<Inbox>,
    /// Whether the other host's presence is known.
    present: AtomicBool,
    leaves: AtomicBool,
    is_up: AtomicBool,
    /// The directives that are asked here, by controllers of the bus.
    pub(crate) asks: AtomicU64,
    shown: Mutex<Shown>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// A link to a host, and its task, which greets it.
    pub(crate) fn start(shared: &Arc<Shared>, peer: Peer, present: bool) -> Arc<Self> {
        let limits = &shared.options.limits;
        let endpoint_limits =
            EndpointLimits::none(format!("host `{}`", peer.host)).with_asks(limits.asks).with_standing(limits.standing);
        let out = Arc::new(LinkOut {
            peer,
            outbox: Arc::clone(&shared.outbox),
            counts: Arc::clone(&shared.counts),
            window: Semaphore::new(LINK_WINDOW),
            waiting: AtomicUsize::new(0),
            longest: AtomicU64::new(limits.message as u64),
            nudge: Notify::new(),
            exceeded: Mutex::new(None),
        });
        let shown = Shown {
            state: LinkState::Greeting,
            labels: BTreeMap::new(),
            version: String::new(),
            round_trip_us: None,
            clock_offset_ms: None,
        };
        let link = Arc::new(Self {
            out,
            shared: Arc::clone(shared),
            limits: endpoint_limits,
            lanes: Mutex::default(),
            inbox: Mutex::default(),
            present: AtomicBool::new(present),
            leaves: AtomicBool::new(false),
            is_up: AtomicBool::new(false),
            asks: AtomicU64::new(0),
            shown: Mutex::new(shown),
        });
        drop(tokio::spawn(task::Task::new(Arc::clone(&link)).run()));
        link
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.out.peer
    }

    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    /// The other host's presence has come or gone.
    pub(crate) fn set_present(&self, present: bool) {
        self.present.store(present, Ordering::Release);
        self.out.nudge.notify_one();
    }

    /// Says goodbye, and ends the link.
    pub(crate) fn leave(&self) {
        self.leaves.store(true, Ordering::Release);
        self.out.nudge.notify_one();
    }

    /// Ends the link for a reason, which the other host is told.
    pub(crate) fn give_up(&self, why: &str) {
        lock(&self.out.exceeded).get_or_insert_with(|| Error::msg(why.to_owned()));
        self.out.nudge.notify_one();
    }

    /// Ends what is asked on both sides. Its task has ended.
    pub(crate) fn end(&self, why: &Error) {
        for lane in self.all_lanes() {
            lane.stop_telling();
            lane.out.close();
            lane.endpoint.cut(why.clone());
        }
    }

    /// Takes a frame of the other host. Does not wait.
    pub(crate) fn receive(&self, lane: Lane, frame: Bytes) {
        let most = INBOX + self.shared.options.limits.message;
        {
            let mut inbox = lock(&self.inbox);
            if inbox.bytes + frame.len() > most {
                inbox.overflows = true;
            } else {
                inbox.bytes += frame.len();
                inbox.frames.push_back((lane, frame));
            }
        }
        self.out.nudge.notify_one();
    }

    /// How many directives the other host asks, held ones too.
    pub(crate) fn asked(&self) -> u64 {
        self.limits.open_asks()
    }

    /// How many directives are asked here.
    pub(crate) fn asks(&self) -> u64 {
        self.asks.load(Ordering::Relaxed)
    }

    /// How many of one id.
    pub(crate) fn asks_of(&self, id: &str) -> u64 {
        self.known_lane(id).map_or(0, |lane| lane.endpoint.open_asks() as u64)
    }

    pub(crate) fn shown(&self) -> Shown {
        lock(&self.shown).clone()
    }

    fn show(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut lock(&self.shown));
        self.shared.notify_changed();
    }

    fn all_lanes(&self) -> Vec<Arc<LinkLane>> {
        lock(&self.lanes).values().cloned().collect()
    }

    fn known_lane(&self, id: &str) -> Option<Arc<LinkLane>> {
        lock(&self.lanes).get(id).cloned()
    }

    /// The lane of an id, which is made if there is none.
    pub(crate) fn lane(&self, id: &Arc<str>) -> Arc<LinkLane> {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(id) {
            return Arc::clone(lane);
        }
        let out = LaneOut::new(Arc::clone(&self.out), Arc::clone(id), self.is_up());
        let offered = self.offered(id);
        let endpoint = Endpoint::new(LanePost(Arc::clone(&out)), offered, self.limits.clone());
        let (incoming, retelling, telling) = (Mutex::default(), Mutex::default(), Arc::default());
        let lane = Arc::new(LinkLane { out, endpoint, incoming, retelling, telling });
        lanes.insert(Arc::clone(id), Arc::clone(&lane));
        lane
    }

    /// What the other host may ask of an id.
    fn offered(&self, id: &str) -> Offered {
        if self.shared.options.offers.contain(id) {
            // A command that joins by the name of a host is not that host.
            let origin = Origin::fleet(&self.out.peer.host).keyed(self.out.peer.epoch);
            let bus = &self.shared.bus;
            return Offered::Bus { asked: bus.handle_from(origin), bus: bus.clone(), origin };
        }
        let refusing = Refusing { own: self.shared.own.host.to_string(), id: id.to_owned() };
        Offered::Refused(BusHandle::new(Arc::new(refusing)))
    }

    /// The lane of an id that the other host uses.
    ///
    /// # Errors
    /// There are too many.
    fn their_lane(&self, id: &Arc<str>) -> Result<Arc<LinkLane>> {
        match self.known_lane(id) {
            Some(lane) => Ok(lane),
            None if lock(&self.lanes).len() >= MOST_LANES => {
                let what = format!("it asks more than {MOST_LANES} kinds of directives");
                Err(Error::new(ErrorKind::Invalid, what))
            }
            None => Ok(self.lane(id)),
        }
    }
}

/// What the other host may ask of one id.
enum Offered {
    /// This bus, as that host asks it.
    Bus {
        asked: BusHandle,
        bus: Bus,
        origin: Origin,
    },
    Refused(BusHandle),
}

impl Offers for Offered {
    fn bus(&self) -> Option<BusHandle> {
        let (Self::Bus { asked: bus, .. } | Self::Refused(bus)) = self;
        Some(bus.clone())
    }

    fn bus_for(&self, key: u64) -> Option<BusHandle> {
        match self {
            Self::Bus { bus, origin, .. } => Some(bus.handle_from(origin.keyed(key))),
            Self::Refused(_) => self.bus(),
        }
    }
}

/// A bus for what is not offered.
struct Refusing {
    own: String,
    id: String,
}

impl Backend for Refusing {
    fn add(&self, _: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>> {
        let what = format!("host `{}` does not offer `{}` to others: its `offers` do not name it", self.own, self.id);
        Err(Error::new(ErrorKind::NotFound, what).permanent())
    }
}
