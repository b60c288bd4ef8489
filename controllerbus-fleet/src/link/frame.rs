//! Frames of a lane: which telling they belong to, their number in it, and messages.
//!
//! ```text
//! era (8 bytes)  number (8 bytes)  { length, kind, fields ... } ...
//! ```
//!
//! An *era* is one telling of the lane's state of the world: it begins with frame 0, and a frame that is missing in it ends it. Fields
//! that a later protocol has appended to a message are passed over, and so are messages of kinds from 128 on that are not known;
//! what else is not known ends the link.

use bytes::{BufMut, BytesMut};
use controllerbus::directive::wire;
use controllerbus::error::ErrorKind;
use controllerbus::remote::Message;
use controllerbus::{Error, Result};
use serde::Deserialize;

use super::bytes::{Garbled, LONGEST_NUMBER, Reader, put_bytes, put_number};

/// The length of a frame's head.
pub(crate) const HEAD: usize = 16;

/// Kinds from this one on may be passed over by who does not know them.
pub(crate) const OPTIONAL: u8 = 128;

mod kind {
    pub(super) const ASK: u8 = 1;
    pub(super) const ASK_AGAIN: u8 = 2;
    pub(super) const RELEASE: u8 = 3;
    pub(super) const CREDIT: u8 = 4;
    pub(super) const ADDED: u8 = 5;
    pub(super) const REMOVED: u8 = 6;
    pub(super) const IDLE: u8 = 7;
    pub(super) const BUSY: u8 = 8;
    pub(super) const FAILED: u8 = 9;
    pub(super) const END: u8 = 10;
    pub(super) const ANEW: u8 = 11;
    pub(super) const TOLD: u8 = 12;
    pub(super) const ASKS_ANEW: u8 = 13;
    pub(super) const ASKS_TOLD: u8 = 14;
}

/// Where a frame belongs. What is later is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Head {
    pub(crate) era: u64,
    pub(crate) number: u64,
}

impl Head {
    pub(crate) fn write(self, into: &mut [u8; HEAD]) {
        into[..8].copy_from_slice(&self.era.to_le_bytes());
        into[8..].copy_from_slice(&self.number.to_le_bytes());
    }
}

/// Appends a message.
///
/// # Errors
/// It never crosses to another host.
pub(crate) fn write(into: &mut BytesMut, message: &Message<'_>) -> Result<()> {
    let mut fields = BytesMut::new();
    let kind = write_fields(&mut fields, message)?;
    // A value is copied once.
    let value: &[u8] = if let Message::Added { bytes, .. } = message { bytes } else { &[] };
    into.reserve(fields.len() + value.len() + 1 + LONGEST_NUMBER);
    put_number(into, (fields.len() + value.len()) as u64 + 1);
    into.put_u8(kind);
    into.put_slice(&fields);
    into.put_slice(value);
    Ok(())
}

/// A message's kind, and its fields up to a value's bytes, but with their length.
fn write_fields(into: &mut BytesMut, message: &Message<'_>) -> Result<u8> {
    let mut only = |kind: u8, ask: u64| {
        put_number(into, ask);
        Ok(kind)
    };
    match message {
        Message::Ask { ask, bytes, facts, .. } | Message::AskAgain { ask, bytes, facts, .. } => {
            put_number(into, *ask);
            put_bytes(into, bytes);
            put_bytes(into, facts);
            Ok(if matches!(message, Message::Ask { .. }) { kind::ASK } else { kind::ASK_AGAIN })
        }
        Message::Release { ask } => only(kind::RELEASE, *ask),
        Message::Idle { ask } => only(kind::IDLE, *ask),
        Message::Busy { ask } => only(kind::BUSY, *ask),
        Message::End { ask } => only(kind::END, *ask),
        Message::Anew { ask } => only(kind::ANEW, *ask),
        Message::Told { ask } => only(kind::TOLD, *ask),
        Message::AsksAnew => Ok(kind::ASKS_ANEW),
        Message::AsksTold => Ok(kind::ASKS_TOLD),
        Message::Credit { ask, events } => {
            put_number(into, *ask);
            put_number(into, u64::from(*events));
            Ok(kind::CREDIT)
        }
        Message::Added { ask, value, bytes, .. } => {
            put_number(into, *ask);
            put_number(into, *value);
            put_number(into, bytes.len() as u64);
            Ok(kind::ADDED)
        }
        Message::Removed { ask, value } => {
            put_number(into, *ask);
            put_number(into, *value);
            Ok(kind::REMOVED)
        }
        Message::Failed { ask, error } => {
            put_number(into, *ask);
            put_bytes(into, &wire::encode(error)?);
            Ok(kind::FAILED)
        }
        _ => Err(Error::new(ErrorKind::Invalid, "this message never crosses to another host").permanent()),
    }
}

/// A frame that was received.
pub(crate) struct Frame<'a> {
    pub(crate) head: Head,
    /// The directive id of its lane.
    id: &'a str,
    messages: Reader<'a>,
}

impl<'a> Frame<'a> {
    pub(crate) fn read(id: &'a str, bytes: &'a [u8]) -> Result<Self, Garbled> {
        let mut reader = Reader::new(bytes);
        let head = Head { era: reader.fixed()?, number: reader.fixed()? };
        Ok(Self { head, id, messages: reader })
    }

