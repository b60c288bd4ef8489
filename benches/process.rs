//! What a process of its own costs a plugin: requests, values, starts and memory, against the same plugin in the
//! process, and against an echo by tonic and one by hand over the same kind of socket.

use std::future::{Ready, ready};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use benches::{Measured, save_all, target};
use bytes::{Buf, BufMut};
use controllerbus::prelude::*;
use hot_runtime::compile::{BuildOptions, PluginBuilder};
use hot_runtime::{HotRuntime, Isolation, PluginSpec, RuntimeEvent};
use tests::process::a_request;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Status, body::Body};

const REQUESTS: usize = 4000;
const TASKS: usize = 8;
const BUSY: Duration = Duration::from_secs(2);
const STARTS: usize = 20;
const SERVER: &str = "BENCH_PROCESS_SERVER";

fn main() {
    hot_runtime::plugin_host();
    match std::env::var(SERVER).as_deref() {
        Ok("tonic") => return runtime().block_on(serve_tonic()),
        Ok(_) => return serve_by_hand(),
        Err(_) => {}
    }
    let runtime = runtime();
    let mut measured = Vec::new();
    // On a task, as servers ask: the thread that blocks on a runtime is one more to be woken.
    let asking = runtime.spawn(async {
        let artifact = build().await;
        let mut measured = Vec::new();
        for isolation in [Isolation::Process, Isolation::None] {
            measured.extend(of_plugin(&artifact, isolation).await);
        }
        measured.extend(of_tonic().await);
        measured
    });
    measured.extend(runtime.block_on(asking).expect("the measurements end"));
    measured.extend(by_hand());
    let median = |name: &str| measured.iter().find(|one| one.name == name).map_or(f64::NAN, |one| one.median);
    let resolve = median("resolve, process");
    println!(
        "resolve through a process: {:.2} x tonic's echo, {:.1} x in the process, {:.1} x an echo by hand",
        resolve / median("echo, tonic"),
        resolve / median("resolve, in process"),
        resolve / median("echo, by hand")
    );
    save_all("process", &measured);
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

async fn of_plugin(artifact: &std::path::Path, isolation: Isolation) -> Vec<Measured> {
    let place = if isolation == Isolation::Process { "process" } else { "in process" };
    let bus = Bus::new();
    let folder = tempfile::tempdir().expect("a folder");
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let options = hot_runtime::ProcessOptions::default().backoff(std::time::Duration::ZERO);
    let hot = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .work_dir(folder.path())
        .isolation(isolation)
        .process_options(options)
        .on_event(move |event| {
            if let RuntimeEvent::Crashed { .. } = event {
                eprintln!("{event:?}");
            }
            drop(sender.send(event.clone()));
        })
        .start()
        .await
        .expect("starting");
    bus.apply(ConfigSet::from_yaml(tests::process::CONFIG).expect("a set")).await.expect("applying");
    hot.load_file(artifact).await.expect("loading");
    let mut measured = Vec::new();

    let asked = bus.clone();
    let resolve = move |what: &'static str| {
        let bus = asked.clone();
        async move { drop(bus.resolve(a_request(what)).await.expect("an answer")) }
    };
    let answered_by = resolve.clone();
    measured.push(each(&format!("resolve, {place}"), REQUESTS, || resolve("sentence")).await);
    measured.push(each(&format!("resolve a value of 1 MiB, {place}"), 100, || resolve("large 1048576")).await);
    measured.push(busy(&format!("resolve by {TASKS} tasks, {place}"), move || answered_by("sentence")).await);
    let mut rates = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let values = bus.resolve_all(a_request("many 100000")).await.expect("values").len();
        rates.push(values as f64 / begun.elapsed().as_secs_f64());
    }
    measured.push(shown(Measured::new(&format!("small values of one request, {place}"), "per s", rates)));

    if let Some(pid) = hot.generations().last().and_then(|generation| generation.pid) {
        // A new process, which has served one request.
        let (mut ready, mut answered) = (Vec::new(), Vec::new());
        let mut pid = pid;
        for _ in 0..STARTS {
            Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill");
            let begun = loop {
                if let RuntimeEvent::Crashed { .. } = events.recv().await.expect("an event") {
                    break Instant::now();
                }
            };
            resolve("sentence").await;
            answered.push(begun.elapsed().as_secs_f64() * 1000.0);
            pid = loop {
                if let RuntimeEvent::Restarted { pid, took, .. } = events.recv().await.expect("an event") {
                    ready.push(took.as_secs_f64() * 1000.0);
                    break pid;
                }
            };
        }
        let field = |field: &str| {
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory");
            let line = rollup.lines().find(|line| line.starts_with(field)).expect("the field").to_owned();
            line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
        };
        measured.push(shown(Measured::new("spawn to ready, process", "ms", ready)));
        measured.push(shown(Measured::new("crash to the next answer, process", "ms", answered)));
        measured.push(shown(Measured::new("resident memory of a process", "MiB", vec![field("Rss:")])));
        measured.push(shown(Measured::new("proportional memory of a process", "MiB", vec![field("Pss:")])));
    }
    hot.shutdown().await;
    measured
}

/// Prints a measurement.
fn shown(measured: Measured) -> Measured {
    measured.print();
    measured
}

/// Microseconds of one operation after the other.
async fn each<F: Future<Output = ()>>(name: &str, count: usize, mut work: impl FnMut() -> F) -> Measured {
    for _ in 0..count / 10 {
        work().await;
    }
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        work().await;
        samples.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    shown(Measured::new(name, "us", samples))
}

/// Operations per second by several tasks.
async fn busy<F: Future<Output = ()> + Send + 'static>(
    name: &str,
    work: impl Fn() -> F + Clone + Send + 'static,
) -> Measured {
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
    shown(Measured::new(name, "per s", vec![done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()]))
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

async fn of_tonic() -> Vec<Measured> {
    let (mut child, socket) = server("tonic");
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
        async move {
            client.ready().await.expect("a connection");
            let path = http::uri::PathAndQuery::from_static("/bench.Echo/Echo");
            let request = tonic::Request::new(vec![1; bytes]);
            drop(client.unary(request, path, Plain).await.expect("an answer"));
        }
    };
    let measured = vec![
        each("echo, tonic", REQUESTS, || call(40)).await,
        each("echo 1 MiB, tonic", 100, || call(1 << 20)).await,
        busy(&format!("echo by {TASKS} tasks, tonic"), move || call(40)).await,
    ];
    let _ = child.kill();
    let _ = child.wait();
    measured
}

/// The least that two processes can take: a blocking write and a blocking read each.
fn by_hand() -> Vec<Measured> {
    let (mut child, mut socket) = server("by hand");
    let mut bytes = [0; 40];
    let mut samples = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
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
