//! What a process of its own costs a plugin: requests, values, starts and memory, against the same plugin in the
//! process, and against an echo by tonic and one by hand over the same kind of socket.

use std::future::{Ready, ready};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use benches::session::Session;
use benches::{Measured, Spread, target};
use bytes::{Buf, BufMut};
use controllerbus::prelude::*;
use hot_runtime::compile::{BuildOptions, PluginBuilder};
use hot_runtime::{HotRuntime, Isolation, PluginSpec, RuntimeEvent};
use tempfile::TempDir;
use tests::process::a_request;
use tokio::sync::mpsc::UnboundedReceiver;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Status, body::Body};

/// How often two things are measured in turn.
const BLOCKS: usize = 20;
const REQUESTS: usize = 200;
const LARGE: usize = 10;
/// How long a requester that leaves the cores something waits between two requests.
const PAUSE: Duration = Duration::from_millis(1);
const TASKS: usize = 8;
const BUSY: Duration = Duration::from_millis(400);
const STARTS: usize = 20;
const SERVER: &str = "BENCH_PROCESS_SERVER";

type Done = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Something that is done again and again, with a name.
type Work<'a> = (&'a str, &'a (dyn Fn() -> Done + Sync));

fn main() {
    hot_runtime::plugin_host();
    match std::env::var(SERVER).as_deref() {
        Ok("tonic") => return runtime().block_on(serve_tonic()),
        Ok(_) => return serve_by_hand(),
        Err(_) => {}
    }
    let mut session = Session::begin("process");
    // On a task, as servers ask: the thread that blocks on a runtime is one more to be woken.
    let runtime = runtime();
    let asking = runtime.spawn(measured());
    session.extend(runtime.block_on(asking).expect("the measurements end"));
    session.extend(by_hand());
    let median = |name: &str| session.median(name).unwrap_or(f64::NAN);
    let resolve = median("resolve, process");
    println!(
        "resolve through a process: {:.2} x tonic's echo, {:.1} x in the process, {:.1} x an echo by hand",
        resolve / median("echo, tonic"),
        resolve / median("resolve, in process"),
        resolve / median("echo, by hand")
    );
    session.end();
}

async fn measured() -> Vec<Measured> {
    let artifact = build().await;
    let (mut process, inside) =
        (Plugin::start(&artifact, Isolation::Process).await, Plugin::start(&artifact, Isolation::None).await);
    let (mut server, tonic) = tonic().await;
    let (of_process, of_inside) = (process.bus.clone(), inside.bus.clone());
    let resolve = |bus: &Bus, what: &'static str| -> Done {
        let bus = bus.clone();
        Box::pin(async move { drop(bus.resolve(a_request(what)).await.expect("an answer")) })
    };
    let ask_process = || resolve(&of_process, "sentence");
    let ask_inside = || resolve(&of_inside, "sentence");
    let echo = || -> Done { tonic(40) };
    let mut all = Vec::new();
    let works: [Work; 3] =
        [("resolve, process", &ask_process), ("echo, tonic", &echo), ("resolve, in process", &ask_inside)];
    all.extend(in_turn(works, REQUESTS, None).await);
    let works: [Work; 3] = [
        ("resolve, process, paced", &ask_process),
        ("echo, tonic, paced", &echo),
        ("resolve, in process, paced", &ask_inside),
    ];
    all.extend(in_turn(works, REQUESTS, Some(PAUSE)).await);
    let (large_process, large_inside) =
        (|| resolve(&of_process, "large 1048576"), || resolve(&of_inside, "large 1048576"));
    let large_echo = || -> Done { tonic(1 << 20) };
    let works: [Work; 3] = [
        ("resolve a value of 1 MiB, process", &large_process),
        ("echo 1 MiB, tonic", &large_echo),
        ("resolve a value of 1 MiB, in process", &large_inside),
    ];
    all.extend(in_turn(works, LARGE, None).await);
    let (busy_process, busy_tonic) = (process.bus.clone(), tonic.clone());
    let busy_process = move || resolve(&busy_process, "sentence");
    let busy_tonic = move || -> Done { busy_tonic(40) };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS / 4 {
        ours.push(busy(busy_process.clone()).await);
        theirs.push(busy(busy_tonic.clone()).await);
    }
    let (name, other) = (format!("resolve by {TASKS} tasks, process"), format!("echo by {TASKS} tasks, tonic"));
    let ratios = Measured::ratios(&format!("{name}/{other}"), &ours, &theirs);
    let both = [Measured::new(&name, "per s", ours), Measured::new(&other, "per s", theirs), ratios];
    all.extend(both.map(shown));
    all.extend(process.alone("process").await);
    let _ = server.kill();
    let _ = server.wait();
    all.extend(inside.values("in process").await);
    process.hot.shutdown().await;
    inside.hot.shutdown().await;
    all
}

