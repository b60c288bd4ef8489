//! The raw engine: a ping over one key and a pong over another, between two processes with the settings of a fleet.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use zenoh::qos::CongestionControl;
use zenoh::{Session, Wait};

const ROLE: &str = "FLEET_BENCH_ROLE";

fn open(mode: &str, place: &str) -> Session {
    let whose = if mode == "router" { "listen" } else { "connect" };
    let settings = format!(
        r#"{{ mode: "{mode}", {whose}: {{ endpoints: ["tcp/{place}"], timeout_ms: 5000 }},
             scouting: {{ multicast: {{ enabled: false }}, gossip: {{ enabled: false }} }} }}"#
    );
    zenoh::open(zenoh::Config::from_json5(&settings).expect("settings")).wait().expect("a session")
}

fn put(session: &Session, key: &str, bytes: Vec<u8>) {
    session.put(key, bytes).congestion_control(CongestionControl::Block).express(true).wait().expect("it is put");
}

/// Whether this process is one of the measured ones, which ends when it is killed.
pub fn serve() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    let (role, place) = role.split_once(' ').expect("a role and a place");
    let session = open(if role == "pong" { "client" } else { "router" }, place);
    let answers = session.clone();
    let _subscriber = session
        .declare_subscriber("bench/ping")
        .callback(move |sample| {
            let asked = sample.payload().to_bytes();
            let size = asked.first_chunk().map_or(0, |size| u32::from_le_bytes(*size));
            put(&answers, "bench/pong", vec![1; size as usize]);
        })
        .wait()
        .expect("a subscriber");
    if role == "hub" {
        drop(_subscriber);
        std::thread::park();
    }
    loop {
        std::thread::park();
    }
}

/// A process of this bench.
pub struct Process(Child);

impl Process {
    pub fn start(role: &str, place: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let child = Command::new(program).env(ROLE, format!("{role} {place}")).stdin(Stdio::null()).spawn();
        let process = Self(child.expect("it starts"));
        let limit = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(place).is_err() {
            assert!(Instant::now() < limit, "the raw engine does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// The side that asks. The answer is awaited on a thread that blocks, as the engine's own `z_ping` does.
pub struct Ping {
    session: Session,
    pongs: std::sync::Arc<Mutex<Receiver<usize>>>,
    _subscriber: zenoh::pubsub::Subscriber<()>,
}

impl Ping {
    pub fn start(place: &str) -> Self {
        let session = open("client", place);
        let (sender, pongs) = channel();
        let subscriber = session.declare_subscriber("bench/pong").callback(move |sample| {
            let _ = sender.send(sample.payload().len());
        });
        let subscriber = subscriber.wait().expect("a subscriber");
        let limit = Instant::now() + Duration::from_secs(10);
        // Declared is not there yet at the other side.
        loop {
            put(&session, "bench/ping", 4_u32.to_le_bytes().to_vec());
            if pongs.recv_timeout(Duration::from_millis(100)).is_ok() {
                break;
            }
            assert!(Instant::now() < limit, "the raw engine does not answer");
        }
        while pongs.recv_timeout(Duration::from_millis(200)).is_ok() {}
        Self { session, pongs: std::sync::Arc::new(Mutex::new(pongs)), _subscriber: subscriber }
    }

    /// The median of some round trips, in microseconds.
    pub async fn round_trips(&self, count: usize, size: u32) -> f64 {
        let (session, pongs) = (self.session.clone(), std::sync::Arc::clone(&self.pongs));
        let measured = tokio::task::spawn_blocking(move || {
            let pongs = pongs.lock().expect("the pongs");
            let mut taken = Vec::with_capacity(count);
            for _ in 0..count {
                let begun = Instant::now();
                let mut ping = vec![0; 64];
                ping[..4].copy_from_slice(&size.to_le_bytes());
                put(&session, "bench/ping", ping);
                let came = pongs.recv_timeout(Duration::from_secs(10)).expect("a pong");
                assert_eq!(came, size as usize);
                taken.push(begun.elapsed());
            }
            taken
        });
        super::median(measured.await.expect("round trips"))
    }
}
