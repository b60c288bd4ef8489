//! What a host calls can be asked with `?` in whatever its functions return, and an error's kind is kept on the way.

use std::path::Path;

use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;
use hot_runtime::{HotRuntime, Trust};
use tests::process::artifact;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "reports/greet", value = String)]
struct Greet {}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "reports/greeter")]
struct GreeterConfig {}

struct Greeter;

#[hot_plugin(id = "reports/greeter", version = "1.0.0")]
impl Controller for Greeter {
    type Config = GreeterConfig;

    async fn construct(_: GreeterConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn greet(&self, _: Greet) -> Result<String> {
        Ok("Hello!".to_owned())
    }
}

/// A host that goes through what there is, and ends at a file that is not there.
macro_rules! host {
    ($name:ident, $result:ty) => {
        async fn $name(folder: &Path) -> $result {
            let bus = Bus::new();
            bus.apply(ConfigSet::from_yaml("greeter: { id: reports/greeter }")?).await?;
            bus.watch_config("greeter").running().await?;
            assert_eq!(*bus.request(Greet {})?.value().await?, "Hello!");
            let builder = HotRuntime::builder(&bus).trust(Trust::anyone()).work_dir(folder.join("work"));
            let runtime = builder.start().await?;
            let loaded = runtime.load_file(folder.join("missing.cbus.so")).await;
            runtime.shutdown().await;
            loaded?;
            Ok(())
        }
    };
}

host!(with_anyhow, anyhow::Result<()>);
host!(with_eyre, eyre::Result<()>);
host!(with_boxes, Result<(), Box<dyn std::error::Error>>);
host!(with_shared_boxes, Result<(), Box<dyn std::error::Error + Send + Sync>>);
host!(with_controllerbus, controllerbus::Result<()>);

#[tokio::test(flavor = "multi_thread")]
async fn a_host_asks_with_a_question_mark_whatever_it_returns() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let error = with_anyhow(at).await.expect_err("a file is missing");
    assert!(error.downcast_ref::<hot_runtime::Error>().is_some(), "{error:?}");
    let error = with_eyre(at).await.expect_err("a file is missing");
    assert!(error.downcast_ref::<hot_runtime::Error>().is_some(), "{error:?}");
    let error = with_boxes(at).await.expect_err("a file is missing");
    assert!(error.downcast_ref::<hot_runtime::Error>().is_some(), "{error:?}");
    let error = with_shared_boxes(at).await.expect_err("a file is missing");
    assert!(error.downcast_ref::<hot_runtime::Error>().is_some(), "{error:?}");
    // The cause is told, and once.
    let error = with_controllerbus(at).await.expect_err("a file is missing").to_string();
    assert_eq!(error.matches("No such file").count(), 1, "{error}");
}

#[test]
fn an_error_of_the_bus_keeps_its_kind_in_a_report() {
    let read = || -> anyhow::Result<ConfigSet> { Ok(ConfigSet::from_yaml("{")?) };
    let error = read().expect_err("it is no YAML");
    assert_eq!(error.downcast_ref::<BusError>().map(|error| error.kind()), Some(ErrorKind::Invalid));
}

/// In a process of its own, without a subscriber.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of the test below"]
async fn a_host_without_a_subscriber() {
    let bus = Bus::new();
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = HotRuntime::builder(&bus)
        .trust(Trust::anyone())
        .work_dir(folder.path())
        .print_events()
        .start()
        .await
        .expect("starting");
    runtime.load_file(artifact("keeps", &["keeps"]).await).await.expect("loading");
    let set = ConfigSet::from_yaml("tally: { id: keeps, config: { lenght: 3 } }").expect("a config set");
    bus.apply(set).await.expect("applying").all_running().expect("it runs");
    bus.close().await;
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_prints_events_and_has_no_subscriber_prints_what_its_plugins_warn_of() {
    // Built before, so that what is printed is about the rest.
    artifact("keeps", &["keeps"]).await;
    let host = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_host_without_a_subscriber", "--ignored", "--nocapture"])
        .output()
        .expect("running the host");
    let printed = String::from_utf8_lossy(&host.stderr);
    assert!(host.status.success(), "{printed}");
    let warning = printed.lines().filter(|line| line.contains("unknown key `lenght`")).collect::<Vec<_>>();
    assert_eq!(warning.len(), 1, "{printed}");
    assert!(warning[0].starts_with("keeps: warning: config keeps: unknown key `lenght`"), "{}", warning[0]);
}
