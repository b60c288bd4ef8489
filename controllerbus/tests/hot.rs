//! Functions on a bus: what crosses, what goes wrong, and what a swap does with calls.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use controllerbus::__private::{FactoryEntry, SwapMode, hot};
use controllerbus::bus::{Bus, Execution, Source};
use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Closures, Info};
use controllerbus::directive::{AnyDirective, ValueSink};
use controllerbus::error::ErrorKind;
use controllerbus::hot::{Hot, HotTrait, ListFunctions, Serves};
use controllerbus::prelude::*;
use tokio::sync::Notify;

/// What crosses.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
struct Item {
    name: String,
    count: u32,
}

/// Every kind of argument and result.
#[controllerbus::hot]
trait Kinds {
    fn nothing(&self);
    fn named(&self, method: u8, arguments: u8, caller: u8) -> (u8, u8, u8);
    fn text(&self, text: &str) -> String;
    fn bytes(&self, bytes: &[u8], path: &Path) -> Vec<u8>;
    fn items(&self, first: &Item, rest: &[Item], more: Option<Item>) -> Vec<Item>;
    async fn wait(&self, item: Item, _: (u8, char)) -> Result<Item, String>;
    async fn default(&self, text: &str) -> usize {
        text.len()
    }
}

#[derive(Default)]
struct AllKinds;

#[hot_plugin(id = "kinds", version = "1.2.3")]
impl Kinds for AllKinds {
    fn nothing(&self) {}

    fn named(&self, method: u8, arguments: u8, caller: u8) -> (u8, u8, u8) {
        (method, arguments, caller)
    }

    fn text(&self, text: &str) -> String {
        text.to_uppercase()
    }

    fn bytes(&self, bytes: &[u8], path: &Path) -> Vec<u8> {
        [bytes, path.to_string_lossy().as_bytes()].concat()
    }

    fn items(&self, first: &Item, rest: &[Item], more: Option<Item>) -> Vec<Item> {
        [first].into_iter().chain(rest).cloned().chain(more).collect()
    }

    async fn wait(&self, item: Item, _: (u8, char)) -> Result<Item, String> {
        tokio::task::yield_now().await;
        if item.count == 0 { Err(format!("no {}", item.name)) } else { Ok(item) }
    }
}