/// Some things that are done in turn, block by block: microseconds for each, and for each block the ratio of the first one's median to
/// that of each of the others.
async fn in_turn<const N: usize>(works: [Work<'_>; N], requests: usize, pause: Option<Duration>) -> Vec<Measured> {
    let mut medians = works.map(|_| Vec::new());
    // The first block warms all of them up.
    for block in 0..=BLOCKS {
        for ((_, work), medians) in works.iter().zip(&mut medians) {
            let mut samples = Vec::with_capacity(requests);
            for _ in 0..requests {
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
                let begun = Instant::now();
                work().await;
                samples.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            if block > 0 {
                medians.push(Spread::of(samples).median);
            }
        }
    }
    let names = works.map(|(name, _)| name);
    let each = names.iter().zip(&medians).map(|(name, medians)| Measured::new(name, "us", medians.clone()));
    let others = names.iter().zip(&medians).skip(1);
    let pairs = others.map(|(name, theirs)| Measured::ratios(&format!("{}/{name}", names[0]), &medians[0], theirs));
    each.chain(pairs).map(shown).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// The tests' fixture, as a release build.
async fn build() -> std::path::PathBuf {
    let scratch = tests::Scratch::new(&["hazard"]);
    let spec = PluginSpec::new("hazard").crate_path(scratch.path("hazard")).release(true).watch(false);
    let options = BuildOptions::new(target().join("bench-process"));
    let built = PluginBuilder::new(spec, options).build(&|_| {}, &tokio_util::sync::CancellationToken::new()).await;
    built.expect("the plugin builds").artifact
}

/// A host with the plugin.
struct Plugin {
    bus: Bus,
    hot: HotRuntime,
    events: UnboundedReceiver<RuntimeEvent>,
    _folder: TempDir,
}

impl Plugin {
    async fn start(artifact: &std::path::Path, isolation: Isolation) -> Self {
        let bus = Bus::new();
        let folder = tempfile::tempdir().expect("a folder");
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let options = hot_runtime::ProcessOptions::default().backoff(std::time::Duration::ZERO);
        let hot = HotRuntime::builder(&bus)
            .trust(hot_runtime::Trust::anyone())
            .work_dir(folder.path())
            .isolation(isolation)
            .process_options(options)
            .on_event(move |event| {
                // Those that are killed here are meant to be.
                if let RuntimeEvent::Crashed { reason, .. } = event
                    && !reason.contains("SIGKILL")
                {
                    eprintln!("{event:?}");
                }
                drop(sender.send(event.clone()));
            })
            .start()
            .await
            .expect("starting");
        bus.apply(ConfigSet::from_yaml(tests::process::CONFIG).expect("a set")).await.expect("applying");
        hot.load_file(artifact).await.expect("loading");
        Self { bus, hot, events, _folder: folder }
    }

    async fn resolve(&self) {
        drop(self.bus.resolve(a_request("sentence")).await.expect("an answer"));
    }

    /// How many small values come in a second.
    async fn values(&self, place: &str) -> [Measured; 1] {
        let mut rates = Vec::new();
        for _ in 0..5 {
            let begun = Instant::now();
            let values = self.bus.resolve_all(a_request("many 100000")).await.expect("values").len();
            rates.push(values as f64 / begun.elapsed().as_secs_f64());
        }
        [shown(Measured::new(&format!("small values of one request, {place}"), "per s", rates))]
    }

    /// What has no peer: values, starts, crashes and memory.
    async fn alone(&mut self, place: &str) -> Vec<Measured> {
        let mut measured = Vec::from(self.values(place).await);
        let generations = self.hot.generations();
        let mut pid = generations.last().and_then(|generation| generation.pid).expect("a process of its own");
        let (mut ready, mut answered) = (Vec::new(), Vec::new());
        for _ in 0..STARTS {
            Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill");
            let begun = loop {
                if let RuntimeEvent::Crashed { .. } = self.events.recv().await.expect("an event") {
                    break Instant::now();
                }
            };
            self.resolve().await;
            answered.push(begun.elapsed().as_secs_f64() * 1000.0);
            pid = loop {
                if let RuntimeEvent::Restarted { pid, took, .. } = self.events.recv().await.expect("an event") {
                    ready.push(took.as_secs_f64() * 1000.0);
                    break pid;
                }
            };
        }
        // A process that was started just now, and has served one request.
        let field = |field: &str| {
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory");
            let line = rollup.lines().find(|line| line.starts_with(field)).expect("the field").to_owned();
            line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
        };
        measured.push(shown(Measured::new("spawn to ready, process", "ms", ready)));
        measured.push(shown(Measured::new("crash to the next answer, process", "ms", answered)));
        measured.push(shown(Measured::new("resident memory of a process", "MiB", vec![field("Rss:")])));
        measured.push(shown(Measured::new("proportional memory of a process", "MiB", vec![field("Pss:")])));
        measured
    }
}

/// Prints a measurement.
fn shown(measured: Measured) -> Measured {
    measured.print();
    measured
}

/// Operations per second by several tasks.
async fn busy(work: impl Fn() -> Done + Clone + Send + 'static) -> f64 {
    let done = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (work, done) = (work.clone(), Arc::clone(&done));
            // The future is made on the task that runs it.
            tokio::spawn(async move {
                while begun.elapsed() < BUSY {
                    work().await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("the task ends");
    }
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

/// Starts this executable as a server with one end of a socket pair, as plugin hosts are started.
fn server(kind: &str) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let child = Command::new(std::env::current_exe().expect("this executable"))
        .env(SERVER, kind)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .spawn()
        .expect("the server");
    (child, ours)
}

fn inherited() -> UnixStream {
    UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().expect("the socket"))
}

#[derive(Clone, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> std::result::Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> std::result::Result<Option<Vec<u8>>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length).to_vec()))
    }
}

/// Answers with what it is asked.
#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl tonic::server::UnaryService<Vec<u8>> for Echo {
    type Response = Vec<u8>;
    type Future = Ready<std::result::Result<tonic::Response<Vec<u8>>, Status>>;
    fn call(&mut self, request: tonic::Request<Vec<u8>>) -> Self::Future {
        ready(Ok(tonic::Response::new(request.into_inner())))
    }
}

impl tower_service::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = std::result::Result<Self::Response, Self::Error>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(tonic::server::Grpc::new(Plain).unary(Echo, request).await) })
    }
}

