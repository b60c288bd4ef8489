//! What sends: a task, which is where the frames are made and so wakes nobody; and a thread, for what may block.
//!
//! One of the two has its turn, and the other one waits. It is the task's while there is room for all that is on its way: the carrier
//! takes a small frame at once then ([`Carrier::try_send`]). What may block is the thread's, with all that comes until nothing waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use controllerbus::Result;
use tokio::sync::Notify;

use crate::carrier::{Carrier, Lane, Peer};
use crate::counts::Counting;
use crate::link::lane::LaneOut;

/// As much may be on its way, to all hosts, that a small frame is sure not to wait for room. Hosts report this much at once.
const LITTLE: usize = 64 << 10;

/// How long a small frame is.
const SMALL: usize = 16 << 10;

type Work = Box<dyn FnOnce() + Send>;

enum Job {
    Send(Peer, Lane, Bytes),
    Do(Work),
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Turn {
    #[default]
    Task,
    Thread,
}

/// What waits to be sent.
#[derive(Default)]
struct Queue {
    /// Of the links themselves, and what else is asked of the carrier: first.
    jobs: VecDeque<Job>,
    /// The lanes that have frames, each once: in turn.
    lanes: VecDeque<Arc<LaneOut>>,
    turn: Turn,
    /// Whoever has the turn waits.
    is_waiting: bool,
    closed: bool,
    /// It has ended, or was dropped with its runtime.
    without_task: bool,
}

/// The queue in front of a carrier.
pub(crate) struct Outbox {
    carrier: Arc<dyn Carrier>,
    queue: Mutex<Queue>,
    thread: Condvar,
    task: Notify,
    /// How many bytes of lanes are on their way.
    pub(crate) unseen: AtomicUsize,
    counts: Arc<Counting>,
}

impl Outbox {
    /// Starts what sends.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn start(carrier: Arc<dyn Carrier>, counts: Arc<Counting>) -> Result<Arc<Self>> {
        let outbox = Arc::new(Self {
            carrier,
            queue: Mutex::default(),
            thread: Condvar::new(),
            task: Notify::new(),
            unseen: AtomicUsize::new(0),
            counts,
        });
        if outbox.carrier.may_block() {
            let running = Arc::clone(&outbox);
            std::thread::Builder::new().name("fleet".to_owned()).spawn(move || running.run_here())?;
        }
        let running = Arc::clone(&outbox);
        drop(tokio::spawn(async move { running.run().await }));
        Ok(outbox)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame of a link itself.
    pub(crate) fn send(&self, to: &Peer, frame: Bytes) {
        self.put(|queue| queue.jobs.push_back(Job::Send(to.clone(), Lane::Link, frame)));
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
        let woken = {
            let mut queue = self.lock();
            change(&mut queue);
            std::mem::take(&mut queue.is_waiting).then_some(queue.turn)
        };
        match woken {
            Some(Turn::Task) => self.task.notify_one(),
            Some(Turn::Thread) => self.thread.notify_one(),
            None => {}
        }
    }

