//! Values that are larger than the windows, and many that fill them: nothing waits for the time at which it would be reported by itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use controllerbus::prelude::*;
use controllerbus_fleet::carrier::{Carrier, Guard, Lane, Peer, Presence, Seen, Which};
use controllerbus_fleet::memory::{Faults, Memory, Network};
use controllerbus_fleet::{Fleet, FleetOptions};
use tokio::time::Instant;

use crate::kit::{Answers, Host, Lamp, Requester, after, asks, lamp, offers, until};

/// The longest that a frame is on its way.
const LATENCY: Duration = Duration::from_millis(1);

/// There and back. The clock goes on by whole milliseconds, so each way may take one more.
const ROUND_TRIP: Duration = Duration::from_millis(4);

const SEEN: u8 = 4;
const WAITS: u8 = 128;

fn network() -> Network {
    let network = Network::new(1);
    network.set_faults(Faults { delay: LATENCY, ..Faults::default() });
    network
}

/// What becomes of a frame.
enum Fate {
    Arrives,
    Lost,
    Late(Duration),
}

/// A carrier that loses or delays what it is told to.
struct Picky<F> {
    memory: Arc<Memory>,
    fate: F,
}

impl<F: Fn(&Lane, &Bytes) -> Fate + Send + Sync + 'static> Carrier for Picky<F> {
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
        match (self.fate)(lane, &frame) {
            Fate::Arrives => self.memory.send(to, lane, frame),
            Fate::Lost => Ok(()),
            Fate::Late(time) => {
                let (memory, to, lane) = (Arc::clone(&self.memory), to.clone(), lane.clone());
                drop(tokio::spawn(async move {
                    after(time).await;
                    let _ = memory.send(&to, &lane, frame);
                }));
                Ok(())
            }
        }
    }
    fn receive(&self, into: Arc<dyn Fn(Peer, Lane, Bytes) + Send + Sync>) -> Result<Guard> {
        self.memory.receive(into)
    }
    fn may_block(&self) -> bool {
        false
    }
}

/// A host on a carrier that decides about each frame.
async fn picky(
    network: &Network,
    name: &str,
    bus: Bus,
    options: FleetOptions,
    fate: impl Fn(&Lane, &Bytes) -> Fate + Send + Sync + 'static,
) -> Host {
    let carrier = Arc::new(Picky { memory: network.host(name), fate });
    let fleet = Fleet::join(&bus, carrier, options).await.expect("it joins");
    Host { bus, fleet }
}

/// The same, where what is late delays what comes after it on its lane.
async fn ordered(
    network: &Network,
    name: &str,
    bus: Bus,
    options: FleetOptions,
    fate: impl Fn(&Lane, &Bytes) -> Fate + Send + Sync + 'static,
) -> Host {
    let free = Mutex::new(Instant::now());
    let in_order = move |lane: &Lane, frame: &Bytes| {
        let fate = fate(lane, frame);
        if *lane == Lane::Link {
            return fate;
        }
        let (mut free, now) = (free.lock().unwrap(), Instant::now());
        *free = (*free).max(now) + if let Fate::Late(time) = fate { time } else { Duration::ZERO };
        if *free > now { Fate::Late(*free - now) } else { fate }
    };
    picky(network, name, bus, options, in_order).await
}

/// Those whose first byte is this one, of a link itself.
fn is_kind(lane: &Lane, frame: &Bytes, kind: u8) -> bool {
    *lane == Lane::Link && frame.first() == Some(&kind)
}

/// A host that answers what the test says, and one that asks it.
async fn pair(network: &Network) -> (Host, Answers<Lamp>, Host, Requester<Lamp>) {
    let bus = Bus::new();
    let (answers, _) = Answers::on(&bus, |_: &Lamp, _| {});
    let one = Host::with_bus(network, "one", bus, offers()).await;
    let asker = Host::join(network, "asker", asks()).await;
    let hall = asked(&answers, &asker).await;
    (one, answers, asker, hall)
}

async fn asked(answers: &Answers<Lamp>, asker: &Host) -> Requester<Lamp> {
    let hall = Requester::of(&asker.bus, lamp("hall"));
    until("it is asked", || answers.runs() == 1).await;
    hall
}

