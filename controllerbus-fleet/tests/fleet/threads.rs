//! A carrier whose functions block, on a runtime of several threads and by the real clock.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use controllerbus::prelude::*;
use controllerbus_fleet::Fleet;
use controllerbus_fleet::carrier::{Carrier, Guard, Lane, Peer, Presence, Seen, Which};
use controllerbus_fleet::memory::{Memory, Network};

use crate::kit::{Requester, asks, lamp, lamps, offers, until};

/// One that is never to be called on a thread of tokio.
struct Blocking {
    memory: Arc<Memory>,
    calls: Arc<AtomicUsize>,
    /// Of what was given by it and not dropped.
    guards: Arc<AtomicUsize>,
    /// Who has it locked keeps the carrier from everything.
    gate: Arc<Mutex<()>>,
    /// How many calls are at the gate.
    waiting: Arc<AtomicUsize>,
}

impl Blocking {
    fn new(network: &Network, name: &str) -> Self {
        Self {
            memory: network.host(name),
            calls: Arc::default(),
            guards: Arc::default(),
            gate: Arc::default(),
            waiting: Arc::default(),
        }
    }

    fn guard(&self, guard: Guard) -> Guard {
        self.guards.fetch_add(1, Ordering::SeqCst);
        Box::new(BlockingGuard(guard, Arc::clone(&self.guards)))
    }

