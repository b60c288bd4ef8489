//! A generation of controllers takes over from another: nothing is lost, and what fails leaves everything as it was.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::loading::LoadControllerWithConfig;
use controllerbus::bus::{Bus, Limits, RunState, Source};
use controllerbus::controller::factory::{Factory, erase};
use controllerbus::controller::{AnyController, BoxFuture, Closures, Info};
use controllerbus::directive::{RawEvent, RawRequest};
use controllerbus::prelude::*;
use tokio::sync::{Semaphore, watch};

use crate::kit::{AskedBy, Words, info, next_of, resolver_of, soon};

/// Notes a number, and says who noted it.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/note", value = u64)]
struct Note(u64);

type Numbers = BTreeSet<u64>;

/// Asks for the numbers that were noted.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/notes", value = Numbers)]
struct Notes(u64);

/// Asks who serves; there is room for one answer.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/who", value = u64, max_values = 1, hard_cap)]
struct Who(u64);

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/notebook")]
struct NotebookConfig {}

/// What a generation does otherwise than a good one.
#[derive(Default)]
struct Odd {
    construct: Option<&'static str>,
    execute: Option<&'static str>,
    resolve: Option<&'static str>,
    /// Told the how manieth restore this is.
    restore: Option<fn(usize) -> Result<()>>,
    restored: AtomicUsize,
    /// Called in the second `save`, while the state is being handed over.
    in_second_save: Option<Box<dyn Fn() + Send + Sync>>,
    saved: AtomicUsize,
    /// Who serves is said only with a permit.
    who: Option<Semaphore>,
}

struct Notebook {
    generation: u64,
    odd: Arc<Odd>,
    notes: Mutex<BTreeSet<u64>>,
}

/// Fails in the way that a word says.
fn odd(word: Option<&'static str>) -> Result<()> {
    match word {
        None => Ok(()),
        Some(word) if word.contains("panic") => panic!("{word}"),
        Some(word) => Err(Error::msg(word)),
    }
}

impl Controller for Notebook {
    type Config = NotebookConfig;

    async fn construct(_: NotebookConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("it is made by its factory"))
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        odd(self.odd.execute)?;
        context.cancelled().await;
        Ok(())
    }

    fn save(&self) -> Result<Option<State>> {
        if self.odd.saved.fetch_add(1, Ordering::Relaxed) == 1
            && let Some(called) = &self.odd.in_second_save
        {
            called();
        }
        State::encode(1, &*self.notes.lock().unwrap()).map(Some)
    }

    async fn restore(&self, state: State) -> Result<()> {
        if let Some(restore) = self.odd.restore {
            restore(self.odd.restored.fetch_add(1, Ordering::Relaxed) + 1)?;
        }
        *self.notes.lock().unwrap() = state.decode()?;
        Ok(())
    }

    fn routes(routes: &mut controllerbus::Routes<Self>) {
        routes.add::<Note>(|this, request, values| {
            Box::pin(async move {
                odd(this.odd.resolve)?;
                // At work for a while, so that hand-overs meet calls on their way.
                tokio::task::yield_now().await;
                this.notes.lock().unwrap().insert(request.0);
                values.add(this.generation);
                Ok(())
            })
        });
        routes.add::<Notes>(|this, _, values| {
            Box::pin(async move {
                values.add(this.notes.lock().unwrap().clone());
                Ok(())
            })
        });
        routes.add::<Who>(|this, _, values| {
            Box::pin(async move {
                odd(this.odd.resolve)?;
                if let Some(permits) = &this.odd.who {
                    permits.acquire().await?.forget();
                }
                values.add(this.generation);
                Ok(())
            })
        });
    }
}

struct Notebooks {
    generation: u64,
    odd: Arc<Odd>,
}

impl Factory for Notebooks {
    fn info(&self) -> Info {
        info("test/notebook")
    }

    fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            odd(self.odd.construct)?;
            let (generation, odd) = (self.generation, Arc::clone(&self.odd));
            Ok(erase(Notebook { generation, odd, notes: Mutex::default() }))
        })
    }
}

fn factories(generation: u64, odd: Odd) -> Vec<Arc<dyn Factory>> {
    vec![Arc::new(Notebooks { generation, odd: Arc::new(odd) })]
}

/// Longer than a call takes on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A bus on which generation 1 serves.
async fn serving(odd: Odd) -> Bus {
    let bus = Bus::new();
    serve_on(&bus, odd).await;
    bus
}