async fn serve_tonic() {
    let socket = inherited();
    socket.set_nonblocking(true).expect("a socket");
    let socket = tokio::net::UnixStream::from_std(socket).expect("a socket");
    // One connection, and then none; the bench ends the server.
    let incoming =
        tokio_stream::StreamExt::chain(tokio_stream::once(std::io::Result::Ok(socket)), tokio_stream::pending());
    let served = tonic::transport::Server::builder().add_service(Echo).serve_with_incoming(incoming).await;
    served.expect("serving");
}

/// A server by tonic, and a call of it that sends so many bytes and gets them back.
async fn tonic() -> (Child, impl Fn(usize) -> Done + Clone + Sync) {
    let (child, socket) = server("tonic");
    socket.set_nonblocking(true).expect("a socket");
    let mut socket = Some(tokio::net::UnixStream::from_std(socket).expect("a socket"));
    let connect = tower::service_fn(move |_: http::Uri| {
        let socket = socket.take().ok_or_else(|| std::io::Error::other("it was used before"));
        async move { socket.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://bench");
    let channel = endpoint.connect_with_connector(connect).await.expect("a connection");
    let call = move |bytes: usize| {
        let mut client = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(4 << 20);
        let called: Done = Box::pin(async move {
            client.ready().await.expect("a connection");
            let path = http::uri::PathAndQuery::from_static("/bench.Echo/Echo");
            let request = tonic::Request::new(vec![1; bytes]);
            drop(client.unary(request, path, Plain).await.expect("an answer"));
        });
        called
    };
    (child, call)
}

/// The least that two processes can take: a blocking write and a blocking read each.
fn by_hand() -> Vec<Measured> {
    let (mut child, mut socket) = server("by hand");
    let mut bytes = [0; 40];
    let mut samples = Vec::with_capacity(BLOCKS * REQUESTS);
    for _ in 0..BLOCKS * REQUESTS {
        let begun = Instant::now();
        socket.write_all(&bytes).expect("writing");
        socket.read_exact(&mut bytes).expect("reading");
        samples.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    drop(socket);
    let _ = child.wait();
    vec![shown(Measured::new("echo, by hand", "us", samples))]
}

fn serve_by_hand() {
    let mut socket = inherited();
    let mut bytes = [0; 40];
    while socket.read_exact(&mut bytes).is_ok() {
        if socket.write_all(&bytes).is_err() {
            return;
        }
    }
}
