//! Plugin folders and watched crates as entries of config sets: any number of them, added, changed and removed while the
//! runtime runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use controllerbus::bus::RunState;
use controllerbus::prelude::*;
use hot_runtime::{CrateConfig, FolderConfig, HotRuntime, RuntimeEvent, Trust};
use tests::load::{built, overwrite, seal};
use tests::small::Small;
use tests::{TOKIO, ask, events, target_dir, verify, wait_for, work_dir};
use tokio::sync::mpsc::UnboundedReceiver;

/// Folders of numbered plugin files, on a host that was told of none of them.
struct Host {
    bus: Bus,
    runtime: HotRuntime,
    told: UnboundedReceiver<RuntimeEvent>,
    folder: tempfile::TempDir,
    library: Vec<u8>,
}

impl Host {
    async fn new(name: &str) -> Self {
        let library = verify(built().await).expect("an artifact").library().to_vec();
        let bus = Bus::new();
        bus.apply(ConfigSet::from_yaml("probe: { id: probe, config: { mode: quiet } }").expect("a set"))
            .await
            .expect("applying");
        let (listener, told) = events();
        let builder = HotRuntime::builder(&bus).trust(Trust::anyone()).work_dir(work_dir().join(name));
        let runtime = builder.on_event(listener).start().await.expect("starting");
        Self { bus, runtime, told, folder: tempfile::tempdir().expect("a folder"), library }
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.folder.path().join(name);
        std::fs::create_dir_all(&dir).expect("a folder");
        dir
    }

    /// Puts a plugin file with a number there, as an installer does.
    fn install(&self, path: &Path, number: &str) {
        let mut numbered = self.library.clone();
        overwrite(&mut numbered, b"generation-", number.as_bytes());
        let part = self.folder.path().join("part");
        seal(&numbered, &part);
        std::fs::rename(part, path).expect("renaming");
    }

    async fn apply(&self, key: &str, config: &FolderConfig) {
        let mut set = ConfigSet::new();
        // Always the latest.
        let revision = self.bus.config(key).map_or(0, |before| before.revision + 1);
        set.insert(key, revision, config).expect("a config");
        let report = self.bus.apply(set).await.expect("applying");
        assert_eq!(report.problems().count(), 0, "{report:?}");
    }

    async fn number(&self) -> String {
        ask(&self.bus, "number").await.unwrap_or_else(|error| error.to_string())
    }

    async fn came(&mut self) -> Option<u64> {
        wait_for(&mut self.told, |event| match event {
            RuntimeEvent::Swapped { from, .. } => Some(*from),
            RuntimeEvent::Unloaded { .. } => panic!("there was a gap"),
            _ => None,
        })
        .await
    }

