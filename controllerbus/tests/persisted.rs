//! States that outlast their bus: kept at intervals and at the end, and given to the next controller of the key.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::{Bus, Source, StateName, StateStore};
use controllerbus::controller::factory::{Factory, erase};
use controllerbus::controller::{AnyController, BoxFuture, Info};
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;

async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it does not take long")
}

/// Adds to a sum, and asks for it.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/add-kept", value = u64, unmerged)]
struct Add(u64);

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/kept")]
struct KeptConfig {
    name: String,
}

#[derive(State, Default)]
struct Sum {
    sum: u64,
}

#[derive(Default)]
struct Kept {
    sum: Mutex<Sum>,
}

#[hot_plugin(id = "test/kept", version = "1.0.0", state = sum, persist = "1s")]
impl Controller for Kept {
    type Config = KeptConfig;

    async fn construct(_: KeptConfig, _: &Context) -> Result<Self> {
        Ok(Self::default())
    }

    #[resolves]
    async fn add(&self, request: Add) -> Result<u64> {
        let mut sum = self.sum.lock().unwrap();
        sum.sum += request.0;
        Ok(sum.sum)
    }
}

/// Makes the same in generations, of a plugin id that is the same; or some that refuse every state.
struct Generation {
    refuses: bool,
}

struct Refusing;

impl Controller for Refusing {
    type Config = KeptConfig;

    async fn construct(_: KeptConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    async fn restore(&self, _: State) -> Result<()> {
        Err(Error::msg("it cannot be read any more"))
    }

    fn routes(routes: &mut controllerbus::Routes<Self>) {
        routes.add::<Add>(|_, _, values| {
            values.add(1_000);
            Box::pin(std::future::ready(Ok(())))
        });
    }
}

impl Factory for Generation {
    fn info(&self) -> Info {
        Info::new("test/kept", "2.0.0".parse().unwrap(), "test/kept")
    }

    fn persist(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move { Ok(if self.refuses { erase(Refusing) } else { erase(Kept::default()) }) })
    }
}

fn generation(refuses: bool) -> Vec<Arc<dyn Factory>> {
    vec![Arc::new(Generation { refuses })]
}

/// A disk.
#[derive(Default)]
struct Disk {
    states: Mutex<BTreeMap<StateName, State>>,
    aside: Mutex<Vec<State>>,
    stores: AtomicUsize,
    is_full: AtomicBool,
}

impl Disk {
    /// What a key's state says.
    fn sum(&self, key: &str) -> Option<u64> {
        let states = self.states.lock().unwrap();
        states.get(&StateName::new("test/kept", key)).map(|state| state.restore::<Sum>().unwrap().sum)
    }

    fn stores(&self) -> usize {
        self.stores.load(Ordering::Relaxed)
    }

    /// A bus that keeps its states here.
    fn bus(self: &Arc<Self>) -> Bus {
        let bus = Bus::new();
        assert!(bus.keep_states_in(Arc::clone(self) as Arc<dyn StateStore>));
        assert!(!bus.keep_states_in(Arc::new(Self::default())), "it has a place already");
        bus
    }
}

impl StateStore for Disk {
    fn load(&self, name: &StateName) -> Result<Option<State>> {
        Ok(self.states.lock().unwrap().get(name).cloned())
    }

    fn store(&self, name: &StateName, _: &semver::Version, state: &State) -> Result<()> {
        self.stores.fetch_add(1, Ordering::Relaxed);
        if self.is_full.load(Ordering::Relaxed) {
            return Err(Error::msg("no space left on device"));
        }
        self.states.lock().unwrap().insert(name.clone(), state.clone());
        Ok(())
    }

    fn set_aside(&self, name: &StateName) -> Result<String> {
        let state = self.states.lock().unwrap().remove(name).ok_or_else(|| Error::msg("nothing is there"))?;
        self.aside.lock().unwrap().push(state);
        Ok("aside".to_owned())
    }

    fn forget(&self, key: &str) -> Result<()> {
        self.states.lock().unwrap().retain(|name, _| name.key != key);
        Ok(())
    }
}

fn set(keys: &[&str]) -> ConfigSet {
    let mut set = ConfigSet::new();
    for key in keys {
        set.insert(*key, 0, &KeptConfig { name: (*key).to_owned() }).unwrap();
    }
    set
}

async fn add(bus: &Bus, number: u64) -> u64 {
    *soon(bus.resolve(Add(number))).await.unwrap()
}

