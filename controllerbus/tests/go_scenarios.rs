//! The scenarios of ControllerBus for Go's own tests, with what becomes of them here. `docs/from-go.md` has the names side by
//! side, and says which of them are tested elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::loading::{ExecController, ExecState, LoadControllerWithConfig};
use controllerbus::bus::{Across, RunState, Source};
use controllerbus::config::Entry;
use controllerbus::controller::factory::FactoryOf;
use controllerbus::controller::{Closures, Info};
use controllerbus::directive::wire;
use controllerbus::prelude::*;
use tokio::sync::{mpsc, watch};

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("it happens within 20 s")
}

fn info(id: &str) -> Info {
    Info::new(id, "1.0.0".parse().expect("a version"), id)
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "go/words", value = String)]
struct Words {}

/// One value at most, as the boilerplate example has it.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "go/one-word", value = String, max_values = 1, hard_cap)]
struct OneWord {}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "go/boilerplate")]
struct BoilerplateConfig {
    #[serde(default)]
    example_field: String,
    #[serde(default)]
    number: u64,
    #[serde(default)]
    fail_with: Option<String>,
}

struct Boilerplate {
    config: BoilerplateConfig,
}

#[hot_plugin(id = "go/boilerplate", version = "1.0.0")]
impl Controller for Boilerplate {
    type Config = BoilerplateConfig;

    async fn construct(config: BoilerplateConfig, _: &Context) -> Result<Self> {
        Ok(Self { config })
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        match &self.config.fail_with {
            Some(error) => Err(Error::msg(error)),
            None => {
                context.cancelled().await;
                Ok(())
            }
        }
    }

    #[resolves(retry = Retry::default().with_stop_after(2))]
    async fn flaky(&self, _: Flaky) -> Result<String> {
        Err(Error::msg("no words"))
    }

    #[cfg_attr(all(), resolves(retry = Retry::default().with_stop_after(3)))]
    async fn flaky_here(&self, _: FlakyHere) -> Result<String> {
        Err(Error::msg("no words here"))
    }
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "go/flaky", value = String)]
struct Flaky {}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "go/flaky-here", value = String)]
struct FlakyHere {}

/// inmem: TestMarkIdle
#[tokio::test]
async fn who_asks_until_it_is_idle_is_not_held_up_by_a_resolver_that_runs_on() {
    let bus = Bus::new();
    let idles = Closures::new().resolves(|_: Words, values| async move {
        values.idle();
        std::future::pending().await
    });
    bus.add_controller(Arc::new(idles), info("idles"));
    assert!(soon(bus.try_resolve(Words {})).await.unwrap().is_none());
    assert!(soon(bus.resolve_all(Words {})).await.unwrap().is_empty());
}

/// configset: TestPartialConfigSetApply
#[tokio::test]
async fn of_a_set_that_is_applied_what_can_run_runs_and_the_rest_waits_for_its_factory() {
    #[derive(Config, Serialize, Deserialize, PartialEq)]
    #[config(id = "go/late")]
    struct LateConfig {}
    struct Late;
    impl Controller for Late {
        type Config = LateConfig;
        async fn construct(_: LateConfig, _: &Context) -> Result<Self> {
            Ok(Self)
        }
    }
    let bus = Bus::new();
    let set = ConfigSet::from_yaml("now: { id: go/boilerplate }\nlate: { id: go/late }\n").unwrap();
    let report = soon(bus.apply(set)).await.unwrap();
    let state = |key: &str| report.configs.iter().find(|config| config.key == key).expect("the key").state.clone();
    assert!(matches!(state("now"), RunState::Running(_)));
    assert_eq!(state("late"), RunState::Queued);
    bus.add_factories(Source::STATIC, vec![FactoryOf::<Late>::with_info(info("go/late"))]);
    soon(bus.watch_config("late").running()).await.unwrap();
}

