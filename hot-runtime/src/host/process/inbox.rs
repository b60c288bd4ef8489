//! The reading half of a connection: splits it into frames.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use super::socket::ReadingHalf;

/// How much is read at a time.
const CHUNK: usize = 64 << 10;

/// Reads frames, and buffers the rest.
pub(super) struct Inbox {
    socket: ReadingHalf,
    codec: LengthDelimitedCodec,
    buffer: BytesMut,
    chunk: Box<[u8]>,
    /// Descriptors that came beside the bytes; `None` if none are expected.
    descriptors: Option<VecDeque<OwnedFd>>,
}

impl Inbox {
    pub(super) fn new(socket: ReadingHalf, longest: usize) -> Self {
        let codec = LengthDelimitedCodec::builder().little_endian().max_frame_length(longest).new_codec();
        Self { socket, codec, buffer: BytesMut::new(), chunk: vec![0; CHUNK].into(), descriptors: None }
    }

    /// As [`Inbox::new`], and keeps the descriptors that come.
    pub(super) fn with_descriptors(socket: ReadingHalf, longest: usize) -> Self {
        Self { descriptors: Some(VecDeque::new()), ..Self::new(socket, longest) }
    }

    /// The next descriptor: they come in the order of their messages.
    pub(super) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.as_mut()?.pop_front()
    }

    /// The next frame; `None` at the end of the connection. Cancel-safe.
    ///
    /// # Errors
    /// A frame longer than the limit, or the system's error.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<BytesMut>> {
        loop {
            if let Some(frame) = self.codec.decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            let read = match &mut self.descriptors {
                Some(descriptors) => self.socket.read_with(&mut self.chunk, descriptors).await?,
                None => self.socket.read(&mut self.chunk).await?,
            };
            match read {
                0 => return Ok(None),
                read => self.buffer.extend_from_slice(&self.chunk[..read]),
            }
        }
    }
}
