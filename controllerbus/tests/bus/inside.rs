//! What controllers do on their bus: add others, run them once, follow what there is, look configs up, and get factories.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use controllerbus::Routes;
use controllerbus::bus::loading::{
    ApplyConfigSet, ListControllers, ListDirectives, ListFactories, LoadControllerWithConfig, LoadFactory,
    LookupConfigSet,
};
use controllerbus::bus::{Bus, ControllerId, Execution, RunState, Source};
use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Closures, Info};
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;
use tokio::sync::mpsc;

use crate::kit::{Fails, Words, at_rest, factory, info, soon};

fn speaker() -> Arc<Closures> {
    Arc::new(Closures::new().resolves(|request: Words, values| async move {
        values.add(format!("word {}", request.number));
        Ok(())
    }))
}

#[tokio::test]
async fn a_controller_of_closures_answers_and_executes_until_what_keeps_it_is_dropped() {
    let bus = Bus::new();
    let (told, mut heard) = mpsc::unbounded_channel();
    let closures = Closures::new()
        .resolves(|request: Words, values| async move {
            values.add(format!("word {}", request.number));
            Ok(())
        })
        .executes(move |context| {
            let told = told.clone();
            async move {
                told.send("begun").unwrap();
                context.cancelled().await;
                told.send("ended").unwrap();
                Ok(())
            }
        });
    let running = bus.handle().add_controller(Arc::new(closures), info("test/closures")).unwrap();
    assert_eq!(soon(heard.recv()).await, Some("begun"));
    let mut request = bus.request(Words { number: 1 }).unwrap();
    assert_eq!(*soon(request.value()).await.unwrap(), "word 1");
    assert_eq!(bus.controllers()[0].id, running.id());
    drop(running);
    assert_eq!(soon(heard.recv()).await, Some("ended"));
    while request.standing().count() > 0 {
        soon(request.next()).await;
    }
    assert!(bus.controllers().is_empty());
}

#[tokio::test]
async fn a_controller_that_runs_once_gives_its_result_and_is_gone_then() {
    let bus = Bus::new();
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let work = move |context: Context| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        async move {
            context.resolve(Words { number: 1 }).await?;
            if number == 0 { Ok(()) } else { Err(Error::msg("once is enough")) }
        }
    };
    let _speaker = bus.handle().add_controller(speaker(), info("test/speaker")).unwrap();
    let closures = Arc::new(Closures::new().executes(work));
    soon(bus.handle().run(closures.clone(), info("test/once"))).await.expect("it runs well");
    let error = soon(bus.handle().run(closures, info("test/once"))).await.expect_err("it fails");
    assert_eq!(error.to_string(), "once is enough");
    assert_eq!(runs.load(Ordering::Relaxed), 2, "nothing was tried again");
    assert_eq!(bus.controllers().len(), 1);
    // A panic is a result, too.
    let panics = Arc::new(Closures::new().executes(|_| async { panic!("no") }));
    let error = soon(bus.handle().run(panics, info("test/once"))).await.expect_err("it panics");
    assert_eq!(error.kind(), ErrorKind::Panicked);
}