/// configset_json: TestMarshalConfigSet, TestUnmarshalConfigSet, TestMarshalConfigSetYAML, TestUnmarshalConfigSetYAML;
/// configset_proto: TestE2E, TestJSON
#[test]
fn a_config_set_is_written_and_read_in_each_form_with_rev_or_revision() {
    let yaml = "boilerplate:\n  id: go/boilerplate\n  rev: 1\n  config:\n    example_field: Hello\n";
    let set = ConfigSet::from_yaml(yaml).unwrap();
    let json = r#"{"boilerplate": {"id": "go/boilerplate", "rev": 1, "config": {"example_field": "Hello"}}}"#;
    assert_eq!(set, ConfigSet::from_json(json).unwrap());
    // What is written has the long name.
    assert_eq!(set.to_yaml(), yaml.replace("rev:", "revision:"));
    assert_eq!(ConfigSet::from_yaml(&set.to_yaml()).unwrap(), set);
    assert_eq!(ConfigSet::from_json(&set.to_json()).unwrap(), set);
    assert_eq!(wire::decode::<ConfigSet>(&wire::encode(&set).unwrap()).unwrap(), set);
}

/// configset_proto: TestParseControllerConfig
#[test]
fn one_entry_is_read_by_itself() {
    let entry = Entry::from_yaml("id: go/boilerplate\nrev: 4\nconfig: { example_field: testing }\n").unwrap();
    assert_eq!((entry.id.as_str(), entry.revision), ("go/boilerplate", 4));
    assert_eq!(Entry::from_json(&entry.to_json()).unwrap(), entry);
}

/// controller_exec: TestExecControllerRequest
#[tokio::test]
async fn of_two_controllers_that_are_asked_for_one_is_told_to_run_and_the_other_to_fail() {
    let bus = Bus::new();
    let ask = |fail_with: Option<&str>| {
        let fail_with = fail_with.map(str::to_owned);
        let config = BoilerplateConfig { example_field: String::new(), number: 0, fail_with };
        bus.request(ExecController { load: LoadControllerWithConfig::of(&config).unwrap() }).unwrap()
    };
    let (mut good, mut bad) = (ask(None), ask(Some("as it was told")));
    soon(good.value().matching(|state| matches!(state, ExecState::Running(_)))).await.unwrap();
    let fails = |state: &ExecState| matches!(state, ExecState::Failed(error) if error.to_string() == "as it was told");
    soon(bad.value().matching(fails)).await.unwrap();
}

/// directive/controller: TestDisposeSkipsWeakRefReleasedByValueRemovedCallback
#[tokio::test]
async fn a_weak_reference_may_be_released_by_a_callback_of_the_directives_end() {
    let bus = Bus::new();
    let weak = Arc::new(Mutex::new(None::<Request<Words>>));
    let released = Arc::new(AtomicBool::new(false));
    let (place, told) = (Arc::clone(&weak), Arc::clone(&released));
    let words = Closures::new().resolves(move |_: Words, values| {
        let (place, told) = (Arc::clone(&place), Arc::clone(&told));
        values.add_watched("a word".to_owned(), move || {
            drop(place.lock().unwrap().take());
            told.store(true, Ordering::Relaxed);
        });
        std::future::ready(Ok(()))
    });
    bus.add_controller(Arc::new(words), info("words"));
    let strong = bus.request(Words {}).unwrap();
    *weak.lock().unwrap() = Some(strong.weak().unwrap());
    drop(strong);
    assert!(released.load(Ordering::Relaxed));
    assert!(bus.directives().is_empty());
}

/// Reads events until this many values came or went: `+word`, and `-` for one that went.
async fn events(request: &mut Request<OneWord>, count: usize) -> Vec<String> {
    let mut read = Vec::new();
    while read.len() < count {
        match soon(request.next()).await.expect("it stands") {
            Event::Added(_, word) => read.push(format!("+{word}")),
            Event::Removed(_) => read.push("-".to_owned()),
            _ => {}
        }
    }
    read
}

/// resolver: TestWatchableResolver. Go removes the old value and then adds the new one; here one stands at every moment, also
/// where there may be only one.
#[tokio::test]
async fn a_watched_value_replaces_the_one_before_under_a_hard_cap_of_one_and_an_empty_one_clears_it() {
    let bus = Bus::new();
    let (sender, receiver) = watch::channel(Some("one".to_owned()));
    let watched = Closures::new().resolves(move |_: OneWord, values| {
        let receiver = receiver.clone();
        async move { values.follow(receiver).await }
    });
    bus.add_controller(Arc::new(watched), info("watched"));
    let mut request = bus.request(OneWord {}).unwrap();
    assert_eq!(events(&mut request, 1).await, ["+one"]);
    sender.send_replace(Some("two".to_owned()));
    assert_eq!(events(&mut request, 2).await, ["+two", "-"]);
    sender.send_replace(None);
    assert_eq!(events(&mut request, 1).await, ["-"]);
    sender.send_replace(Some("three".to_owned()));
    assert_eq!(events(&mut request, 1).await, ["+three"]);
}

