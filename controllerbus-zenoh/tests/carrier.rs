//! The carrier alone: presence, frames and their limits, between sessions of one process.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use controllerbus_fleet::carrier::{Carrier, Guard, Lane, Peer, Presence, Seen, Which};
use controllerbus_fleet::config::FleetConfig;
use controllerbus_zenoh::{Ended, Zenoh};
use serde_json::{Value, json};
use zenoh_tests::places::{free_address, socket};
use zenoh_tests::relay::Relay;

const LIMIT: Duration = Duration::from_secs(30);

/// What came in, and a wait for it.
struct Heard<T> {
    all: Mutex<Vec<T>>,
    more: Condvar,
}

impl<T: Clone + std::fmt::Debug> Heard<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self { all: Mutex::default(), more: Condvar::new() })
    }

    fn push(&self, one: T) {
        self.all.lock().expect("what was heard").push(one);
        self.more.notify_all();
    }

    fn until(&self, what: &str, is: impl Fn(&[T]) -> bool) -> Vec<T> {
        let (mut all, limit) = (self.all.lock().expect("what was heard"), Instant::now() + LIMIT);
        while !is(&all) {
            let left = limit.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "waited for {what} in vain: {} were heard, the last: {:.500?}",
                all.len(),
                all.last()
            );
            all = self.more.wait_timeout(all, left).expect("what was heard").0;
        }
        all.clone()
    }
}

fn peer(host: &str, epoch: u64) -> Peer {
    Peer { host: host.into(), epoch }
}

fn config(json: Value) -> FleetConfig {
    serde_json::from_value(json).expect("a config")
}

/// A carrier, opened from a current-thread runtime, as small programs have one.
fn open(host: &str, json: Value) -> (Arc<Zenoh>, Ended) {
    try_open(host, json).expect("it opens")
}

fn try_open(host: &str, json: Value) -> controllerbus::Result<(Arc<Zenoh>, Ended)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // Hubs know each other by the numbers of their starts, no two of which are equal.
    let start = if host == "hub-2" { 2 } else { 1 };
    runtime.block_on(Zenoh::open(&config(json), peer(host, start), None))
}

fn end(opened: (Arc<Zenoh>, Ended)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    drop(opened.0);
    runtime.block_on(opened.1.wait());
}

fn watch(carrier: &Zenoh, which: Which) -> (Guard, Arc<Heard<Seen>>) {
    let heard = Heard::new();
    let tells = Arc::clone(&heard);
    (carrier.watch(which, Arc::new(move |seen| tells.push(seen))).expect("a watch"), heard)
}

/// Who is there, by all that was told.
fn present(told: &[Seen]) -> Vec<Presence> {
    let mut there = Vec::new();
    for seen in told {
        match seen {
            Seen::Present(who) if !there.contains(who) => there.push(who.clone()),
            Seen::Absent(who) => there.retain(|found| found != who),
            _ => {}
        }
    }
    there
}

type Frame = (Peer, Lane, Bytes);

fn receive(carrier: &Zenoh) -> (Guard, Arc<Heard<Frame>>) {
    let heard = Heard::new();
    let tells = Arc::clone(&heard);
    let into = Arc::new(move |from, lane, frame| tells.push((from, lane, frame)));
    (carrier.receive(into).expect("it receives"), heard)
}

