//! The task of a link: handles what comes, greets, pings, and notices that the other host is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use controllerbus::Error;
use tokio::time::Instant;

use super::frame::{Frame, Head};
use super::greeting::{Farewell, Hello, LinkMessage, PROTOCOL};
use super::incoming::{MANY_OF_ALL, Order};
use super::lane::{OVERHEAD, next_era};
use super::{Link, lock};
use crate::carrier::Lane;
use crate::shared::{Tell, unreachable};
use crate::status::LinkState;

/// When there is nothing to do.
const LATER: Duration = Duration::from_secs(3600);

/// After so many frames other tasks have their turn.
const MANY: usize = 16;

pub(super) struct Task {
    link: Arc<Link>,
    /// This host's attempt to be linked, and the other one's, as far as it was heard.
    session: u64,
    /// The one before, which was lost: a goodbye to it may come after the news that the host's presence is gone.
    lost_session: Option<u64>,
    theirs: Option<u64>,
    up: bool,
    /// When to greet next, and how long to wait then.
    greets: Option<(Instant, Duration)>,
    /// Until when what the other host has asked is held.
    held_until: Option<Instant>,
    pings: Pings,
    /// Why the link is over.
    over: Option<Error>,
}

/// The questions whether the other host is well.
struct Pings {
    due: Instant,
    number: u64,
    /// When each that is not answered was sent.
    unanswered: Vec<(u64, Instant)>,
}