/// How long a value takes from one host to the other.
async fn takes(hall: &mut Requester<Lamp>, set: impl FnOnce()) -> Duration {
    let (begun, before) = (Instant::now(), hall.told.len());
    set();
    while !hall.told[before..].iter().any(|told| told.starts_with("+x")) {
        hall.next().await;
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_value_of_many_mib_takes_two_round_trips_at_most() {
    let network = network();
    let (_one, answers, _asker, mut hall) = pair(&network).await;
    let mut slot = answers.last().slot();
    for mib in [1, 60, 16, 1] {
        for small in [0, 1, 400] {
            // What is not reported by itself is on its way before it, and holds some of the room.
            for number in 0..small {
                answers.last().add(format!("{number} {}", "y".repeat(100)));
                while !hall.next().await.starts_with('+') {}
            }
            let took = takes(&mut hall, || slot.set("x".repeat(mib << 20))).await;
            assert!(took <= 2 * ROUND_TRIP, "{mib} MiB after {small} small ones took {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_values_take_two_round_trips_for_each_window_at_most() {
    let network = network();
    let (_one, answers, _asker, mut hall) = pair(&network).await;
    for (values, kib) in [(100, 100), (200, 50), (100, 63), (40, 200), (40, 250), (40, 300)] {
        let begun = Instant::now();
        let mut sent = 0;
        for number in 0..values {
            let value = format!("{number} {}", "x".repeat(kib << 10));
            sent += value.len() + 24;
            answers.last().add(value);
        }
        let mut left = values;
        while left > 0 {
            left -= usize::from(hall.next().await.starts_with('+'));
        }
        let windows =
            u32::try_from(sent.div_ceil(256 << 10)).expect("few").max(if kib > 128 { values as u32 } else { 0 });
        let most = 2 * ROUND_TRIP * (windows + 1);
        assert!(begun.elapsed() <= most, "{values} of {kib} KiB took {:?}, and not {most:?}", begun.elapsed());
    }
}

/// Loses or delays the first frames of a kind, of the host that answers or the one that asks.
async fn in_spite_of(of_asker: bool, kind: u8, late: Option<Duration>) {
    let network = network();
    let left = Arc::new(AtomicUsize::new(0));
    let (counted, met) = (Arc::clone(&left), Arc::<Mutex<usize>>::default());
    let seen = Arc::clone(&met);
    let fate = move |lane: &Lane, frame: &Bytes| {
        if !is_kind(lane, frame, kind) {
            return Fate::Arrives;
        }
        let hit = counted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if !hit {
            return Fate::Arrives;
        }
        *seen.lock().unwrap() += 1;
        late.map_or(Fate::Lost, Fate::Late)
    };
    let arrives = |_: &Lane, _: &Bytes| Fate::Arrives;
    let bus = Bus::new();
    let (answers, _) = Answers::on(&bus, |_: &Lamp, _| {});
    let (_one, asker) = if of_asker {
        let one = picky(&network, "one", bus, offers(), arrives).await;
        (one, picky(&network, "asker", Bus::new(), asks(), fate).await)
    } else {
        let one = picky(&network, "one", bus, offers(), fate).await;
        (one, picky(&network, "asker", Bus::new(), asks(), arrives).await)
    };
    let mut hall = asked(&answers, &asker).await;
    let mut slot = answers.last().slot();
    for _ in 0..6 {
        // All is quiet, and nothing is lost that does not matter.
        after(Duration::from_secs(1)).await;
        left.store(1, Ordering::SeqCst);
        for _ in 0..3 {
            for _ in 0..60 {
                answers.last().add("y".repeat(1000));
                while !hall.next().await.starts_with('+') {}
            }
            let took = takes(&mut hall, || slot.set("x".repeat(1 << 20))).await;
            assert!(took <= Duration::from_millis(100) + 2 * ROUND_TRIP, "it took {took:?}");
        }
    }
    assert!(*met.lock().unwrap() >= 6, "it was hit {} times", met.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_lost_or_late_or_its_answer_delays_a_large_value_by_a_tenth_of_a_second_at_most() {
    for late in
        [None, Some(Duration::from_millis(3)), Some(Duration::from_millis(40)), Some(Duration::from_millis(300))]
    {
        in_spite_of(false, WAITS, late).await;
        in_spite_of(true, SEEN, late).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_takes_long_is_not_missed_for_that() {
    let network = network();
    // Frames of a link itself overtake those of its lanes, as they do in an engine that has priorities.
    let slow = |lane: &Lane, frame: &Bytes| match lane {
        Lane::Directive(_) if frame.len() > 1 << 20 => Fate::Late(Duration::from_secs(5)),
        _ => Fate::Arrives,
    };
    let bus = Bus::new();
    let (answers, _) = Answers::on(&bus, |_: &Lamp, _| {});
    let one = ordered(&network, "one", bus, offers(), slow).await;
    let asker = Host::join(&network, "asker", asks()).await;
    let mut hall = asked(&answers, &asker).await;
    let resyncs = || one.fleet.counts().resyncs + asker.fleet.counts().resyncs;
    let before = resyncs();
    let took = takes(&mut hall, || {
        answers.last().add("x".repeat(60 << 20));
    })
    .await;
    assert!(took < Duration::from_millis(5100), "it took {took:?}");
    after(Duration::from_secs(10)).await;
    assert_eq!(resyncs(), before, "it was told again");
    // What is lost after it is missed as ever.
    answers.last().add("more".to_owned());
    while !hall.next().await.starts_with("+more") {}
}

macro_rules! rooms {
    ($($name:ident $id:literal),*) => {
        $(
            #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
            #[directive(id = $id, value = String)]
            struct $name {
                pad: String,
            }
        )*

        /// A host that asks something of each lane, all at once.
        async fn all_rooms(network: &Network, kib: usize) -> Duration {
            let bus = Bus::new();
            $(let (_answers, _) = Answers::on(&bus, |_: &$name, values| values.idle());)*
            let _one = Host::with_bus(network, "one", bus, offers()).await;
            let options = FleetOptions::new("shop")$(.asks($id))*;
            let asker = Host::join(network, "asker", options).await;
            until("it is linked", || asker.fleet.counts().links == 1).await;
            let begun = Instant::now();
            let all = [$(asker.bus.handle().raw(Arc::new($name { pad: "x".repeat(kib << 10) })).expect("a request"),)*];
            until("all is asked", || _one.fleet.counts().asked as usize == all.len()).await;
            begun.elapsed()
        }
    };
}

rooms!(
    A "house/a", B "house/b", C "house/c", D "house/d", E "house/e", F "house/f", G "house/g", H "house/h", I "house/i",
    J "house/j", K "house/k", L "house/l", M "house/m", N "house/n", O "house/o", P "house/p", Q "house/q", R "house/r"
);

#[tokio::test(start_paused = true)]
async fn many_lanes_fill_the_window_of_their_link_without_waiting_for_each_others_reports() {
    for kib in [20, 40, 60, 120, 300] {
        let took = all_rooms(&network(), kib).await;
        let windows = u32::try_from(18 * kib).expect("few").div_ceil(512).max(if kib > 240 { 18 } else { 0 });
        assert!(took <= 2 * ROUND_TRIP * (windows + 1), "18 asks of {kib} KiB took {took:?}");
    }
}
