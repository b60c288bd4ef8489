//! One at a time: what only one can own is free before the next controller is made, and no state is lost with either.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use controllerbus::bus::{Bus, Limits, RunState, Source};
use controllerbus::controller::factory::{Factory, erase};
use controllerbus::controller::{AnyController, BoxFuture, Info, SwapMode};
use controllerbus::prelude::*;

use crate::kit::{info, soon};

/// Notes a number; answered with all that are noted.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/enter", value = u64)]
struct Enter(u64);

/// Asks who serves; it stands.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/owner", value = u64, max_values = 1, hard_cap)]
struct Owner;

/// A call, whose resolver goes on after its answer.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/deliver", value = u64, once)]
struct Deliver;

/// A call within this library.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/local-call", value = u64, once, local)]
struct LocalCall;

/// What only one can own, and what happened around it.
#[derive(Default)]
struct Resource {
    owned: AtomicBool,
    executes: AtomicBool,
    twice: AtomicBool,
    log: Mutex<Vec<String>>,
    /// What was entered: outlives each owner.
    entered: Mutex<BTreeSet<u64>>,
    /// Constructions fail that have this generation or config, or both: see [`both`].
    refuses: Mutex<Vec<u64>>,
    /// Constructions do not end that have this generation or config: they block their threads, or only wait.
    blocks: Mutex<Vec<u64>>,
    hangs: Mutex<Vec<u64>>,
    /// A resolver that is asked for 13 blocks its thread until this is true, and so do constructions.
    released: (Mutex<bool>, Condvar),
}

impl Resource {
    fn log(&self, what: impl std::fmt::Display) {
        self.log.lock().unwrap().push(what.to_string());
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/store")]
struct StoreConfig {
    #[serde(default)]
    number: u64,
}

/// Owns the resource from its construction to its destructor.
struct Store {
    generation: u64,
    number: u64,
    resource: Arc<Resource>,
    restored: Mutex<Vec<u64>>,
    _owned: Owned,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.resource.log(format_args!("{} dropped", self.generation));
    }
}

/// The resource is owned while this is there.
struct Owned(Arc<Resource>);

impl Owned {
    fn take(resource: &Arc<Resource>) -> Result<Self> {
        if resource.owned.swap(true, Ordering::SeqCst) {
            resource.twice.store(true, Ordering::SeqCst);
            return Err(Error::msg("somebody else owns it"));
        }
        Ok(Self(Arc::clone(resource)))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.owned.store(false, Ordering::SeqCst);
    }
}

impl Controller for Store {
    type Config = StoreConfig;

    async fn construct(_: StoreConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("it is made by its factory"))
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        self.resource.executes.store(true, Ordering::SeqCst);
        context.cancelled().await;
        self.resource.log(format_args!("{} cancelled", self.generation));
        Ok(())
    }

    async fn close(&self) {
        self.resource.log(format_args!("{} closed", self.generation));
    }

    fn save(&self) -> Result<Option<State>> {
        self.resource.log(format_args!("{} saved", self.generation));
        let mut all = self.restored.lock().unwrap().clone();
        all.push(self.generation * 100 + self.number);
        State::encode(1, &all).map(Some)
    }

    async fn restore(&self, state: State) -> Result<()> {
        let all: Vec<u64> = state.decode()?;
        self.resource.log(format_args!("{} restored {all:?}", self.generation));
        *self.restored.lock().unwrap() = all;
        Ok(())
    }

    fn routes(routes: &mut controllerbus::Routes<Self>) {
        routes.add::<Enter>(|this, request, values| {
            Box::pin(async move {
                if request.0 == 13 {
                    let (released, told) = &this.resource.released;
                    drop(told.wait_while(released.lock().unwrap(), |released| !*released).unwrap());
                }
                tokio::task::yield_now().await;
                this.resource.entered.lock().unwrap().insert(request.0);
                values.add(this.generation);
                Ok(())
            })
        });
        routes.add::<Deliver>(|this, _, values| {
            Box::pin(async move {
                values.add(this.generation);
                std::future::pending().await
            })
        });
        routes.add::<LocalCall>(|this, _, values| {
            values.add(both(this.generation, this.number));
            Box::pin(std::future::ready(Ok(())))
        });
        routes.add::<Owner>(|this, _, values| {
            Box::pin(async move {
                // Goes on for as long as it stands.
                let mut slot = values.slot();
                slot.set(this.generation);
                values.idle();
                std::future::pending().await
            })
        });
    }
}

