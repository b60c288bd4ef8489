//! A host that says what it likes, in bytes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use controllerbus::directive::wire;
use controllerbus::prelude::*;
use controllerbus_fleet::carrier::{Carrier, Lane, Peer, Presence};
use controllerbus_fleet::memory::{Memory, Network};

use crate::kit::after;

/// A host that says what it likes.
pub struct Raw {
    pub carrier: Arc<Memory>,
    pub received: Arc<Mutex<Vec<(Lane, Bytes)>>>,
    _guards: Vec<controllerbus_fleet::carrier::Guard>,
}

impl Raw {
    pub fn join(network: &Network, name: &str) -> Self {
        let carrier = network.host(name);
        let received = Arc::<Mutex<Vec<(Lane, Bytes)>>>::default();
        let into = Arc::clone(&received);
        let guards = vec![
            carrier
                .receive(Arc::new(move |_, lane, frame| into.lock().unwrap().push((lane, frame))))
                .expect("it receives"),
            carrier.announce(Presence::Up(carrier.own())).expect("it is announced"),
        ];
        Self { carrier, received, _guards: guards }
    }

    pub fn say(&self, to: &Peer, lane: Lane, frame: &[u8]) {
        self.carrier.send(to, &lane, Bytes::copy_from_slice(frame)).expect("it is sent");
    }

    pub fn greet(&self, to: &Peer, hello: &Hello) {
        let bytes = [vec![1], wire::encode(hello).expect("encoding")].concat();
        self.say(to, Lane::Link, &bytes);
    }

    /// What was said to it since the last call, by kind.
    pub fn heard(&self) -> Vec<(u8, Bytes)> {
        let all = std::mem::take(&mut *self.received.lock().unwrap());
        all.into_iter().filter(|(lane, _)| *lane == Lane::Link).map(|(_, frame)| (frame[0], frame)).collect()
    }

    /// The reason of the goodbye that it was told.
    pub async fn bye(&self) -> String {
        for _ in 0..1000 {
            if let Some((_, frame)) = self.heard().into_iter().find(|(kind, _)| *kind == 7) {
                return String::from_utf8_lossy(&frame[3..]).into_owned();
            }
            after(Duration::from_millis(10)).await;
        }
        panic!("there was no goodbye");
    }
}

/// A greeting of a later version, which has more to say.
#[derive(Serialize, Clone)]
pub struct Hello {
    pub protocol_min: u32,
    pub protocol_max: u32,
    pub fleet: String,
    pub session: u64,
    pub heard: Option<u64>,
    pub wants: bool,
    pub version: String,
    pub longest: u64,
    pub invented: Vec<u8>,
}

pub fn hello(min: u32, max: u32) -> Hello {
    Hello {
        protocol_min: min,
        protocol_max: max,
        fleet: "shop".to_owned(),
        session: 1,
        heard: None,
        wants: true,
        version: "9.0.0".to_owned(),
        longest: 1 << 20,
        invented: vec![1, 2, 3],
    }
}

#[derive(Deserialize)]
struct Answer {
    session: u64,
    heard: Option<u64>,
}

/// Greets, and is linked.
pub async fn linked(raw: &Raw, to: &Peer, hello: &Hello) -> Hello {
    raw.greet(to, hello);
    for _ in 0..1000 {
        after(Duration::from_millis(10)).await;
        if let Some((_, frame)) = raw.heard().into_iter().find(|(kind, _)| *kind == 1) {
            let answer: Answer = wire::decode(&frame[1..]).expect("it is a greeting");
            assert_eq!(answer.heard, Some(1));
            let hello = Hello { heard: Some(answer.session), wants: false, ..hello.clone() };
            raw.greet(to, &hello);
            after(Duration::from_millis(10)).await;
            return hello;
        }
    }
    panic!("it was not greeted");
}

/// A number as frames have it.
pub fn number(mut rest: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}