    fn blocks(&self) {
        assert!(tokio::runtime::Handle::try_current().is_err(), "this thread must not be blocked");
        self.calls.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_micros(200));
        self.waiting.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.lock().unwrap());
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What may block, too, when it is dropped.
struct BlockingGuard(#[allow(dead_code)] Guard, Arc<AtomicUsize>);

impl Drop for BlockingGuard {
    fn drop(&mut self) {
        assert!(tokio::runtime::Handle::try_current().is_err(), "this thread must not be blocked");
        std::thread::sleep(Duration::from_millis(20));
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Carrier for Blocking {
    fn own(&self) -> Peer {
        self.memory.own()
    }
    fn announce(&self, what: Presence) -> Result<Guard> {
        self.blocks();
        Ok(self.guard(self.memory.announce(what)?))
    }
    fn watch(&self, which: Which, told: Arc<dyn Fn(Seen) + Send + Sync>) -> Result<Guard> {
        self.blocks();
        Ok(self.guard(self.memory.watch(which, told)?))
    }
    fn send(&self, to: &Peer, lane: &Lane, frame: Bytes) -> Result<()> {
        self.blocks();
        self.memory.send(to, lane, frame)
    }
    fn receive(&self, into: Arc<dyn Fn(Peer, Lane, Bytes) + Send + Sync>) -> Result<Guard> {
        self.blocks();
        Ok(self.guard(self.memory.receive(into)?))
    }
}

/// Eight tasks ask for fifty lamps each, one after the other.
async fn ask_from_eight_tasks(here: &Bus, name: impl Fn(usize, usize) -> String + Clone + Send + 'static) {
    let asking: Vec<_> = (0..8)
        .map(|task| {
            let (here, name) = (here.clone(), name.clone());
            tokio::spawn(async move {
                for number in 0..50 {
                    let name = name(task, number);
                    let mut room = Requester::of(&here, lamp(&name));
                    room.stands(&[&format!("{name} by one")]).await;
                }
            })
        })
        .collect();
    for asking in asking {
        asking.await.expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_carrier_that_blocks_is_called_on_a_thread_of_its_own_until_the_host_has_left() {
    let network = Network::new(1);
    let (left, right) = (Arc::new(Blocking::new(&network, "one")), Arc::new(Blocking::new(&network, "asker")));
    let (there, here) = (Bus::new(), Bus::new());
    let answers = lamps(&there, "one");
    let one = Fleet::join(&there, Arc::clone(&left) as _, offers()).await.expect("it joins");
    let asker = Fleet::join(&here, Arc::clone(&right) as _, asks()).await.expect("it joins");
    ask_from_eight_tasks(&here, |task, number| format!("{task} {number}")).await;
    assert_eq!(answers.runs(), 400);
    assert!(left.calls.load(Ordering::SeqCst) > 20);
    one.leave().await;
    assert_eq!(left.guards.load(Ordering::SeqCst), 0, "all is said and given back: the process may end");
    asker.leave().await;
    assert_eq!(right.guards.load(Ordering::SeqCst), 0);
    assert!(there.directives().is_empty() && here.directives().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_id_that_is_back_before_its_withdrawal_was_sent_is_offered_again() {
    let network = Network::new(1);
    let carrier = Arc::new(Blocking::new(&network, "one"));
    let (there, here) = (Bus::new(), Bus::new());
    let (_, goes) = crate::kit::Answers::on(&there, |_: &crate::kit::Lamp, _| {});
    let _one = Fleet::join(&there, Arc::clone(&carrier) as _, offers()).await.expect("it joins");
    let _asker = Fleet::join(&here, network.host("asker"), asks()).await.expect("it joins");
    let offered = || here.controllers().iter().any(|one| one.info.config_id == "controllerbus/fleet/host");
    until("it is offered", offered).await;
    let gate = Arc::clone(&carrier.gate);
    let (waiting, blocked) = (Arc::clone(&carrier.waiting), tokio::sync::oneshot::channel());
    let (open, is_open) = std::sync::mpsc::channel::<()>();
    let blocking = std::thread::spawn(move || {
        let _closed = gate.lock().unwrap();
        // A ping comes within a second.
        while waiting.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = blocked.0.send(());
        let _ = is_open.recv();
    });
    blocked.1.await.expect("it blocks");
    there.remove_controller(goes).await;
    // It lingers for half a second, and then is to be withdrawn.
    tokio::time::sleep(Duration::from_millis(800)).await;
    let _lamps = lamps(&there, "one");
    // It is seen that it is back.
    tokio::time::sleep(Duration::from_millis(200)).await;
    open.send(()).expect("the thread waits");
    blocking.join().expect("it ends");
    let mut hall = Requester::of(&here, lamp("hall"));
    hall.stands(&["hall by one"]).await;
    // A host that withdraws is believed after a while.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(offered() && hall.standing() == ["hall by one"]);
}

/// One that takes small frames at once, and gives some of them back.
struct Eager {
    memory: Arc<Memory>,
    at_once: AtomicUsize,
    by_thread: AtomicUsize,
    sends: AtomicBool,
}

impl Eager {
    fn new(network: &Network, name: &str) -> Arc<Self> {
        let (at_once, by_thread, sends) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { memory: network.host(name), at_once, by_thread, sends })
    }

    fn pass_on(&self, to: &Peer, lane: &Lane, frame: Bytes) {
        assert!(!self.sends.swap(true, Ordering::SeqCst), "one after the other");
        self.memory.send(to, lane, frame).expect("it is sent");
        self.sends.store(false, Ordering::SeqCst);
    }
}

impl Carrier for Eager {
    fn own(&self) -> Peer {
        self.memory.own()
    }
    fn announce(&self, what: Presence) -> Result<Guard> {
        self.memory.announce(what)
    }
    fn watch(&self, which: Which, told: Arc<dyn Fn(Seen) + Send + Sync>) -> Result<Guard> {
        self.memory.watch(which, told)
    }
    fn send(&self, to: &Peer, lane: &Lane, frame: Bytes) -> Result<()> {
        assert!(tokio::runtime::Handle::try_current().is_err(), "this thread must not be blocked");
        self.by_thread.fetch_add(1, Ordering::SeqCst);
        self.pass_on(to, lane, frame);
        Ok(())
    }
    fn try_send(&self, to: &Peer, lane: &Lane, frame: Bytes) -> Option<Bytes> {
        assert!(tokio::runtime::Handle::try_current().is_ok(), "it is called where the frames are made");
        assert!(frame.len() <= 16 << 10, "{} bytes are not little", frame.len());
        if self.at_once.fetch_add(1, Ordering::SeqCst) % 10 == 9 {
            return Some(frame);
        }
        self.pass_on(to, lane, frame);
        None
    }
    fn receive(&self, into: Arc<dyn Fn(Peer, Lane, Bytes) + Send + Sync>) -> Result<Guard> {
        self.memory.receive(into)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_little_is_sent_at_once_and_the_rest_by_a_thread_in_one_order() {
    let network = Network::new(1);
    let (left, right) = (Eager::new(&network, "one"), Eager::new(&network, "asker"));
    let (there, here) = (Bus::new(), Bus::new());
    let answers = lamps(&there, "one");
    let one = Fleet::join(&there, Arc::clone(&left) as _, offers()).await.expect("it joins");
    let asker = Fleet::join(&here, Arc::clone(&right) as _, asks()).await.expect("it joins");
    // Every fourth is not little.
    let long = |number| "x".repeat(if number % 4 == 3 { 40 << 10 } else { 4 });
    ask_from_eight_tasks(&here, move |task, number| format!("{task} {number} {}", long(number))).await;
    assert_eq!(answers.runs(), 400);
    assert_eq!(asker.counts().resyncs + one.counts().resyncs, 0, "none overtook another");
    for carrier in [&left, &right] {
        let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        assert!(
            count(&carrier.at_once) > 0 && count(&carrier.by_thread) > 0,
            "{:?}",
            (&carrier.at_once, &carrier.by_thread)
        );
    }
    // What is asked alone wakes no thread.
    let before = right.by_thread.load(Ordering::SeqCst);
    for number in 0..100 {
        let name = format!("alone {number}");
        Requester::of(&here, lamp(&name)).stands(&[&format!("{name} by one")]).await;
    }
    let by_thread = right.by_thread.load(Ordering::SeqCst) - before;
    assert!(by_thread <= 100, "a tenth was given back, with what came meanwhile: {by_thread}");
    one.leave().await;
    asker.leave().await;
    assert!(there.directives().is_empty() && here.directives().is_empty());
}