/// The same for one value of each key.
#[tokio::test]
async fn a_keyed_value_is_replaced_under_a_hard_cap_of_one() {
    let bus = Bus::new();
    let (sender, mut receiver) = mpsc::unbounded_channel::<String>();
    sender.send("one".to_owned()).unwrap();
    let receiver = Mutex::new(Some(std::iter::from_fn(move || receiver.try_recv().ok()).collect::<Vec<_>>()));
    let keyed = Closures::new().resolves(move |_: OneWord, values| {
        let words = receiver.lock().unwrap().take().unwrap_or_default();
        async move {
            let mut keyed = values.keyed();
            for word in words.into_iter().chain(["two".to_owned()]) {
                assert!(keyed.set("key", word).is_some(), "there is room for it");
            }
            values.idle();
            std::future::pending().await
        }
    });
    bus.add_controller(Arc::new(keyed), info("keyed"));
    let all = soon(bus.resolve_all(OneWord {})).await.unwrap();
    assert_eq!(all.iter().map(|word| word.as_str()).collect::<Vec<_>>(), ["two"]);
}

/// Another word, of which there is one at most too.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "go/source", value = String, max_values = 1, hard_cap)]
struct SourceWord {}

/// resolver: TestTransformResolver, where a value takes the place of another.
#[tokio::test]
async fn a_mapped_value_is_replaced_under_a_hard_cap_of_one_and_across_a_bridge_too() {
    let (bus, far) = (Bus::new(), Bus::new());
    let (sender, receiver) = watch::channel(Some("one".to_owned()));
    let source = Closures::new().resolves(move |_: SourceWord, values| {
        let receiver = receiver.clone();
        async move { values.follow(receiver).await }
    });
    far.add_controller(Arc::new(source), info("source"));
    let _bridge = bus.bridge(&far, Across::types(["go/source"])).unwrap();
    let asking = bus.handle();
    let mapped = Closures::new().resolves(move |_: OneWord, values| {
        let request = asking.request(SourceWord {}).unwrap();
        async move { values.map(request, |word| Some(word.to_uppercase())).await }
    });
    bus.add_controller(Arc::new(mapped), info("mapped"));
    let mut request = bus.request(OneWord {}).unwrap();
    assert_eq!(events(&mut request, 1).await, ["+ONE"]);
    for (next, shown) in [("two", "+TWO"), ("three", "+THREE"), ("four", "+FOUR")] {
        sender.send_replace(Some(next.to_owned()));
        assert_eq!(events(&mut request, 2).await, [shown, "-"]);
    }
    sender.send_replace(None);
    assert_eq!(events(&mut request, 1).await, ["-"]);
    sender.send_replace(Some("five".to_owned()));
    assert_eq!(events(&mut request, 1).await, ["+FIVE"]);
}

/// resolver: TestWatchableTransformResolver. The error reaches whoever asks; here the resolver is also tried again.
#[tokio::test]
async fn an_error_of_what_transforms_a_watched_value_reaches_whoever_asks() {
    let bus = Bus::new();
    let numbers = Closures::new().resolves(|_: Words, values| {
        let stream = Numbers(vec![1, 13]);
        async move {
            let words =
                |number: u32| if number == 13 { Err(Error::msg("not 13")) } else { Ok(Some(number.to_string())) };
            values.follow_stream(stream, words).await
        }
    });
    bus.add_controller(Arc::new(numbers), info("numbers"));
    let error = soon(bus.resolve(Words {}).matching(|_| false)).await.expect_err("an error");
    assert_eq!(error.to_string(), "not 13");
}

/// A stream of numbers, without a crate for it.
struct Numbers(Vec<u32>);

