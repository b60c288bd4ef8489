//! Placement on a fleet of buses: `count` under the loss of hosts, `exclusive` under cuts, sets that nobody may change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::Running;
use controllerbus::controller::{BoxFuture, Info, factory::FactoryOf};
use controllerbus::prelude::*;
use hot_runtime::sign::{PublicKey, SecretKey};
use tokio::time::{Instant, sleep};

use super::{Faulty, View, key};
use crate::clock::Clock;
use crate::placement::{Ends, PlacementHost, PlacementHosts, PlacementOptions, SetPublisher, place};
use crate::store::{Objects, Store};

/// What ran: its number, and when. Of all hosts.
static LOG: Mutex<Vec<(u64, Instant)>> = Mutex::new(Vec::new());

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "sim/worker")]
struct WorkerConfig {
    #[serde(default)]
    fence: u64,
}

/// Writes into the log for as long as it runs.
struct Worker(u64);

impl Controller for Worker {
    type Config = WorkerConfig;

    async fn construct(config: WorkerConfig, _: &Context) -> Result<Self> {
        Ok(Self(config.fence))
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        while !context.is_cancelled() {
            if self.0 > 0 {
                LOG.lock().expect("log").push((self.0, Instant::now()));
            }
            tokio::select! {
                () = sleep(Duration::from_millis(250)) => {}
                () = context.cancelled() => {}
            }
        }
        Ok(())
    }
}

/// Ends what runs by taking its config off.
struct TakesOff(Bus);

impl Ends for TakesOff {
    fn check(&self, _: &str, _: &str) -> crate::Result<()> {
        Ok(())
    }

    fn end<'a>(&'a self, key: &'a str, _: Duration) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            self.0.remove_config(key).await;
            true
        })
    }
}

struct Host {
    bus: Bus,
    /// For how long it was asleep, in milliseconds: its clock goes on then, and its timers do not.
    asleep_ms: Arc<AtomicU64>,
    view: Arc<View>,
    placement: Option<Running>,
    options: PlacementOptions,
}

struct Fleet {
    objects: Arc<Faulty>,
    folder: tempfile::TempDir,
    public: PublicKey,
    hosts: Vec<Host>,
    there: tokio::sync::watch::Sender<Vec<PlacementHost>>,
}

impl Fleet {
    fn new() -> (Self, SecretKey) {
        let folder = tempfile::tempdir().expect("a folder");
        let (secret, public) = key(folder.path(), "mine");
        let objects = Arc::new(Faulty::default());
        objects.latency_ms.store(20, Ordering::Relaxed);
        let there = tokio::sync::watch::Sender::new(Vec::new());
        (Self { objects, folder, public, hosts: Vec::new(), there }, secret)
    }

    fn store(&self) -> Store {
        Store::over("memory://placement", Arc::clone(&self.objects) as Arc<dyn Objects>)
    }