    async fn went(&mut self) {
        wait_for(&mut self.told, |event| matches!(event, RuntimeEvent::Unloaded { .. }).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_plugin_folders_come_and_go_with_their_configs() {
    let mut host = Host::new("loaders-folders").await;
    let (first, second) = (host.dir("first"), host.dir("second"));
    host.install(&first.join("probe.cbus.so"), "0000001");
    host.apply("first", &FolderConfig::new(&first)).await;
    assert_eq!(host.came().await, None);
    assert_eq!(host.number().await, "generation-0000001");

    // Another folder has it too: it waits there.
    host.install(&second.join("probe.cbus.so"), "0000002");
    host.apply("second", &FolderConfig::new(&second)).await;
    wait_for(&mut host.told, |event| match event {
        RuntimeEvent::Refused { path, reason, .. } if path.starts_with(&second) && reason.contains("remove one") => {
            Some(())
        }
        _ => None,
    })
    .await;
    assert_eq!(host.number().await, "generation-0000001");

    // Without the first folder's config its plugin is unloaded, and the other folder's takes its place.
    assert!(host.bus.remove_config("first").await);
    wait_for(&mut host.told, |event| matches!(event, RuntimeEvent::Swapped { .. }).then_some(())).await;
    assert_eq!(host.number().await, "generation-0000002");

    // What is removed from a folder is unloaded, and what comes is loaded, without the first one now.
    std::fs::remove_file(second.join("probe.cbus.so")).expect("removing");
    host.went().await;
    host.install(&first.join("probe.cbus.so"), "0000003");
    host.install(&second.join("other.cbus.so"), "0000004");
    host.came().await;
    assert_eq!(host.number().await, "generation-0000004");
    assert!(host.bus.remove_config("second").await);
    host.went().await;
    assert!(host.runtime.generations().iter().all(|found| found.state != hot_runtime::GenerationState::Serving));
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_watched_is_read_once_and_a_changed_config_leaves_its_plugins_running() {
    let mut host = Host::new("loaders-once").await;
    let dir = host.dir("plugins");
    let file = dir.join("probe.cbus.so");
    host.install(&file, "0000001");
    host.apply("plugins", &FolderConfig::new(&dir).watch(false)).await;
    assert_eq!(host.came().await, None);
    let serving = host.runtime.generations().iter().map(|found| found.generation).max();

    // The entry that follows the folder takes over what runs, and then loads what has changed: no earlier, and no gap.
    host.install(&file, "0000002");
    assert_eq!(host.number().await, "generation-0000001");
    host.apply("plugins", &FolderConfig::new(&dir)).await;
    assert_eq!(host.came().await, serving);
    assert_eq!(host.number().await, "generation-0000002");
    let serving = host.runtime.generations().iter().map(|found| found.generation).max();

    // And back: it runs on as it is, and goes with the entry.
    host.apply("plugins", &FolderConfig::new(&dir).watch(false)).await;
    assert_eq!(host.number().await, "generation-0000002");
    assert_eq!(host.runtime.generations().iter().map(|found| found.generation).max(), serving);
    assert!(host.bus.remove_config("plugins").await);
    host.went().await;
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_fails_its_config_and_is_used_once_it_can_be() {
    let mut host = Host::new("loaders-missing").await;
    let dir = host.folder.path().join("later");
    let mut set = ConfigSet::new();
    set.insert("later", 0, &FolderConfig::new(&dir)).expect("a config");
    let report = host.bus.apply(set).await.expect("applying");
    let problem = report.configs[0].problem.as_ref().expect("a problem").to_string();
    assert!(problem.contains("No such file"), "{problem}");
    host.dir("later");
    host.install(&dir.join("probe.cbus.so"), "0000001");
    host.came().await;
    host.runtime.shutdown().await;

    // A host that has not decided whose files it loads loads none.
    let bus = Bus::new();
    let runtime = HotRuntime::builder(&bus).work_dir(work_dir().join("loaders-trust")).start().await.expect("starting");
    let mut set = ConfigSet::new();
    set.insert("plugins", 0, &FolderConfig::new(&dir)).expect("a config");
    let report = bus.apply(set).await.expect("applying");
    let problem = report.configs[0].problem.as_ref().expect("a problem").to_string();
    assert!(problem.contains("Trust::anyone()"), "{problem}");
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crate_is_built_watched_changed_and_removed_by_its_config() {
    let small = Small::new("loaded-by-config", TOKIO, "", "\"one\".into()");
    let bus = Bus::new();
    bus.apply(ConfigSet::from_yaml("small:\n  id: small\n").expect("a set")).await.expect("applying");
    let (listener, mut told) = events();
    let builder = HotRuntime::builder(&bus).work_dir(work_dir().join("loaders-crate")).target_dir(target_dir());
    let runtime = builder.on_event(listener).start().await.expect("starting");
    let apply = async |revision: u64, config: &CrateConfig| {
        let mut set = ConfigSet::new();
        set.insert("crate", revision, config).expect("a config");
        bus.apply(set).await.expect("applying")
    };
    let swap = |event: &RuntimeEvent| match event {
        RuntimeEvent::Swapped { plugin, from, .. } => Some((plugin.clone(), *from)),
        RuntimeEvent::SourceRemoved { .. } => panic!("it was removed"),
        _ => None,
    };
    let answer = async || ask(&bus, "").await.unwrap_or_else(|error| error.to_string());

    let config = CrateConfig::new(small.path("crate"));
    let report = apply(0, &config).await;
    assert_eq!(report.problems().count(), 0, "{report:?}");
    assert_eq!(wait_for(&mut told, swap).await, ("loaded-by-config".to_owned(), None));
    assert_eq!(answer().await, "one");
    small.replace("crate/src/lib.rs", "\"one\"", "\"two\"");
    wait_for(&mut told, swap).await;
    assert_eq!(answer().await, "two");

    // Another version of the entry is built in its place, while it serves.
    apply(1, &config.clone().version("1.2.3")).await;
    let (_, from) = wait_for(&mut told, swap).await;
    assert!(from.is_some(), "there was no gap");
    let serving = runtime.generations().into_iter().rfind(|found| found.leases > 0).expect("a generation");
    assert_eq!(serving.version.to_string(), "1.2.3");
    small.replace("crate/src/lib.rs", "\"two\"", "\"three\"");
    wait_for(&mut told, swap).await;
    assert_eq!(answer().await, "three");

    // A second entry for the same plugin fails, and has no effect when it goes.
    let mut set = ConfigSet::new();
    set.insert("twice", 0, &config.clone().release(true)).expect("a config");
    bus.apply(set).await.expect("applying");
    let mut watch = bus.watch_config("twice");
    let failing = async {
        loop {
            let state = watch.next().await.expect("the key");
            if let RunState::Failed { error, .. } = state.state {
                return error.to_string();
            }
        }
    };
    let problem = tokio::time::timeout(Duration::from_secs(20), failing).await.expect("in time");
    assert!(problem.contains("is built by another config"), "{problem}");
    assert!(bus.remove_config("twice").await);
    assert_eq!(answer().await, "three");

    assert!(bus.remove_config("crate").await);
    wait_for(&mut told, |event| matches!(event, RuntimeEvent::SourceRemoved { .. }).then_some(())).await;
    assert!(runtime.generations().iter().all(|found| found.state != hot_runtime::GenerationState::Serving));
    let error = runtime.rebuild("loaded-by-config").await.expect_err("there is no source").to_string();
    assert!(error.contains("no plugin `loaded-by-config`"), "{error}");

    // A crate that is none says so.
    let report = apply(0, &CrateConfig::new(small.path("nowhere"))).await;
    let problem = report.configs[0].problem.as_ref().expect("a problem").to_string();
    assert!(problem.contains("nowhere"), "{problem}");
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_whose_file_was_removed_goes_when_its_folders_config_changes() {
    let mut host = Host::new("loaders-removed").await;
    let dir = host.dir("plugins");
    host.install(&dir.join("probe.cbus.so"), "0000001");
    host.apply("plugins", &FolderConfig::new(&dir).watch(false)).await;
    assert_eq!(host.came().await, None);
    std::fs::remove_file(dir.join("probe.cbus.so")).expect("removing");
    host.apply("plugins", &FolderConfig::new(&dir)).await;
    host.went().await;
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_read_once_takes_over_a_plugin_that_another_folder_gives_up() {
    let mut host = Host::new("loaders-once").await;
    let (first, second) = (host.dir("first"), host.dir("second"));
    host.install(&first.join("probe.cbus.so"), "0000001");
    host.install(&second.join("probe.cbus.so"), "0000002");
    host.apply("first", &FolderConfig::new(&first)).await;
    assert_eq!(host.came().await, None);
    host.apply("second", &FolderConfig::new(&second).watch(false)).await;
    wait_for(&mut host.told, |event| matches!(event, RuntimeEvent::Refused { .. }).then_some(())).await;
    assert!(host.bus.remove_config("first").await);
    wait_for(&mut host.told, |event| matches!(event, RuntimeEvent::Swapped { .. }).then_some(())).await;
    assert_eq!(host.number().await, "generation-0000002");
    host.runtime.shutdown().await;
}
