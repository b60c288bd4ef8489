//! States that outlast their process: in the host's own, which is started anew, and in a plugin's, which is killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use controllerbus::prelude::*;
use hot_runtime::{HotRuntime, Isolation, Trust};
use tests::process::{artifact, runs, until};
use tests::work_dir;
use tokio::sync::OnceCell;

/// The same directive as in the `keeps` fixture.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "keeps/do", value = u64, unmerged)]
struct Do {
    what: String,
}

async fn act(bus: &Bus, what: &str) -> Result<u64> {
    Ok(*bus.resolve(Do { what: what.to_owned() }).within(Duration::from_secs(20)).await?)
}

async fn keeps() -> &'static Path {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    BUILT.get_or_init(|| artifact("keeps", &["keeps"])).await
}

struct Host {
    bus: Bus,
    runtime: HotRuntime,
}

impl Host {
    async fn new(work: &Path, isolation: Isolation) -> Self {
        let bus = Bus::new();
        let runtime = HotRuntime::builder(&bus)
            .trust(Trust::anyone())
            .work_dir(work)
            .isolation(isolation)
            .plugin_host(env!("CARGO_BIN_EXE_process-host"))
            .start()
            .await
            .expect("starting");
        bus.apply(ConfigSet::from_yaml("tally: { id: keeps }").expect("a config set")).await.expect("applying");
        runtime.load_file(keeps().await).await.expect("loading");
        Self { bus, runtime }
    }

    async fn count(&self) -> u64 {
        act(&self.bus, "count").await.expect("it counts")
    }

    /// Kills the plugin's process.
    async fn kill(&self) {
        let pid = act(&self.bus, "pid").await.expect("a pid") as u32;
        let killed = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
        rustix::process::kill_process(killed, rustix::process::Signal::KILL).expect("killing");
        until("it is killed", || !runs(pid)).await;
    }

    /// Counts, where a call that has met a crash may say so.
    async fn count_after_a_crash(&self) -> u64 {
        loop {
            match act(&self.bus, "count").await {
                Ok(now) => return now,
                Err(error) => assert_eq!(error.kind(), controllerbus::error::ErrorKind::Crashed, "{error}"),
            }
        }
    }

    async fn end(self) {
        self.bus.close().await;
        self.runtime.shutdown().await;
    }
}

fn folder() -> tempfile::TempDir {
    std::fs::create_dir_all(work_dir()).expect("the work folder");
    tempfile::tempdir_in(work_dir()).expect("a folder")
}

/// The file that the state is kept in.
fn file(work: &Path) -> PathBuf {
    work.join("states/keeps.tally.state")
}

/// The count that was kept last.
fn kept(work: &Path) -> Option<u64> {
    let bytes = std::fs::read(file(work)).ok()?;
    let at = bytes.iter().position(|byte| *byte == b'\n')?;
    let state = State { schema: 0, bytes: bytes[at + 1..].to_vec() };
    #[derive(Deserialize)]
    struct Counted {
        count: u64,
    }
    state.decode::<Counted>().ok().map(|counted| counted.count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_started_anew_goes_on_counting_whichever_way_it_and_its_plugin_have_ended() {
    let work = folder();
    for (round, isolation) in [Isolation::None, Isolation::Process, Isolation::None].into_iter().enumerate() {
        let host = Host::new(work.path(), isolation).await;
        let before = 3 * round as u64;
        assert_eq!(host.count().await, before + 1);
        assert_eq!(host.count().await, before + 2);
        // Unloaded and loaded again in between.
        host.runtime.unload("keeps").await.expect("unloading");
        host.runtime.load_file(keeps().await).await.expect("loading");
        assert_eq!(host.count().await, before + 3);
        // In one case without a word to the bus.
        if round == 1 { drop(host.runtime.shutdown().await) } else { host.end().await }
    }
    let host = Host::new(work.path(), Isolation::None).await;
    assert_eq!(host.count().await, 10);
    host.bus.remove_config("tally").await;
    let gone = file(work.path());
    until("the state of a config that was removed is gone", || !gone.exists()).await;
    host.end().await;
    let host = Host::new(work.path(), Isolation::None).await;
    assert_eq!(host.count().await, 1);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugins_process_that_is_killed_goes_on_with_what_was_kept() {
    let work = folder();
    let host = Host::new(work.path(), Isolation::Process).await;
    let mut before = 0;
    for round in 1..=5 {
        for _ in 0..10 {
            assert_eq!(host.count().await, before + 1);
            before += 1;
        }
        until("the count is kept", || kept(work.path()) == Some(before)).await;
        host.kill().await;
        let now = host.count_after_a_crash().await;
        assert_eq!(now, before + 1, "after kill {round}");
        before = now;
    }
    host.end().await;
    assert_eq!(kept(work.path()), Some(before), "what it had at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_ends_each_process_that_restores_it_is_set_aside_and_its_controller_starts_without_it() {
    let lit = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("fuse") && bytes.contains(&0xc3);
    for starts_anew in [false, true] {
        let work = folder();
        let mut host = Host::new(work.path(), Isolation::Process).await;
        assert_eq!(host.count().await, 1);
        assert_eq!(act(&host.bus, "light").await.expect("it is lit"), 1);
        until("the lit state is kept", || std::fs::read(file(work.path())).is_ok_and(|bytes| lit(&bytes))).await;
        if starts_anew {
            host.end().await;
            host = Host::new(work.path(), Isolation::Process).await;
        } else {
            host.kill().await;
        }
        assert_eq!(host.count_after_a_crash().await, 1, "it starts without it");
        until("the new state is kept", || kept(work.path()) == Some(1)).await;
        let aside = file(work.path()).with_extension("state.refused");
        until("the lit state is set aside", || std::fs::read(&aside).is_ok_and(|bytes| lit(&bytes))).await;
        host.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_torn_is_set_aside_and_its_controller_starts_without_it() {
    let work = folder();
    let host = Host::new(work.path(), Isolation::None).await;
    assert_eq!(host.count().await, 1);
    host.end().await;
    let whole = std::fs::read(file(work.path())).expect("it was kept");
    let torn = &whole[..whole.len() - 1];
    std::fs::write(file(work.path()), torn).expect("writing");
    let host = Host::new(work.path(), Isolation::None).await;
    assert_eq!(host.count().await, 1, "it starts without it");
    host.end().await;
    assert_eq!(kept(work.path()), Some(1));
    let aside = file(work.path()).with_extension("state.refused");
    assert_eq!(std::fs::read(aside).expect("it is set aside"), torn);
}
