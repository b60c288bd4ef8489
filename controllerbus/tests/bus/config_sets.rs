//! Config sets: reading, errors with their place, revisions, states.

use controllerbus::bus::{RunState, Source};
use controllerbus::config::Entry;
use controllerbus::controller::factory::erase;
use controllerbus::controller::{AnyController, BoxFuture};
use controllerbus::prelude::*;

use crate::kit::{factory, soon};

#[derive(Config, Serialize, Deserialize, PartialEq, Debug)]
#[config(id = "test/door", validate = Door::check)]
struct Door {
    width: u32,
    #[serde(default)]
    hinges: Vec<Hinge>,
}

impl Door {
    fn check(&self) -> Result<()> {
        if self.width == 0 { Err(Error::msg("nobody fits through")) } else { Ok(()) }
    }
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Hinge {
    height: i32,
}

struct DoorController;

impl Controller for DoorController {
    type Config = Door;
    async fn construct(config: Door, _: &Context) -> Result<Self> {
        if config.width == 13 { Err(Error::msg("13 brings bad luck")) } else { Ok(Self) }
    }
}

fn bus() -> Bus {
    let bus = Bus::new();
    bus.add_factories(Source::STATIC, vec![factory::<DoorController>("door", "1.0.0")]);
    bus
}

async fn problem(text: &str) -> Error {
    let bus = bus();
    bus.apply(ConfigSet::parse("doors.yaml", text).expect("a set")).await.expect("applying");
    bus.configs().remove(0).problem.expect("a problem")
}

fn place(error: &Error) -> (Option<&str>, u64, u64) {
    let at = error.location().expect("a place");
    (at.file.as_deref(), at.line, at.column)
}

#[tokio::test]
async fn a_key_whose_controller_was_taken_off_says_so_until_its_config_is_applied_again() {
    let bus = bus();
    let door = || ConfigSet::from_yaml("front: { id: test/door, config: { width: 2 } }").expect("a set");
    let both = "{ front: { id: test/door, config: { width: 2 } }, back: { id: test/door, config: { width: 2 } } }";
    bus.apply(ConfigSet::from_yaml(both).expect("a set")).await.expect("applying");
    let states = |bus: &Bus| bus.configs().into_iter().map(|config| config.state).collect::<Vec<_>>();
    let RunState::Running(first) = states(&bus)[0] else { panic!("{:?}", states(&bus)) };
    assert!(soon(bus.remove_controller(first)).await);
    assert_eq!(states(&bus), [RunState::Removed, RunState::Removed], "both keys asked for it");
    let problem = bus.configs().remove(1).problem.expect("a problem");
    let said = "line 1, column 16: its controller was taken off the bus; apply the config again to construct it";
    assert_eq!(problem.to_string(), said);
    assert!(bus.controllers().is_empty());

    // Neither another factory nor the end of a key brings it back.
    bus.add_factories(Source(7), vec![factory::<DoorController>("door", "2.0.0")]);
    assert!(soon(bus.remove_config("back")).await);
    assert_eq!(states(&bus), [RunState::Removed]);

    let report = soon(bus.apply(door())).await.expect("applying");
    let RunState::Running(second) = report.configs[0].state else { panic!("{report:?}") };
    assert_ne!(first, second);
    assert_eq!(report.configs[0].problem, None);
    assert!(soon(bus.remove_controller(second)).await);
    assert_eq!(states(&bus), [RunState::Removed]);

    // An equal config of another key asks for it as well.
    let side = ConfigSet::from_yaml("side: { id: test/door, config: { width: 2 } }").expect("a set");
    soon(bus.apply(side)).await.expect("applying");
    assert!(matches!(states(&bus)[..], [RunState::Running(one), RunState::Running(other)] if one == other));
}

#[test]
fn keys_that_place_an_entry_in_a_fleet_are_refused_by_a_single_bus_with_their_place_and_what_they_are_for() {
    for (key, value) in [("on", "{ role: edge }"), ("count", "2"), ("spread", "zone"), ("exclusive", "true")] {
        let text = format!("door:\n  id: test/door\n  {key}: {value}\n");
        let error = ConfigSet::parse("set.yaml", &text).expect_err("it is for a fleet");
        let said = format!("`{key}` says on which hosts of a fleet an entry runs, and this set is for one bus");
        assert!(error.to_string().contains(&said) && error.to_string().contains("publish the set"), "{error}");
        assert_eq!(place(&error).1, 3, "{error}");
    }
    let json = r#"{ "door": { "id": "test/door", "count": 2 } }"#;
    let error = ConfigSet::from_json(json).expect_err("it is for a fleet").to_string();
    assert!(error.contains("`count` says on which hosts"), "{error}");
}

#[test]
fn a_text_that_is_no_config_set_is_refused_with_line_and_column() {
    let error = ConfigSet::from_yaml("door:\n  id: test/door\n  revision: first\n").expect_err("no number");
    assert_eq!(place(&error), (None, 3, 13), "{error}");
    let error = ConfigSet::parse("doors.yaml", "door:\n  id: test/door\n  colour: red\n").expect_err("unknown key");
    assert_eq!(place(&error), (Some("doors.yaml"), 3, 3), "{error}");
    assert!(error.to_string().starts_with("doors.yaml:3:3: "), "{error}");
    assert!(error.to_string().contains("colour"), "{error}");
    let error = ConfigSet::parse("doors.yaml", "door:\n  id: [\n").expect_err("no YAML");
    assert_eq!(error.location().and_then(|at| at.file.as_deref()), Some("doors.yaml"), "{error}");
    let error = ConfigSet::from_json("{\"door\": {\"id\": 7}}").expect_err("no text");
    assert_eq!(place(&error), (None, 1, 17), "{error}");
    let twice = "door: { id: a }\ndoor: { id: b }\n";
    assert_eq!(place(&ConfigSet::from_yaml(twice).expect_err("twice")).1, 2);
}

#[test]
fn an_empty_text_is_an_empty_set() {
    assert_eq!(ConfigSet::from_yaml("").expect("a set"), ConfigSet::new());
    assert_eq!(ConfigSet::from_yaml("# nothing yet\n").expect("a set"), ConfigSet::new());
}

#[test]
fn json_and_yaml_mean_the_same() {
    let yaml = "door:\n  id: test/door\n  revision: 2\n  version: ^1.2\n  config: { width: 3 }\n";
    let json = r#"{"door": {"id": "test/door", "revision": 2, "version": "^1.2", "config": {"width": 3}}}"#;
    assert_eq!(ConfigSet::from_yaml(yaml).expect("a set"), ConfigSet::from_json(json).expect("a set"));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = ConfigSet::read("/no/such/set.yaml").expect_err("no file");
    assert!(error.to_string().contains("/no/such/set.yaml"), "{error}");
}

#[tokio::test]
async fn an_unknown_config_id_is_pointed_at_with_the_nearest_known_one() {
    let error = problem("door:\n  id: test/dor\n").await;
    assert_eq!(place(&error), (Some("doors.yaml"), 2, 7), "{error}");
    assert!(error.to_string().contains("did you mean `test/door`?"), "{error}");
}

#[tokio::test]
async fn a_version_that_nobody_has_is_told_with_those_there_are() {
    let error = problem("door:\n  id: test/door\n  version: ^2\n  config: { width: 1 }\n").await;
    assert!(error.to_string().contains("available: 1.0.0"), "{error}");
}

#[tokio::test]
async fn a_field_of_the_wrong_type_is_pointed_at_in_its_file() {
    let text =
        "door:\n  id: test/door\n  config:\n    width: 80\n    hinges:\n      - height: 1\n      - height: high\n";
    let error = problem(text).await;
    assert_eq!(place(&error), (Some("doors.yaml"), 7, 17), "{error}");
    assert!(error.to_string().contains("hinges[1].height"), "{error}");
    assert!(error.to_string().contains("invalid type: string \"high\", expected i32"), "{error}");
}

#[tokio::test]
async fn a_missing_field_and_a_refused_config_are_pointed_at() {
    let error = problem("# doors\ndoor:\n  id: test/door\n  config: {}\n").await;
    assert_eq!(place(&error).1, 4, "{error}");
    assert!(error.to_string().contains("width"), "{error}");
    let error = problem("door:\n  id: test/door\n  config:\n    width: 0\n").await;
    assert_eq!(place(&error).1, 3, "{error}");
    assert!(error.to_string().contains("nobody fits through"), "{error}");
}

fn set(revision: u64, width: u32) -> ConfigSet {
    let mut set = ConfigSet::new();
    set.insert("door", revision, &Door { width, hinges: Vec::new() }).expect("an entry");
    set
}

fn running(bus: &Bus) -> Option<controllerbus::bus::ControllerId> {
    match bus.config("door")?.state {
        RunState::Running(id) => Some(id),
        _ => None,
    }
}

#[tokio::test]
async fn an_equal_config_is_left_running_and_another_replaces_it() {
    let bus = bus();
    bus.apply(set(1, 80)).await.expect("applying");
    let first = running(&bus).expect("it runs");
    bus.apply(set(2, 80)).await.expect("applying");
    assert_eq!(running(&bus), Some(first));
    assert_eq!(bus.config("door").expect("the key").revision, 2);
    bus.apply(set(3, 90)).await.expect("applying");
    assert_ne!(running(&bus), Some(first));
    assert_eq!(bus.controllers().len(), 1);
}

#[tokio::test]
async fn a_lower_revision_waits_as_a_candidate_and_takes_over_when_the_higher_is_withdrawn() {
    let bus = bus();
    bus.apply(set(5, 80)).await.expect("applying");
    let first = running(&bus);
    bus.apply(set(3, 90)).await.expect("applying");
    assert_eq!(running(&bus), first);
    let state = bus.config("door").expect("the key");
    assert_eq!((state.revision, state.candidates), (5, vec![3]));
    assert!(bus.withdraw_config("door", 5).await);
    let state = bus.config("door").expect("the key");
    assert_eq!((state.revision, state.candidates), (3, vec![]));
    assert!(running(&bus).is_some() && running(&bus) != first);
    assert!(!bus.withdraw_config("door", 5).await);
    assert!(bus.withdraw_config("door", 3).await);
    assert!(bus.configs().is_empty() && bus.controllers().is_empty());
}

#[tokio::test]
async fn applying_a_set_leaves_other_keys_alone_unless_it_is_all_there_is() {
    let bus = bus();
    bus.apply(set(1, 80)).await.expect("applying");
    let mut other = ConfigSet::new();
    other.set("gate", Entry::new("test/door", serde_json::json!({"width": 9})));
    bus.apply(other.clone()).await.expect("applying");
    assert_eq!(bus.configs().len(), 2);
    bus.apply_only(other).await.expect("applying");
    assert_eq!(bus.configs().iter().map(|state| state.key.as_str()).collect::<Vec<_>>(), ["gate"]);
    assert!(bus.remove_config("gate").await);
    assert!(!bus.remove_config("gate").await);
    assert!(bus.controllers().is_empty());
}

#[tokio::test]
async fn the_states_of_a_config_can_be_watched() {
    let bus = Bus::new();
    let mut watch = bus.watch_config("door");
    assert_eq!(soon(watch.next()).await, None);
    bus.apply(set(1, 13)).await.expect("applying");
    assert_eq!(soon(watch.next()).await.map(|state| state.state), Some(RunState::Queued));
    bus.add_factories(Source::STATIC, vec![factory::<DoorController>("door", "1.0.0")]);
    let failed = loop {
        match soon(watch.next()).await.expect("the key").state {
            RunState::Failed { error, retry_in } => break (error, retry_in),
            RunState::Running(_) => panic!("it cannot run"),
            _ => {}
        }
    };
    assert!(failed.0.to_string().contains("bad luck"), "{}", failed.0);
    assert!(failed.1.is_some_and(|wait| !wait.is_zero()));
    bus.apply(set(2, 14)).await.expect("applying");
    soon(async { while !matches!(watch.next().await.map(|state| state.state), Some(RunState::Running(_))) {} }).await;
    assert!(bus.remove_config("door").await);
    soon(async { while watch.next().await.is_some() {} }).await;
}

#[test]
fn an_entry_by_itself_is_read_and_rev_is_short_for_revision() {
    let entry = Entry::from_yaml("id: test/door\nrev: 4\nconfig: { width: 3 }\n").expect("an entry");
    assert_eq!((entry.id.as_str(), entry.revision, &entry.config["width"]), ("test/door", 4, &3.into()));
    assert_eq!(Entry::from_json(r#"{"id": "test/door", "revision": 4, "config": {"width": 3}}"#).expect("it"), entry);
    let error = Entry::from_yaml("id: test/door\nrevision: 1\nrev: 2\n").expect_err("which one?");
    assert!(error.to_string().contains("revision"), "{error}");
    assert_eq!(place(&Entry::from_json("{\"id\": 7}").expect_err("no text")), (None, 1, 8));
    assert!(Entry::from_yaml("").expect_err("nothing").to_string().contains("id"));
}

/// Texts that some reader of YAML or JSON takes for something else, or breaks at.
const TEXTS: [&str; 30] = [
    "",
    " ",
    "plain",
    "two words",
    " before",
    "after ",
    "a  b",
    "yes",
    "No",
    "null",
    "~",
    "1",
    "1e5",
    "0x1F",
    "-",
    "- a",
    "a: b",
    "a #b",
    "#",
    "*a",
    "&a",
    "!a",
    "<<",
    "%",
    "@",
    "\"quoted\"",
    "line\nline",
    "tab\tand\u{7}bell",
    "\u{85}\u{2028}\u{feff}\u{ffff}é😀",
    "2001-12-14",
];

#[test]
fn what_is_written_as_yaml_or_json_reads_back_equal() {
    let mut set = ConfigSet::new();
    for (at, text) in TEXTS.iter().enumerate() {
        let nested = serde_json::json!({
            *text: [text, [], {}, { "deep": [[text], { *text: null }] }],
            "numbers": [0, -1, u64::MAX, i64::MIN, 1.0, -0.5, 1e300, 1e-7, 123_456_789.25],
            "truth": [true, false, null],
        });
        set.set(format!("{text}{at}"), Entry::new(*text, nested).with_revision(at as u64));
    }
    let long = "a long key, ".repeat(200);
    set.set(long.clone(), Entry::new(long, serde_json::json!("only a text")));
    let bounded = "id: a\nsupersede: true\nversion: ^1.2\nretry: { start_ms: 5, factor: 1.5, stop_after: 2 }\n";
    set.set("options", Entry::from_yaml(bounded).expect("an entry"));
    let yaml = set.to_yaml();
    assert_eq!(ConfigSet::from_yaml(&yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}")), set, "{yaml}");
    assert_eq!(ConfigSet::from_json(&set.to_json()).expect("JSON"), set);
    assert_eq!(ConfigSet::from_yaml(&ConfigSet::new().to_yaml()).expect("an empty set"), ConfigSet::new());
    for (_, entry) in set.iter() {
        assert_eq!(&Entry::from_yaml(&entry.to_yaml()).expect("an entry"), entry);
        assert_eq!(&Entry::from_json(&entry.to_json()).expect("an entry"), entry);
    }
}

#[test]
fn a_set_is_written_in_the_same_order_and_without_what_goes_without_saying() {
    let set = ConfigSet::from_json(r#"{"b": {"id": "x/b"}, "a": {"id": "x/a", "revision": 2}}"#).expect("a set");
    assert_eq!(set.to_yaml(), "a:\n  id: x/a\n  revision: 2\n  config: {}\nb:\n  id: x/b\n  config: {}\n");
}

#[test]
fn merging_keeps_the_higher_revision_and_overwriting_takes_the_other_one() {
    let set = |a: u64, config: u64| {
        let mut set = ConfigSet::new();
        set.set("a", Entry::new("x", config.into()).with_revision(a));
        set
    };
    let mut merged = set(2, 1);
    merged.merge(set(1, 2));
    assert_eq!(merged, set(2, 1));
    merged.overwrite(set(1, 2));
    assert_eq!(merged, set(1, 2));
}

struct Tries;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/tries")]
struct TriesConfig {
    fails_in: String,
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/tried", value = u64)]
struct Tried {}

impl Controller for Tries {
    type Config = TriesConfig;
    async fn construct(config: TriesConfig, _: &Context) -> Result<Self> {
        if config.fails_in == "construct" { Err(Error::msg("it cannot be made")) } else { Ok(Self) }
    }
    async fn execute(&self, _: &Context) -> Result<()> {
        Err(Error::msg("it does not run"))
    }
    fn routes(routes: &mut controllerbus::Routes<Self>) {
        routes.add::<Tried>(|_, _, _| Box::pin(std::future::ready(Err(Error::msg("it does not answer")))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_config_says_how_often_its_controller_and_its_resolvers_are_tried_again() {
    let bus = Bus::new();
    bus.add_factories(Source::STATIC, vec![factory::<Tries>("tries", "1.0.0")]);
    let config = |place: &str| {
        let retry = "{ start_ms: 1000, factor: 3, most_ms: 5000, stop_after: 4 }";
        ConfigSet::from_yaml(&format!("tries: {{ id: test/tries, retry: {retry}, config: {{ fails_in: {place} }} }}"))
            .unwrap()
    };
    bus.apply(config("construct")).await.unwrap();
    let mut watch = bus.watch_config("tries");
    let mut waits = Vec::new();
    loop {
        match watch.next().await.expect("the key").state {
            RunState::Failed { retry_in: Some(wait), .. } => waits.push(wait.as_millis()),
            RunState::Failed { retry_in: None, .. } => break,
            _ => {}
        }
    }
    for (wait, full) in waits.iter().zip([1_000, 3_000, 5_000]) {
        assert!((full / 2..=full).contains(wait), "{waits:?}");
    }
    assert_eq!(waits.len(), 3);

    // The execution and the resolvers, too.
    bus.apply_only(config("execute")).await.unwrap();
    let mut request = bus.request(Tried {}).unwrap();
    let begun = tokio::time::Instant::now();
    let mut failures = 0;
    while failures < 4 {
        failures += usize::from(matches!(request.next().await, Some(Event::Failed(_))));
    }
    assert!(begun.elapsed().as_millis() >= 4_500, "{:?}", begun.elapsed());
    let more = tokio::time::timeout(std::time::Duration::from_secs(3_600), async {
        while !matches!(request.next().await, Some(Event::Failed(_))) {}
    });
    assert!(more.await.is_err(), "it was given up");
    let state = bus.config("tries").expect("the key").state;
    assert!(matches!(state, RunState::Failed { retry_in: None, .. }), "{state:?}");
}

#[tokio::test]
async fn a_better_factory_takes_a_running_controller_over_where_the_config_says_so() {
    let bus = Bus::new();
    let doors = |version| vec![factory::<DoorController>("door", version)];
    bus.add_factories(Source(1), doors("1.0.0"));
    let text =
        |supersede| format!("door: {{ id: test/door, supersede: {supersede}, version: '^1', config: {{ width: 3 }} }}");
    let version = || bus.controllers().iter().map(|found| found.info.version.to_string()).collect::<Vec<_>>();
    soon(bus.apply(ConfigSet::from_yaml(&text(false)).unwrap())).await.unwrap();
    bus.add_factories(Source(2), doors("1.1.0"));
    assert_eq!(version(), ["1.0.0"], "nobody has asked for another one");
    soon(bus.apply_only(ConfigSet::from_yaml(&text(true)).unwrap())).await.unwrap();
    assert_eq!(version(), ["1.1.0"]);
    let mut changes = bus.changes();
    bus.add_factories(Source(3), doors("1.2.0"));
    bus.add_factories(Source(4), doors("2.0.0"));
    while version() != ["1.2.0"] {
        soon(changes.changed()).await.unwrap();
    }
    assert!(matches!(bus.config("door").expect("the key").state, RunState::Running(_)));
    // Nor does a lower one.
    bus.add_factories(Source(5), doors("1.1.5"));
    assert_eq!(version(), ["1.2.0"]);
}

/// A factory of doors that constructs none before it is allowed to.
struct SlowDoors {
    begun: tokio::sync::Semaphore,
    allowed: tokio::sync::Semaphore,
}

impl controllerbus::controller::factory::Factory for SlowDoors {
    fn info(&self) -> controllerbus::controller::Info {
        controllerbus::controller::Info::new("door", "1.0.0".parse().expect("a version"), "test/door")
    }
    fn construct(
        self: std::sync::Arc<Self>,
        _: Vec<u8>,
        _: Context,
    ) -> BoxFuture<'static, Result<std::sync::Arc<dyn AnyController>>> {
        Box::pin(async move {
            self.begun.add_permits(1);
            self.allowed.acquire().await?.forget();
            Ok(erase(DoorController))
        })
    }
}

async fn until_door_is(bus: &Bus, version: &str) {
    let mut changes = bus.changes();
    let found = || bus.controllers().iter().map(|found| found.info.version.to_string()).collect::<Vec<_>>();
    while found() != [version] {
        soon(changes.changed()).await.unwrap();
    }
}

#[tokio::test]
async fn a_better_factory_that_comes_while_the_controller_is_made_takes_over_too() {
    let bus = Bus::new();
    let semaphore = || tokio::sync::Semaphore::new(0);
    let slow = std::sync::Arc::new(SlowDoors { begun: semaphore(), allowed: semaphore() });
    bus.add_factories(Source(1), vec![slow.clone()]);
    let set = ConfigSet::from_yaml("door: { id: test/door, supersede: true, config: { width: 3 } }").unwrap();
    let applies = bus.clone();
    let applied = tokio::spawn(async move { applies.apply(set).await.map(drop) });
    soon(slow.begun.acquire()).await.unwrap().forget();
    bus.add_factories(Source(2), vec![factory::<DoorController>("door", "1.1.0")]);
    slow.allowed.add_permits(1);
    until_door_is(&bus, "1.1.0").await;
    soon(applied).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_better_factory_that_a_swap_brings_takes_over_where_the_config_says_so() {
    let bus = Bus::new();
    let doors = |version| vec![factory::<DoorController>("door", version)];
    bus.add_factories(Source(1), doors("1.0.0"));
    bus.add_factories(Source(2), doors("0.9.0"));
    let set = ConfigSet::from_yaml("door: { id: test/door, supersede: true, config: { width: 3 } }").unwrap();
    soon(bus.apply(set)).await.unwrap();
    until_door_is(&bus, "1.0.0").await;
    let second = std::time::Duration::from_secs(1);
    let staged = soon(bus.stage(Source(2), Source(3), doors("1.1.0"), second)).await.unwrap();
    soon(staged.commit(second)).await.unwrap();
    until_door_is(&bus, "1.1.0").await;
}