    /// The next message; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Message<'a>>, Garbled> {
        while !self.messages.is_empty() {
            let message = self.messages.bytes()?;
            if let Some(message) = read_message(self.id, Reader::new(message))? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}

/// `None` for one that may be passed over.
fn read_message<'a>(directive: &'a str, mut from: Reader<'a>) -> Result<Option<Message<'a>>, Garbled> {
    let kind = from.byte()?;
    let message = match kind {
        kind::ASK => Message::Ask { ask: from.number()?, directive, bytes: from.bytes()?, facts: from.bytes()? },
        kind::ASK_AGAIN => {
            Message::AskAgain { ask: from.number()?, directive, bytes: from.bytes()?, facts: from.bytes()? }
        }
        kind::RELEASE => Message::Release { ask: from.number()? },
        kind::CREDIT => {
            Message::Credit { ask: from.number()?, events: u32::try_from(from.number()?).unwrap_or(u32::MAX) }
        }
        kind::ADDED => {
            Message::Added { ask: from.number()?, value: from.number()?, replaces: None, bytes: from.bytes()? }
        }
        kind::REMOVED => Message::Removed { ask: from.number()?, value: from.number()? },
        kind::IDLE => Message::Idle { ask: from.number()? },
        kind::BUSY => Message::Busy { ask: from.number()? },
        kind::FAILED => Message::Failed { ask: from.number()?, error: read_error(from.bytes()?) },
        kind::END => Message::End { ask: from.number()? },
        kind::ANEW => Message::Anew { ask: from.number()? },
        kind::TOLD => Message::Told { ask: from.number()? },
        kind::ASKS_ANEW => Message::AsksAnew,
        kind::ASKS_TOLD => Message::AsksTold,
        OPTIONAL.. => return Ok(None),
        _ => return Err(Garbled("it has a message that is not known here")),
    };
    Ok(Some(message))
}

/// An error as another version may have written it.
fn read_error(bytes: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Text {
        message: String,
    }
    wire::decode::<Error>(bytes)
        .or_else(|_| wire::decode::<Text>(bytes).map(|text| Error::msg(text.message)))
        .unwrap_or_else(|_| Error::msg("an error that cannot be read here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(messages: &[Message<'_>]) -> BytesMut {
        let mut bytes = BytesMut::zeroed(HEAD);
        messages.iter().for_each(|message| write(&mut bytes, message).expect("it crosses"));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<String>, Garbled> {
        let mut frame = Frame::read("test/lamp", bytes)?;
        let mut all = Vec::new();
        while let Some(message) = frame.next()? {
            all.push(format!("{message:?}"));
        }
        Ok(all)
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let all = [
            Message::Ask { ask: 1, directive: "test/lamp", bytes: b"lamp", facts: b"" },
            Message::AskAgain { ask: 1, directive: "test/lamp", bytes: b"lamp", facts: b"facts" },
            Message::Credit { ask: 1, events: 16 },
            Message::Added { ask: 1, value: 300, replaces: None, bytes: b"on" },
            Message::Removed { ask: 1, value: 300 },
            Message::Failed { ask: 1, error: Error::new(ErrorKind::Crashed, "it crashed") },
            Message::Idle { ask: 1 },
            Message::Busy { ask: 1 },
            Message::Anew { ask: 1 },
            Message::Told { ask: 1 },
            Message::AsksAnew,
            Message::AsksTold,
            Message::End { ask: 1 },
            Message::Release { ask: 1 },
        ];
        let expected: Vec<_> = all.iter().map(|message| format!("{message:?}")).collect();
        assert_eq!(read(&frame(&all)).expect("it is read"), expected);
    }

    #[test]
    fn fields_and_messages_of_a_later_protocol_are_passed_over_where_it_says_that_they_may_be() {
        let mut bytes = frame(&[]);
        // `Idle` with another field, a message that may be passed over, and one that must be known.
        bytes.put_slice(&[3, kind::IDLE, 7, 42]);
        bytes.put_slice(&[2, OPTIONAL + 3, 1]);
        assert_eq!(read(&bytes).expect("it is read"), ["Idle { ask: 7 }"]);
        bytes.put_slice(&[2, 99, 1]);
        assert!(read(&bytes).is_err());
    }

    #[test]
    fn an_error_of_an_unknown_kind_is_read_as_its_text() {
        #[derive(serde::Serialize)]
        struct Newer {
            kind: &'static str,
            message: &'static str,
        }
        let bytes = wire::encode(&Newer { kind: "Invented", message: "it went wrong" }).expect("encoding");
        assert_eq!(read_error(&bytes).to_string(), "it went wrong");
        assert_eq!(read_error(b"\xc1").to_string(), "an error that cannot be read here");
    }

    #[test]
    fn what_may_be_asked_of_a_plugins_host_alone_does_not_cross() {
        let mut bytes = BytesMut::new();
        assert!(write(&mut bytes, &Message::Remove { ask: 1 }).is_err());
        assert!(bytes.is_empty());
    }
}