#[tokio::test]
async fn how_a_controllers_execution_ends_can_be_waited_for() {
    let bus = Bus::new();
    let ends = Closures::new().executes(|_| async { Ok(()) });
    let running = bus.handle().add_controller(Arc::new(ends), info("test/ends")).unwrap();
    soon(running.exited()).await.expect("it ends well");
    soon(running.exited()).await.expect("as often as it is asked");
    let refuses = Closures::new().executes(|_| async { Err(Error::msg("never").permanent()) });
    let refusing = bus.handle().add_controller(Arc::new(refuses), info("test/refuses")).unwrap();
    assert_eq!(soon(refusing.exited()).await.expect_err("it refuses").to_string(), "never");
    let shown = bus.controllers();
    assert!(matches!(&shown[1].execution, Execution::Stopped { error } if error.to_string() == "never"), "{shown:?}");
    let stays = bus.handle().add_controller(speaker(), info("test/stays")).unwrap();
    let id = stays.id();
    let (exited, removed) = tokio::join!(stays.exited(), bus.remove_controller(id));
    assert!(removed);
    assert_eq!(exited.expect_err("it never began").kind(), ErrorKind::Closed);
    bus.close().await;
    assert_eq!(bus.handle().add_controller(speaker(), info("late")).expect_err("closed").kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn controllers_and_directives_are_listed_and_followed_from_inside() {
    let bus = Bus::new();
    let handle = bus.handle();
    let mut listed = handle.request(ListControllers {}).unwrap();
    assert!(soon(listed.values()).await.unwrap().is_empty());
    let running = handle.add_controller(speaker(), info("test/speaker")).unwrap();
    let found = soon(listed.value().matching(|found| found.info.id == "test/speaker")).await.unwrap();
    assert_eq!((found.id, found.resolves.as_slice()), (running.id(), ["test/words".to_owned()].as_slice()));

    let mut directives = handle.request(ListDirectives::all()).unwrap();
    let request = handle.request(Words { number: 7 }).unwrap();
    let found = soon(directives.value().matching(|found| !found.values.is_empty())).await.unwrap();
    assert_eq!((found.id.as_str(), found.resolvers[0].controller), ("test/words", running.id()));
    assert_eq!(soon(handle.resolve_all(ListDirectives::of("test/other"))).await.unwrap().len(), 0);
    drop(request);
    while directives.standing().count() > 0 {
        soon(directives.next()).await;
    }
    running.close().await;
    while listed.standing().count() > 0 {
        soon(listed.next()).await;
    }
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/inside")]
struct InsideConfig {
    #[serde(default)]
    number: u64,
}

struct Inside;

impl Controller for Inside {
    type Config = InsideConfig;
    async fn construct(_: InsideConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }
}

#[tokio::test]
async fn factories_are_added_from_inside_and_go_with_their_controllers() {
    let bus = Bus::new();
    let report = bus.apply(ConfigSet::from_yaml("inside: { id: test/inside }").unwrap()).await.unwrap();
    assert_eq!(report.configs[0].state, RunState::Queued);
    let added = bus.handle().add_factories(vec![factory::<Inside>("inside", "1.0.0")]).unwrap();
    soon(bus.watch_config("inside").running()).await.unwrap();
    let found = soon(bus.resolve_all(ListFactories {})).await.unwrap();
    assert_eq!(found.iter().filter(|found| found.info.id == "inside").count(), 1);
    drop(added);
    let mut watch = bus.watch_config("inside");
    while soon(watch.next()).await.unwrap().state != RunState::Queued {}
    let left = soon(bus.resolve_all(ListFactories {})).await.unwrap();
    assert!(left.iter().all(|found| found.info.id != "inside"));
}

#[tokio::test]
async fn factories_that_a_generation_adds_are_of_it_and_go_with_it() {
    let bus = Bus::new();
    let handle = bus.handle();
    let added = handle.backend().add_factories(vec![factory::<Inside>("inside", "1.0.0")], Source(7)).unwrap();
    bus.apply(ConfigSet::from_yaml("inside: { id: test/inside }").unwrap()).await.unwrap();
    let found = soon(bus.resolve(ListControllers {}).matching(|found| found.info.id == "inside")).await.unwrap();
    assert_eq!(found.source, Source(7));
    assert_eq!(soon(bus.health(Source(7), std::time::Duration::from_secs(20))).await.len(), 1);
    // Whoever has added them may not let go, such as a task that goes on.
    soon(bus.remove_source(Source(7))).await;
    assert_eq!(bus.config("inside").expect("it is there").state, RunState::Queued);
    assert!(bus.factories().iter().all(|found| found.info.id != "inside") && bus.controllers().is_empty());
    drop(added);
}

/// A factory of controllers that add one for [`Tally`], as a generation of a plugin, if they do.
struct Parents {
    generation: u64,
    adds: bool,
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/parent")]
struct ParentConfig {}

impl Factory for Parents {
    fn info(&self) -> Info {
        Info::new("parent", "1.0.0".parse().unwrap(), ParentConfig::ID)
    }
    fn construct(self: Arc<Self>, _: Vec<u8>, context: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let factories = if self.adds {
                vec![factory::<Tally>("tally", &format!("{}.0.0", self.generation))]
            } else {
                Vec::new()
            };
            let added = Arc::new(context.bus().backend().add_factories(factories, Source(self.generation))?);
            let parent = Closures::new().executes(move |context| {
                let added = Arc::clone(&added);
                async move {
                    context.cancelled().await;
                    drop(added);
                    Ok(())
                }
            });
            Ok(Arc::new(parent) as Arc<dyn AnyController>)
        })
    }
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/tally")]
struct TallyConfig {}

/// Counts how often it was asked.
struct Tally(AtomicUsize);

impl Controller for Tally {
    type Config = TallyConfig;
    async fn construct(_: TallyConfig, _: &Context) -> Result<Self> {
        Ok(Self(AtomicUsize::new(0)))
    }
    fn save(&self) -> Result<Option<State>> {
        State::encode(1, &self.0.load(Ordering::Relaxed)).map(Some)
    }
    async fn restore(&self, state: State) -> Result<()> {
        self.0.store(state.decode()?, Ordering::Relaxed);
        Ok(())
    }
    fn routes(routes: &mut Routes<Self>) {
        routes.add::<Words>(|this, _, values| {
            values.add(format!("tally {}", this.0.fetch_add(1, Ordering::Relaxed) + 1));
            Box::pin(std::future::ready(Ok(())))
        });
    }
}

#[tokio::test]
async fn a_swap_hands_the_state_of_controllers_over_whose_factories_the_generations_have_added() {
    let bus = Bus::new();
    let parents = |generation, adds| vec![Arc::new(Parents { generation, adds }) as Arc<dyn Factory>];
    let grace = std::time::Duration::from_secs(20);
    let sources = |id: &str| {
        let found = bus.controllers().into_iter().filter(|found| found.info.id == id);
        found.map(|found| found.source.0).collect::<Vec<_>>()
    };
    let tally_factories = || bus.factories().iter().filter(|found| found.info.id == "tally").count();
    let ask = |number| {
        let asked = bus.resolve(Words { number });
        async move { soon(asked).await.unwrap().to_string() }
    };
    bus.add_factories(Source(1), parents(1, true));
    bus.apply(ConfigSet::from_yaml("parent: { id: test/parent }\ntally: { id: test/tally }").unwrap()).await.unwrap();
    assert_eq!((ask(1).await, ask(2).await), ("tally 1".into(), "tally 2".into()));

    let staged = soon(bus.stage(Source(1), Source(2), parents(2, true), grace)).await.unwrap();
    let mut standing = bus.request(Words { number: 3 }).unwrap();
    assert_eq!(*soon(standing.value()).await.unwrap(), "tally 3", "the old one serves");
    soon(soon(staged.commit(grace)).await.unwrap().drained()).await;
    // Asked beside the old one, it had the state from before that.
    assert_eq!(*soon(standing.value()).await.unwrap(), "tally 3");
    assert_eq!((sources("parent"), sources("tally"), tally_factories()), (vec![2], vec![2], 1));
    drop(standing);
    assert_eq!(ask(4).await, "tally 4", "its state is the old one's last");

    // One that is not committed leaves nothing.
    drop(soon(bus.stage(Source(2), Source(3), parents(3, true), grace)).await.unwrap());
    let mut changes = bus.changes();
    while tally_factories() > 1 || bus.controllers().len() > 2 {
        soon(changes.changed()).await.unwrap();
    }
    assert_eq!((sources("tally"), ask(5).await), (vec![2], "tally 5".to_owned()));

    // Where the next one has none, the config waits.
    let staged = soon(bus.stage(Source(2), Source(4), parents(4, false), grace)).await.unwrap();
    soon(soon(staged.commit(grace)).await.unwrap().drained()).await;
    assert_eq!(bus.config("tally").expect("it is there").state, RunState::Queued);
    assert_eq!((sources("parent"), sources("tally"), tally_factories()), (vec![4], vec![], 0));
}

#[tokio::test]
async fn what_a_generation_adds_is_used_for_configs_and_supersedes_from_its_commit_on() {
    let bus = Bus::new();
    let parents = |generation, adds| vec![Arc::new(Parents { generation, adds }) as Arc<dyn Factory>];
    let grace = std::time::Duration::from_secs(20);
    let added = || bus.factories().iter().filter(|found| found.info.id == "tally").count();
    let state = || bus.config("tally").expect("it is there").state;
    let ask = |number| {
        let asked = bus.resolve(Words { number });
        async move { soon(asked).await.unwrap().to_string() }
    };
    bus.add_factories(Source(1), parents(1, false));
    let set = "parent: { id: test/parent }\ntally: { id: test/tally, supersede: true }";
    bus.apply(ConfigSet::from_yaml(set).unwrap()).await.unwrap();
    // A config that waits goes on waiting, until the generation serves.
    for _ in 0..2 {
        let staged = soon(bus.stage(Source(1), Source(2), parents(2, true), grace)).await.unwrap();
        assert_eq!((added(), state()), (1, RunState::Queued));
        drop(staged);
        assert_eq!((added(), state()), (0, RunState::Queued));
    }
    let staged = soon(bus.stage(Source(1), Source(2), parents(2, true), grace)).await.unwrap();
    soon(soon(staged.commit(grace)).await.unwrap().drained()).await;
    assert_eq!((ask(1).await, ask(2).await), ("tally 1".into(), "tally 2".into()));
    // A better version takes over with the state.
    let staged = soon(bus.stage(Source(2), Source(3), parents(3, true), grace)).await.unwrap();
    assert_eq!(ask(3).await, "tally 3");
    soon(soon(staged.commit(grace)).await.unwrap().drained()).await;
    assert_eq!(ask(4).await, "tally 4");
    let running = bus.controllers().into_iter().find(|found| found.info.id == "tally").expect("it runs");
    assert_eq!((running.info.version.major, added()), (3, 1));
}

#[tokio::test]
async fn what_a_task_of_a_replaced_or_removed_generation_adds_is_refused_and_leaves_nothing() {
    let bus = Bus::new();
    let parents = |generation| vec![Arc::new(Parents { generation, adds: false }) as Arc<dyn Factory>];
    let grace = std::time::Duration::from_secs(20);
    let handle = bus.handle();
    let add = |generation| {
        handle.backend().add_controller(speaker(), info("test/late"), Source(generation), Retry::default())
    };
    let add_factories =
        |generation| handle.backend().add_factories(vec![factory::<Inside>("inside", "1.0.0")], Source(generation));
    bus.add_factories(Source(1), parents(1));
    bus.apply(ConfigSet::from_yaml("parent: { id: test/parent }").unwrap()).await.unwrap();
    drop(add(1).expect("it serves"));
    let staged = soon(bus.stage(Source(1), Source(2), parents(2), grace)).await.unwrap();
    drop(add(1).expect("it serves still"));
    soon(soon(staged.commit(grace)).await.unwrap().drained()).await;

    let refused = |generation: u64| {
        let error = add(generation).err().expect("it is refused");
        assert_eq!(error.kind(), ErrorKind::Closed);
        let wanted = format!("generation {generation} does not serve any more, and adds nothing to the bus");
        assert_eq!(error.to_string(), wanted);
        assert_eq!(add_factories(generation).err().expect("they are refused").to_string(), wanted);
        assert!(bus.controllers().iter().all(|found| found.info.id != "test/late"));
        assert!(bus.factories().iter().all(|found| found.info.id != "inside"));
    };
    refused(1);
    let (_added, factories) = (add(2).expect("it serves"), add_factories(2).expect("it serves"));
    drop(factories);
    soon(bus.remove_source(Source(2))).await;
    refused(2);
    // Where the same one is back, it may.
    bus.add_factories(Source(1), parents(1));
    drop((add(1).expect("it serves"), add_factories(1).expect("it serves")));
}

/// A controller that gets factories of [`Inside`] when somebody needs one.
fn source(handle: &BusHandle, asked: &Arc<AtomicUsize>) -> Arc<Closures> {
    let (handle, asked) = (handle.clone(), Arc::clone(asked));
    Arc::new(Closures::new().resolves(move |request: LoadFactory, values| {
        let handle = handle.clone();
        asked.fetch_add(1, Ordering::Relaxed);
        async move {
            if request.config_id != "test/inside" {
                return Ok(());
            }
            let _added = handle.add_factories(vec![factory::<Inside>("inside", "1.0.0")])?;
            values.idle();
            std::future::pending().await
        }
    }))
}

#[tokio::test]
async fn a_controller_is_a_source_of_factories_for_configs_that_wait_for_one() {
    let bus = Bus::new();
    let before = bus.factories().len();
    let set = "inside: { id: test/inside }\nother: { id: test/other }\n";
    bus.apply(ConfigSet::from_yaml(set).unwrap()).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let handle = bus.handle();
    let running = handle.add_controller(source(&handle, &asked), info("test/source")).unwrap();
    // It is asked for what has waited before it came,
    soon(bus.watch_config("inside").running()).await.unwrap();
    // and keeps the factory as long as the config is there.
    assert_eq!(bus.factories().len(), before + 1);
    bus.remove_config("inside").await;
    let mut changes = bus.changes();
    while bus.factories().len() > before {
        soon(changes.changed()).await.unwrap();
    }
    // And for what comes later.
    bus.apply(ConfigSet::from_yaml("again: { id: test/inside, config: { number: 2 } }").unwrap()).await.unwrap();
    soon(bus.watch_config("again").running()).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    running.close().await;
    let mut watch = bus.watch_config("again");
    while soon(watch.next()).await.unwrap().state != RunState::Queued {}
}

#[tokio::test]
async fn configs_are_looked_up_from_inside_and_kept_alive() {
    let bus = Bus::new();
    let _added = bus.handle().add_factories(vec![factory::<Inside>("inside", "1.0.0")]).unwrap();
    let mut all = bus.request(LookupConfigSet::all()).unwrap();
    assert!(soon(all.values()).await.unwrap().is_empty());
    let keeps = bus.request(LookupConfigSet::of(["inside"]).keep()).unwrap();

    let mut set = ConfigSet::new();
    set.insert("inside", 3, &InsideConfig { number: 1 }).unwrap();
    let applied = bus.request(ApplyConfigSet::of(&set)).unwrap();
    let found = soon(all.value().matching(|found| found.controller.is_some())).await.unwrap();
    assert_eq!((found.key.as_str(), found.revision), ("inside", 3));
    let controller = found.controller;
    // Whoever has applied it lets go, and it runs on, the same.
    drop(applied);
    let state = bus.config("inside").expect("it is kept");
    assert_eq!((state.revision, Some(state.state)), (3, controller.map(RunState::Running)));
    // Another one that comes is kept, too.
    let newer = bus.config_owner();
    set.insert("inside", 4, &InsideConfig { number: 2 }).unwrap();
    soon(newer.apply(set)).await.unwrap();
    let mut look = bus.request(LookupConfigSet::of(["inside"])).unwrap();
    assert_eq!(soon(look.value()).await.unwrap().revision, 4);
    let mut changes = bus.changes();
    while bus.config("inside").expect("it is there").candidates != [4] {
        soon(changes.changed()).await.unwrap();
    }
    soon(newer.withdraw()).await;
    assert_eq!(bus.config("inside").expect("it is kept").revision, 4);
    drop(keeps);
    while all.standing().count() > 0 {
        soon(all.next()).await;
    }
}

/// Waits until a key has so many candidates that are not elected.
async fn others_of(bus: &Bus, key: &str, number: usize) {
    let mut changes = bus.changes();
    while bus.config(key).expect("the key").candidates.len() != number {
        soon(changes.changed()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn two_who_keep_the_same_key_come_to_rest() {
    let bus = Bus::new();
    bus.add_factories(Source(1), vec![factory::<Inside>("inside", "1.0.0")]);
    let _all = bus.request(LookupConfigSet::all().keep()).unwrap();
    let _one = bus.request(LookupConfigSet::of(["inside"]).keep()).unwrap();
    let owner = bus.config_owner();
    let text = |number| format!("inside: {{ id: test/inside, revision: 2, config: {{ number: {number} }} }}");
    for number in [1, 2] {
        soon(owner.apply(ConfigSet::from_yaml(&text(number)).unwrap())).await.unwrap();
        others_of(&bus, "inside", 2).await;
        at_rest(&bus).await;
    }
    // What they keep is what was elected last.
    let RunState::Running(controller) = bus.config("inside").expect("it is there").state else { panic!("it runs") };
    soon(owner.withdraw()).await;
    at_rest(&bus).await;
    let state = bus.config("inside").expect("it is kept");
    assert_eq!((state.state, state.candidates.len()), (RunState::Running(controller), 1));
}

#[tokio::test(start_paused = true)]
async fn keeping_a_config_neither_retries_it_nor_brings_a_removed_controller_back() {
    let bus = Bus::new();
    let fails = Arc::<Fails>::default();
    bus.add_factories(Source(1), vec![fails.clone(), factory::<Inside>("inside", "1.0.0")]);
    let text = "bad: { id: test/fails, retry: { stop_after: 1 } }\ninside: { id: test/inside }\n";
    soon(bus.apply(ConfigSet::from_yaml(text).unwrap())).await.unwrap();
    let RunState::Running(controller) = bus.config("inside").expect("it is there").state else { panic!("it runs") };
    assert!(soon(bus.remove_controller(controller)).await);
    let _keeps = bus.request(LookupConfigSet::all().keep()).unwrap();
    for key in ["bad", "inside"] {
        others_of(&bus, key, 1).await;
    }
    at_rest(&bus).await;
    assert_eq!(fails.tries.load(Ordering::Relaxed), 1);
    assert!(matches!(bus.config("bad").expect("it is there").state, RunState::Failed { retry_in: None, .. }));
    assert_eq!(bus.config("inside").expect("it is there").state, RunState::Removed);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_asked_for_is_tried_as_often_as_was_said() {
    let bus = Bus::new();
    let fails = Arc::<Fails>::default();
    bus.add_factories(Source(1), vec![fails.clone()]);
    let retry = Retry::default().with_start(std::time::Duration::from_secs(1)).with_stop_after(3);
    let load = LoadControllerWithConfig::of(&FailsConfig {}).unwrap();
    let begun = tokio::time::Instant::now();
    let mut request = bus.request(load.with_retry(retry)).unwrap();
    let error = soon(request.value()).await.expect_err("it cannot be made");
    assert!(error.to_string().contains("it cannot be made"), "{error}");
    assert_eq!(fails.tries.load(Ordering::Relaxed), 3);
    assert!(begun.elapsed().as_millis() >= 1_500, "1 s and 2 s, or half of each: {:?}", begun.elapsed());
    tokio::time::sleep(std::time::Duration::from_secs(3_600)).await;
    assert_eq!(fails.tries.load(Ordering::Relaxed), 3, "it was given up");
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/fails")]
struct FailsConfig {}

#[tokio::test]
async fn a_controller_that_a_detached_task_of_a_plugin_has_added_does_not_keep_the_generation() {
    let bus = Bus::new();
    // What would keep the plugin's code loaded.
    let proxy = speaker();
    let adds = bus.handle().backend().add_controller(proxy.clone(), info("test/added"), Source(7), Retry::never());
    let running = adds.unwrap();
    let exited = running.exited();
    soon(bus.remove_source(Source(7))).await;
    soon(async {
        while Arc::strong_count(&proxy) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(soon(exited).await.expect_err("it was removed").kind(), ErrorKind::Closed);
    assert_eq!(soon(running.exited()).await.expect_err("it was removed").kind(), ErrorKind::Closed);
    soon(running.close()).await;
}

/// It resolves so much that routing to it takes a while.
struct Wide;

impl AnyController for Wide {
    fn resolves(&self) -> Vec<String> {
        vec!["test/words".to_owned(); 1_000]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_removed_while_it_is_added_leaves_nothing_behind() {
    let bus = Bus::new();
    let controller = Arc::new(Wide);
    let mut last = bus.add_controller(controller.clone(), info("test/added"));
    for _ in 0..50 {
        // Whoever removes it tries that all the time, and so comes as soon as it is there.
        let (next, removing) = (ControllerId(last.0 + 1), bus.clone());
        let remover = tokio::spawn(async move { while !removing.remove_controller(next).await {} });
        last = bus.add_controller(controller.clone(), info("test/added"));
        assert_eq!(last, next);
        soon(remover).await.unwrap();
    }
    for found in bus.controllers() {
        soon(bus.remove_controller(found.id)).await;
    }
    soon(async {
        while Arc::strong_count(&controller) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
