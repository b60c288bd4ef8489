//! What is sent on one lane: messages are gathered in frames, which are numbered, and only so many bytes are on their way.
//!
//! The other host reports what it has seen when it is much, or after a while. Something that waits for room does not wait for that: the
//! other host is asked for a report ([`LaneOut::awaited`]), once for each round trip, and again if the question or the report is lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use controllerbus::error::ErrorKind;
use controllerbus::remote::{Message, Post};
use controllerbus::{Error, Result};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::frame::{self, HEAD, Head};
use crate::carrier::{Lane, Peer};
use crate::counts::Counting;
use crate::outbox::Outbox;

/// How many bytes of a lane, and of all lanes of a link, may be sent that were not seen. One larger message goes alone, but for [`BESIDE`].
pub(crate) const LANE_WINDOW: usize = 256 << 10;
pub(crate) const LINK_WINDOW: usize = 512 << 10;

/// How many bytes of small messages may be unseen while a large one is sent, which need not wait for a report of these.
const BESIDE: usize = 32 << 10;

/// A frame takes further messages until it is as long as this.
const FRAME: usize = 64 << 10;

/// What a message counts beside its bytes.
pub(crate) const OVERHEAD: usize = 24;

/// How long frames may be unseen before another one is sent, by which the other host sees whether it lacks something.
const UNSEEN: Duration = Duration::from_millis(400);

/// How long the answer is awaited to the question for a report, at first; then twice as long each time, up to [`UNSEEN`].
const AWAITED: Duration = Duration::from_millis(50);

/// What the lanes of a link share.
pub(crate) struct LinkOut {
    pub(crate) peer: Peer,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) counts: Arc<Counting>,
    pub(crate) window: Semaphore,
    /// How many wait for room in it.
    pub(crate) waiting: AtomicUsize,
    /// The longest message that both hosts take.
    pub(crate) longest: AtomicU64,
    /// Wakes the link's task.
    pub(crate) nudge: Notify,
    /// Why the link is to be ended, if it is.
    pub(crate) exceeded: Mutex<Option<Error>>,
}

/// What a frame took of the windows.
#[derive(Clone, Copy, Default)]
struct Cost {
    lane: usize,
    link: usize,
}

impl Cost {
    fn of(bytes: usize) -> Self {
        Self { lane: bytes.min(LANE_WINDOW - BESIDE), link: bytes.min(LINK_WINDOW - BESIDE) }
    }

    fn and(self, other: Self) -> Self {
        Self { lane: self.lane + other.lane, link: self.link + other.link }
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Room of a lane's windows, which is free again when this is dropped.
pub(crate) struct Room<'a> {
    cost: Cost,
    taken: (SemaphorePermit<'a>, SemaphorePermit<'a>),
}

impl Room<'_> {
    /// It is given back by its cost.
    fn keep(self) -> Cost {
        self.taken.0.forget();
        self.taken.1.forget();
        self.cost
    }
}

struct Filling {
    bytes: BytesMut,
    cost: Cost,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is sent, and nothing is missed: all of it is told again.
    Down,
    Up,
    Closed,
}

struct Out {
    state: State,
    head: Head,
    frames: VecDeque<Filling>,
    /// Whether the outbox has this lane.
    queued: bool,
    /// The frames that were sent and not seen.
    unseen: VecDeque<(u64, Cost)>,
    /// Since when there has been one, or since the last one by which the other host sees what it lacks.
    since: Option<Instant>,
    /// The question for a report that was not answered.
    question: Option<Question>,
}

/// The other host was asked for a report.
struct Question {
    /// With this frame.
    number: u64,
    /// When it is asked again, and how long after that.
    due: Instant,
    wait: Duration,
}

/// Something waits for room until this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(counted: &'a AtomicUsize, link: &LinkOut) -> Self {
        counted.fetch_add(1, Ordering::AcqRel);
        // Its task asks for a report.
        link.nudge.notify_one();
        Self(counted)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The sending half of a lane.
