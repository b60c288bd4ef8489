//! Messages of a link itself: greetings, pings, what was seen and what was lost. Each may be lost, repeated or late.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use controllerbus::directive::wire;
use serde::{Deserialize, Serialize};

use super::bytes::{Garbled, Reader, put_bytes, put_number};
use super::frame::OPTIONAL;

/// The protocols that this version speaks. The highest one that both know is spoken.
pub(crate) const PROTOCOL: (u32, u32) = (1, 1);

/// A message that came later, and may be passed over by who does not know it.
const WAITS: u8 = OPTIONAL;

/// The first message each way, with field names: what it does not know a version passes over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol_min: u32,
    pub(crate) protocol_max: u32,
    pub(crate) fleet: String,
    /// The number of this attempt to be linked, which rises.
    pub(crate) session: u64,
    /// That of the other host, as far as it was heard.
    pub(crate) heard: Option<u64>,
    /// Whether it is to be answered.
    pub(crate) wants: bool,
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// The longest message that is taken.
    pub(crate) longest: u64,
}

impl Hello {
    /// The protocol to speak, or why there is none.
    pub(crate) fn protocol(&self) -> Result<u32, String> {
        let (min, max) = PROTOCOL;
        let spoken = self.protocol_max.min(max);
        if spoken >= self.protocol_min.max(min) {
            return Ok(spoken);
        }
        let (theirs, newer) = (format!("{} to {}", self.protocol_min, self.protocol_max), self.protocol_min > max);
        let older = if newer { "this host" } else { "that host" };
        Err(format!("it speaks protocols {theirs}, and this host {min} to {max}; update {older}"))
    }
}

/// Why a link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// The host leaves.
    Leaves,
    /// It refuses the other one.
    Refuses,
}

/// A message of a link.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LinkMessage {
    Hello(Box<Hello>),
    /// With the sender's clock, in milliseconds since 1970.
    Ping {
        number: u64,
        clock: u64,
    },
    Pong {
        number: u64,
        clock: u64,
    },
    /// All frames of a lane's era up to this one were seen.
    Seen {
        lane: Arc<str>,
        era: u64,
        number: u64,
    },
    /// A frame of a lane's era is missing: it is to be told again.
    Again {
        lane: Arc<str>,
        era: u64,
    },
    /// As many frames of a lane's era were sent.
    Sent {
        lane: Arc<str>,
        era: u64,
        frames: u64,
    },
    /// Something waits until it is heard that this frame of a lane's era was seen. It may come before the frame, and may be passed
    /// over: what was seen is reported after a while in any case.
    Waits {
        lane: Arc<str>,
        era: u64,
        number: u64,
    },
    /// To a session of the other host, as far as it was heard.
    Bye {
        farewell: Farewell,
        to: Option<u64>,
        why: String,
    },
}

impl LinkMessage {
    pub(crate) fn write(&self) -> Bytes {
        let mut into = BytesMut::new();
        let mut of_lane = |kind: u8, lane: &str, numbers: &[u64]| {
            into.put_u8(kind);
            put_bytes(&mut into, lane.as_bytes());
            numbers.iter().for_each(|number| put_number(&mut into, *number));
        };
        match self {
            Self::Hello(hello) => {
                into.put_u8(1);
                // It has nothing that cannot be encoded; an empty one would be refused.
                into.put_slice(&wire::encode(&**hello).unwrap_or_default());
            }
            Self::Ping { number, clock } | Self::Pong { number, clock } => {
                into.put_u8(if matches!(self, Self::Ping { .. }) { 2 } else { 3 });
                put_number(&mut into, *number);
                put_number(&mut into, *clock);
            }
            Self::Seen { lane, era, number } => of_lane(4, lane, &[*era, *number]),
            Self::Again { lane, era } => of_lane(5, lane, &[*era]),
            Self::Sent { lane, era, frames } => of_lane(6, lane, &[*era, *frames]),
            Self::Waits { lane, era, number } => of_lane(WAITS, lane, &[*era, *number]),
            Self::Bye { farewell, to, why } => {
                into.put_u8(7);
                into.put_u8(u8::from(*farewell == Farewell::Refuses));
                put_number(&mut into, to.unwrap_or(0));
                put_bytes(&mut into, why.as_bytes());
            }
        }
        into.freeze()
    }

