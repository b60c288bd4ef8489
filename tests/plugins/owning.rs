//! What only one can own is swapped: a socket that the host keeps, and a file that is locked.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use controllerbus::bus::Limits;
use controllerbus::listen::Address;
use controllerbus::prelude::*;
use hot_runtime::{GenerationState, HotRuntime, Isolation, RuntimeEvent, Trust};
use tests::load::{built, overwrite, seal};
use tests::{Answer, events, nonce, wait_for, work_dir};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;

/// The same directive as in the `probe` fixture.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "probe/enter", value = Answer)]
struct Enter {
    row: u64,
}

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.unwrap_or_else(|_| panic!("{what}: not within a minute"))
}

/// Artifacts of one built library, with what was overwritten in each.
struct Builds {
    library: &'static [u8],
    folder: tempfile::TempDir,
}

impl Builds {
    async fn new() -> Self {
        static LIBRARY: tokio::sync::OnceCell<Vec<u8>> = tokio::sync::OnceCell::const_new();
        let library =
            LIBRARY.get_or_init(async || tests::verify(built().await).expect("the built artifact").library().to_vec());
        Self { library: library.await, folder: tempfile::tempdir().expect("a folder") }
    }

    /// One that answers a number, and behaves so.
    fn one(&self, number: u64, behaviour: &str) -> PathBuf {
        let mut library = self.library.to_vec();
        overwrite(&mut library, b"generation-", format!("{number:07}").as_bytes());
        overwrite(&mut library, b"behaviour:", format!("{behaviour:.<16}").as_bytes());
        let path = self.folder.path().join(format!("{number}-{behaviour}.cbus.so"));
        seal(&library, &path);
        path
    }
}

struct Host {
    bus: Bus,
    runtime: HotRuntime,
    told: UnboundedReceiver<RuntimeEvent>,
    builds: Builds,
    folder: tempfile::TempDir,
}

impl Host {
    async fn new(isolation: Isolation) -> Self {
        Self::with_limits(isolation, Limits::default()).await
    }

    async fn with_limits(isolation: Isolation, limits: Limits) -> Self {
        let builds = Builds::new().await;
        let bus = Bus::with_limits(limits);
        let (listener, told) = events();
        std::fs::create_dir_all(work_dir()).expect("the work folder");
        let folder = tempfile::tempdir_in(work_dir()).expect("a folder");
        let runtime = HotRuntime::builder(&bus)
            .trust(Trust::anyone())
            .work_dir(folder.path())
            .isolation(isolation)
            .plugin_host(env!("CARGO_BIN_EXE_process-host"))
            .drain(Duration::from_secs(2))
            .on_event(listener)
            .start()
            .await
            .expect("starting");
        Self { bus, runtime, told, builds, folder }
    }

    async fn apply(&self, config: &str) {
        self.bus.apply(ConfigSet::from_yaml(config).expect("a config set")).await.expect("applying");
    }

    async fn load(&self, number: u64) -> hot_runtime::Result<()> {
        self.load_that(number, "good").await
    }

    async fn load_that(&self, number: u64, behaviour: &str) -> hot_runtime::Result<()> {
        self.runtime.load_file(self.builds.one(number, behaviour)).await.map(drop)
    }

    /// Where the door's socket is, once there is one.
    async fn door(&self) -> SocketAddr {
        let found = async {
            loop {
                if let Some(Address::Tcp(at)) = self.bus.sockets().pop().map(|socket| socket.address) {
                    return at.parse().expect("an address");
                }
                tokio::task::yield_now().await;
            }
        };
        soon("the door", found).await
    }

    async fn unloaded(&mut self, generation: u64) -> bool {
        wait_for(&mut self.told, |event| match event {
            RuntimeEvent::Unloaded { generation: found, unmapped, .. } if *found == generation => {
                Some(*unmapped == Some(true))
            }
            _ => None,
        })
        .await
    }
}