/// Makes stores; how they are swapped is said of each.
struct Stores {
    generation: u64,
    swap: SwapMode,
    resource: Arc<Resource>,
}

impl Factory for Stores {
    fn info(&self) -> Info {
        info("test/store")
    }

    fn swap_mode(&self) -> SwapMode {
        self.swap
    }

    fn construct(self: Arc<Self>, config: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let config: StoreConfig = controllerbus::directive::wire::decode(&config)?;
            let (generation, number) = (self.generation, config.number);
            let resource = Arc::clone(&self.resource);
            let owned = Owned::take(&resource)?;
            tokio::task::yield_now().await;
            let is_one_of =
                |list: &Mutex<Vec<u64>>| list.lock().unwrap().iter().any(|one| [generation, number].contains(one));
            if is_one_of(&resource.hangs) {
                std::future::pending::<()>().await;
            }
            if is_one_of(&resource.blocks) {
                let (released, told) = &resource.released;
                drop(told.wait_while(released.lock().unwrap(), |released| !*released).unwrap());
            }
            let refused = [generation, number, both(generation, number)];
            let refuses = resource.refuses.lock().unwrap().iter().any(|one| refused.contains(one));
            if refuses {
                resource.log(format_args!("{generation} refused"));
                return Err(Error::msg(format!("{generation} with {number} is refused")));
            }
            resource.log(format_args!("{generation} constructed"));
            Ok(erase(Store { generation, number, resource, restored: Mutex::default(), _owned: owned }))
        })
    }
}

/// A generation with a config.
fn both(generation: u64, number: u64) -> u64 {
    1_000 * generation + number
}

fn stores(generation: u64, resource: &Arc<Resource>) -> Vec<Arc<dyn Factory>> {
    vec![Arc::new(Stores { generation, swap: SwapMode::StopFirst, resource: Arc::clone(resource) })]
}

fn config(number: u64) -> ConfigSet {
    ConfigSet::from_yaml(&format!("store: {{ id: test/store, config: {{ number: {number} }} }}")).unwrap()
}

fn limits() -> Limits {
    let short = Duration::from_millis(300);
    Limits::default().cancel(short).close(short).finish(short)
}

/// A bus on which generation 1 serves.
async fn serving(resource: &Arc<Resource>) -> Bus {
    serving_within(limits(), resource).await
}