/// Milliseconds since 1970.
pub(crate) fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Task {
    pub(super) fn new(link: Arc<Link>) -> Self {
        let now = Instant::now();
        let first = link.shared.options.times.greet.0;
        Self {
            session: next_era(),
            lost_session: None,
            theirs: None,
            up: false,
            greets: Some((now, first)),
            // Whoever greets is there, even if its presence is not known yet.
            held_until: Some(now + link.shared.options.times.resume_within),
            pings: Pings { due: now, number: 0, unanswered: Vec::new() },
            over: None,
            link,
        }
    }

    pub(super) async fn run(mut self) {
        let why = loop {
            self.take_orders();
            if self.handle_frames() >= MANY {
                tokio::task::yield_now().await;
            }
            self.look_after(Instant::now());
            if let Some(why) = self.over.take() {
                break why;
            }
            let deadline = self.deadline();
            tokio::select! {
                biased;
                () = self.link.out.nudge.notified() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        };
        self.link.is_up.store(false, Ordering::Release);
        // Who hears of it takes what is asked here off the bus first: that decides what the requesters are told.
        self.link.shared.tell(Tell::Over(Arc::clone(&self.link), why));
    }

    fn say(&self, message: &LinkMessage) {
        self.link.out.outbox.send(self.link.peer(), message.write());
    }

    /// What the fleet wants of the link.
    fn take_orders(&mut self) {
        if self.link.leaves.load(Ordering::Acquire) {
            let why = "this host has left the fleet";
            self.say(&LinkMessage::Bye { farewell: Farewell::Leaves, to: self.theirs, why: String::new() });
            self.over = Some(unreachable(&self.link.peer().host, why));
            return;
        }
        let present = self.link.present.load(Ordering::Acquire);
        if !present && self.up {
            self.lose("its presence is gone");
        } else if !present && self.theirs.is_none() {
            self.greets = None;
        } else if present && !self.up && self.greets.is_none() {
            self.greet_soon();
        }
        let exceeded = lock(&self.link.out.exceeded).take();
        if let Some(why) = exceeded {
            self.refuse(why.to_string());
        }
    }

    fn greet_soon(&mut self) {
        self.greets = Some((Instant::now(), self.link.shared.options.times.greet.0));
    }

    /// Ends the link, so that both hosts know why.
    fn refuse(&mut self, why: String) {
        if self.over.is_some() {
            return;
        }
        self.say(&LinkMessage::Bye { farewell: Farewell::Refuses, to: self.theirs, why: why.clone() });
        self.is_refused(why);
    }

    fn is_refused(&mut self, why: String) {
        self.link.out.counts.refused.one();
        self.over = Some(unreachable(&self.link.peer().host, &why));
        self.link.show(|shown| shown.state = LinkState::Refused);
        self.link.shared.tell(Tell::Refused(Arc::clone(&self.link), why));
    }

    /// The other host is out of reach.
    fn lose(&mut self, why: &str) {
        self.up = false;
        self.link.is_up.store(false, Ordering::Release);
        self.lost_session = Some(std::mem::replace(&mut self.session, next_era()));
        self.pings.unanswered.clear();
        for lane in self.link.all_lanes() {
            lane.stop_telling();
            lane.out.go_down();
        }
        self.hold();
        self.link.out.counts.lost.one();
        self.link.show(|shown| shown.state = LinkState::Lost);
        self.link.shared.tell(Tell::Lost(Arc::clone(&self.link), why.to_owned()));
        self.greets = None;
        if self.link.present.load(Ordering::Acquire) {
            self.greet_soon();
        }
    }

    /// Keeps what the other host has asked for a while: it may ask again.
    fn hold(&mut self) {
        for lane in self.link.all_lanes() {
            lane.endpoint.hold();
        }
        self.held_until = Some(Instant::now() + self.link.shared.options.times.resume_within);
    }

    /// Returns how many there were.
    fn handle_frames(&mut self) -> usize {
        let (frames, overflows) = {
            let mut inbox = lock(&self.link.inbox);
            inbox.bytes = 0;
            (std::mem::take(&mut inbox.frames), inbox.overflows)
        };
        let count = frames.len();
        for (lane, frame) in frames {
            if self.over.is_some() {
                return count;
            }
            self.link.out.counts.received_frames.one();
            self.link.out.counts.received_bytes.add(frame.len() as u64);
            match lane {
                Lane::Link => match LinkMessage::read(&frame) {
                    Ok(Some(message)) => self.handle(message),
                    Ok(None) => {}
                    Err(garbled) => self.refuse(format!("a frame cannot be read: {}", garbled.0)),
                },
                // Who was not greeted has nothing to say yet.
                Lane::Directive(_) if self.theirs.is_none() => {}
                Lane::Directive(id) => self.handle_frame(&id, &frame),
            }
        }
        if overflows {
            self.refuse("it sends more than this host can handle".to_owned());
        }
        count
    }

    fn handle_frame(&mut self, id: &Arc<str>, bytes: &Bytes) {
        let read = Frame::read(id, bytes).map_err(|garbled| garbled.0.to_owned());
        let lane = self.link.their_lane(id).map_err(|error| error.to_string());
        let (mut frame, lane) = match (read, lane) {
            (Ok(frame), Ok(lane)) => (frame, lane),
            (Err(why), _) => return self.refuse(format!("a frame of `{id}` cannot be read: {why}")),
            (_, Err(why)) => return self.refuse(why),
        };
        let now = Instant::now();
        if lock(&lane.incoming).take(frame.head, now) != Order::Next {
            return;
        }
        let mut messages = 0;
        loop {
            match frame.next() {
                Ok(Some(message)) => lane.endpoint.handle(message),
                Ok(None) => break,
                Err(garbled) => return self.refuse(format!("a frame of `{id}` cannot be read: {}", garbled.0)),
            }
            messages += 1;
        }
        lock(&lane.incoming).handled(bytes.len() + messages * OVERHEAD, now);
    }

    fn handle(&mut self, message: LinkMessage) {
        match message {
            LinkMessage::Hello(hello) => self.greeted(&hello),
            // Who has lost the other host lets it know that: by its silence, if it does not greet.
            LinkMessage::Ping { .. } if !self.up => {}
            LinkMessage::Ping { number, .. } => self.say(&LinkMessage::Pong { number, clock: clock() }),
            LinkMessage::Pong { number, clock: theirs } => self.answered(number, theirs),
            LinkMessage::Seen { lane, era, number } => {
                if let Some(lane) = self.link.known_lane(&lane) {
                    lane.out.seen(era, number);
                }
            }
            LinkMessage::Again { lane, era } => {
                let lane = self.link.known_lane(&lane).filter(|lane| self.up && lane.out.era() <= era);
                if let Some(lane) = lane {
                    lane.tell_again();
                }
            }
            LinkMessage::Sent { lane, era, frames } => {
                if self.theirs.is_some()
                    && let Ok(lane) = self.link.their_lane(&lane)
                {
                    lock(&lane.incoming).was_sent(era, frames, Instant::now());
                }
            }
            LinkMessage::Waits { lane, era, number } => {
                if self.theirs.is_some()
                    && let Ok(lane) = self.link.their_lane(&lane)
                {
                    lock(&lane.incoming).is_awaited(Head { era, number }, Instant::now());
                }
            }
            LinkMessage::Bye { farewell, to, why } => {
                let is_late = !self.up && farewell == Farewell::Leaves && to == self.lost_session;
                if to.is_some_and(|session| session != self.session) && !is_late || self.over.is_some() {
                    return;
                }
                match farewell {
                    Farewell::Refuses => self.is_refused(format!("host `{}` says: {why}", self.link.peer().host)),
                    Farewell::Leaves => {
                        self.over = Some(unreachable(&self.link.peer().host, "it has left the fleet"));
                        self.link.shared.tell(Tell::Left(Arc::clone(&self.link)));
                    }
                }
            }
        }
    }

    /// The other host greets.
    fn greeted(&mut self, hello: &Hello) {
        if self.theirs.is_some_and(|known| hello.session < known) {
            return;
        }
        if hello.fleet != self.link.shared.options.fleet {
            return self.refuse(format!("it belongs to the fleet `{}`", hello.fleet));
        }
        if let Err(why) = hello.protocol() {
            return self.refuse(why);
        }
        let is_new = self.theirs.replace(hello.session) != Some(hello.session);
        if is_new {
            let own = self.link.shared.options.limits.message as u64;
            self.link.out.longest.store(own.min(hello.longest.max(1 << 10)), Ordering::Relaxed);
            let (version, labels) = (hello.version.clone(), hello.labels.clone());
            self.link.show(|shown| (shown.version, shown.labels) = (version, labels));
            if self.up {
                // It has lost this host, and asks anew.
                self.hold();
                self.link.all_lanes().iter().for_each(super::LinkLane::tell_again);
            }
        }
        // Who is not known to be there would be lost again at once.
        let is_known = self.link.present.load(Ordering::Acquire);
        if !self.up && is_known && hello.heard == Some(self.session) {
            self.come_up();
        }
        if hello.wants {
            self.greet();
        }
        if !self.up && self.greets.is_none() {
            self.greet_soon();
        }
    }

    /// Both hosts hear each other.
    fn come_up(&mut self) {
        self.up = true;
        self.greets = None;
        self.pings = Pings { due: Instant::now(), number: self.pings.number, unanswered: Vec::new() };
        self.link.is_up.store(true, Ordering::Release);
        for lane in self.link.all_lanes() {
            lane.out.come_up();
            lane.tell_again();
        }
        self.link.show(|shown| shown.state = LinkState::Up);
        self.link.shared.tell(Tell::Up(Arc::clone(&self.link)));
    }

    fn greet(&self) {
        let options = &self.link.shared.options;
        self.say(&LinkMessage::Hello(Box::new(Hello {
            protocol_min: PROTOCOL.0,
            protocol_max: PROTOCOL.1,
            fleet: options.fleet.clone(),
            session: self.session,
            heard: self.theirs,
            wants: !self.up,
            version: options.version.clone(),
            labels: options.labels.clone(),
            longest: options.limits.message as u64,
        })));
    }

    /// A ping was answered, and with it those before.
    fn answered(&mut self, number: u64, theirs: u64) {
        let Some(at) = self.pings.unanswered.iter().position(|(sent, _)| *sent == number) else { return };
        let round_trip = self.pings.unanswered[at].1.elapsed();
        self.pings.unanswered.drain(..=at);
        let halfway = clock() as i64 - (round_trip.as_millis() / 2) as i64;
        let offset = (theirs as i64).saturating_sub(halfway);
        self.link.show(|shown| {
            shown.round_trip_us = Some(round_trip.as_micros() as u64);
            shown.clock_offset_ms = Some(offset);
        });
    }

    /// Does what it is time for.
    fn look_after(&mut self, now: Instant) {
        if self.over.is_some() {
            return;
        }
        let times = &self.link.shared.options.times;
        let (unanswered, every) = (times.unanswered, times.ping);
        if self.up && self.pings.due <= now {
            if self.pings.unanswered.len() >= unanswered as usize {
                self.lose(&format!("it has not answered {unanswered} pings in {:?}", every * unanswered));
            } else {
                self.pings.due = now + every;
                self.pings.number += 1;
                self.pings.unanswered.push((self.pings.number, now));
                self.say(&LinkMessage::Ping { number: self.pings.number, clock: clock() });
            }
        }
        if let Some((due, wait)) = self.greets
            && due <= now
        {
            self.greets = Some((now + wait, (wait * 2).min(self.link.shared.options.times.greet.1)));
            self.greet();
        }
        if self.theirs.is_some() {
            self.look_after_lanes(now);
        }
        if self.held_until.is_some_and(|until| until <= now) {
            self.held_until = None;
            for lane in self.link.all_lanes() {
                // What it asks while it does not hear this host is nothing that it could use.
                if self.up { lane.endpoint.let_go() } else { lane.endpoint.release_all() }
            }
        }
        if !self.up && self.held_until.is_none() && !self.link.present.load(Ordering::Acquire) {
            self.over = Some(unreachable(&self.link.peer().host, "it is gone"));
        } else if !self.up && self.held_until.is_none() && self.link.asked() > 0 {
            self.held_until = Some(now + self.link.shared.options.times.resume_within);
        }
    }

    fn look_after_lanes(&self, now: Instant) {
        let lanes = self.link.all_lanes();
        let unreported: usize = lanes.iter().map(|lane| lock(&lane.incoming).unreported()).sum();
        for lane in lanes {
            let id = || Arc::clone(&lane.out.id);
            let (report, again) = {
                let mut incoming = lock(&lane.incoming);
                (incoming.report(unreported >= MANY_OF_ALL, now), incoming.again(now))
            };
            if let Some(head) = report {
                self.say(&LinkMessage::Seen { lane: id(), era: head.era, number: head.number });
            }
            if let Some(era) = again {
                self.say(&LinkMessage::Again { lane: id(), era });
            }
            if let Some(head) = lane.out.awaited(now) {
                self.say(&LinkMessage::Waits { lane: id(), era: head.era, number: head.number });
            }
            lane.out.probe(now);
        }
    }

    fn deadline(&self) -> Instant {
        let mut due: Vec<Instant> = Vec::new();
        if self.up {
            due.push(self.pings.due);
        }
        due.extend(self.greets.map(|(due, _)| due));
        due.extend(self.held_until);
        for lane in self.link.all_lanes() {
            due.extend(lock(&lane.incoming).deadline());
            due.extend(lane.out.deadline());
        }
        due.into_iter().min().unwrap_or_else(|| Instant::now() + LATER)
    }
}