/// Longer than the interval.
async fn an_interval() {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_state_is_written_when_it_has_changed_and_at_the_end_and_the_next_bus_goes_on_with_it() {
    let disk = Arc::new(Disk::default());
    let bus = disk.bus();
    bus.apply(set(&["a"])).await.unwrap().all_running().unwrap();
    assert_eq!(add(&bus, 5).await, 5);
    an_interval().await;
    assert_eq!(disk.sum("a"), Some(5));
    let stores = disk.stores();
    for _ in 0..5 {
        an_interval().await;
    }
    assert_eq!(disk.stores(), stores, "nothing has changed");
    for _ in 0..100 {
        add(&bus, 1).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(disk.stores(), stores + 1, "many changes are one write");
    assert_eq!(add(&bus, 2).await, 107);
    assert!(bus.close().await.is_empty());
    assert_eq!(disk.sum("a"), Some(107), "what has changed since the last interval");

    let bus = disk.bus();
    bus.apply(set(&["a"])).await.unwrap().all_running().unwrap();
    assert_eq!(add(&bus, 1).await, 108);
    bus.close().await;
    assert_eq!(disk.sum("a"), Some(108));
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_is_kept_even_if_the_bus_is_closed_before_the_controller_was_executed() {
    let disk = Arc::new(Disk::default());
    let bus = disk.bus();
    bus.apply(set(&["a"])).await.unwrap().all_running().unwrap();
    // Answered in place, and so nothing else has run since.
    assert_eq!(add(&bus, 5).await, 5);
    bus.close().await;
    assert_eq!(disk.sum("a"), Some(5));
}

#[tokio::test(start_paused = true)]
async fn a_config_that_is_removed_on_purpose_forgets_its_state_and_everything_else_keeps_it() {
    let disk = Arc::new(Disk::default());
    let bus = disk.bus();
    bus.apply(set(&["a"])).await.unwrap().all_running().unwrap();
    add(&bus, 5).await;
    an_interval().await;
    assert!(bus.remove_config("a").await);
    // Also what its last controller would have written.
    bus.apply(set(&["a"])).await.unwrap().all_running().unwrap();
    assert_eq!(add(&bus, 1).await, 1, "it begins anew");
    an_interval().await;
    bus.apply_only(set(&["b"])).await.unwrap().all_running().unwrap();
    add(&bus, 2).await;
    an_interval().await;
    assert_eq!((disk.sum("a"), disk.sum("b")), (None, Some(2)));
    bus.apply_only(ConfigSet::new()).await.unwrap();
    an_interval().await;
    assert_eq!(disk.sum("b"), None);

    // An owner that goes, and a plugin that is unloaded.
    let owner = bus.config_owner();
    owner.apply(set(&["c"])).await.unwrap().all_running().unwrap();
    add(&bus, 3).await;
    drop(owner);
    while !(bus.controllers().is_empty() && bus.leaving().is_empty()) {
        an_interval().await;
    }
    assert_eq!(disk.sum("c"), Some(3));
    bus.add_factories(Source(1), generation(false));
    bus.apply(set(&["d"])).await.unwrap().all_running().unwrap();
    add(&bus, 4).await;
    bus.remove_source(Source(1)).await;
    // The one that is linked in goes on with it, as another generation would.
    bus.apply(set(&["d"])).await.unwrap().all_running().unwrap();
    assert_eq!(add(&bus, 1).await, 5);
    bus.close().await;
    assert_eq!(disk.sum("d"), Some(5));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_comes_to_a_running_controller_has_its_state_too_and_a_removed_one_has_none() {
    let same = |keys: &[&str]| {
        let mut set = ConfigSet::new();
        for key in keys {
            set.insert(*key, 0, &KeptConfig { name: "same".to_owned() }).unwrap();
        }
        set
    };
    let disk = Arc::new(Disk::default());
    let bus = disk.bus();
    bus.apply(same(&["a"])).await.unwrap().all_running().unwrap();
    add(&bus, 5).await;
    an_interval().await;
    // The key gets another name: it is the same controller, and its state does not change.
    bus.apply_only(same(&["b"])).await.unwrap().all_running().unwrap();
    an_interval().await;
    an_interval().await;
    assert_eq!((disk.sum("a"), disk.sum("b")), (None, Some(5)));
    bus.apply(same(&["b", "c"])).await.unwrap().all_running().unwrap();
    an_interval().await;
    an_interval().await;
    bus.close().await;
    assert_eq!((disk.sum("b"), disk.sum("c")), (Some(5), Some(5)));

    let bus = disk.bus();
    bus.apply(same(&["b"])).await.unwrap().all_running().unwrap();
    assert_eq!(add(&bus, 1).await, 6);
    assert!(bus.remove_config("b").await);
    bus.close().await;
    assert_eq!(disk.sum("b"), None, "forgotten, although the bus closes at once");
}

#[tokio::test(start_paused = true)]
async fn a_state_that_is_refused_is_set_aside_and_its_controller_starts_without_it() {
    let disk = Arc::new(Disk::default());
    let bus = disk.bus();
    bus.apply(set(&["a"])).await.unwrap().all_running().unwrap();
    add(&bus, 5).await;
    bus.close().await;

    let bus = disk.bus();
    bus.add_factories(Source(1), generation(true));
    bus.apply(set(&["a"])).await.unwrap().all_running().unwrap();
    assert_eq!(add(&bus, 1).await, 1_000);
    let aside = disk.aside.lock().unwrap().clone();
    assert_eq!(aside.iter().map(|state| state.restore::<Sum>().unwrap().sum).collect::<Vec<_>>(), [5]);
    assert_eq!(bus.controllers().len(), 1, "the one that has refused it is gone");
    bus.close().await;
    assert_eq!(disk.sum("a"), None, "it has no state of its own");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_harms_nobody_and_the_state_is_written_once_there_is_room() {
    let disk = Arc::new(Disk::default());
    let bus = disk.bus();
    disk.is_full.store(true, Ordering::Relaxed);
    bus.apply(set(&["a"])).await.unwrap().all_running().unwrap();
    add(&bus, 5).await;
    an_interval().await;
    assert_eq!(disk.sum("a"), None);
    assert_eq!(add(&bus, 1).await, 6);
    disk.is_full.store(false, Ordering::Relaxed);
    an_interval().await;
    assert_eq!(disk.sum("a"), Some(6));
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_next_config_of_a_key_and_the_next_generation_go_on_and_what_they_replace_does_not_write_over_it() {
    let disk = Arc::new(Disk::default());
    let bus = disk.bus();
    bus.add_factories(Source(1), generation(false));
    bus.apply(set(&["a"])).await.unwrap().all_running().unwrap();
    an_interval().await;
    add(&bus, 5).await;
    // Not what was written at the last interval, but what the one before has now.
    let mut other = ConfigSet::new();
    other.insert("a", 1, &KeptConfig { name: "other".to_owned() }).unwrap();
    bus.apply(other).await.unwrap().all_running().unwrap();
    assert_eq!(add(&bus, 1).await, 6);
    an_interval().await;
    assert_eq!(disk.sum("a"), Some(6));

    let grace = Duration::from_secs(10);
    let staged = bus.stage(Source(1), Source(2), generation(false), grace).await.unwrap();
    let committed = soon(staged.commit(grace)).await.unwrap();
    assert_eq!(add(&bus, 1).await, 7);
    soon(committed.drained()).await;
    an_interval().await;
    assert_eq!(disk.sum("a"), Some(7));
    // A swap that is taken back leaves the one that serves as the one that writes.
    drop(bus.stage(Source(2), Source(3), generation(false), grace).await.unwrap());
    add(&bus, 1).await;
    an_interval().await;
    assert_eq!(disk.sum("a"), Some(8));
    bus.close().await;
    assert_eq!(disk.sum("a"), Some(8));
}

/// What cannot be read is not written over, either.
struct Unreadable(AtomicUsize);

impl StateStore for Unreadable {
    fn load(&self, _: &StateName) -> Result<Option<State>> {
        Err(Error::new(ErrorKind::Failed, "permission denied"))
    }
    fn store(&self, _: &StateName, _: &semver::Version, _: &State) -> Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn set_aside(&self, _: &StateName) -> Result<String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(String::new())
    }
    fn forget(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_that_cannot_be_read_is_left_alone() {
    let bus = Bus::new();
    let store = Arc::new(Unreadable(AtomicUsize::new(0)));
    bus.keep_states_in(Arc::clone(&store) as Arc<dyn StateStore>);
    bus.apply(set(&["a"])).await.unwrap().all_running().unwrap();
    assert_eq!(add(&bus, 5).await, 5);
    an_interval().await;
    bus.close().await;
    assert_eq!(store.0.load(Ordering::Relaxed), 0);
}
