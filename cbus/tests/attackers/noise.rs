//! Random frames at a daemon's doors: it goes on, and does not grow.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::calls::calls;
use crate::process::{Daemon, daemon_folder, write_secret};

/// The same on every run; a simple generator is random enough.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.next(most)).map(|_| self.next(256) as u8).collect()
    }
}

/// Messages that are bytes, whatever they should be.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Raw {
    type Item = usize;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = bytes::Buf::remaining(buffer);
        bytes::Buf::advance(buffer, length);
        Ok(Some(length))
    }
}

async fn noise(channel: &Channel, path: &str, messages: Vec<Vec<u8>>, token: &str) {
    let mut request = Request::new(tokio_stream::iter(messages));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("the daemon goes on");
    let answered = client.streaming(request, path.parse().expect("a path"), Raw).await;
    if let Ok(mut answers) = answered {
        // A few answers are enough; some calls never end.
        for _ in 0..3 {
            let next = tokio::time::timeout(Duration::from_millis(20), answers.get_mut().message()).await;
            if !matches!(next, Ok(Ok(Some(_)))) {
                break;
            }
        }
    }
}

/// Bytes that are not even HTTP, or begin as it and go on otherwise.
fn raw_noise(address: &str, random: &mut Random) {
    let Ok(mut stream) = TcpStream::connect(address) else { panic!("the daemon does not listen any more") };
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a limit");
    let begin: &[u8] = match random.next(3) {
        0 => b"",
        1 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        _ => {
            b"POST /controllerbus.api.v1.BusApi/Execute HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n"
        }
    };
    let _ = stream.write_all(begin);
    let _ = stream.write_all(&random.bytes(4096));
    let _ = stream.read(&mut [0; 512]);
}

async fn storm(rounds: usize, until: Option<Instant>) {
    let folder = daemon_folder();
    let token = "a-token-of-some-length";
    write_secret(&folder.path().join("tokens"), token);
    let listen = [
        "--plugins",
        "plugins",
        "--listen",
        "127.0.0.1:0",
        "--token-file",
        "tokens",
        "--allow-exec",
        "--allow-control",
    ];
    let daemon = Daemon::start(folder.path(), &listen);
    let endpoint = Endpoint::from_shared(format!("http://{}", daemon.address)).expect("an address");
    let channel = endpoint.connect().await.expect("connecting");
    let memory = || {
        let bus = crate::json(folder.path(), &["bus", "--json", "--connect", &daemon.socket()]);
        bus["memory_bytes"].as_u64().expect("its memory") >> 20
    };
    let (mut random, calls, mut sent, mut warm) = (Random(7), calls(), 0_usize, None);
    for round in 0.. {
        if until.map_or(round >= rounds, |until| Instant::now() >= until) {
            break;
        }
        let path = &calls[random.next(calls.len() as u64) as usize];
        let messages = (0..1 + random.next(3)).map(|_| random.bytes(2000)).collect();
        noise(&channel, path, messages, if random.next(4) == 0 { "another-token-of-some-length" } else { token }).await;
        if round % 8 == 0 {
            raw_noise(&daemon.address, &mut random);
        }
        sent += 1;
        if round == rounds / 3 {
            warm = Some(memory());
        }
    }
    let (before, after) = (warm.expect("enough rounds"), memory());
    println!("{sent} calls, {before} MiB after a third of the first ones, {after} MiB at the end");
    assert!(after <= before + 16, "from {before} to {after} MiB");
    daemon.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn random_frames_bring_no_daemon_down_and_it_does_not_grow() {
    storm(600, None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "five minutes: cargo test -p cbus --test attackers -- --ignored"]
async fn random_frames_for_five_minutes_bring_no_daemon_down_and_it_does_not_grow() {
    storm(3000, Some(Instant::now() + Duration::from_secs(300))).await;
}