/// A connection, with the number of the generation that has accepted it.
struct Visit(BufReader<TcpStream>, String);

impl Visit {
    async fn begin(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).await.expect("nobody is refused");
        let mut visit = Self(BufReader::new(stream), String::new());
        visit.1 = visit.read().await;
        visit
    }

    async fn read(&mut self) -> String {
        let mut line = String::new();
        soon("an answer", self.0.read_line(&mut line)).await.expect("nobody is reset");
        line.split(' ').next().expect("a number").to_owned()
    }

    async fn ask(&mut self) -> String {
        self.0.write_all(b"who\n").await.expect("it is open");
        self.read().await
    }
}

fn numbered(number: u64) -> String {
    format!("generation-{number:07}")
}

const DOOR: &str = "door: { id: probe/door, config: { at: '127.0.0.1:0' } }";

async fn swapped_under_load(isolation: Isolation) {
    let mut host = Host::new(isolation).await;
    host.apply(DOOR).await;
    host.load(1).await.expect("loading");
    let at = host.door().await;
    let mut first = Visit::begin(at).await;
    assert_eq!(first.1, numbered(1));
    let first_generation = host.runtime.generations()[0].generation;

    let stop = Arc::new(AtomicBool::new(false));
    let visitors: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut visits = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut visit = Visit::begin(at).await;
                    assert_eq!(visit.ask().await, visit.1, "who has accepted it answers");
                    visits += 1;
                }
                visits
            })
        })
        .collect();
    for number in 2..12 {
        host.load(number).await.expect("swapping");
    }
    stop.store(true, Ordering::Relaxed);
    for visitor in visitors {
        assert!(visitor.await.expect("every visitor was answered") > 0);
    }
    assert_eq!(Visit::begin(at).await.1, numbered(11));

    // Longer than anything else of it may take.
    let drains = |event: &RuntimeEvent| {
        matches!(event, RuntimeEvent::Draining { generation, .. } if *generation == first_generation).then_some(())
    };
    wait_for(&mut host.told, drains).await;
    let all = host.runtime.generations();
    let held = all.iter().find(|found| found.generation == first_generation).expect("the first one");
    assert_eq!((held.state, held.holders.connections), (GenerationState::Draining, 1));
    assert_eq!(held.reason.as_deref(), Some("held by 1 connection"));
    assert_eq!(first.ask().await, numbered(1));
    drop(first);
    assert!(host.unloaded(first_generation).await);
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_in_the_process_accept_from_one_socket_in_turn_and_connections_keep_theirs() {
    swapped_under_load(Isolation::None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_in_processes_of_their_own_accept_from_one_socket_in_turn_and_connections_keep_theirs() {
    swapped_under_load(Isolation::Process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_while_a_plugins_process_is_down_waits_for_the_next_one() {
    let mut host = Host::new(Isolation::Process).await;
    host.apply(DOOR).await;
    host.load(1).await.expect("loading");
    let at = host.door().await;
    let mut visit = Visit::begin(at).await;
    visit.0.write_all(b"abort\n").await.expect("it is open");
    wait_for(&mut host.told, |event| matches!(event, RuntimeEvent::Crashed { .. }).then_some(())).await;
    assert_eq!(Visit::begin(at).await.1, numbered(1));
    host.runtime.shutdown().await;
}

fn rows(file: &Path) -> BTreeSet<u64> {
    let text = std::fs::read_to_string(file).expect("the rows");
    text.lines().map(|line| line.parse().expect("a whole row")).collect()
}

async fn enter(bus: &Bus) -> (u64, String) {
    let row = nonce();
    let answer = soon("an answer", bus.resolve(Enter { row })).await.expect("it is entered");
    (row, answer.0.clone())
}

async fn one_at_a_time(isolation: Isolation) {
    let host = Host::new(isolation).await;
    let file = host.folder.path().join("rows");
    host.apply(&format!("vault: {{ id: probe/vault, config: {{ file: '{}' }} }}", file.display())).await;
    host.load(1).await.expect("loading");
    assert_eq!(enter(&host.bus).await.1, format!("{} 1", numbered(1)));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (bus, stop) = (host.bus.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut entered = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    entered.push(enter(&bus).await.0);
                }
                entered
            })
        })
        .collect();
    for number in 2..12 {
        host.load(number).await.expect("swapping");
    }
    let error = host.load_that(12, "vault-error").await.expect_err("it fails").to_string();
    assert!(error.contains("constructing probe/vault: the vault was told to fail"), "{error}");
    assert!(error.contains("probe/vault was restarted with the previous code and its state"), "{error}");
    stop.store(true, Ordering::Relaxed);
    let mut entered = 1;
    for client in clients {
        let acknowledged = client.await.expect("every row was answered");
        let there = rows(&file);
        assert!(acknowledged.iter().all(|row| there.contains(row)), "a row that was answered is lost");
        entered += acknowledged.len();
    }
    // The state went from each to the next, and back to the one that was made again.
    assert_eq!(enter(&host.bus).await.1, format!("{} {}", numbered(11), entered + 1));
    assert_eq!(rows(&file).len(), entered + 1);
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_locks_a_file_is_swapped_one_at_a_time_and_loses_nothing_in_the_process() {
    one_at_a_time(Isolation::None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_locks_a_file_is_swapped_one_at_a_time_and_loses_nothing_in_processes_of_their_own() {
    one_at_a_time(Isolation::Process).await;
}

async fn nobody_beside_what_is_overdue(isolation: Isolation) {
    let host = Host::with_limits(isolation, Limits::default().construct(Duration::from_millis(500))).await;
    let file = host.folder.path().join("rows");
    let blocked = file.with_extension("blocked");
    std::fs::write(&blocked, "").expect("the file that blocks");
    host.apply(&format!("vault: {{ id: probe/vault, config: {{ file: '{}' }} }}", file.display())).await;
    host.load(1).await.expect("loading");
    assert_eq!(enter(&host.bus).await.1, format!("{} 1", numbered(1)));
    let error = host.load_that(2, "vault-blocks").await.expect_err("it does not end").to_string();
    assert!(error.contains("constructing probe/vault took longer than 500ms; it has not ended yet"), "{error}");
    // It has the file still, and nobody has tried to get it.
    let problem = host.bus.config("vault").expect("it is applied").problem.expect("nobody serves").to_string();
    assert!(problem.contains("waiting for the previous controller to end"), "{problem}");
    assert!(!problem.contains("is locked"), "{problem}");
    std::fs::remove_file(&blocked).expect("the file that blocks");
    // The one before is made again, with its state.
    let mut watch = host.bus.watch_config("vault");
    soon("it runs again", async { while watch.running().await.is_err() {} }).await;
    assert_eq!(enter(&host.bus).await.1, format!("{} 2", numbered(1)));
    host.runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_made_beside_a_construction_that_passes_its_limit_in_the_process() {
    nobody_beside_what_is_overdue(Isolation::None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_made_beside_a_construction_that_passes_its_limit_in_processes_of_their_own() {
    nobody_beside_what_is_overdue(Isolation::Process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bind_that_fails_because_the_old_generation_holds_the_address_is_told_with_both_ways() {
    for isolation in [Isolation::None, Isolation::Process] {
        let host = Host::new(isolation).await;
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
        host.apply(&format!("door: {{ id: probe/door, config: {{ at: '{free}', itself: true }} }}")).await;
        host.load(1).await.expect("loading");
        let is_bound = async { while TcpStream::connect(free).await.is_err() {} };
        soon("it is bound", is_bound).await;
        let error = host.load(2).await.expect_err("it is taken").to_string();
        for part in ["executing probe/door", "Address already in use", "context.listen(..)", "swap = \"stop-first\""] {
            assert!(error.contains(part), "{error}");
        }
        host.runtime.shutdown().await;
    }
}