pub(crate) struct LaneOut {
    pub(crate) link: Arc<LinkOut>,
    pub(crate) name: Lane,
    pub(crate) id: Arc<str>,
    window: Semaphore,
    /// How many wait for room in it.
    waiting: AtomicUsize,
    out: Mutex<Out>,
}

/// Numbers that only rise, for all lanes and links of this process: what is numbered later is newer.
pub(crate) fn next_era() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl LaneOut {
    pub(crate) fn new(link: Arc<LinkOut>, id: Arc<str>, is_up: bool) -> Arc<Self> {
        let out = Out {
            state: if is_up { State::Up } else { State::Down },
            head: Head { era: next_era(), number: 0 },
            frames: VecDeque::new(),
            queued: false,
            unseen: VecDeque::new(),
            since: None,
            question: None,
        };
        let (name, window) = (Lane::Directive(Arc::clone(&id)), Semaphore::new(LANE_WINDOW));
        Arc::new(Self { link, name, id, window, waiting: AtomicUsize::new(0), out: Mutex::new(out) })
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, cost: Cost) {
        self.window.add_permits(cost.lane);
        self.link.window.add_permits(cost.link);
    }

    /// Gives back what frames took that were on their way.
    fn arrived(&self, cost: Cost) {
        self.link.outbox.unseen.fetch_sub(cost.link, Ordering::Relaxed);
        self.give_back(cost);
    }

    /// Forgets what was gathered and sent: all of it is told again in another era.
    fn restart(&self, state: Option<State>) {
        let (gathered, sent) = {
            let mut out = self.lock();
            if out.state == State::Closed {
                return;
            }
            out.state = state.unwrap_or(out.state);
            out.head = Head { era: next_era(), number: 0 };
            (out.since, out.question) = (None, None);
            let gathered = out.frames.drain(..).map(|frame| frame.cost).fold(Cost::default(), Cost::and);
            (gathered, out.unseen.drain(..).map(|(_, cost)| cost).fold(Cost::default(), Cost::and))
        };
        self.give_back(gathered);
        self.arrived(sent);
    }

    /// From here on, another era is told.
    pub(crate) fn begin_era(&self) {
        self.restart(None);
    }

    /// From here on, what is said is sent.
    pub(crate) fn come_up(&self) {
        self.restart(Some(State::Up));
    }

    /// Nothing is sent until another era begins.
    pub(crate) fn go_down(&self) {
        self.restart(Some(State::Down));
    }

    pub(crate) fn close(&self) {
        self.restart(Some(State::Closed));
    }

    /// The era that is being told.
    pub(crate) fn era(&self) -> u64 {
        self.lock().head.era
    }

    /// The other host has seen the frames of an era up to this one.
    pub(crate) fn seen(&self, era: u64, number: u64) {
        let cost = {
            let mut out = self.lock();
            if out.head.era != era {
                return;
            }
            let seen = out.unseen.iter().take_while(|(sent, _)| *sent <= number).count();
            let cost = out.unseen.drain(..seen).map(|(_, cost)| cost).fold(Cost::default(), Cost::and);
            out.since = (!out.unseen.is_empty()).then(Instant::now);
            out.question.take_if(|question| question.number <= number);
            cost
        };
        self.arrived(cost);
    }

    /// Sends an empty frame if some have not been seen for long: what was lost before it is missed then. It goes the way of the others,
    /// and so does not overtake one that takes long.
    pub(crate) fn probe(self: &Arc<Self>, now: Instant) {
        let is_ready = {
            let mut out = self.lock();
            let is_long = out.since.is_some_and(|since| now.duration_since(since) >= UNSEEN);
            if is_long {
                out.since = Some(now);
            }
            let is_due = is_long && out.frames.is_empty();
            if is_due {
                out.frames.push_back(Filling { bytes: BytesMut::zeroed(HEAD), cost: Cost::default() });
            }
            is_due && !std::mem::replace(&mut out.queued, true)
        };
        if is_ready {
            self.link.outbox.is_ready(Arc::clone(self));
        }
    }

    fn has_waiting(&self) -> bool {
        [&self.waiting, &self.link.waiting].iter().any(|waiting| waiting.load(Ordering::Acquire) > 0)
    }

    /// The frame with which a report is needed, if something waits for it and it is time to say so.
    pub(crate) fn awaited(&self, now: Instant) -> Option<Head> {
        let mut out = self.lock();
        let (number, _) = *out.unseen.back().filter(|_| self.has_waiting())?;
        let wait = match &out.question {
            Some(question) if question.due > now => return None,
            Some(question) => (question.wait * 2).min(UNSEEN),
            None => AWAITED,
        };
        out.question = Some(Question { number, due: now + wait, wait });
        Some(Head { era: out.head.era, number })
    }

    /// When to look at [`LaneOut::probe`] and [`LaneOut::awaited`].
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let out = self.lock();
        let asks = out.question.as_ref().filter(|_| self.has_waiting() && !out.unseen.is_empty());
        out.since.map(|since| since + UNSEEN).into_iter().chain(asks.map(|question| question.due)).min()
    }

    /// The next frame, and whether there are more.
    pub(crate) fn take_frame(&self) -> (Option<Bytes>, bool) {
        let mut out = self.lock();
        let Some(mut frame) = out.frames.pop_front() else {
            out.queued = false;
            return (None, false);
        };
        if let Some(head) = frame.bytes.first_chunk_mut::<HEAD>() {
            out.head.write(head);
        }
        let number = out.head.number;
        out.head.number += 1;
        out.unseen.push_back((number, frame.cost));
        self.link.outbox.unseen.fetch_add(frame.cost.link, Ordering::Relaxed);
        out.since.get_or_insert_with(Instant::now);
        if out.question.is_none() && self.has_waiting() {
            self.link.nudge.notify_one();
        }
        let more = !out.frames.is_empty();
        out.queued = more;
        (Some(frame.bytes.freeze()), more)
    }

    /// Takes room of both windows, if there is some.
    fn try_take_room(&self, cost: Cost) -> Option<Room<'_>> {
        let lane = self.window.try_acquire_many(permits(cost.lane)).ok()?;
        let link = self.link.window.try_acquire_many(permits(cost.link)).ok()?;
        Some(Room { cost, taken: (lane, link) })
    }

    /// Takes room of both windows, and waits for it where there is none.
    async fn take_room(&self, bytes: usize) -> Result<Room<'_>> {
        let cost = Cost::of(bytes);
        match self.try_take_room(cost) {
            Some(room) => Ok(room),
            // Kept apart, because mostly nothing waits.
            None => Box::pin(self.wait_for_room(cost)).await,
        }
    }

    async fn wait_for_room(&self, cost: Cost) -> Result<Room<'_>> {
        self.link.counts.window_waits.one();
        let gone = |_| Error::new(ErrorKind::Closed, "the link to the host was ended");
        let lane = {
            let _waiting = Waiting::new(&self.waiting, &self.link);
            self.window.acquire_many(permits(cost.lane)).await.map_err(gone)?
        };
        let _waiting = Waiting::new(&self.link.waiting, &self.link);
        let link = self.link.window.acquire_many(permits(cost.link)).await.map_err(gone)?;
        Ok(Room { cost, taken: (lane, link) })
    }

    /// Waits until there is room for an ask of so many bytes, which is to be [paid](LaneOut::pay) once it was said.
    ///
    /// # Errors
    /// The link is gone.
    pub(crate) async fn room(&self, bytes: usize) -> Result<Room<'_>> {
        self.take_room(bytes + OVERHEAD).await
    }

    /// What was said last takes this room, until it is seen.
    pub(crate) fn pay(&self, room: Room<'_>) {
        let mut out = self.lock();
        // If it is seen already, the room is free again.
        if let Some(gathered) = out.frames.back_mut() {
            gathered.cost = gathered.cost.and(room.keep());
        } else if let Some((_, sent)) = out.unseen.back_mut() {
            let cost = room.keep();
            self.link.outbox.unseen.fetch_add(cost.link, Ordering::Relaxed);
            *sent = sent.and(cost);
        }
    }

    /// # Errors
    /// The message is too long, or the link is gone.
    fn append(self: &Arc<Self>, message: &Message<'_>, cost: Cost) -> Result<()> {
        let appended = {
            let mut out = self.lock();
            self.append_to(&mut out, message, cost)
        };
        match appended {
            Ok(Appended::Queue) => self.link.outbox.is_ready(Arc::clone(self)),
            Ok(Appended::Queued) => {}
            Ok(Appended::Dropped) => self.give_back(cost),
            Err(error) => {
                self.give_back(cost);
                return Err(error);
            }
        }
        Ok(())
    }

    fn append_to(&self, out: &mut Out, message: &Message<'_>, cost: Cost) -> Result<Appended> {
        match out.state {
            State::Closed => return Err(Error::new(ErrorKind::Closed, "the link to the host was ended")),
            State::Down => return Ok(Appended::Dropped),
            State::Up => {}
        }
        if out.frames.back().is_none_or(|frame| frame.bytes.len() >= FRAME) {
            out.frames.push_back(Filling { bytes: BytesMut::zeroed(HEAD), cost: Cost::default() });
        }
        let longest = usize::try_from(self.link.longest.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let Some(frame) = out.frames.back_mut() else { return Ok(Appended::Dropped) };
        let start = frame.bytes.len();
        let written = frame::write(&mut frame.bytes, message).and_then(|()| {
            let length = frame.bytes.len() - start;
            if length <= longest {
                return Ok(());
            }
            let what = format!("a message of {length} bytes is longer than the limit of {longest} bytes");
            Err(Error::new(ErrorKind::Encoding, what))
        });
        if let Err(error) = written {
            frame.bytes.truncate(start);
            if start == HEAD {
                out.frames.pop_back();
            }
            return Err(error);
        }
        frame.cost = frame.cost.and(cost);
        let was_queued = std::mem::replace(&mut out.queued, true);
        Ok(if was_queued { Appended::Queued } else { Appended::Queue })
    }
}