#[test]
fn who_was_there_before_is_told_before_all_and_who_comes_and_goes_after_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = socket(folder.path());
    let hub = open("hub", json!({ "name": "shop", "listen": [place] }));
    let a = open("a", json!({ "name": "shop", "connect": [place] }));
    let id: Arc<str> = "example/greet".into();
    let _up = a.0.announce(Presence::Up(peer("a", 1))).expect("it is announced");
    let offer = a.0.announce(Presence::Offer(peer("a", 1), id.clone())).expect("it is announced");
    let (_at_hub, told) = watch(&hub.0, Which::Up);
    told.until("a at the hub", |told| present(told) == [Presence::Up(peer("a", 1))]);

    let b = open("b", json!({ "name": "shop", "connect": [place] }));
    let (_ups, ups) = watch(&b.0, Which::Up);
    let (_offers, offers) = watch(&b.0, Which::Offer(id.clone()));
    let (_others, others) = watch(&b.0, Which::Offer("example/other".into()));
    let told = ups.until("all", |told| told.contains(&Seen::All));
    assert_eq!(present(&told), [Presence::Up(peer("a", 1))]);
    let told = offers.until("all", |told| told.contains(&Seen::All));
    assert_eq!(present(&told), [Presence::Offer(peer("a", 1), id.clone())]);
    others.until("all", |told| *told == [Seen::All]);

    let own = b.0.announce(Presence::Up(peer("b", 1))).expect("it is announced");
    ups.until("this host, too", |told| present(told).contains(&Presence::Up(peer("b", 1))));
    drop(own);
    ups.until("it is gone", |told| !present(told).contains(&Presence::Up(peer("b", 1))));
    drop(offer);
    offers.until("the offer is gone", |told| present(told).is_empty());
    end(a);
    ups.until("nobody is left", |told| present(told).is_empty());
    let all = ups.until("all, once", |told| told.contains(&Seen::All));
    assert_eq!(all.iter().filter(|seen| **seen == Seen::All).count(), 1);
}

#[test]
fn hosts_of_another_fleet_are_not_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = socket(folder.path());
    let hub = open("hub", json!({ "name": "shop", "listen": [place] }));
    let _up = hub.0.announce(Presence::Up(peer("hub", 1))).expect("it is announced");
    let other = open("a", json!({ "name": "other", "connect": [place] }));
    let (_watch, told) = watch(&other.0, Which::Up);
    told.until("all, and nobody", |told| *told == [Seen::All]);
}