async fn serve_on(bus: &Bus, odd: Odd) {
    bus.apply(ConfigSet::from_yaml("notebook:\n  id: test/notebook\n").unwrap()).await.unwrap();
    bus.add_factories(Source(1), factories(1, odd));
    assert_eq!(*soon(bus.resolve(Who(0))).await.unwrap(), 1);
}

async fn swap(bus: &Bus, to: u64, odd: Odd) -> Result<()> {
    let staged = bus.stage(Source(to - 1), Source(to), factories(to, odd), Duration::from_secs(20)).await?;
    staged.commit(PATIENCE).await?.drained().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_note_that_was_answered_is_lost_when_notebooks_are_swapped_under_load() {
    let bus = serving(Odd::default()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicU64::new(1));
    let writing = |_| {
        let (bus, stop, next) = (bus.clone(), Arc::clone(&stop), Arc::clone(&next));
        tokio::spawn(async move {
            let mut answered = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                bus.resolve(Note(number)).await.expect("an answer");
                answered.push(number);
            }
            answered
        })
    };
    let writers: Vec<_> = (0..8).map(writing).collect();
    for generation in 2..=30 {
        soon(swap(&bus, generation, Odd::default())).await.expect("a swap");
    }
    stop.store(true, Ordering::Relaxed);
    let mut answered = BTreeSet::new();
    for writer in writers {
        answered.extend(soon(writer).await.expect("a writer"));
    }
    let kept = soon(bus.resolve(Notes(1))).await.unwrap();
    let lost: Vec<_> = answered.difference(&kept).collect();
    assert!(!answered.is_empty() && lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), answered.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_before_the_switch_leaves_the_old_generation_as_it_was() {
    let first = |_| Err(Error::msg("restore refuses the state"));
    let second = |time| if time == 2 { Err(Error::msg("restore refuses the last state")) } else { Ok(()) };
    let panics = |_| panic!("restore panics");
    let blocked = Odd { who: Some(Semaphore::new(0)), ..Odd::default() };
    let cases: Vec<(Odd, &str)> = vec![
        (Odd { construct: Some("construct fails"), ..Odd::default() }, "constructing test/notebook: construct fails"),
        (Odd { construct: Some("construct panics"), ..Odd::default() }, "constructing test/notebook: panicked"),
        (Odd { execute: Some("execute fails"), ..Odd::default() }, "executing test/notebook: execute fails"),
        (Odd { execute: Some("execute panics"), ..Odd::default() }, "executing test/notebook: panicked"),
        (Odd { resolve: Some("resolve fails"), ..Odd::default() }, "resolve fails"),
        (Odd { resolve: Some("resolve panics"), ..Odd::default() }, "panicked: resolve panics"),
        (Odd { restore: Some(first), ..Odd::default() }, "restoring the state of test/notebook: restore refuses"),
        (Odd { restore: Some(panics), ..Odd::default() }, "restoring the state of test/notebook: panicked"),
        (Odd { restore: Some(second), ..Odd::default() }, "restore refuses the last state"),
        (blocked, "was not ready within"),
    ];
    let bus = serving(Odd::default()).await;
    let mut standing = bus.request(Who(7)).unwrap();
    assert!(matches!(soon(standing.next()).await, Some(Event::Added(_, who)) if *who == 1));
    assert!(matches!(soon(standing.next()).await, Some(Event::Idle)));
    for (at, (odd, expected)) in cases.into_iter().enumerate() {
        let grace = if expected.contains("ready") { Duration::from_millis(100) } else { Duration::from_secs(20) };
        let staged = bus.stage(Source(1), Source(2), factories(2, odd), grace).await;
        let ended = match staged {
            // The state changes between the two saves.
            Ok(staged) => {
                soon(bus.resolve(Note(at as u64))).await.unwrap();
                soon(staged.commit(PATIENCE)).await.map(drop)
            }
            Err(error) => Err(error),
        };
        let error = ended.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(*soon(bus.resolve(Note(1_000 + at as u64))).await.unwrap(), 1, "after `{expected}`");
        assert_eq!(bus.controllers().len(), 1, "after `{expected}`");
    }
    // Nothing of all this was to be seen by who held a value.
    let unread = tokio::time::timeout(Duration::from_millis(20), standing.next()).await;
    assert!(unread.is_err(), "{unread:?}");
    swap(&bus, 2, Odd::default()).await.expect("a good one takes over");
    assert_eq!(*soon(bus.resolve(Who(8))).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_begins_while_the_state_is_handed_over_is_the_new_generations_or_the_old_ones_if_that_fails() {
    let asked: Arc<Mutex<Vec<Request<Note>>>> = Arc::default();
    let place: Arc<Mutex<Option<Bus>>> = Arc::default();
    let asking = |number: u64| {
        let (asked, place) = (Arc::clone(&asked), Arc::clone(&place));
        Odd {
            in_second_save: Some(Box::new(move || {
                let bus = place.lock().unwrap().clone().expect("the bus");
                asked.lock().unwrap().push(bus.request(Note(number)).unwrap());
            })),
            ..Odd::default()
        }
    };
    let bus = serving(asking(5)).await;
    *place.lock().unwrap() = Some(bus.clone());
    soon(swap(&bus, 2, asking(6))).await.expect("a swap");
    let mut request = asked.lock().unwrap().pop().expect("a request");
    assert_eq!(*soon(request.value()).await.unwrap(), 2);

    let refuse = |time| if time == 2 { Err(Error::msg("the last state is refused")) } else { Ok(()) };
    let staged = bus.stage(
        Source(2),
        Source(3),
        factories(3, Odd { restore: Some(refuse), ..Odd::default() }),
        Duration::from_secs(20),
    );
    let staged = soon(staged).await.expect("it is ready");
    soon(bus.resolve(Note(7))).await.unwrap();
    let error = soon(staged.commit(PATIENCE)).await.expect_err("it is rolled back").to_string();
    assert!(error.contains("the last state is refused"), "{error}");
    let mut request = asked.lock().unwrap().pop().expect("a request");
    assert_eq!(*soon(request.value()).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_only_the_new_generation_was_offered_before_it_was_given_the_state_is_not_lost() {
    for at_the_hand_over in [true, false] {
        let bus = Bus::new();
        // It comes before the notebook, so that whoever adds note 1 is kept from offering it to that.
        let ((reached, at), (open, gate)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        let gate = Mutex::new(gate);
        resolver_of::<Note, _>(&bus, move |note, _| {
            if note.0 == 1 {
                reached.send(()).expect("the test waits");
                let _ = gate.lock().unwrap().recv();
            }
            std::future::ready(Ok(()))
        });
        let asking: Arc<Mutex<Option<std::thread::JoinHandle<Request<Note>>>>> = Arc::default();
        let (asker, opener) = (Arc::clone(&asking), open.clone());
        let offer_on = move || {
            let _ = opener.send(());
            let request = asker.lock().unwrap().take().expect("an asker").join().expect("a request");
            *asker.lock().unwrap() = Some(std::thread::spawn(move || request));
        };
        let in_second_save: Option<Box<dyn Fn() + Send + Sync>> =
            at_the_hand_over.then(|| Box::new(offer_on.clone()) as _);
        serve_on(&bus, Odd { in_second_save, ..Odd::default() }).await;
        let (runtime, adds) = (tokio::runtime::Handle::current(), bus.clone());
        *asking.lock().unwrap() = Some(std::thread::spawn(move || {
            let _entered = runtime.enter();
            adds.request(Note(1)).unwrap()
        }));
        tokio::task::block_in_place(|| at.recv()).expect("note 1 is on its way");

        let staged = bus.stage(Source(1), Source(2), factories(2, Odd::default()), Duration::from_secs(20));
        let staged = soon(staged).await.expect("it is ready");
        soon(bus.resolve(Note(2))).await.unwrap();
        let committed = soon(staged.commit(PATIENCE)).await.expect("a swap");
        if !at_the_hand_over {
            offer_on();
        }
        let mut request = asking.lock().unwrap().take().expect("an asker").join().expect("a request");
        assert_eq!(*soon(request.value()).await.unwrap(), 2);
        soon(committed.drained()).await;
        assert_eq!(*soon(bus.resolve(Notes(1))).await.unwrap(), Numbers::from([1, 2]));
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_hold_one_value_always_holds_a_valid_one() {
    let bus = serving(Odd::default()).await;
    let mut early = bus.request(Who(1)).unwrap();
    assert!(matches!(soon(early.next()).await, Some(Event::Added(_, who)) if *who == 1));
    let permits = Arc::new(Odd { who: Some(Semaphore::new(1)), ..Odd::default() });
    let new: Vec<Arc<dyn Factory>> = vec![Arc::new(Notebooks { generation: 2, odd: Arc::clone(&permits) })];
    let staged = soon(bus.stage(Source(1), Source(2), new, Duration::from_secs(20))).await.expect("it is ready");
    // It comes between: the new generation has no answer to it yet when that takes over.
    let mut late = bus.request(Who(2)).unwrap();
    assert!(matches!(soon(late.next()).await, Some(Event::Added(_, who)) if *who == 1));
    let committed = soon(staged.commit(PATIENCE)).await.expect("a swap");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match soon(early.next()).await {
            Some(Event::Added(_, who)) => seen.push(format!("added {who}")),
            Some(Event::Removed(_)) => seen.push("removed".to_owned()),
            _ => {}
        }
    }
    assert_eq!(seen, ["added 2", "removed"]);
    assert_eq!(late.standing().count(), 1);

    permits.who.as_ref().expect("permits").add_permits(1);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match soon(late.next()).await {
            Some(Event::Added(_, who)) => seen.push(format!("added {who}")),
            Some(Event::Removed(_)) => seen.push("removed".to_owned()),
            _ => {}
        }
    }
    assert_eq!(seen, ["added 2", "removed"]);
    soon(committed.drained()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_comes_back_takes_the_state_or_begins_with_its_own_last_one() {
    // It takes what the one that is taken back has.
    let bus = serving(Odd::default()).await;
    soon(bus.resolve(Note(5))).await.unwrap();
    let staged = bus.stage(Source(1), Source(2), factories(2, Odd::default()), Duration::from_secs(20)).await.unwrap();
    let committed = soon(staged.commit(PATIENCE)).await.expect("a swap");
    let last = committed.last_states();
    soon(bus.resolve(Note(6))).await.unwrap();
    let back = bus.stage_back(Source(2), Source(3), factories(3, Odd::default()), PATIENCE, last.clone());
    let committed = soon(soon(back).await.expect("it is ready").commit(PATIENCE)).await.expect("it is back");
    assert!(committed.notes().is_empty(), "{:?}", committed.notes());
    assert_eq!(*soon(bus.resolve(Notes(1))).await.unwrap(), Numbers::from([5, 6]));

    // What its `restore` refuses is said, and it begins with what it had itself.
    let newer = |time| if time == 1 { Err(Error::msg("that state is too new")) } else { Ok(()) };
    let older = Odd { restore: Some(newer), ..Odd::default() };
    let back = bus.stage_back(Source(3), Source(4), factories(4, older), PATIENCE, last.clone());
    let committed = soon(soon(back).await.expect("it is ready").commit(PATIENCE)).await.expect("it is back");
    assert!(
        committed.notes()[0].contains("that state is too new; it starts with its own last state"),
        "{:?}",
        committed.notes()
    );
    assert_eq!(*soon(bus.resolve(Notes(2))).await.unwrap(), Numbers::from([5]));

    // One that cannot even save keeps nobody from coming back.
    let broken = Odd { in_second_save: Some(Box::new(|| panic!("save panics"))), ..Odd::default() };
    let staged = bus.stage(Source(4), Source(5), factories(5, broken), PATIENCE).await.unwrap();
    let committed = soon(staged.commit(PATIENCE)).await.expect("a swap");
    let last = committed.last_states();
    let first = bus.stage_back(Source(5), Source(6), factories(6, Odd::default()), PATIENCE, last.clone());
    let committed = soon(soon(first).await.expect("it is ready").commit(PATIENCE)).await.expect("it is back");
    assert!(committed.notes().iter().any(|note| note.contains("save panics")), "{:?}", committed.notes());
    assert_eq!(*soon(bus.resolve(Notes(3))).await.unwrap(), Numbers::from([5]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_of_a_source_say_how_they_are_within_a_time() {
    struct Patient(u64);
    impl Controller for Patient {
        type Config = NotebookConfig;
        async fn construct(_: NotebookConfig, _: &Context) -> Result<Self> {
            Err(Error::msg("it is made by hand"))
        }
        async fn health(&self) -> Result<()> {
            match self.0 {
                0 => Ok(()),
                1 => Err(Error::msg("no database")),
                _ => std::future::pending().await,
            }
        }
    }
    let bus = Bus::new();
    let ids: Vec<_> = (0..3).map(|how| bus.add_controller(erase(Patient(how)), info("test/patient"))).collect();
    let mut found = soon(bus.health(Source::STATIC, Duration::from_millis(50))).await;
    found.sort_by_key(|(id, _)| *id);
    assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
    assert!(found[0].1.is_ok());
    assert_eq!(found[1].1.as_ref().unwrap_err().to_string(), "no database");
    assert!(found[2].1.as_ref().unwrap_err().to_string().contains("took longer"), "{:?}", found[2].1);
}

/// Asks for a number that stays in its library.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/own-number", value = Arc<AtomicU64>, local)]
struct OwnNumber {}

type Make = Box<dyn Fn(Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> + Send + Sync>;

/// A factory made of a closure.
struct Makes(&'static str, Make);

impl Factory for Makes {
    fn info(&self) -> Info {
        info(self.0)
    }
    fn construct(self: Arc<Self>, _: Vec<u8>, context: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        (self.1)(context)
    }
}

fn makes<F>(id: &'static str, make: impl Fn(Context) -> F + Send + Sync + 'static) -> Arc<dyn Factory>
where
    F: Future<Output = Result<Arc<dyn AnyController>>> + Send + 'static,
{
    Arc::new(Makes(id, Box::new(move |context| Box::pin(make(context)))))
}

fn asked_by(generation: u64) -> Arc<AskedBy<OwnNumber>> {
    Arc::new(AskedBy { library: Source(generation), directive: OwnNumber {} })
}

#[tokio::test]
async fn a_local_directive_that_fails_in_both_generations_does_not_keep_the_next_one_out() {
    let bus = Bus::new();
    let generation = || {
        vec![makes("test/numbers", |_| async {
            let fails = |_: OwnNumber, _| std::future::ready(Err(Error::msg("no numbers").permanent()));
            Ok(Arc::new(Closures::new().resolves(fails)) as Arc<dyn AnyController>)
        })]
    };
    bus.add_factories(Source(1), generation());
    soon(bus.apply(ConfigSet::from_yaml("numbers: { id: test/numbers }").unwrap())).await.unwrap();
    let mut old = bus.handle().raw(asked_by(1)).unwrap();
    let mut new = bus.handle().raw(asked_by(2)).unwrap();
    while !matches!(next_of(&mut old).await, RawEvent::Failed(_)) {}
    let staged = soon(bus.stage(Source(1), Source(2), generation(), PATIENCE)).await.expect("it is ready");
    drop(old);
    soon(soon(staged.commit(PATIENCE)).await.expect("a swap").drained()).await;
    while !matches!(next_of(&mut new).await, RawEvent::Failed(_)) {}
}

#[tokio::test]
async fn a_controller_that_needs_a_live_value_to_be_constructed_can_be_swapped() {
    let bus = Bus::new();
    let generation = |number: u64| {
        let needs = makes("test/needs", move |context| async move {
            let mut request = context.bus().raw(asked_by(number))?;
            while !matches!(next_of(&mut request).await, RawEvent::Added(..)) {}
            Ok(Arc::new(Closures::new()) as Arc<dyn AnyController>)
        });
        let has = makes("test/has", |_| async {
            let answers = |_: OwnNumber, values: Values<Arc<AtomicU64>>| {
                values.add(Arc::new(AtomicU64::new(1)));
                std::future::ready(Ok(()))
            };
            Ok(Arc::new(Closures::new().resolves(answers)) as Arc<dyn AnyController>)
        });
        vec![needs, has]
    };
    bus.add_factories(Source(1), generation(1));
    let set = "needs: { id: test/needs }\nhas: { id: test/has }\n";
    soon(bus.apply(ConfigSet::from_yaml(set).unwrap())).await.unwrap();
    assert_eq!(bus.controllers().len(), 2);
    for number in 2..4 {
        let staged = bus.stage(Source(number - 1), Source(number), generation(number), PATIENCE);
        let staged = soon(staged).await.expect("it is ready");
        soon(soon(staged.commit(PATIENCE)).await.expect("a swap").drained()).await;
    }
    assert_eq!(bus.controllers().len(), 2);
}

/// The same as a call.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/own-call", value = Arc<AtomicU64>, local, once)]
struct OwnCall {}

fn called_by(generation: u64) -> Arc<AskedBy<OwnCall>> {
    Arc::new(AskedBy { library: Source(generation), directive: OwnCall {} })
}

async fn answer_of(call: &mut Box<dyn RawRequest>) -> u64 {
    loop {
        match next_of(call).await {
            RawEvent::Added(_, value) => return value.get_local::<Arc<AtomicU64>>().unwrap().load(Ordering::Relaxed),
            RawEvent::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_local_call_of_a_generation_that_is_prepared_is_answered_once_and_by_that_generation() {
    let bus = Bus::new();
    let (calls, answers) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let generation = |number: u64| {
        let answers = Arc::clone(&answers);
        let needs = makes("test/needs", move |context| {
            let answers = Arc::clone(&answers);
            async move {
                let mut call = context.bus().raw(called_by(number))?;
                let answer = answer_of(&mut call).await;
                answers.lock().unwrap().push(answer);
                Ok(Arc::new(Closures::new()) as Arc<dyn AnyController>)
            }
        });
        let calls = Arc::clone(&calls);
        let has = makes("test/has", move |_| {
            let calls = Arc::clone(&calls);
            async move {
                let answers = move |_: OwnCall, values: Values<Arc<AtomicU64>>| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    values.add(Arc::new(AtomicU64::new(number)));
                    std::future::ready(Ok(()))
                };
                Ok(Arc::new(Closures::new().resolves(answers)) as Arc<dyn AnyController>)
            }
        });
        vec![needs, has]
    };
    bus.add_factories(Source(1), generation(1));
    let set = "needs: { id: test/needs }\nhas: { id: test/has }\n";
    soon(bus.apply(ConfigSet::from_yaml(set).unwrap())).await.unwrap();
    for number in 2..4 {
        let limit = Duration::from_secs(3);
        let staged = soon(bus.stage(Source(number - 1), Source(number), generation(number), limit)).await;
        soon(soon(staged.expect("it is ready").commit(PATIENCE)).await.expect("a swap").drained()).await;
    }
    assert_eq!(*answers.lock().unwrap(), [1, 2, 3]);
    assert_eq!(calls.load(Ordering::Relaxed), 3, "each was answered once");
}

#[tokio::test]
async fn a_local_call_that_waits_while_the_state_is_handed_over_stays_with_its_generation() {
    /// Has a state, so that calls wait while it is swapped; somebody whom it answers is at work, so that this takes time.
    struct Keeps(u64);
    impl Controller for Keeps {
        type Config = NotebookConfig;
        async fn construct(_: NotebookConfig, _: &Context) -> Result<Self> {
            Err(Error::msg("it is made by its factory"))
        }
        fn save(&self) -> Result<Option<State>> {
            State::encode(1, &self.0).map(Some)
        }
        fn routes(routes: &mut controllerbus::Routes<Self>) {
            routes.add::<OwnCall>(|this, _, values| {
                values.add(Arc::new(AtomicU64::new(this.0)));
                Box::pin(std::future::ready(Ok(())))
            });
            routes.add::<Words>(|_, _, _| Box::pin(std::future::pending()));
        }
    }
    let bus = Bus::new();
    let generation = |number: u64| vec![makes("test/notebook", move |_| std::future::ready(Ok(erase(Keeps(number)))))];
    bus.add_factories(Source(1), generation(1));
    soon(bus.apply(ConfigSet::from_yaml("notebook: { id: test/notebook }").unwrap())).await.unwrap();
    let at_work = bus.request(Words { number: 1 }).unwrap();
    let staged = soon(bus.stage(Source(1), Source(2), generation(2), PATIENCE)).await.expect("it is ready");
    let committing = tokio::spawn(staged.commit(Duration::from_millis(300)));
    let waits = || {
        let calls = bus.directives().into_iter().filter(|found| found.id == "test/own-call");
        calls.into_iter().any(|found| !found.idle && found.values.is_empty() && !found.resolvers.is_empty())
    };
    let mut call = loop {
        let call = bus.handle().raw(called_by(1)).unwrap();
        if waits() {
            break call;
        }
        drop(call);
        tokio::task::yield_now().await;
    };
    let committed = soon(committing).await.unwrap().expect("a swap");
    assert_eq!(answer_of(&mut call).await, 1);
    drop((call, at_work));
    soon(committed.drained()).await;
}

#[tokio::test]
async fn a_generation_that_waits_for_what_only_it_would_make_says_so_when_its_time_is_over() {
    let bus = Bus::new();
    let child = || makes("test/child", |_| std::future::ready(Ok(Arc::new(Closures::new()) as Arc<dyn AnyController>)));
    let waiting = makes("test/parent", move |context| async move {
        let _added = context.bus().backend().add_factories(vec![child()], Source(2))?;
        context.bus().resolve(LoadControllerWithConfig::by_id("test/child", "{}")).await?;
        Ok(Arc::new(Closures::new()) as Arc<dyn AnyController>)
    });
    let plain = makes("test/parent", |_| std::future::ready(Ok(Arc::new(Closures::new()) as Arc<dyn AnyController>)));
    bus.add_factories(Source(1), vec![plain]);
    soon(bus.apply(ConfigSet::from_yaml("parent: { id: test/parent }").unwrap())).await.unwrap();
    let limit = Duration::from_millis(300);
    let error = soon(bus.stage(Source(1), Source(2), vec![waiting], limit)).await.expect_err("it waits in vain");
    let text = error.to_string();
    assert!(text.contains("not ready within 300ms; it waits for the construction of test/parent"), "{text}");
    assert!(text.contains("`test/child` waits for a factory that this generation has added"), "{text}");
    assert!(text.contains("only once the generation serves"), "{text}");
    assert_eq!(bus.controllers().iter().filter(|found| found.info.id == "test/parent").count(), 1);
}

#[tokio::test]
async fn a_plugin_that_keeps_running_short_controllers_can_be_swapped() {
    /// Adds another controller whenever it is saved, as one that does so all the time happens to.
    struct Adds(BusHandle, Mutex<Vec<Box<dyn controllerbus::bus::RawRunning>>>);
    impl Controller for Adds {
        type Config = NotebookConfig;
        async fn construct(_: NotebookConfig, _: &Context) -> Result<Self> {
            Err(Error::msg("it is made by its factory"))
        }
        fn save(&self) -> Result<Option<State>> {
            let short = Arc::new(Closures::new());
            let added = self.0.backend().add_controller(short, info("test/short"), Source(1), Retry::never())?;
            self.1.lock().unwrap().push(added);
            State::encode(1, &()).map(Some)
        }
    }
    let bus = Bus::new();
    let generation = || {
        vec![makes("test/notebook", |context| async move { Ok(erase(Adds(context.bus().clone(), Mutex::default()))) })]
    };
    bus.add_factories(Source(1), generation());
    soon(bus.apply(ConfigSet::from_yaml("notebook: { id: test/notebook }").unwrap())).await.unwrap();
    let staged = soon(bus.stage(Source(1), Source(2), generation(), PATIENCE)).await.expect("it is ready");
    assert!(bus.controllers().len() > 2, "a short one was added");
    soon(soon(staged.commit(PATIENCE)).await.expect("a swap").drained()).await;
    assert_eq!(bus.controllers().len(), 1, "the short ones end with their generation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_whose_factory_goes_before_the_commit_does_not_take_over() {
    type Guard = Arc<Mutex<Option<Box<dyn Send + Sync>>>>;
    let child = |generation: u64| {
        makes("test/child", move |_| async move {
            let answers = move |_: Who, values: Values<u64>| {
                values.add(generation);
                std::future::ready(Ok(()))
            };
            Ok(Arc::new(Closures::new().resolves(answers)) as Arc<dyn AnyController>)
        })
    };
    let generation = |number: u64, guard: &Guard| {
        let guard = Arc::clone(guard);
        vec![makes("test/parent", move |context| {
            let added = context.bus().backend().add_factories(vec![child(number)], Source(number));
            let guard = Arc::clone(&guard);
            async move {
                *guard.lock().unwrap() = Some(added?);
                Ok(Arc::new(Closures::new()) as Arc<dyn AnyController>)
            }
        })]
    };
    let bus = Bus::new();
    let [old, new] = [Guard::default(), Guard::default()];
    bus.add_factories(Source(1), generation(1, &old));
    let set = "parent: { id: test/parent }\nchild: { id: test/child }\n";
    soon(bus.apply(ConfigSet::from_yaml(set).unwrap())).await.unwrap();
    assert_eq!(*soon(bus.resolve(Who(1))).await.unwrap(), 1);

    let staged = soon(bus.stage(Source(1), Source(2), generation(2, &new), PATIENCE)).await.expect("it is ready");
    let factories = || bus.factories().iter().filter(|found| found.info.id == "test/child").count();
    assert_eq!(factories(), 2);
    drop(new.lock().unwrap().take());
    let mut changes = bus.changes();
    while factories() > 1 {
        soon(changes.changed()).await.unwrap();
    }
    soon(soon(staged.commit(PATIENCE)).await.expect("a swap").drained()).await;
    assert_eq!(bus.config("child").unwrap().state, RunState::Queued);
    // It runs as soon as there is a factory again.
    *new.lock().unwrap() = Some(bus.handle().backend().add_factories(vec![child(2)], Source(2)).unwrap());
    assert_eq!(*soon(bus.resolve(Who(2))).await.unwrap(), 2);
}

/// How many controllers of a generation there were.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tally {
    begun: u32,
    made: u32,
    closed: u32,
    dropped: u32,
}

/// A step that does not end, until its gate opens.
#[derive(Clone)]
enum Hangs {
    Nowhere,
    /// It blocks its thread.
    Construct(Arc<Gate>),
    /// It blocks its thread.
    Save(Arc<Gate>),
    Restore,
}

/// Open once its other end is gone.
type Gate = Mutex<std::sync::mpsc::Receiver<()>>;

/// Counts what becomes of it.
struct Tallied {
    tally: watch::Sender<Tally>,
    hangs: Hangs,
}

impl Controller for Tallied {
    type Config = NotebookConfig;
    async fn construct(_: NotebookConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("it is made by its factory"))
    }
    fn save(&self) -> Result<Option<State>> {
        if let Hangs::Save(gate) = &self.hangs {
            let _ = gate.lock().unwrap().recv();
        }
        State::encode(1, &()).map(Some)
    }
    async fn restore(&self, _: State) -> Result<()> {
        if matches!(self.hangs, Hangs::Restore) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
    async fn close(&self) {
        self.tally.send_modify(|tally| tally.closed += 1);
    }
}

impl Drop for Tallied {
    fn drop(&mut self) {
        self.tally.send_modify(|tally| tally.dropped += 1);
    }
}

/// A generation of two controllers, one of which hangs.
fn tallied(tally: &watch::Sender<Tally>, hangs: Hangs) -> Vec<Arc<dyn Factory>> {
    let made_of = |id, hangs: Hangs| {
        let tally = tally.clone();
        makes(id, move |_| {
            let (tally, hangs) = (tally.clone(), hangs.clone());
            async move {
                tally.send_modify(|tally| tally.begun += 1);
                if let Hangs::Construct(gate) = &hangs {
                    let _ = gate.lock().unwrap().recv();
                }
                tally.send_modify(|tally| tally.made += 1);
                Ok(erase(Tallied { tally, hangs }))
            }
        })
    };
    vec![made_of("test/hangs", hangs), made_of("test/sound", Hangs::Nowhere)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_constructed_for_a_swap_that_comes_to_nothing_is_closed_and_dropped() {
    /// How the swap ends.
    #[derive(Clone, Copy, PartialEq)]
    enum End {
        Limit,
        Time,
        Dropped,
    }
    let set = "hangs: { id: test/hangs }\nsound: { id: test/sound }\n";
    for step in ["construct", "save", "restore"] {
        for end in [End::Limit, End::Time, End::Dropped] {
            let (open, gate) = std::sync::mpsc::channel::<()>();
            let gate = Arc::new(Mutex::new(gate));
            let (of_old, of_new) = match step {
                "construct" => (Hangs::Nowhere, Hangs::Construct(gate)),
                "save" => (Hangs::Save(gate), Hangs::Nowhere),
                _ => (Hangs::Nowhere, Hangs::Restore),
            };
            let (mut limits, mut grace) = (Limits::default(), Duration::from_secs(20));
            match end {
                End::Limit => {
                    let limit = Duration::from_millis(50);
                    limits = limits.construct(limit).save(limit).restore(limit);
                }
                End::Time => grace = Duration::from_millis(200),
                End::Dropped => {}
            }
            let bus = Bus::with_limits(limits);
            let (old, new) = (watch::Sender::default(), watch::Sender::default());
            bus.add_factories(Source(1), tallied(&old, of_old));
            soon(bus.apply(ConfigSet::from_yaml(set).unwrap())).await.unwrap();
            let mut seen = new.subscribe();
            {
                let staging = bus.stage(Source(1), Source(2), tallied(&new, of_new), grace);
                let begun = seen.wait_for(|tally| end == End::Dropped && tally.begun == 2);
                tokio::select! {
                    staged = staging => {
                        let error = staged.map(drop).expect_err("it is not ready").to_string();
                        let is_named = error.contains(match (end, step) {
                            (End::Time, _) => "was not ready within",
                            (_, "construct") => "constructing test/hangs took longer",
                            (_, "save") => "saving the state of test/hangs took longer",
                            _ => "restoring the state of test/hangs took longer",
                        });
                        assert!(is_named, "{error}");
                    }
                    _ = begun => {}
                }
            }
            if step == "construct" {
                // It is made all the same, when nobody waits for it any more.
                drop(open);
            }
            let all_gone = |tally: &Tally| {
                let Tally { begun, made, closed, dropped } = *tally;
                (made, closed, dropped) == (begun, begun, begun)
            };
            let tally = soon(seen.wait_for(all_gone)).await.unwrap().clone();
            assert!(end == End::Time || tally.begun > 0, "{tally:?}");
            assert_eq!(*old.borrow(), Tally { begun: 2, made: 2, closed: 0, dropped: 0 }, "the old ones serve on");
        }
    }
}