enum Appended {
    Queue,
    Queued,
    Dropped,
}

/// The lane as an endpoint posts to it.
#[derive(Clone)]
pub(crate) struct LanePost(pub(crate) Arc<LaneOut>);

impl Post for LanePost {
    const RESUMES: bool = true;

    fn push(&self, message: &Message<'_>) -> Result<()> {
        // An ask is paid by who had it said.
        let bytes = if matches!(message, Message::Ask { .. }) { 0 } else { bytes_of(message) };
        let cost = Cost::of(bytes);
        let cost =
            Cost { lane: self.0.window.forget_permits(cost.lane), link: self.0.link.window.forget_permits(cost.link) };
        self.0.append(message, cost)
    }

    fn try_send(&self, message: &Message<'_>) -> Result<bool> {
        let Some(room) = self.0.try_take_room(Cost::of(bytes_of(message))) else { return Ok(false) };
        self.0.append(message, room.keep())?;
        Ok(true)
    }

    async fn send(&self, message: &Message<'_>) -> Result<()> {
        let cost = self.0.take_room(bytes_of(message)).await?.keep();
        self.0.append(message, cost)
    }

    fn exceeded(&self, why: Error) {
        let mut exceeded = self.0.link.exceeded.lock().unwrap_or_else(PoisonError::into_inner);
        exceeded.get_or_insert(why);
        drop(exceeded);
        self.0.link.nudge.notify_one();
    }

    fn waits_for_credit(&self) {
        self.0.link.counts.credit_waits.one();
    }
}

/// About how many bytes a message has.
fn bytes_of(message: &Message<'_>) -> usize {
    OVERHEAD
        + match message {
            Message::Ask { bytes, facts, .. } | Message::AskAgain { bytes, facts, .. } => bytes.len() + facts.len(),
            Message::Added { bytes, .. } => bytes.len(),
            _ => 0,
        }
}
