//! What sends: one thread for each fleet, because a carrier's functions may block; or a task, if they never do.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use controllerbus::Result;
use tokio::sync::Notify;

use crate::carrier::{Carrier, Lane, Peer};
use crate::counts::Counting;
use crate::link::lane::LaneOut;

type Work = Box<dyn FnOnce() + Send>;

enum Job {
    Send(Peer, Bytes),
    Do(Work),
}

/// What waits to be sent.
#[derive(Default)]
struct Queue {
    /// Of the links themselves, and what else is asked of the carrier: first.
    jobs: VecDeque<Job>,
    /// The lanes that have frames, each once: in turn.
    lanes: VecDeque<Arc<LaneOut>>,
    is_waiting: bool,
    closed: bool,
}

/// The queue in front of a carrier.
pub(crate) struct Outbox {
    carrier: Arc<dyn Carrier>,
    queue: Mutex<Queue>,
    thread: Condvar,
    task: Notify,
    counts: Arc<Counting>,
}

impl Outbox {
    /// Starts what sends.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn start(carrier: Arc<dyn Carrier>, counts: Arc<Counting>) -> Result<Arc<Self>> {
        let outbox =
            Arc::new(Self { carrier, queue: Mutex::default(), thread: Condvar::new(), task: Notify::new(), counts });
        let running = Arc::clone(&outbox);
        if outbox.carrier.may_block() {
            std::thread::Builder::new().name("fleet".to_owned()).spawn(move || running.run_here())?;
        } else {
            drop(tokio::spawn(async move { running.run().await }));
        }
        Ok(outbox)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame of a link itself.
    pub(crate) fn send(&self, to: &Peer, frame: Bytes) {
        self.put(|queue| queue.jobs.push_back(Job::Send(to.clone(), frame)));
    }

    /// Does something with the carrier, where it may block.
    pub(crate) fn run_with_carrier(self: &Arc<Self>, work: impl FnOnce(&Arc<dyn Carrier>) + Send + 'static) {
        let carrier = Arc::clone(&self.carrier);
        self.put(|queue| queue.jobs.push_back(Job::Do(Box::new(move || work(&carrier)))));
    }

    /// Takes the frames of a lane when it is its turn.
    pub(crate) fn is_ready(&self, lane: Arc<LaneOut>) {
        self.put(|queue| queue.lanes.push_back(lane));
    }

    /// Ends once all of it is sent.
    pub(crate) fn close(&self) {
        self.put(|queue| queue.closed = true);
    }

    fn put(&self, change: impl FnOnce(&mut Queue)) {
        let wake = {
            let mut queue = self.lock();
            change(&mut queue);
            std::mem::take(&mut queue.is_waiting)
        };
        if wake {
            self.thread.notify_one();
            self.task.notify_one();
        }
    }

    /// The next thing to do; `None` if there is nothing, and then it counts as waiting.
    fn next(queue: &mut Queue) -> Option<Next> {
        let next = match queue.jobs.pop_front() {
            Some(job) => Some(Next::Job(job)),
            None => queue.lanes.pop_front().map(Next::Lane),
        };
        queue.is_waiting = next.is_none();
        next
    }

    fn run_here(&self) {
        loop {
            let next = {
                let mut queue = self.lock();
                loop {
                    match Self::next(&mut queue) {
                        Some(next) => break next,
                        None if queue.closed => return,
                        None => queue = self.thread.wait(queue).unwrap_or_else(PoisonError::into_inner),
                    }
                }
            };
            self.carry_out(next);
        }
    }

    async fn run(&self) {
        loop {
            let (next, closed) = {
                let mut queue = self.lock();
                (Self::next(&mut queue), queue.closed)
            };
            match next {
                Some(next) => self.carry_out(next),
                None if closed => return,
                None => self.task.notified().await,
            }
        }
    }

    fn carry_out(&self, next: Next) {
        match next {
            Next::Job(Job::Send(to, frame)) => self.send_now(&to, &Lane::Link, frame),
            Next::Job(Job::Do(work)) => work(),
            Next::Lane(lane) => {
                let (frame, more) = lane.take_frame();
                if let Some(frame) = frame {
                    self.send_now(&lane.link.peer, &lane.name, frame);
                }
                // The others first.
                if more {
                    self.is_ready(lane);
                }
            }
        }
    }

    /// A frame that cannot be sent is one that is lost.
    fn send_now(&self, to: &Peer, lane: &Lane, frame: Bytes) {
        self.counts.sent_frames.one();
        self.counts.sent_bytes.add(frame.len() as u64);
        if let Err(error) = self.carrier.send(to, lane, frame) {
            tracing::debug!(%to, ?lane, %error, "a frame was not sent");
        }
    }
}

enum Next {
    Job(Job),
    Lane(Arc<LaneOut>),
}