#[test]
fn what_is_linked_in_starts_with_the_first_use_in_a_runtime_of_a_bus_that_was_made_outside_of_one() {
    // Asked, or with a controller on the bus that answers everything.
    for is_answered in [false, true] {
        let bus = Bus::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        assert!(bus.configs().is_empty(), "nothing can run yet");
        runtime.block_on(async {
            if is_answered {
                let silent = Closures::new().resolves(|_: ListFunctions, _| std::future::ready(Ok(())));
                bus.add_controller(Arc::new(silent), Info::new("silent", "1.0.0".parse().unwrap(), "test/silent"));
            }
            let kinds: Hot<dyn Kinds> = soon(bus.hot()).await.expect("it is linked in");
            assert_eq!(kinds.text("ada").await.expect("an answer"), "ADA");
            bus.close().await;
        });
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("it happens within 20 s")
}

#[tokio::test]
async fn what_is_linked_in_is_called_without_a_config_and_every_kind_of_argument_and_result_crosses() {
    let bus = Bus::new();
    let kinds: Hot<dyn Kinds> = soon(bus.hot()).await.expect("it is linked in");
    assert_eq!(Hot::plugin(&kinds), "kinds");
    let item = |name: &str, count| Item { name: name.to_owned(), count };
    let all = async {
        kinds.nothing().await?;
        assert_eq!(kinds.named(1, 2, 3).await?, (1, 2, 3));
        assert_eq!(kinds.text("ada").await?, "ADA");
        assert_eq!(kinds.bytes(&[0, 255], Path::new("/a")).await?, [0, 255, b'/', b'a']);
        let items = kinds.items(&item("a", 1), &[item("b", 2)], Some(item("c", 3))).await?;
        assert_eq!(items, [item("a", 1), item("b", 2), item("c", 3)]);
        assert_eq!(kinds.wait(item("a", 1), (1, 'x')).await?, Ok(item("a", 1)));
        assert_eq!(kinds.wait(item("tea", 0), (1, 'x')).await?, Err("no tea".to_owned()));
        assert_eq!(kinds.default("four").await?, 4);
        Ok::<(), BusError>(())
    };
    soon(all).await.expect("all of them");
    // The arguments are not held.
    let begun = {
        let text = "gone".to_owned();
        kinds.text(&text)
    };
    assert_eq!(begun.await.expect("an answer"), "GONE");
    assert_eq!(AllKinds.text("plain"), "PLAIN");
    assert_eq!(Kinds::default(&AllKinds, "plain").await, 5);
    let listed = bus.resolve_all(ListFunctions {}).await.expect("a list");
    let listed = listed.iter().find(|found| found.plugin == "kinds").expect("it says what it has");
    assert!(listed.methods.contains(&"text(&str) -> String".to_owned()), "{listed:?}");
}

/// What a test's generations do.
#[controllerbus::hot]
trait Count {
    fn add(&self, number: u64) -> u64;
    async fn hold(&self) -> String;
    async fn fail(&self, why: &str) -> String;
    fn panic(&self, why: &str);
}

/// What generations tell the test, and wait for.
#[derive(Default)]
struct Told {
    begun: AtomicUsize,
    dropped: AtomicUsize,
    go_on: Notify,
}

impl Told {
    async fn begins(&self, times: usize) {
        soon(async {
            while self.begun.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Found by generations, which are made with `Default`.
static TOLD: std::sync::Mutex<Vec<(u64, Arc<Told>)>> = std::sync::Mutex::new(Vec::new());

struct DropTells(Arc<Told>);

impl Drop for DropTells {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// A generation: its number is in its type.
#[derive(Default, Serialize, Deserialize)]
struct Counter<const NUMBER: u64> {
    sum: std::sync::atomic::AtomicU64,
}

impl<const NUMBER: u64> Counter<NUMBER> {
    fn told() -> Arc<Told> {
        let told = TOLD.lock().expect("the list");
        told.iter()
            .rfind(|(number, _)| *number / 10 == NUMBER / 10)
            .map(|(_, told)| Arc::clone(told))
            .expect("it is told")
    }
}

impl<const NUMBER: u64> Count for Counter<NUMBER> {
    fn add(&self, number: u64) -> u64 {
        self.sum.fetch_add(number, Ordering::SeqCst) + number
    }

    async fn hold(&self) -> String {
        let told = Self::told();
        let _dropped = DropTells(Arc::clone(&told));
        told.begun.fetch_add(1, Ordering::SeqCst);
        told.go_on.notified().await;
        format!("generation {NUMBER}")
    }

    async fn fail(&self, why: &str) -> String {
        Self::told().begun.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        panic!("{why}");
    }

    fn panic(&self, why: &str) {
        panic!("{why}");
    }
}

/// The factory of a plugin's type, as `#[hot_plugin]` makes it, under an id.
fn factory<I, T>(id: &'static str, state: bool) -> Arc<dyn Factory>
where
    I: ?Sized + Serves<T>,
    T: Default + Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    factory_that::<I, T>(id, state, SwapMode::Beside)
}

/// The same, and how it is swapped.
fn factory_that<I, T>(id: &'static str, state: bool, swap: SwapMode) -> Arc<dyn Factory>
where
    I: ?Sized + Serves<T>,
    T: Default + Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let table = hot::Table {
        id,
        of: I::NAME,
        methods: I::METHODS,
        make: |_| Box::pin(async { Ok(Arc::new(T::default()) as hot::Object) }),
        call: hot::call::<I, T>,
        state: state.then(hot::Kept::of::<T>),
    };
    let table: &'static hot::Table = Box::leak(Box::new(table));
    let entry = FactoryEntry {
        id,
        version: "1.0.0",
        description: "",
        config_id: Box::leak(format!("functions/{id}").into_boxed_str()),
        swap,
        starts: true,
        persist_ms: 0,
        record: &[],
        factory: |_| unreachable!("it is made by hand"),
    };
    hot::factory(Box::leak(Box::new(entry)), table)
}

/// A bus with a generation of a plugin, as a runtime loads it.
async fn loaded(id: &'static str, factory: Arc<dyn Factory>) -> Bus {
    let bus = Bus::new();
    load(&bus, id, factory, 1).await;
    bus
}

async fn load(bus: &Bus, id: &str, factory: Arc<dyn Factory>, source: u64) {
    bus.add_factories(Source(source), vec![factory]);
    let report = bus.apply(hot::configs([format!("functions/{id}").as_str()])).await.expect("applying");
    assert_eq!(report.problems().count(), 0);
}

async fn swap(bus: &Bus, from: u64, to: u64, factory: Arc<dyn Factory>) -> controllerbus::bus::Committed {
    let grace = Duration::from_secs(10);
    let staged = bus.stage(Source(from), Source(to), vec![factory], grace).await.expect("staging");
    // What is at work when a state is handed over has this long to end.
    staged.commit(Duration::from_secs(10)).await.expect("committing")
}

fn told(test: u64) -> Arc<Told> {
    let told = Arc::new(Told::default());
    TOLD.lock().expect("the list").push((test * 10, Arc::clone(&told)));
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_at_work_stays_with_its_generation_and_is_made_once_and_later_ones_go_to_the_next() {
    let told = told(1);
    let bus = loaded("one", factory::<dyn Count, Counter<11>>("one", false)).await;
    let count: Hot<dyn Count> = soon(bus.hot()).await.expect("it serves");
    let before = count.hold();
    told.begins(1).await;
    let committed = soon(swap(&bus, 1, 2, factory::<dyn Count, Counter<12>>("one", false))).await;
    let after = count.hold();
    told.begins(2).await;
    // Neither was begun again by the other generation.
    assert_eq!(told.begun.load(Ordering::SeqCst), 2);
    told.go_on.notify_waiters();
    assert_eq!(soon(before).await.expect("the old code goes on"), "generation 11");
    assert_eq!(soon(after).await.expect("the new code serves"), "generation 12");
    soon(committed.drained()).await;
    assert_eq!((told.begun.load(Ordering::SeqCst), told.dropped.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_call_outlasts_its_generation_for_as_long_as_it_takes() {
    let told = told(2);
    let bus = loaded("two", factory::<dyn Count, Counter<21>>("two", false)).await;
    let count: Hot<dyn Count> = bus.hot().await.expect("it serves");
    let call = count.hold();
    let _committed = swap(&bus, 1, 2, factory::<dyn Count, Counter<22>>("two", false)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let leaving = bus.leaving();
    assert_eq!(leaving.len(), 1, "the controller stays for it");
    // Tools see what for.
    let finishing = Execution::Finishing { calls: vec!["functions/two".to_owned()], pins: Vec::new() };
    assert_eq!((&leaving[0].execution, leaving[0].source), (&finishing, Source(1)));
    told.go_on.notify_waiters();
    assert_eq!(call.await.expect("it goes on"), "generation 21");
    while !bus.leaving().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Swaps a counter while it is called, and counts what was answered.
async fn swap_under_load(id: &'static str, swaps: u64, generation: impl Fn(u64) -> Arc<dyn Factory>) {
    let bus = loaded(id, generation(1)).await;
    let count: Hot<dyn Count> = soon(bus.hot()).await.expect("it serves");
    let stop = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (count, stop) = (count.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut made = 0;
                while stop.load(Ordering::Relaxed) == 0 {
                    count.add(1).await.expect("no call fails");
                    made += 1;
                    tokio::task::yield_now().await;
                }
                made
            })
        })
        .collect();
    for from in 1..=swaps {
        soon(soon(swap(&bus, from, from + 1, generation(from + 1))).await.drained()).await;
    }
    stop.store(1, Ordering::Relaxed);
    let mut made = 0;
    for caller in callers {
        made += caller.await.expect("the caller");
    }
    assert!(made > swaps, "{made} calls");
    assert_eq!(soon(count.add(0)).await.expect("an answer"), made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_fails_and_no_state_is_lost_in_swaps_under_load() {
    swap_under_load("three", 60, |number| match number % 2 {
        0 => factory::<dyn Count, Counter<32>>("three", true),
        _ => factory::<dyn Count, Counter<31>>("three", true),
    })
    .await;
}

/// Asked for a call before the plugin is, it keeps whoever calls until it is told to go on, and has nothing to answer.
struct Delays {
    begun: tokio::sync::mpsc::UnboundedSender<()>,
    go_on: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

impl AnyController for Delays {
    fn resolves(&self) -> Vec<String> {
        vec!["functions/thirteen".to_owned()]
    }

    fn resolve(
        self: Arc<Self>,
        _: Arc<dyn AnyDirective>,
        _: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        self.begun.send(()).expect("the test is there");
        self.go_on.lock().expect("a lock").recv().expect("the test is there");
        None
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_that_comes_to_the_old_generation_too_late_is_the_next_ones() {
    let bus = Bus::new();
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, told) = std::sync::mpsc::channel();
    let delays = Delays { begun, go_on: std::sync::Mutex::new(told) };
    bus.add_controller(Arc::new(delays), Info::new("delays", "1.0.0".parse().unwrap(), "test/delays"));
    load(&bus, "thirteen", factory::<dyn Count, Counter<131>>("thirteen", false), 1).await;
    let count: Hot<dyn Count> = soon(bus.hot()).await.expect("it serves");
    let calling = count.clone();
    let call = tokio::spawn(async move { calling.add(1).await });
    // It knows whom to ask, and has not asked the plugin yet.
    soon(begins.recv()).await.expect("it is asked");
    soon(swap(&bus, 1, 2, factory::<dyn Count, Counter<132>>("thirteen", false))).await;
    // Twice, should it ask again.
    go_on.send(()).and_then(|()| go_on.send(())).expect("it waits");
    assert_eq!(soon(call).await.expect("the caller").expect("the new code answers"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_fails_and_no_state_is_lost_where_one_generation_ends_before_the_next_one_is_made() {
    swap_under_load("ten", 60, |number| match number % 2 {
        0 => factory_that::<dyn Count, Counter<102>>("ten", true, SwapMode::StopFirst),
        _ => factory_that::<dyn Count, Counter<101>>("ten", true, SwapMode::StopFirst),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_error_that_names_the_method_and_is_not_tried_again() {
    let told = told(4);
    let bus = loaded("four", factory::<dyn Count, Counter<41>>("four", false)).await;
    let count: Hot<dyn Count> = soon(bus.hot()).await.expect("it serves");
    let error = soon(count.panic("no more tea")).await.expect_err("it panics");
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert_eq!(error.to_string(), "`Count::panic` of `four` panicked: no more tea");
    let mut call = count.fail("later");
    let error = soon(&mut call).await.expect_err("it panics");
    assert_eq!(error.to_string(), "`Count::fail` of `four` panicked: later");
    assert!(call.await.expect_err("it is over").to_string().contains("has returned already"));
    assert_eq!(soon(count.add(2)).await.expect("it goes on"), 2);
    assert_eq!(told.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unloaded_plugin_is_an_error_that_says_so_and_a_call_is_not_begun_again_when_it_is_back() {
    let told = told(5);
    let bus = loaded("five", factory::<dyn Count, Counter<51>>("five", false)).await;
    let count: Hot<dyn Count> = soon(bus.hot()).await.expect("it serves");
    let call = count.hold();
    told.begins(1).await;
    soon(bus.remove_source(Source(1))).await;
    load(&bus, "five", factory::<dyn Count, Counter<52>>("five", false), 2).await;
    let error = soon(call).await.expect_err("it was cut off");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "`Count::hold`: the plugin `five` was unloaded");
    assert_eq!(told.begun.load(Ordering::SeqCst), 1);
    assert_eq!(soon(count.add(1)).await.expect("it is back"), 1);
    soon(bus.remove_source(Source(2))).await;
    assert_eq!(soon(count.add(1)).await.expect_err("it is gone").kind(), ErrorKind::NotFound);
    bus.close().await;
    assert_eq!(soon(count.add(1)).await.expect_err("the bus is gone").kind(), ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_is_cancelled_and_one_may_have_a_limit() {
    let told = told(6);
    let bus = loaded("six", factory::<dyn Count, Counter<61>>("six", false)).await;
    let count: Hot<dyn Count> = soon(bus.hot()).await.expect("it serves");
    let call = count.hold();
    told.begins(1).await;
    drop(call);
    let error = soon(count.hold().within(Duration::from_millis(20))).await.expect_err("it is late");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "`Count::hold` of `six` did not answer within 20ms");
    soon(async {
        while told.dropped.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The same trait, as another version of its crate has it.
mod newer {
    #[controllerbus::hot]
    pub(super) trait Count {
        fn add(&self, number: u64) -> u64;
        async fn hold(&self, limit: u32) -> String;
        fn subtract(&self, number: u64) -> u64;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_differs_is_named_and_the_others_are_called_all_the_same() {
    assert_eq!(<dyn Count>::NAME, <dyn newer::Count>::NAME);
    let bus = loaded("seven", factory::<dyn Count, Counter<71>>("seven", false)).await;
    let count: Hot<dyn newer::Count> = soon(bus.hot()).await.expect("it serves");
    assert_eq!(soon(count.add(1)).await.expect("this one is the same"), 1);
    let error = soon(count.hold(3)).await.expect_err("another signature");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let said = error.to_string();
    assert!(said.contains("`Count::hold` is `() -> String` in the plugin `seven`"), "{said}");
    assert!(said.contains("`(u32) -> String` for the caller"), "{said}");
    let said = soon(count.subtract(3)).await.expect_err("it is not there").to_string();
    assert!(said.contains("the plugin `seven` has no `Count::subtract`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_plugins_one_is_chosen_by_its_id() {
    let bus = loaded("eight", factory::<dyn Count, Counter<81>>("eight", false)).await;
    load(&bus, "nine", factory::<dyn Count, Counter<91>>("nine", false), 2).await;
    let error = soon(bus.hot::<dyn Count>()).await.expect_err("there are two");
    assert!(error.to_string().starts_with("`eight` and `nine` implement `hot::Count`"), "{error}");
    let eight: Hot<dyn Count> = soon(bus.hot_of("eight")).await.expect("it serves");
    let nine: Hot<dyn Count> = soon(bus.hot_of("nine")).await.expect("it serves");
    assert_eq!((soon(eight.add(1)).await.expect("1"), soon(nine.add(2)).await.expect("2")), (1, 2));
    let error = soon(bus.hot_of::<dyn Count>("kinds")).await.expect_err("another trait");
    assert_eq!(error.to_string(), "`kinds` implements `hot::Kinds`, not `hot::Count`");
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_is_too_busy_to_say_what_it_has_keeps_nobody_from_finding_another_one() {
    let bus = Bus::new();
    let busy = controllerbus::controller::Closures::new().resolves(|_: ListFunctions, _| std::future::pending());
    let info = controllerbus::controller::Info::new("busy", "1.0.0".parse().expect("a version"), "busy");
    bus.add_controller(Arc::new(busy), info);
    let begun = tokio::time::Instant::now();
    let kinds: Hot<dyn Kinds> = soon(bus.hot_of("kinds")).await.expect("it serves");
    assert_eq!(begun.elapsed(), Duration::ZERO, "the one that is named is enough");
    assert_eq!(soon(kinds.text("ada")).await.expect("an answer"), "ADA");
    let kinds: Hot<dyn Kinds> = soon(bus.hot()).await.expect("it serves");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(Hot::plugin(&kinds), "kinds");
}

/// What a keeper keeps.
#[derive(controllerbus::State, Clone, PartialEq, Debug)]
struct Kept {
    notes: Vec<String>,
}

#[controllerbus::hot]
trait Keeper {
    fn note(&self, note: &str) -> usize;
}

struct Notes {
    kept: std::sync::Mutex<Kept>,
}

impl Notes {
    async fn open(context: &Context) -> Result<Self> {
        let notes = vec![context.info().id.clone()];
        Ok(Self { kept: std::sync::Mutex::new(Kept { notes }) })
    }
}

#[hot_plugin(id = "keeper", construct = Self::open, state = kept)]
impl Keeper for Notes {
    fn note(&self, note: &str) -> usize {
        let mut kept = self.kept.lock().expect("the notes");
        kept.notes.push(note.to_owned());
        kept.notes.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constructed_value_hands_over_the_field_that_is_its_state() {
    let bus = Bus::new();
    let keeper: Hot<dyn Keeper> = soon(bus.hot()).await.expect("it is linked in");
    assert_eq!(soon(keeper.note("one")).await.expect("an answer"), 2);
    // The same code as another generation.
    let entry = controllerbus::__private::FACTORIES.iter().find(|entry| entry.id == "keeper").expect("it is linked in");
    soon(soon(swap(&bus, 0, 7, entry.factory())).await.drained()).await;
    assert_eq!(soon(keeper.note("two")).await.expect("an answer"), 3);
}

/// What is handed over as a whole.
#[derive(Default, Serialize, Deserialize)]
struct Whole {
    notes: std::sync::Mutex<Vec<String>>,
}

#[test]
fn a_state_that_cannot_be_saved_since_a_method_panicked_says_what_to_do() {
    let whole = Arc::new(Whole::default());
    let held = Arc::clone(&whole);
    let panics = std::thread::spawn(move || {
        let _held = held.notes.lock().expect("the notes");
        panic!("in the middle");
    });
    assert!(panics.join().is_err());
    let object: hot::Object = whole;
    let error = (hot::Kept::of::<Whole>().save)(&object).expect_err("it is poisoned").to_string();
    assert!(error.contains("a method panicked while it held that lock"), "{error}");
    assert!(error.contains("`state = field`"), "{error}");
}

/// Each is told once to do something.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/command", value = u64, unmerged, once)]
struct Command {
    fails: bool,
}

#[tokio::test(start_paused = true)]
async fn a_directive_that_is_answered_once_is_given_to_one_controller_and_not_again_when_that_fails() {
    let bus = Bus::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let controller = |number| {
        let asked = Arc::clone(&asked);
        let answers = controllerbus::controller::Closures::new().resolves(move |command: Command, values| {
            asked.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                if command.fails {
                    return Err(Error::msg("it cannot"));
                }
                values.add(number);
                Ok(())
            }
        });
        let info = controllerbus::controller::Info::new("test", "1.0.0".parse().expect("a version"), "test");
        bus.add_controller(Arc::new(answers), info)
    };
    let first = controller(1);
    controller(2);
    let values = bus.resolve_all(Command { fails: false }).await.expect("an answer");
    assert_eq!((values.len(), asked.load(Ordering::SeqCst)), (1, 1));
    let mut failing = bus.request(Command { fails: true }).expect("a request");
    assert!(failing.value().await.is_err());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2, "it is not tried again");
    bus.remove_controller(first).await;
    controller(3);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2, "nor is it given to another one");
    drop(failing);
    assert_eq!(*bus.resolve(Command { fails: false }).await.expect("an answer"), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_call_hears_that_its_controller_went() {
    let bus = Bus::new();
    let never = controllerbus::controller::Closures::new().resolves(|_: Command, _| std::future::pending());
    let info = controllerbus::controller::Info::new("test", "1.0.0".parse().expect("a version"), "test");
    let controller = bus.add_controller(Arc::new(never), info);
    let waiting = tokio::spawn({
        let request = bus.request(Command { fails: false }).expect("a request");
        async move {
            let mut request = request;
            request.value().await
        }
    });
    bus.remove_controller(controller).await;
    let error = soon(waiting).await.expect("the task").expect_err("nobody answers any more");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "`test` was removed before it answered");
}

/// A call; that it stands by itself goes without saying.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/call", value = u64, once)]
struct PlainCall {}

#[tokio::test(start_paused = true)]
async fn an_equal_call_is_another_one_also_while_one_stands_whose_controller_went() {
    let bus = Bus::new();
    let info = || controllerbus::controller::Info::new("test", "1.0.0".parse().expect("a version"), "test");
    let never = controllerbus::controller::Closures::new().resolves(|_: PlainCall, _| std::future::pending());
    let controller = bus.add_controller(Arc::new(never), info());
    let spent = bus.request(PlainCall {}).expect("a request");
    bus.remove_controller(controller).await;
    let answers = controllerbus::controller::Closures::new().resolves(|_: PlainCall, values| {
        values.add(1);
        std::future::ready(Ok(()))
    });
    bus.add_controller(Arc::new(answers), info());
    assert_eq!(*soon(bus.resolve(PlainCall {})).await.expect("an answer"), 1);
    drop(spent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_while_it_waits_for_a_swap_is_not_made_when_that_is_rolled_back() {
    let told = told(11);
    let bus = loaded("eleven", factory::<dyn Count, Counter<111>>("eleven", true)).await;
    let count: Hot<dyn Count> = soon(bus.hot()).await.expect("it serves");
    let at_work = count.hold();
    told.begins(1).await;
    let next = factory::<dyn Count, Counter<112>>("eleven", true);
    let staged = bus.stage(Source(1), Source(2), vec![next], Duration::from_secs(10)).await.expect("staging");
    let swapping = tokio::spawn(staged.commit(Duration::from_secs(20)));
    // A call is answered at once until the swap holds it; that one is dropped.
    let mut made = 0;
    soon(async {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while std::pin::Pin::new(&mut count.add(1)).poll(&mut cx).is_ready() {
            made += 1;
            tokio::task::yield_now().await;
        }
    })
    .await;
    swapping.abort();
    assert_eq!(soon(count.add(0)).await.expect("it serves again"), made);
    told.go_on.notify_waiters();
    assert_eq!(soon(at_work).await.expect("it goes on"), "generation 111");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_called_before_a_bridge_that_takes_whatever_there_is() {
    let there = loaded("twelve", factory::<dyn Count, Counter<121>>("twelve", false)).await;
    let here = Bus::new();
    let _bridge = here.bridge(&there, controllerbus::bus::Across::when(|_| true)).expect("a bridge");
    load(&here, "twelve", factory::<dyn Count, Counter<122>>("twelve", false), 1).await;
    let count: Hot<dyn Count> = soon(here.hot_of("twelve")).await.expect("it serves");
    assert_eq!(soon(count.add(1)).await.expect("an answer"), 1);
    // Also after a swap, by which the plugin is the last one that came.
    soon(soon(swap(&here, 1, 2, factory::<dyn Count, Counter<123>>("twelve", false))).await.drained()).await;
    assert_eq!(soon(count.add(2)).await.expect("an answer"), 2);
    let other: Hot<dyn Count> = soon(there.hot_of("twelve")).await.expect("it serves");
    assert_eq!(soon(other.add(4)).await.expect("an answer"), 4, "nothing went across");
}
