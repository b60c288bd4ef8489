//! Whose a log line is: its controller, the key of its config, and the directive that it was resolving.

use std::sync::Arc;
use std::time::Duration;

use controllerbus::bus::Limits;
use controllerbus::prelude::*;
use controllerbus_api::proto::LogLine;
use controllerbus_api::{Journal, logs};
use hot_runtime::{HotRuntime, Isolation};
use tests::{Answer, Scratch, Second, nonce, target_dir, work_dir};
use tracing_subscriber::layer::SubscriberExt;

/// A controller of this binary that logs in all of its life.
struct Lamp;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "lamp")]
struct LampConfig {}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "lamp/light", value = Answer)]
struct Light {
    room: String,
}

#[hot_plugin(id = "house/lamp", version = "1.0.0")]
impl Controller for Lamp {
    type Config = LampConfig;

    async fn construct(_: LampConfig, _: &Context) -> Result<Self> {
        tracing::info!("the lamp is made");
        Ok(Self)
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        tracing::info!("the lamp is executed");
        context.cancelled().await;
        tracing::info!("the lamp is told to end");
        Ok(())
    }

    async fn close(&self) {
        tracing::info!("the lamp is closed");
    }

    #[resolves]
    async fn light(&self, light: Light, values: Values<Answer>) -> Result<()> {
        tracing::info!("the lamp is asked");
        // The rest of it is a task's.
        tokio::task::yield_now().await;
        tracing::info!(directive = "own", "the lamp is lit in {}", light.room);
        values.add(Answer("on".to_owned()));
        Ok(())
    }
}

/// The line with a message, once it is there.
async fn line(journal: &Journal, message: &str) -> LogLine {
    line_where(journal, message, |_| true).await
}

/// One of several with a message: other tests of this process log too.
async fn line_where(journal: &Journal, message: &str, is_it: impl Fn(&LogLine) -> bool) -> LogLine {
    let waiting = async {
        loop {
            let found = journal.lines().0.into_iter().find(|line| line.message == message && is_it(line));
            match found {
                Some(line) => return line,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let lines = || journal.lines().0.into_iter().map(|line| line.message).collect::<Vec<_>>();
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap_or_else(|_| panic!("no {message}: {:?}", lines()))
}

/// Its controller, config key and directive.
fn origin(line: &LogLine) -> [&str; 3] {
    [&line.controller, &line.config_key, &line.directive]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_whose_controller_config_and_directive_it_is_in_plugins_too() {
    let journal = Arc::new(Journal::new());
    let filter = "info,controllerbus=debug".parse().expect("a filter");
    let subscriber = tracing_subscriber::registry().with(logs::layer(&journal, filter, |_| {}));
    tracing::subscriber::set_global_default(subscriber).expect("no other test here has one");

    let bus = Bus::with_limits(Limits::default());
    bus.apply(ConfigSet::from_yaml("hall: { id: lamp }").expect("a set")).await.expect("applying");
    assert_eq!(bus.resolve(Light { room: "the hall".to_owned() }).await.expect("an answer").0, "on");
    // One that is removed before its task begins is not executed.
    line(&journal, "the lamp is executed").await;
    assert!(bus.remove_config("hall").await);
    for message in ["the lamp is made", "the lamp is executed", "the lamp is told to end", "the lamp is closed"] {
        assert_eq!(origin(&line(&journal, message).await), ["house/lamp", "hall", ""], "{message}");
    }
    assert_eq!(origin(&line(&journal, "the lamp is asked").await), ["house/lamp", "hall", "lamp/light"]);
    // What the line itself says comes first.
    assert_eq!(origin(&line(&journal, "the lamp is lit in the hall").await), ["house/lamp", "hall", "own"]);
    for message in ["directive added", "directive removed"] {
        let told = line_where(&journal, message, |line| line.directive == "lamp/light").await;
        assert_eq!(told.level, "DEBUG");
        assert!(told.fields.contains("the hall"), "{told:?}");
    }

    let scratch = Scratch::new(&["second"]);
    let asked = "tracing::warn!(times = 3, \"the second is asked\");\n        values.add";
    scratch.edit("second", "values.add", asked);
    bus.apply(ConfigSet::from_yaml("two: { id: second }").expect("a set")).await.expect("applying");
    for isolation in [Isolation::None, Isolation::Process] {
        let builder = HotRuntime::builder(&bus).work_dir(work_dir().join("cbus-logs")).target_dir(target_dir());
        let builder = builder.watch(scratch.path("second")).plugin_host(env!("CARGO_BIN_EXE_cbus"));
        let runtime = builder.isolation(isolation).start().await.expect("starting");
        let before = journal.lines().0.len();
        assert_eq!(bus.resolve(Second { nonce: nonce() }).await.expect("an answer").0, "from the second");
        let told = loop {
            let lines = journal.lines().0.split_off(before);
            match lines.into_iter().find(|line| line.message == "the second is asked") {
                Some(told) => break told,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        assert_eq!(origin(&told), ["second", "two", "second/ask"], "{isolation:?}: {told:?}");
        assert_eq!((&*told.plugin, &*told.target, &*told.fields), ("second", "second", "times=3"));
        runtime.shutdown().await;
    }
    bus.close().await;
}