    /// `None` for one that may be passed over.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<Self>, Garbled> {
        let mut from = Reader::new(bytes);
        let kind = from.byte()?;
        let message = match kind {
            1 => {
                let hello = wire::decode::<Hello>(from.rest()).map_err(|_| Garbled("a greeting cannot be read"))?;
                Self::Hello(Box::new(hello))
            }
            2 => Self::Ping { number: from.number()?, clock: from.number()? },
            3 => Self::Pong { number: from.number()?, clock: from.number()? },
            4 => Self::Seen { lane: from.text()?.into(), era: from.number()?, number: from.number()? },
            5 => Self::Again { lane: from.text()?.into(), era: from.number()? },
            6 => Self::Sent { lane: from.text()?.into(), era: from.number()?, frames: from.number()? },
            7 => {
                let farewell = if from.byte()? == 0 { Farewell::Leaves } else { Farewell::Refuses };
                let to = Some(from.number()?).filter(|session| *session != 0);
                Self::Bye { farewell, to, why: from.text()?.to_owned() }
            }
            WAITS => Self::Waits { lane: from.text()?.into(), era: from.number()?, number: from.number()? },
            _ if kind >= OPTIONAL => return Ok(None),
            _ => return Err(Garbled("it has a message that is not known here")),
        };
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(min: u32, max: u32) -> Hello {
        Hello {
            protocol_min: min,
            protocol_max: max,
            fleet: "shop".to_owned(),
            session: 7,
            heard: None,
            wants: true,
            version: "0.1.0".to_owned(),
            labels: BTreeMap::new(),
            longest: 64 << 20,
        }
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let lane: Arc<str> = "test/lamp".into();
        for message in [
            LinkMessage::Hello(Box::new(hello(1, 1))),
            LinkMessage::Ping { number: 1, clock: 2 },
            LinkMessage::Pong { number: 1, clock: 2 },
            LinkMessage::Seen { lane: Arc::clone(&lane), era: 3, number: 400 },
            LinkMessage::Again { lane: Arc::clone(&lane), era: 3 },
            LinkMessage::Sent { lane: Arc::clone(&lane), era: 3, frames: 5 },
            LinkMessage::Waits { lane, era: 3, number: 400 },
            LinkMessage::Bye { farewell: Farewell::Refuses, to: Some(4), why: "no".to_owned() },
        ] {
            assert_eq!(LinkMessage::read(&message.write()), Ok(Some(message)));
        }
    }

    #[test]
    fn the_highest_protocol_that_both_know_is_spoken_and_without_one_it_is_said_which_host_to_update() {
        assert_eq!(hello(1, 9).protocol(), Ok(1));
        assert!(hello(2, 9).protocol().expect_err("it is newer").contains("update this host"));
        assert!(hello(0, 0).protocol().expect_err("it is older").contains("update that host"));
    }

    #[test]
    fn a_greeting_of_a_later_version_with_more_fields_is_understood() {
        #[derive(Serialize)]
        struct Newer {
            #[serde(flatten)]
            hello: Hello,
            invented: Vec<u8>,
        }
        let newer = Newer { hello: hello(1, 4), invented: vec![1] };
        let bytes = [vec![1], wire::encode(&newer).expect("encoding")].concat();
        let read = LinkMessage::read(&bytes).expect("it is read");
        assert_eq!(read, Some(LinkMessage::Hello(Box::new(hello(1, 4)))));
        assert_eq!(LinkMessage::read(&[200, 1, 2]), Ok(None));
        assert!(LinkMessage::read(&[99]).is_err() && LinkMessage::read(&[]).is_err());
    }
}