#[test]
fn frames_of_a_lane_arrive_whole_and_in_order_up_to_64_mib() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = socket(folder.path());
    let _hub = open("hub", json!({ "name": "shop", "listen": [place] }));
    let (a, b) = (
        open("a", json!({ "name": "shop", "connect": [place] })),
        open("b", json!({ "name": "shop", "connect": [place] })),
    );
    let (_receives, heard) = receive(&b.0);
    let (_ready, ready) = receive(&a.0);
    // Declared is not there yet at the other side: say it until it is heard.
    until_heard(&a.0, &peer("b", 1), &heard);
    until_heard(&b.0, &peer("a", 1), &ready);
    let lane = Lane::Directive("example/greet".into());
    for number in 0..500_u32 {
        let frame =
            Bytes::from(vec![u8::try_from(number % 251).expect("a byte"); usize::try_from(number).expect("a size")]);
        a.0.send(&peer("b", 1), &lane, frame).expect("it is sent");
    }
    let in_lane = |heard: &[Frame]| -> Vec<usize> {
        heard.iter().filter(|(_, of, _)| *of == lane).map(|(_, _, frame)| frame.len()).collect()
    };
    let all = heard.until("500 frames", |heard| in_lane(heard).len() == 500);
    assert_eq!(in_lane(&all), (0..500).collect::<Vec<_>>());
    assert!(all.iter().all(|(from, ..)| *from == peer("a", 1)));
    // On a machine that is too busy to take it for a second, the engine gives the connection up: what is lost is sent again.
    let (large, limit) = (Bytes::from(vec![7; 64 << 20]), Instant::now() + LIMIT * 3);
    let is_there = || heard.all.lock().expect("what was heard").iter().any(|(_, _, frame)| *frame == large);
    while !is_there() {
        assert!(Instant::now() < limit, "64 MiB do not arrive");
        a.0.send(&peer("b", 1), &lane, large.clone()).expect("it is sent");
        let soon = Instant::now() + Duration::from_secs(10);
        while !is_there() && Instant::now() < soon {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let error = a.0.send(&peer("b", 1), &lane, Bytes::from(vec![7; 65 << 20])).expect_err("it is too long").to_string();
    assert!(error.contains("is too long"), "{error}");
}

/// Sends until something has been received.
fn until_heard(from: &Zenoh, to: &Peer, heard: &Heard<Frame>) {
    let limit = Instant::now() + LIMIT;
    while heard.all.lock().expect("what was heard").is_empty() {
        assert!(Instant::now() < limit, "nothing is heard");
        from.send(to, &Lane::Link, Bytes::from_static(b"hello")).expect("it is sent");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_host_starts_without_its_hub_and_finds_it_later_whichever_of_the_list_it_is() {
    let (gone, place) = (free_address(), free_address());
    let a = open("a", json!({ "name": "shop", "connect": [gone, place] }));
    let _up = a.0.announce(Presence::Up(peer("a", 1))).expect("it is announced");
    let (_watch, told) = watch(&a.0, Which::Up);
    assert_eq!(a.0.links(), [format!("{gone}: does not answer"), format!("{place}: does not answer")]);
    let hub = open("hub", json!({ "name": "shop", "listen": [place] }));
    let (_at_hub, at_hub) = watch(&hub.0, Which::Up);
    at_hub.until("a at the hub", |told| present(told) == [Presence::Up(peer("a", 1))]);
    told.until("all", |told| told.contains(&Seen::All) && present(told) == [Presence::Up(peer("a", 1))]);
    assert!(a.0.links()[0].ends_with("connected"), "{:?}", a.0.links());
}

#[test]
fn hubs_that_swallow_what_they_are_sent_are_waited_for_and_the_one_after_them_is_used() {
    let dead: Vec<_> = (0..4).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a listener")).collect();
    let mut hubs: Vec<_> = dead.iter().map(|dead| dead.local_addr().expect("an address").to_string()).collect();
    let place = free_address();
    let hub = open("hub", json!({ "name": "shop", "listen": [place] }));
    hubs.push(place);
    let a = open("a", json!({ "name": "shop", "connect": hubs }));
    let _up = a.0.announce(Presence::Up(peer("a", 1))).expect("it is announced");
    let (_watch, told) = watch(&hub.0, Which::Up);
    told.until("a", |told| !present(told).is_empty());
}

#[test]
fn a_host_that_discovers_begins_without_a_hub_finds_it_by_multicast_and_again_when_it_is_restarted() {
    let place = free_address();
    // By the loopback device alone, at a port of this test's own.
    let multicast = format!("224.0.0.224:{}", zenoh_tests::places::free_port());
    let multicast = json!({ "scouting": { "multicast": { "interface": "127.0.0.1", "address": multicast } } });
    let a = open("a", json!({ "name": "shop", "discover": true, "zenoh": multicast }));
    let _up = a.0.announce(Presence::Up(peer("a", 1))).expect("it is announced");
    for _ in 0..2 {
        let hub = open("hub", json!({ "name": "shop", "listen": [place], "discover": true, "zenoh": multicast }));
        let (_watch, told) = watch(&hub.0, Which::Up);
        told.until("a at the hub", |told| present(told) == [Presence::Up(peer("a", 1))]);
        end(hub);
    }
    end(a);
}

#[test]
fn a_host_whose_hub_is_gone_goes_to_the_next_one_and_is_seen_there() {
    let (one, two) = (free_address(), free_address());
    let hub = open("hub-1", json!({ "name": "shop", "listen": [one] }));
    let next = open("hub-2", json!({ "name": "shop", "listen": [two], "connect": [one] }));
    let a = open("a", json!({ "name": "shop", "connect": [one, two] }));
    let _up = a.0.announce(Presence::Up(peer("a", 1))).expect("it is announced");
    let (_watch, told) = watch(&next.0, Which::Up);
    told.until("a through the first hub", |told| present(told) == [Presence::Up(peer("a", 1))]);
    end(hub);
    told.until("a is gone, and back", |told| {
        told.contains(&Seen::Absent(Presence::Up(peer("a", 1)))) && present(told) == [Presence::Up(peer("a", 1))]
    });
    let (_own, own) = watch(&a.0, Which::Up);
    own.until("itself", |told| present(told) == [Presence::Up(peer("a", 1))]);
}

#[test]
fn a_cut_withdraws_presence_within_the_lease_and_it_is_back_when_healed() {
    let place = free_address();
    let hub = open("hub", json!({ "name": "shop", "listen": [place] }));
    let relay = Relay::to(&place);
    let a = open("a", json!({ "name": "shop", "connect": [relay.address()] }));
    let _up = a.0.announce(Presence::Up(peer("a", 1))).expect("it is announced");
    let (_watch, told) = watch(&hub.0, Which::Up);
    told.until("a", |told| !present(told).is_empty());
    relay.hold();
    told.until("a is gone", |told| present(told).is_empty());
    relay.heal();
    told.until("a is back", |told| !present(told).is_empty());
}

#[test]
fn an_address_in_use_is_refused_with_what_to_do_and_can_be_used_when_it_is_free() {
    let place = free_address();
    let hub = open("hub", json!({ "name": "shop", "listen": [place] }));
    let error = try_open("other", json!({ "name": "shop", "listen": [place] })).expect_err("it is in use").to_string();
    assert!(error.contains(&place) && error.contains("another program listens there"), "{error}");
    end(hub);
    end(open("hub", json!({ "name": "shop", "listen": [place] })));
}

#[test]
fn a_socket_in_the_file_system_can_be_used_again_after_a_crash_left_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hub.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let place = format!("unix:{}", path.display());
    let hub = open("hub", json!({ "name": "shop", "listen": [place] }));
    let a = open("a", json!({ "name": "shop", "connect": [place] }));
    let _up = a.0.announce(Presence::Up(peer("a", 1))).expect("it is announced");
    let (_watch, told) = watch(&hub.0, Which::Up);
    told.until("a", |told| !present(told).is_empty());
}

#[test]
fn many_starts_and_ends_leave_no_thread_and_no_socket() {
    let count = || {
        let sockets = std::fs::read_dir("/proc/self/fd").expect("open files").filter_map(|entry| {
            let to = std::fs::read_link(entry.ok()?.path()).ok()?;
            to.to_string_lossy().starts_with("socket:").then_some(())
        });
        (std::fs::read_dir("/proc/self/task").expect("threads").count(), sockets.count())
    };
    // Other tests of this process have threads, too: those are counted in a process of its own.
    if std::env::var_os("ZENOH_TESTS_ALONE").is_none() {
        let name = "many_starts_and_ends_leave_no_thread_and_no_socket";
        let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
        let status = command.args(["--exact", name, "--test-threads=1"]).env("ZENOH_TESTS_ALONE", "1").status();
        assert!(status.expect("it runs").success());
        return;
    }
    let round = || {
        let place = free_address();
        let hub = open("hub", json!({ "name": "shop", "listen": [place] }));
        let a = open("a", json!({ "name": "shop", "connect": [place] }));
        let _up = a.0.announce(Presence::Up(peer("a", 1))).expect("it is announced");
        let (watch, told) = watch(&hub.0, Which::Up);
        told.until("a", |told| !present(told).is_empty());
        drop(watch);
        end(a);
        end(hub);
    };
    // The engine's own runtimes start once, and stay.
    round();
    round();
    let before = count();
    for _ in 0..5 {
        round();
    }
    let limit = Instant::now() + LIMIT;
    while count().0 > before.0 || count().1 > before.1 {
        assert!(Instant::now() < limit, "threads and sockets: {before:?} before, {:?} after", count());
        std::thread::sleep(Duration::from_millis(20));
    }
}