    /// The thread's part: what it is given, until nothing waits.
    fn run_here(&self) {
        let mut queue = self.lock();
        loop {
            let next = if queue.turn == Turn::Thread { queue.next() } else { None };
            let Some(next) = next else {
                if queue.turn == Turn::Thread {
                    (queue.turn, queue.is_waiting) = (Turn::Task, !queue.closed);
                    // It ends first, and so this thread with nothing left to do.
                    if queue.closed {
                        self.task.notify_one();
                    }
                }
                if queue.closed && queue.without_task && queue.is_empty() {
                    return;
                }
                queue = self.thread.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queue);
            match next {
                Next::Job(Job::Send(to, lane, frame)) => self.send_now(&to, &lane, frame),
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
            queue = self.lock();
        }
    }

    /// The task's part: what does not block.
    async fn run(&self) {
        let _task = Task(self);
        loop {
            let waits = {
                let mut queue = self.lock();
                let is_own = queue.turn == Turn::Task;
                if is_own && queue.is_empty() {
                    if queue.closed {
                        return;
                    }
                    queue.is_waiting = true;
                }
                !is_own || queue.is_empty()
            };
            if waits {
                self.task.notified().await;
            } else {
                // Tasks that are ready add to the frames first, where a frame costs something.
                if self.carrier.may_block() {
                    tokio::task::yield_now().await;
                }
                self.send_little();
            }
        }
    }

    /// Sends what waits, as far as that does not block.
    fn send_little(&self) {
        loop {
            let next = {
                let mut queue = self.lock();
                if self.is_for_the_thread(&queue) {
                    queue.turn = Turn::Thread;
                    self.thread.notify_one();
                    return;
                }
                queue.next()
            };
            let (to, lane, frame) = match next {
                Some(Next::Job(Job::Send(to, lane, frame))) => (to, lane, frame),
                Some(Next::Job(Job::Do(work))) => {
                    work();
                    continue;
                }
                Some(Next::Lane(lane)) => {
                    let (frame, more) = lane.take_frame();
                    let (to, name) = (lane.link.peer.clone(), lane.name.clone());
                    if more {
                        self.is_ready(lane);
                    }
                    let Some(frame) = frame else { continue };
                    (to, name, frame)
                }
                None => return,
            };
            if !self.carrier.may_block() {
                self.send_now(&to, &lane, frame);
                continue;
            }
            let length = frame.len();
            let left = if length > SMALL { Some(frame) } else { self.carrier.try_send(&to, &lane, frame) };
            match left {
                None => self.count(length),
                Some(frame) => {
                    let mut queue = self.lock();
                    queue.jobs.push_front(Job::Send(to, lane, frame));
                    queue.turn = Turn::Thread;
                    self.thread.notify_one();
                    return;
                }
            }
        }
    }

    fn is_for_the_thread(&self, queue: &Queue) -> bool {
        // Frames of the links themselves are not counted, and so it is not known that there is room for them.
        let is_much = !queue.lanes.is_empty() && self.unseen.load(Ordering::Relaxed) > LITTLE;
        self.carrier.may_block() && (!queue.jobs.is_empty() || is_much)
    }

    fn count(&self, bytes: usize) {
        self.counts.sent_frames.one();
        self.counts.sent_bytes.add(bytes as u64);
    }

    /// A frame that cannot be sent is one that is lost.
    fn send_now(&self, to: &Peer, lane: &Lane, frame: Bytes) {
        self.count(frame.len());
        if let Err(error) = self.carrier.send(to, lane, frame) {
            tracing::debug!(%to, ?lane, %error, "a frame was not sent");
        }
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.lanes.is_empty()
    }

    fn next(&mut self) -> Option<Next> {
        match self.jobs.pop_front() {
            Some(job) => Some(Next::Job(job)),
            None => self.lanes.pop_front().map(Next::Lane),
        }
    }
}

/// The task, until this is dropped: all that is left then is the thread's, which ends with it.
struct Task<'a>(&'a Outbox);

impl Drop for Task<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        (queue.turn, queue.closed, queue.without_task) = (Turn::Thread, true, true);
        drop(queue);
        self.0.thread.notify_one();
    }
}

enum Next {
    Job(Job),
    Lane(Arc<LaneOut>),
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::carrier::{Guard, Presence, Seen, Which};

    struct Nowhere;

    impl Carrier for Nowhere {
        fn own(&self) -> Peer {
            Peer { host: "nowhere".into(), epoch: 1 }
        }
        fn announce(&self, _: Presence) -> Result<Guard> {
            Ok(Box::new(()))
        }
        fn watch(&self, _: Which, _: Arc<dyn Fn(Seen) + Send + Sync>) -> Result<Guard> {
            Ok(Box::new(()))
        }
        fn send(&self, _: &Peer, _: &Lane, _: Bytes) -> Result<()> {
            Ok(())
        }
        fn receive(&self, _: Arc<dyn Fn(Peer, Lane, Bytes) + Send + Sync>) -> Result<Guard> {
            Ok(Box::new(()))
        }
    }

    #[test]
    fn what_is_left_when_the_runtime_goes_is_done_by_the_thread_which_ends_then() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        let outbox = runtime.block_on(async { Outbox::start(Arc::new(Nowhere), Arc::default()).expect("it starts") });
        let (begun, begins) = std::sync::mpsc::channel();
        let done = Arc::new(AtomicBool::new(false));
        let also = Arc::clone(&done);
        outbox.run_with_carrier(move |_| {
            let _ = begun.send(());
            std::thread::sleep(Duration::from_millis(50));
        });
        outbox.run_with_carrier(move |_| also.store(true, Ordering::Release));
        begins.recv().expect("it begins");
        drop(runtime);
        let limit = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&outbox) > 1 {
            assert!(Instant::now() < limit, "the thread does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(done.load(Ordering::Acquire));
    }
}