impl futures_core::Stream for Numbers {
    type Item = u32;
    fn poll_next(mut self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Option<u32>> {
        let next = if self.0.is_empty() { None } else { Some(self.0.remove(0)) };
        std::task::Poll::Ready(next)
    }
}

/// boilerplate_v1: TestNegativeUint
#[tokio::test]
async fn a_negative_number_where_none_may_be_is_pointed_at() {
    let bus = Bus::new();
    let text = "boilerplate:\n  id: go/boilerplate\n  config:\n    number: -4\n";
    let report = soon(bus.apply(ConfigSet::parse("bus.yaml", text).unwrap())).await.unwrap();
    let problem = report.problems().next().expect("a problem").problem.clone().expect("an error");
    assert!(problem.to_string().starts_with("bus.yaml:4:"), "{problem}");
}

/// yaml: Scalars, NestedMapsSequencesAndAliases; JSONToYAML: SortedKeys, QuotedStrings, Stability
#[test]
fn yaml_is_read_as_ever_and_written_sorted_quoted_and_the_same_each_time() {
    let text = "a:\n  id: x\n  config: &all\n    truth: [yes, off, True]\n    numbers: [1, -2, 1.5, 0x10]\n    nothing: ~\nb:\n  id: x\n  config: *all\n";
    let set = ConfigSet::from_yaml(text).unwrap();
    assert_eq!(set.get("a").unwrap().config, set.get("b").unwrap().config);
    assert_eq!(set.get("a").unwrap().config["truth"], serde_json::json!([true, false, true]));
    assert_eq!(set.get("a").unwrap().config["numbers"], serde_json::json!([1, -2, 1.5, 16]));
    let json = r#"{"z": {"id": "x", "config": {"b": "yes", "a": "1"}}, "k": {"id": "x"}}"#;
    let yaml = ConfigSet::from_json(json).unwrap().to_yaml();
    assert_eq!(yaml, "k:\n  id: x\n  config: {}\nz:\n  id: x\n  config:\n    a: \"1\"\n    b: \"yes\"\n");
    assert_eq!(ConfigSet::from_yaml(&yaml).unwrap().to_yaml(), yaml);
}

/// keyed: TestKeyedWithDelay, when it was part of the repository. The delay is the directive's.
#[tokio::test(start_paused = true)]
async fn what_is_asked_for_again_within_its_keep_time_was_never_released() {
    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "go/kept", value = u64, keep_for_ms = 1_000)]
    struct Kept {}
    let bus = Bus::new();
    let asked = Mutex::new(0);
    let kept = Closures::new().resolves(move |_: Kept, values| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        values.add(*asked);
        std::future::ready(Ok(()))
    });
    bus.add_controller(Arc::new(kept), info("kept"));
    assert_eq!(*bus.resolve(Kept {}).await.unwrap(), 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(*bus.resolve(Kept {}).await.unwrap(), 1);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(*bus.resolve(Kept {}).await.unwrap(), 2);
}

/// RetryResolver with a backoff of its own.
#[tokio::test(start_paused = true)]
async fn a_resolver_says_itself_how_often_it_is_tried_again() {
    let bus = Bus::new();
    bus.apply(ConfigSet::from_yaml("boilerplate: { id: go/boilerplate }").unwrap()).await.unwrap();
    assert_eq!(failures_of(bus.request(Flaky {}).unwrap()).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_is_one_under_a_condition_says_itself_how_often_it_is_tried_again() {
    let bus = Bus::new();
    bus.apply(ConfigSet::from_yaml("boilerplate: { id: go/boilerplate }").unwrap()).await.unwrap();
    assert_eq!(failures_of(bus.request(FlakyHere {}).unwrap()).await, 3);
}

/// How often a directive fails until nothing more happens.
async fn failures_of<D: Directive>(mut request: Request<D>) -> usize {
    let mut failures = 0;
    let all = async {
        while let Some(event) = request.next().await {
            failures += usize::from(matches!(event, Event::Failed(_)));
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(3_600), all).await.is_err());
    failures
}

/// configset: equal configs under two keys, and in another order, are one controller.
#[tokio::test]
async fn equal_configs_share_a_controller_whatever_the_order_of_their_fields() {
    let bus = Bus::new();
    let text = "a: { id: go/boilerplate, config: { number: 1, example_field: x } }\n\
                b: { id: go/boilerplate, config: { example_field: x, number: 1 } }\n";
    soon(bus.apply(ConfigSet::from_yaml(text).unwrap())).await.unwrap();
    let load = |config: &str| LoadControllerWithConfig::by_id("go/boilerplate", config);
    let one = soon(bus.resolve(load(r#"{"number": 1, "example_field": "x"}"#))).await.unwrap();
    let other = soon(bus.resolve(load(r#"{ "example_field": "x", "number": 1 }"#))).await.unwrap();
    assert_eq!(one.id, other.id);
    assert_eq!(bus.controllers().len(), 1);
}