async fn serving_within(limits: Limits, resource: &Arc<Resource>) -> Bus {
    let bus = Bus::with_limits(limits);
    bus.add_factories(Source(1), stores(1, resource));
    bus.apply(config(0)).await.unwrap();
    soon(async {
        while !resource.executes.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    bus
}

async fn swap(bus: &Bus, from: u64, to: u64, resource: &Arc<Resource>) -> Result<()> {
    let grace = Duration::from_secs(20);
    let staged = bus.stage(Source(from), Source(to), stores(to, resource), grace).await?;
    soon(staged.commit(Duration::from_millis(5)).await?.drained()).await;
    bus.remove_source(Source(from)).await;
    Ok(())
}

async fn serves(bus: &Bus, nonce: u64) -> u64 {
    *soon(bus.resolve(Enter(1000 + nonce))).await.unwrap()
}

async fn until_runs(bus: &Bus) {
    let mut watch = bus.watch_config("store");
    let runs =
        |state: controllerbus::bus::ConfigState| matches!(state.state, RunState::Running(_)) && state.pending.is_none();
    soon(async { while !watch.next().await.is_some_and(runs) {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_one_is_cancelled_closed_saved_and_dropped_before_the_new_one_is_made_with_its_state() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    let mut owner = bus.request(Owner).unwrap();
    assert_eq!(*soon(owner.value()).await.unwrap(), 1);
    swap(&bus, 1, 2, &resource).await.unwrap();
    let log = resource.take_log().join(", ");
    let wanted = "1 constructed, 1 saved, 1 cancelled, 1 closed, 1 saved, 1 dropped, 2 constructed, 2 restored [100]";
    assert_eq!(log, wanted);
    // Who holds a value always holds one: the old one stood until the new one came.
    let events = changes(&mut owner);
    assert_eq!(events, ["+2", "-"]);
    assert!(!resource.twice.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_its_caller_has_not_read_yet_is_there_when_the_old_one_has_ended() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    let mut call = bus.request(Deliver).unwrap();
    let staged = bus.stage(Source(1), Source(2), stores(2, &resource), Duration::from_secs(20)).await.unwrap();
    let committed = soon(staged.commit(Duration::from_millis(5))).await.unwrap();
    assert_eq!(*soon(call.value()).await.unwrap(), 1);
    assert!(call.errors().unwrap().is_empty());
    assert_eq!(call.standing().count(), 1, "it stays until the caller lets go of it");
    drop(call);
    soon(committed.drained()).await;
    assert_eq!(*soon(bus.resolve(Deliver)).await.unwrap(), 2);
    assert!(!resource.twice.load(Ordering::SeqCst));
}

/// How the values have changed until now.
fn changes(request: &mut Request<Owner>) -> Vec<String> {
    let mut changes = Vec::new();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    while let std::task::Poll::Ready(Some(event)) = std::pin::pin!(request.next()).poll(&mut cx) {
        match event {
            Event::Added(_, value) => changes.push(format!("+{value}")),
            Event::Removed(_) => changes.push("-".to_owned()),
            _ => {}
        }
    }
    changes
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_that_was_answered_is_lost_and_there_are_never_two_owners_when_it_is_swapped_under_load() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    let stop = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicU64::new(1_000_000));
    let loads: Vec<_> = (0..4)
        .map(|_| {
            let (bus, stop, next) = (bus.clone(), Arc::clone(&stop), Arc::clone(&next));
            tokio::spawn(async move {
                let mut answered = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    soon(bus.resolve(Enter(number))).await.expect("an answer");
                    answered.push(number);
                }
                answered
            })
        })
        .collect();
    for generation in 1..60 {
        swap(&bus, generation, generation + 1, &resource).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let mut count = 0;
    for load in loads {
        for number in load.await.unwrap() {
            assert!(resource.entered.lock().unwrap().contains(&number), "{number} was answered and is lost");
            count += 1;
        }
    }
    assert!(count > 60, "{count} answers");
    assert!(!resource.twice.load(Ordering::SeqCst), "two at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn if_the_new_one_cannot_be_made_the_code_before_is_made_again_with_the_same_state() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    swap(&bus, 1, 2, &resource).await.unwrap();
    resource.take_log();
    resource.refuses.lock().unwrap().push(3);
    let error = swap(&bus, 2, 3, &resource).await.expect_err("it is refused").to_string();
    assert!(error.contains("constructing test/store: 3 with 0 is refused"), "{error}");
    assert!(error.contains("test/store was restarted with the previous code and its state"), "{error}");
    let log = resource.take_log().join(", ");
    let wanted = "2 saved, 2 cancelled, 2 closed, 2 saved, 2 dropped, 3 refused, 2 constructed, 2 restored [100, 200]";
    assert_eq!(log, wanted);
    assert_eq!(serves(&bus, 1).await, 2);
    // It is as swappable as before.
    swap(&bus, 2, 4, &resource).await.unwrap();
    assert_eq!(serves(&bus, 2).await, 4);
    assert!(resource.take_log().join(", ").ends_with("4 restored [100, 200, 200]"));
    assert!(!resource.twice.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_and_the_code_that_needs_it_change_in_either_order_and_the_state_goes_along() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    // The old code cannot use the new config, nor the new code the old one.
    *resource.refuses.lock().unwrap() = vec![both(1, 7), both(2, 0), both(3, 0), both(3, 7)];
    let error = swap(&bus, 1, 2, &resource).await.expect_err("it is refused").to_string();
    assert!(error.contains("2 with 0 is refused; test/store was restarted"), "{error}");
    let report = soon(bus.apply(config(7))).await.unwrap();
    assert!(report.configs[0].pending.is_some(), "{:?}", report.configs[0]);
    // Code that can use neither leaves everything as it was.
    resource.take_log();
    let error = swap(&bus, 1, 3, &resource).await.expect_err("it is refused").to_string();
    assert!(error.contains("3 with 0 is refused"), "{error}");
    assert!(error.contains("constructing it with the pending config failed, too:"), "{error}");
    assert!(error.contains("3 with 7 is refused"), "{error}");
    assert!(error.contains("test/store was restarted with the previous code and its state"), "{error}");
    let log = resource.take_log().join(", ");
    let ended = "1 saved, 1 cancelled, 1 closed, 1 saved, 1 dropped";
    assert_eq!(log, format!("{ended}, 3 refused, 3 refused, 1 constructed, 1 restored [100, 100, 100]"));
    assert_eq!(serves(&bus, 1).await, 1);
    assert!(bus.config("store").unwrap().pending.is_some());

    swap(&bus, 1, 2, &resource).await.unwrap();
    let log = resource.take_log().join(", ");
    assert_eq!(log, format!("{ended}, 2 refused, 2 constructed, 2 restored [100, 100, 100, 100]"));
    let state = bus.config("store").unwrap();
    assert!(state.pending.is_none() && state.problem.is_none(), "{state:?}");
    assert!(matches!(state.state, RunState::Running(_)), "{state:?}");
    assert_eq!(serves(&bus, 2).await, 2);
    // It is as swappable as before.
    swap(&bus, 2, 4, &resource).await.unwrap();
    assert!(resource.take_log().join(", ").ends_with("4 restored [100, 100, 100, 100, 207]"));
    assert_eq!(bus.controllers().len(), 1);
    assert!(!resource.twice.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn if_neither_can_be_made_the_state_is_kept_for_the_next_generation_and_that_is_said() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    *resource.refuses.lock().unwrap() = vec![1, 2];
    let error = swap(&bus, 1, 2, &resource).await.expect_err("it is refused").to_string();
    assert!(error.contains("2 with 0 is refused"), "{error}");
    assert!(error.contains("could not be restarted with the previous code either (1 with 0 is refused"), "{error}");
    assert!(error.contains("its state is kept for the next controller"), "{error}");
    let state = bus.config("store").unwrap();
    assert!(state.problem.expect("a problem").to_string().contains("the previous controller's state is kept"));
    // What is asked meanwhile is no answer of anybody, and nobody hangs.
    assert!(soon(bus.try_resolve(Enter(5))).await.unwrap().is_none());
    resource.take_log();
    let grace = Duration::from_secs(20);
    let staged = bus.stage(Source(1), Source(3), stores(3, &resource), grace).await.unwrap();
    staged.commit(Duration::ZERO).await.unwrap();
    until_runs(&bus).await;
    assert_eq!(serves(&bus, 1).await, 3);
    assert!(resource.take_log().join(", ").ends_with("3 constructed, 3 restored [100]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_config_ends_the_old_one_first_and_gets_its_state() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    let mut owner = bus.request(Owner).unwrap();
    soon(owner.value()).await.unwrap();
    resource.take_log();
    let report = soon(bus.apply(config(7))).await.unwrap();
    assert!(matches!(report.configs[0].state, RunState::Running(_)), "{:?}", report.configs[0]);
    let log = resource.take_log().join(", ");
    let wanted = "1 saved, 1 cancelled, 1 closed, 1 saved, 1 dropped, 1 constructed, 1 restored [100]";
    assert_eq!(log, wanted);
    let mut events = Vec::new();
    soon(async {
        while events.len() < 2 {
            events.extend(changes(&mut owner));
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(events, ["+1", "-"]);
    assert_eq!(bus.controllers().len(), 1);
    assert!(bus.leaving().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_call_that_waits_for_a_changed_config_is_answered_by_the_new_controller() {
    let resource = Arc::<Resource>::default();
    let bus = Bus::with_limits(limits());
    // Of this library, and so is who asks.
    bus.add_factories(Source::STATIC, stores(1, &resource));
    bus.apply(config(0)).await.unwrap().all_running().unwrap();
    assert_eq!(*soon(bus.resolve(LocalCall)).await.unwrap(), both(1, 0));
    resource.blocks.lock().unwrap().push(7);
    let _releases = Releases(&resource);
    let applying = tokio::spawn({
        let bus = bus.clone();
        async move { bus.apply(config(7)).await.map(drop) }
    });
    soon(async {
        while !resource.log.lock().unwrap().iter().any(|line| line == "1 dropped") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut call = bus.request(LocalCall).unwrap();
    release(&resource);
    assert_eq!(*soon(call.value()).await.unwrap(), both(1, 7));
    soon(applying).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_is_refused_is_shown_so_and_the_one_before_is_made_again_with_its_state() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    resource.refuses.lock().unwrap().push(7);
    resource.take_log();
    let report = soon(bus.apply(config(7))).await.unwrap();
    let state = &report.configs[0];
    assert!(matches!(state.state, RunState::Running(_)), "the one before runs: {state:?}");
    let pending = state.pending.as_ref().expect("it is pending");
    assert!(matches!(pending.state, RunState::Failed { retry_in: None, .. }), "{pending:?}");
    let problem = state.problem.as_ref().expect("a problem").to_string();
    assert!(problem.contains("1 with 7 is refused; the previous config runs again, with its state"), "{problem}");
    let log = resource.take_log().join(", ");
    let wanted = "1 saved, 1 cancelled, 1 closed, 1 saved, 1 dropped, 1 refused, 1 constructed, 1 restored [100]";
    assert_eq!(log, wanted);
    assert_eq!(serves(&bus, 1).await, 1);
    // Applied again, it is tried again.
    resource.refuses.lock().unwrap().clear();
    let report = soon(bus.apply(config(7))).await.unwrap();
    assert!(report.configs[0].pending.is_none() && report.configs[0].problem.is_none(), "{:?}", report.configs[0]);
    assert!(resource.take_log().join(", ").ends_with("1 restored [100, 100]"));
    assert!(!resource.twice.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn if_neither_config_can_run_the_next_one_gets_the_state() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    *resource.refuses.lock().unwrap() = vec![7, 1];
    let report = soon(bus.apply(config(7))).await.unwrap();
    let problem = report.configs[0].problem.as_ref().expect("a problem").to_string();
    assert!(problem.contains("the previous config cannot run again either"), "{problem}");
    assert!(problem.contains("its state is kept for the next controller"), "{problem}");
    resource.refuses.lock().unwrap().clear();
    resource.take_log();
    soon(bus.apply(config(8))).await.unwrap();
    until_runs(&bus).await;
    // Whichever was made first: the state went along.
    let log = resource.take_log().join(", ");
    assert!(log.contains("1 constructed, 1 restored [100]"), "{log}");
    assert_eq!(bus.config("store").unwrap().pending, None);
    assert_eq!(bus.controllers().len(), 1);
    assert!(!resource.twice.load(Ordering::SeqCst));
}

/// Lets a resolver of the store block its thread, until [`release`].
async fn blocked(bus: &Bus) -> tokio::task::JoinHandle<Result<Arc<u64>, BusError>> {
    let blocked = tokio::spawn({
        let bus = bus.clone();
        async move { bus.resolve(Enter(13)).await }
    });
    let is_at_work = || bus.directives().iter().any(|found| found.id == "test/enter" && !found.resolvers.is_empty());
    soon(async {
        while !is_at_work() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    blocked
}

fn release(resource: &Resource) {
    *resource.released.0.lock().unwrap() = true;
    resource.released.1.notify_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_changed_config_waits_until_the_one_before_is_dropped_and_runs_then_with_its_state() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    let blocked = blocked(&bus).await;
    resource.take_log();
    // Applied again, it is tried again.
    for _ in 0..3 {
        let report = soon(bus.apply(config(7))).await.unwrap();
        let problem = report.configs[0].problem.as_ref().expect("a problem").to_string();
        assert!(problem.contains("is still used by a resolver of `test/enter`"), "{problem}");
        assert_eq!(resource.take_log().join(", ").replace("1 saved, 1 cancelled, 1 closed, 1 saved", ""), "");
    }
    release(&resource);
    until_runs(&bus).await;
    assert_eq!(resource.take_log().join(", "), "1 dropped, 1 constructed, 1 restored [100]");
    assert_eq!(*soon(blocked).await.unwrap().unwrap(), 1);
    // It is the one with the new config.
    swap(&bus, 1, 2, &resource).await.unwrap();
    assert!(resource.take_log().join(", ").ends_with("2 restored [100, 107]"));
    assert!(!resource.twice.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_that_is_still_used_is_named_with_who_uses_it_and_nobody_is_made_until_it_is_dropped() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    let blocked = blocked(&bus).await;
    resource.take_log();
    let error = soon(swap(&bus, 1, 2, &resource)).await.expect_err("it is held").to_string();
    assert!(error.contains("test/store cannot be dropped"), "{error}");
    assert!(error.contains("is still used by a resolver of `test/enter`"), "{error}");
    assert_eq!(resource.take_log().join(", "), "1 saved, 1 cancelled, 1 closed, 1 saved");
    let problem = bus.config("store").unwrap().problem.expect("a problem").to_string();
    assert!(problem.contains("a resolver of `test/enter`"), "{problem}");
    release(&resource);
    until_runs(&bus).await;
    assert_eq!(resource.take_log().join(", "), "1 dropped, 1 constructed, 1 restored [100]");
    // The call was done by the one that came after.
    assert_eq!(*soon(blocked).await.unwrap().unwrap(), 1);
    assert!(!resource.twice.load(Ordering::SeqCst));
}

/// Whatever else its keys ask for.
async fn until_one_runs(bus: &Bus) {
    let mut watch = bus.watch_config("store");
    let runs = |state: controllerbus::bus::ConfigState| matches!(state.state, RunState::Running(_));
    soon(async { while !watch.next().await.is_some_and(runs) {} }).await;
}

/// Lets the threads go that constructions block, also when a test fails.
struct Releases<'a>(&'a Resource);

impl Drop for Releases<'_> {
    fn drop(&mut self) {
        release(self.0);
    }
}

fn impatient() -> Limits {
    limits().construct(Duration::from_millis(200))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_construction_that_passes_its_limit_has_ended_before_the_previous_config_is_made_again() {
    let resource = Arc::<Resource>::default();
    let _released = Releases(&resource);
    let bus = serving_within(impatient(), &resource).await;
    resource.blocks.lock().unwrap().push(7);
    resource.take_log();
    let report = soon(bus.apply(config(7))).await.unwrap();
    let problem = report.configs[0].problem.as_ref().expect("a problem").to_string();
    assert!(problem.contains("constructing test/store took longer than 200ms; it has not ended yet"), "{problem}");
    assert!(problem.contains("it blocks its thread"), "{problem}");
    assert_eq!(resource.take_log().join(", "), "1 saved, 1 cancelled, 1 closed, 1 saved, 1 dropped");
    resource.blocks.lock().unwrap().clear();
    release(&resource);
    until_one_runs(&bus).await;
    assert_eq!(serves(&bus, 1).await, 1);
    let log = resource.take_log().join(", ");
    // What it has made is closed and dropped first.
    assert!(log.starts_with("1 constructed, 1 closed, 1 dropped, 1 constructed, 1 restored [100]"), "{log}");
    assert!(!resource.twice.load(Ordering::SeqCst), "two at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_construction_that_passes_its_limit_has_ended_before_the_previous_code_is_made_again() {
    let resource = Arc::<Resource>::default();
    let _released = Releases(&resource);
    let bus = serving_within(impatient(), &resource).await;
    resource.blocks.lock().unwrap().push(2);
    resource.take_log();
    let error = soon(swap(&bus, 1, 2, &resource)).await.expect_err("it does not end").to_string();
    assert!(error.contains("constructing test/store took longer than 200ms; it has not ended yet"), "{error}");
    assert!(error.contains("could not be restarted with the previous code either"), "{error}");
    let problem = bus.config("store").unwrap().problem.expect("a problem").to_string();
    assert!(problem.contains("waiting for the previous controller to end"), "{problem}");
    assert_eq!(resource.take_log().join(", "), "1 saved, 1 cancelled, 1 closed, 1 saved, 1 dropped");
    release(&resource);
    until_runs(&bus).await;
    assert_eq!(serves(&bus, 1).await, 1);
    let log = resource.take_log().join(", ");
    assert_eq!(log, "2 constructed, 2 closed, 2 dropped, 1 constructed, 1 restored [100]");
    assert!(!resource.twice.load(Ordering::SeqCst), "two at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_construction_that_passes_its_limit_has_ended_before_it_is_tried_again() {
    let resource = Arc::<Resource>::default();
    let _released = Releases(&resource);
    let bus = Bus::with_limits(impatient());
    resource.blocks.lock().unwrap().push(7);
    bus.add_factories(Source(1), stores(1, &resource));
    let report = soon(bus.apply(config(7))).await.unwrap();
    let problem = report.configs[0].problem.as_ref().expect("a problem").to_string();
    assert!(problem.contains("took longer than 200ms; it has not ended yet"), "{problem}");
    // Its backoff is over, and it waits.
    let mut watch = bus.watch_config("store");
    let waits = |state: controllerbus::bus::ConfigState| {
        state.problem.is_some_and(|problem| problem.to_string().contains("waiting for the previous controller to end"))
    };
    soon(async { while !watch.next().await.is_some_and(waits) {} }).await;
    // Neither does it begin for another config, nor for the same key that is removed and comes back.
    soon(bus.apply(config(8))).await.unwrap();
    soon(bus.remove_config("store")).await;
    let applied = tokio::spawn({
        let bus = bus.clone();
        async move { bus.apply(config(9)).await }
    });
    release(&resource);
    soon(applied).await.unwrap().unwrap();
    until_runs(&bus).await;
    assert_eq!(serves(&bus, 1).await, 1);
    assert_eq!(resource.take_log().join(", "), "1 constructed, 1 closed, 1 dropped, 1 constructed");
    assert!(!resource.twice.load(Ordering::SeqCst), "two at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_construction_that_only_waits_is_dropped_at_its_limit_and_the_previous_config_runs_again() {
    let resource = Arc::<Resource>::default();
    let bus = serving_within(impatient(), &resource).await;
    resource.hangs.lock().unwrap().push(7);
    let report = soon(bus.apply(config(7))).await.unwrap();
    assert!(matches!(report.configs[0].state, RunState::Running(_)), "{:?}", report.configs[0]);
    let problem = report.configs[0].problem.as_ref().expect("a problem").to_string();
    assert!(problem.contains("took longer than 200ms; the previous config runs again, with its state"), "{problem}");
    assert!(!resource.twice.load(Ordering::SeqCst), "two at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_or_an_apply_that_is_dropped_on_the_way_leaves_one_that_runs_with_its_state() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    for step in 0..40_u32 {
        let patience = Duration::from_micros(u64::from(step) * 60);
        let swapping = async {
            let staged = bus.stage(Source(1), Source(2), stores(2, &resource), Duration::from_secs(20)).await?;
            staged.commit(Duration::ZERO).await.map(drop)
        };
        if step % 2 == 0 {
            if tokio::time::timeout(patience, swapping).await.is_ok() {
                // It came to its end: back again.
                let staged =
                    bus.stage(Source(2), Source(1), stores(1, &resource), Duration::from_secs(20)).await.unwrap();
                staged.commit(Duration::ZERO).await.unwrap();
            }
        } else {
            let _ = tokio::time::timeout(patience, bus.apply(config(u64::from(step)))).await;
        }
        until_runs(&bus).await;
        assert!([1, 2].contains(&serves(&bus, u64::from(step)).await));
    }
    let saved = resource.take_log().into_iter().rfind(|line| line.contains("restored")).expect("a restore");
    assert!(saved.contains("[100"), "the first one's state is in all: {saved}");
    assert!(!resource.twice.load(Ordering::SeqCst), "two at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_configs_and_removals_at_the_same_time_never_make_two() {
    let resource = Arc::<Resource>::default();
    let bus = serving(&resource).await;
    // Not every generation can use every config.
    let unusable = |generation: u64| (100..140).filter(move |number| (number / 4 + generation).is_multiple_of(3));
    let refuses = (2..40).flat_map(|generation| unusable(generation).map(move |number| both(generation, number)));
    resource.refuses.lock().unwrap().extend(refuses);
    let swaps = tokio::spawn({
        let (bus, resource) = (bus.clone(), Arc::clone(&resource));
        async move {
            let mut serving = 1;
            for generation in 2..40 {
                // Some are rolled back.
                if generation % 5 == 0 {
                    resource.refuses.lock().unwrap().push(generation);
                }
                let staged = bus.stage(
                    Source(serving),
                    Source(generation),
                    stores(generation, &resource),
                    Duration::from_secs(20),
                );
                let committed = match staged.await {
                    Ok(staged) => staged.commit(Duration::ZERO).await,
                    Err(error) => Err(error),
                };
                if let Ok(committed) = committed {
                    committed.drained().await;
                    bus.remove_source(Source(serving)).await;
                    serving = generation;
                }
            }
        }
    });
    let configs = tokio::spawn({
        let bus = bus.clone();
        async move {
            for number in 100..140 {
                if number % 7 == 0 {
                    bus.remove_config("store").await;
                }
                bus.apply(config(number)).await.unwrap();
            }
        }
    });
    soon(async {
        swaps.await.unwrap();
        configs.await.unwrap();
    })
    .await;
    assert!(!resource.twice.load(Ordering::SeqCst), "two at once");
    soon(bus.apply(config(200))).await.unwrap();
    until_runs(&bus).await;
    serves(&bus, 1).await;
    soon(bus.close()).await;
    assert!(!resource.owned.load(Ordering::SeqCst), "the last one is dropped");
}