    fn add(&mut self, name: &str) {
        let bus = Bus::new();
        let info = Info::new("sim/worker", semver::Version::new(1, 0, 0), "sim/worker");
        bus.add_factories(controllerbus::bus::Source::STATIC, vec![FactoryOf::<Worker>::with_info(info)]);
        let view = View::new(&self.objects);
        let store = Store::over("memory://placement", Arc::clone(&view) as Arc<dyn Objects>);
        let labels: BTreeMap<_, _> = [("role".to_owned(), "core".to_owned())].into();
        let options = PlacementOptions::new(&store, "main", name, [self.public.clone()], self.folder.path().join(name));
        let (asleep_ms, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let asleep = Arc::clone(&asleep_ms);
        let clock =
            Clock::new(move || start.elapsed() + Duration::from_millis(asleep.load(Ordering::Relaxed)), || 1_000_000);
        let options = options.labels(labels.clone()).clock(clock);
        // The other hosts, as a fleet would tell of them.
        let there = self.there.subscribe();
        let others = controllerbus::controller::Closures::new().resolves(move |_: PlacementHosts, values| {
            let mut there = there.clone();
            async move {
                let mut keyed = values.keyed();
                loop {
                    let now = there.borrow_and_update().clone();
                    keyed.retain(|name: &String| now.iter().any(|host| host.host == *name));
                    for host in now {
                        keyed.set(host.host.clone(), host);
                    }
                    values.idle();
                    if there.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        });
        bus.add_controller(Arc::new(others), Info::new("others", semver::Version::new(1, 0, 0), "others"));
        let placement = place(&bus, options.clone(), Arc::new(TakesOff(bus.clone()))).expect("placement");
        self.there.send_modify(|there| there.push(PlacementHost { host: name.to_owned(), labels }));
        self.hosts.push(Host { bus, asleep_ms, view, placement: Some(placement), options });
    }

    /// Has the placement of a host end, and another one begin.
    fn place_again(&mut self, at: usize, options: PlacementOptions) {
        let host = &mut self.hosts[at];
        host.placement = None;
        host.placement = Some(place(&host.bus, options, Arc::new(TakesOff(host.bus.clone()))).expect("placement"));
    }

    fn running(&self, key: &str) -> usize {
        self.hosts.iter().filter(|host| host.bus.config(key).is_some()).count()
    }

    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is(self) {
            assert!(begun.elapsed() < Duration::from_secs(600), "not within ten minutes: {what}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_hosts_as_wanted_run_an_entry_and_a_lost_one_is_replaced_after_a_while() {
    let (mut fleet, secret) = Fleet::new();
    let publisher = SetPublisher::new(&fleet.store(), secret);
    publisher
        .publish("main", "a: { id: sim/worker, count: 2 }\nb: { id: sim/worker, config: { fence: 0 } }")
        .await
        .expect("a set");
    (0..5).for_each(|at| fleet.add(&format!("core-{at}")));
    fleet.until("two run a, and all b", |fleet| (fleet.running("a"), fleet.running("b")) == (2, 5)).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fleet.running("a"), 2);
    let lost = fleet.hosts.iter().position(|host| host.bus.config("a").is_some()).expect("one");
    fleet.hosts.remove(lost);
    fleet.there.send_modify(|there| drop(there.remove(lost)));
    let begun = Instant::now();
    fleet.until("two run it again", |fleet| fleet.running("a") == 2).await;
    assert!(
        begun.elapsed() >= Duration::from_secs(9) && begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    // A new set takes the place of the old one; an unsigned one does not.
    let (other, _) = key(fleet.folder.path(), "other");
    SetPublisher::new(&fleet.store(), other).publish("main", "c: { id: sim/worker }").await.expect("a set");
    sleep(Duration::from_secs(120)).await;
    assert_eq!((fleet.running("a"), fleet.running("b"), fleet.running("c")), (2, 4, 0));
    publisher.publish("main", "b: { id: sim/worker }").await.expect("a set");
    fleet.until("only b is left", |fleet| (fleet.running("a"), fleet.running("b")) == (0, 4)).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_follows_a_set_next_takes_off_what_was_applied_before_and_lets_run_what_stays() {
    let (mut fleet, secret) = Fleet::new();
    let publisher = SetPublisher::new(&fleet.store(), secret);
    let stays = "b: { id: sim/worker, config: { fence: 0 } }";
    publisher.publish("main", &format!("a: {{ id: sim/worker }}\n{stays}")).await.expect("a set");
    fleet.add("core-0");
    // Applied by nobody who follows a set.
    let own = controllerbus::config::ConfigSet::from_yaml("own: { id: sim/worker }").expect("a set");
    fleet.hosts[0].bus.apply(own).await.expect("applying");
    fleet.until("both run", |fleet| (fleet.running("a"), fleet.running("b")) == (1, 1)).await;
    let since = |fleet: &Fleet, key: &str| fleet.hosts[0].bus.config(key).expect("it runs").state;
    let before = (since(&fleet, "b"), since(&fleet, "own"));
    fleet.hosts[0].placement = None;
    publisher.publish("main", stays).await.expect("a set");
    sleep(Duration::from_secs(120)).await;
    assert_eq!((fleet.running("a"), fleet.running("b")), (1, 1), "what was applied goes on");
    let options = fleet.hosts[0].options.clone();
    fleet.place_again(0, options.clone());
    fleet.until("only what stays runs", |fleet| fleet.running("a") == 0).await;
    assert_eq!((since(&fleet, "b"), since(&fleet, "own")), before, "they were not ended in between");
    // Again at once, with the same: nothing happens.
    fleet.place_again(0, options);
    sleep(Duration::from_secs(120)).await;
    assert_eq!((since(&fleet, "b"), since(&fleet, "own")), before);
    // And with another set's name.
    publisher.publish("other", "c: { id: sim/worker }").await.expect("a set");
    let folder = fleet.folder.path().join("core-0");
    let other = PlacementOptions::new(&fleet.store(), "other", "core-0", [fleet.public.clone()], folder);
    let start = Instant::now();
    fleet.place_again(0, other.clock(Clock::new(move || start.elapsed(), || 1_000_000)));
    fleet.until("the other set runs", |fleet| (fleet.running("b"), fleet.running("c")) == (0, 1)).await;
    assert_eq!(since(&fleet, "own"), before.1);
}

#[tokio::test(start_paused = true)]
async fn what_is_exclusive_never_runs_twice_and_runs_nowhere_without_the_store() {
    let (mut fleet, secret) = Fleet::new();
    fastrand::seed(7);
    let publisher = SetPublisher::new(&fleet.store(), secret);
    publisher.publish("main", "nightly: { id: sim/worker, on: { role: core }, exclusive: true }").await.expect("a set");
    (0..4).for_each(|at| fleet.add(&format!("core-{at}")));
    fleet.until("one runs it", |fleet| fleet.running("nightly") == 1).await;
    for round in 0..40 {
        sleep(Duration::from_secs(fastrand::u64(1..40))).await;
        match fastrand::u8(0..3) {
            // The one that runs it is cut off, and does not know whether another one is there.
            0 => {
                let holder = fleet.hosts.iter().position(|host| host.bus.config("nightly").is_some());
                holder.into_iter().for_each(|at| fleet.hosts[at].view.cut.store(true, Ordering::Relaxed));
            }
            1 => fleet.hosts.iter().for_each(|host| host.view.cut.store(false, Ordering::Relaxed)),
            // Killed.
            _ => {
                let at = fastrand::usize(0..fleet.hosts.len());
                let host = fleet.hosts.remove(at);
                host.view.cut.store(true, Ordering::Relaxed);
                host.bus.close().await;
                fleet.add(&format!("core-new-{round}"));
            }
        }
    }
    fleet.objects.away.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(fleet.running("nightly"), 0, "nobody can know that it is the only one");
    fleet.objects.away.store(false, Ordering::Relaxed);
    fleet.hosts.iter().for_each(|host| host.view.cut.store(false, Ordering::Relaxed));
    fleet.until("one runs it", |fleet| fleet.running("nightly") == 1).await;
    // A store that does not answer at all is not waited for: it ends after two thirds of its lease of 15 s.
    for wait in [0, 1300, 2600] {
        sleep(Duration::from_millis(60_000 + wait)).await;
        assert_eq!(fleet.running("nightly"), 1);
        fleet.objects.latency_ms.store(3_600_000, Ordering::Relaxed);
        let begun = Instant::now();
        fleet.until("nobody runs it", |fleet| fleet.running("nightly") == 0).await;
        assert!(begun.elapsed() <= Duration::from_millis(10_200), "{:?}", begun.elapsed());
        fleet.objects.latency_ms.store(20, Ordering::Relaxed);
        fleet.until("one runs it", |fleet| fleet.running("nightly") == 1).await;
    }
    // A host that was asleep for longer than its lease ends it when it wakes up.
    sleep(Duration::from_secs(60)).await;
    let at = fleet.hosts.iter().position(|host| host.bus.config("nightly").is_some()).expect("one runs it");
    fleet.hosts[at].view.cut.store(true, Ordering::Relaxed);
    fleet.hosts[at].asleep_ms.store(20_000, Ordering::Relaxed);
    sleep(Duration::from_millis(600)).await;
    assert!(fleet.hosts[at].bus.config("nightly").is_none(), "it goes on as if it had not slept");
    let log = LOG.lock().expect("log");
    let changes = log.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
    assert!(changes >= 5, "only {changes} changes of the host");
    for pair in log.windows(2) {
        assert!(pair[0].0 <= pair[1].0, "two ran at a time: {pair:?}");
    }
}
